"""Snapshots by the API, with a bare-metal guest (guest/payload.cpp, test=obey) that does as it is told over the serial port. Runs on
any /dev/kvm, also one that interprets instructions."""

import array
import json
import mmap
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import threading

import pytest

from support.microvm import Monitor, need_kvm, vmm_binary

MIB = 1 << 20
MEMORY = 8  # MiB: what is copied is small
DISK = bytes(range(97, 123)) * 200 + bytes(1 << 16)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "disk").write_bytes(DISK[:1 << 16])
    return tmp_path


@pytest.fixture
def make(programs, folder):
    """make(...) starts a monitor; its guest waits for letters."""
    need_kvm()
    made: list[Machine] = []

    def one(*, engine="Sync", boot=True, devices=True, **machine) -> Machine:
        vm = Machine("--level", "Error")
        made.append(vm)
        if not boot:
            return vm
        vm.put("/machine-config", **{"vcpu_count": 1, "mem_size_mib": MEMORY, **machine})
        if devices:
            vm.put("/drives/d", drive_id="d", path_on_host=str(folder / "disk"), is_root_device=False, io_engine=engine)
            vm.put("/vsock", guest_cid=3, uds_path=str(vm.folder / "v.sock"))
            vm.put("/entropy")
            vm.put("/balloon", amount_mib=0, deflate_on_oom=False)
        vm.put("/boot-source", kernel_image_path=str(programs / "payload.elf"), boot_args="test=obey")
        vm.action("InstanceStart")
        vm.wait_for_line("^waiting")
        return vm

    yield one
    for vm in made:
        vm.close()


class Machine(Monitor):
    def type(self, letter: str, pattern: str, seconds: float = 60):
        self.process.stdin.write(letter.encode())
        self.process.stdin.flush()
        return self.wait_for_line(pattern, seconds)

    def count(self) -> int:
        return int(self.type("c", r"^count (\d+) right$")[1])

    def save(self, folder, name="s", kind="Full"):
        self.patch("/vm", state="Paused")
        self.put("/snapshot/create", snapshot_type=kind, snapshot_path=str(folder / f"{name}.state"), mem_file_path=str(folder / f"{name}.memory"))

    def load(self, folder, name="s", *, resume=True, **more):
        body = {"snapshot_path": str(folder / f"{name}.state"), "mem_backend": {"backend_type": "File", "backend_path": str(folder / f"{name}.memory")},
                "resume_vm": resume, "vsock_override": {"uds_path": str(self.folder / "v.sock")}, **more}
        return self.request("PUT", "/snapshot/load", body)

    def loaded(self, folder, name="s", **more) -> "Machine":
        answer = self.load(folder, name, **more)
        assert answer.status == 204, f"{answer} {self.stderr()}"
        return self


@pytest.mark.parametrize("engine", ["Sync", "Async"])
def test_goes_on_in_another_process(make, folder, engine):
    first = make(engine=engine)
    assert first.count() == 1
    assert first.type("b", "^read")[0] == "read"
    first.save(folder)
    assert first.get("/")["state"] == "Paused"
    # The first one goes on as well.
    first.patch("/vm", state="Resumed")
    assert first.count() == 2
    first.close()
    second = make(boot=False).loaded(folder)
    assert second.get("/")["state"] == "Running"
    assert second.count() == 2
    second.type("b", "^read 0 abcdefghijklmnopqrstuvwxyz$")
    second.type("w", "^write 0$")
    assert (folder / "disk").read_bytes()[512:512 + 26] == b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert second.get("/vm/config")["drives"][0]["io_engine"] == engine
    assert second.get("/machine-config")["mem_size_mib"] == MEMORY
    second.type("q", "^done")
    assert second.wait(60) == 0


def test_several_from_one(make, folder):
    make().save(folder)
    machines = [make(boot=False).loaded(folder) for _ in range(3)]
    before = (folder / "s.memory").read_bytes()
    for number, vm in enumerate(machines):
        for _ in range(number):
            vm.type("d", "^changed")
        assert vm.count() == 1
    assert (folder / "s.memory").read_bytes() == before, "nobody writes to the file"


def test_restored_paused_and_saved_again(make, folder):
    first = make()
    first.count()
    first.save(folder)
    second = make(boot=False).loaded(folder, resume=False)
    assert second.get("/")["state"] == "Paused"
    # In the place of the file that it has mapped itself.
    second.put("/snapshot/create", snapshot_path=str(folder / "s.state"), mem_file_path=str(folder / "s.memory"))
    second.patch("/vm", state="Resumed")
    assert second.count() == 2
    third = make(boot=False).loaded(folder)
    assert third.count() == 2


def allocated(path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("tracked", [True, False])
def test_diff(make, folder, tracked):
    first = make(track_dirty_pages=tracked, devices=False)
    first.save(folder, "base")
    first.patch("/vm", state="Resumed")
    first.type("d", "^changed 1$")
    first.count()
    first.save(folder, "diff", "Diff")
    assert (folder / "diff.memory").stat().st_size == MEMORY * MIB
    if tracked:
        assert allocated(folder / "diff.memory") <= 256 << 10
    # Onto the base: by a copy of its data, or written there at once.
    merged = bytearray((folder / "base.memory").read_bytes())
    with open(folder / "diff.memory", "rb") as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            merged[start:end] = os.pread(file.fileno(), end - start, start)
    (folder / "merged.memory").write_bytes(merged)
    shutil.copy(folder / "diff.state", folder / "merged.state")
    second = make(boot=False).loaded(folder, "merged", track_dirty_pages=tracked, vsock_override=None)
    assert second.count() == 2
    # A diff of a restored machine, straight onto what it was restored from.
    second.type("d", "^changed 2$")
    second.patch("/vm", state="Paused")
    second.put("/snapshot/create", snapshot_type="Diff", snapshot_path=str(folder / "merged.state"), mem_file_path=str(folder / "merged.memory"))
    second.close()
    third = make(boot=False).loaded(folder, "merged", vsock_override=None)
    assert third.count() == 3
    third.type("d", "^changed 3$")


class Handler:
    """A process that provides memory by userfaultfd: what Firecracker's users write."""

    UFFDIO_COPY = 0xC028AA03

    def __init__(self, path: pathlib.Path, memory: pathlib.Path):
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.data = memory.read_bytes()
        self.served, self.mappings = 0, []
        self.ready = threading.Event()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        import ctypes
        import fcntl
        import select
        connection, _ = self.listener.accept()
        text, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
        self.mappings = json.loads(text)
        uffd = array.array("i", ancillary[0][2])[0]
        self.ready.set()
        buffer = ctypes.create_string_buffer(4096)
        while True:
            readable, _, _ = select.select([uffd, connection], [], [])
            if connection in readable:  # the machine is gone
                break
            try:
                message = os.read(uffd, 32)
            except BlockingIOError:
                continue
            event, address = message[0], struct.unpack_from("<Q", message, 16)[0]
            if event != 0x12:  # UFFD_EVENT_PAGEFAULT
                continue
            page = address & ~4095
            region = next(m for m in self.mappings if m["base_host_virt_addr"] <= page < m["base_host_virt_addr"] + m["size"])
            offset = page - region["base_host_virt_addr"] + region["offset"]
            ctypes.memmove(buffer, self.data[offset:offset + 4096], 4096)
            request = struct.pack("<QQQQq", page, ctypes.addressof(buffer), 4096, 0, 0)
            try:
                fcntl.ioctl(uffd, self.UFFDIO_COPY, request)
            except FileExistsError:
                pass
            self.served += 1
        os.close(uffd)


def test_uffd(make, folder):
    first = make()
    first.count()
    first.save(folder)
    handler = Handler(folder / "uffd.sock", folder / "s.memory")
    second = make(boot=False)
    assert second.load(folder, mem_backend={"backend_type": "Uffd", "backend_path": str(folder / "uffd.sock")}).status == 204, second.stderr()
    assert handler.ready.wait(60)
    assert sum(mapping["size"] for mapping in handler.mappings) == MEMORY * MIB
    assert {"base_host_virt_addr", "size", "offset", "page_size"} <= set(handler.mappings[0])
    assert handler.mappings[0]["page_size"] == 4096
    assert second.count() == 2
    second.type("b", "^read 0 abc")
    assert 0 < handler.served < MEMORY * 256, "only what was touched"
    # All of it comes by the handler when it is saved again.
    second.save(folder, "again")
    third = make(boot=False).loaded(folder, "again")
    assert third.count() == 3


def refused(make, folder, name="s", **more) -> str:
    vm = make(boot=False)
    answer = vm.load(folder, name, **more)
    assert answer.status == 400, answer
    assert vm.get("/")["state"] == "Not started"
    return answer.fault


def test_what_is_no_snapshot(make, folder):
    make().save(folder)
    good = (folder / "s.state").read_bytes()
    memory = (folder / "s.memory").read_bytes()

    def with_state(data: bytes) -> str:
        (folder / "bad.state").write_bytes(data)
        shutil.copy(folder / "s.memory", folder / "bad.memory")
        return refused(make, folder, "bad")

    assert "truncated" in with_state(good[:-1])
    assert "truncated" in with_state(good[:20])
    assert "truncated" in with_state(b"")
    tampered = bytearray(good)
    tampered[len(good) // 2] ^= 1
    assert "checksum" in with_state(bytes(tampered))
    assert "longer" in with_state(good + b"x")
    assert "no snapshot" in with_state(b"#!/bin/sh\n" * 100)
    assert "Firecracker" in with_state(struct.pack("<Q", 0x0710198486640000) + bytes(1000))
    assert "version v7.0.0" in with_state(good[:8] + struct.pack("<H", 7) + good[10:])
    (folder / "s.memory").write_bytes(memory[:-4096])
    assert "bytes of memory" in refused(make, folder)
    os.unlink(folder / "s.memory")
    assert "memory file" in refused(make, folder)
    assert "UFFD socket" in refused(make, folder, mem_backend={"backend_type": "Uffd", "backend_path": "/nonexistent/socket"})
    os.unlink(folder / "s.state")
    assert "Cannot open" in refused(make, folder)
    # A refused file leaves a monitor that can still be used.


def test_what_does_not_fit(make, folder):
    make().save(folder)
    assert "Unknown Network Device" in refused(make, folder, network_overrides=[{"iface_id": "x", "host_dev_name": "y"}])
    assert "Unknown drive" in refused(make, folder, drive_overrides=[{"drive_id": "x", "path_on_host": "y"}])
    assert "hugetlbfs" in refused(make, folder, huge_pages="2M")
    (folder / "disk").write_bytes(DISK[:1 << 15])
    assert "sectors" in refused(make, folder)
    (folder / "disk").unlink()
    assert "disk" in refused(make, folder)
    (folder / "other").write_bytes(DISK[:1 << 16])
    vm = make(boot=False).loaded(folder, drive_overrides=[{"drive_id": "d", "path_on_host": str(folder / "other")}])
    vm.type("b", "^read 0 abc")
    vm.type("w", "^write 0$")
    assert (folder / "other").read_bytes()[512:515] == b"ABC"


def test_only_at_the_right_time(make, folder):
    first = make()
    paths = {"snapshot_path": str(folder / "a"), "mem_file_path": str(folder / "b")}
    assert "not paused" in first.request("PUT", "/snapshot/create", paths).fault
    assert first.load(folder).status == 400  # a machine runs already
    first.patch("/vm", state="Paused")
    assert "one file" in first.request("PUT", "/snapshot/create", {"snapshot_path": str(folder / "a"), "mem_file_path": str(folder / "a")}).fault
    assert first.request("PUT", "/snapshot/create", {**paths, "mem_file_path": "/nonexistent/b"}).status == 400
    assert first.request("PUT", "/snapshot/create", {**paths, "snapshot_path": "/nonexistent/a"}).status == 400
    assert not (folder / "a").exists() and not (folder / "b").exists(), "nothing half is left behind"
    os.mkfifo(folder / "fifo")
    assert "no regular file" in first.request("PUT", "/snapshot/create", {**paths, "mem_file_path": str(folder / "fifo")}).fault
    first.patch("/vm", state="Resumed")
    assert first.count() == 1
    second = make(boot=False)
    second.put("/entropy")
    assert "not allowed after configuring" in second.load(folder).fault


def test_flags(make, folder):
    first = make()
    first.save(folder)

    def output(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([vmm_binary(), *words], capture_output=True, text=True, timeout=60)

    version = output("--snapshot-version")
    assert version.returncode == 0 and version.stdout.startswith("v")
    assert output("--describe-snapshot", str(folder / "s.state")).stdout == version.stdout
    bad = output("--describe-snapshot", str(folder / "disk"))
    assert bad.returncode == 152 and "no snapshot" in bad.stderr


def test_deprecated_fields(make, folder):
    make().save(folder)
    vm = make(boot=False)
    vm.put("/snapshot/load", snapshot_path=str(folder / "s.state"), mem_file_path=str(folder / "s.memory"), enable_diff_snapshots=True, resume_vm=True,
           vsock_override={"uds_path": str(vm.folder / "v.sock")})
    assert vm.get("/machine-config")["track_dirty_pages"] is True
    assert vm.count() == 1
