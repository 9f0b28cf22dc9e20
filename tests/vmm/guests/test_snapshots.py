"""Snapshots of guests that boot: clones that are somebody else and know the time, load that goes on where it was, diffs."""

import concurrent.futures
import os
import re
import shutil
import socket
import time

import pytest

from support.microvm import Guest, Monitor, need_kvm


class Clone(Guest):
    """A guest that comes from a snapshot."""

    def __init__(self, *arguments: str):
        Monitor.__init__(self, *arguments)

    def load(self, folder, name: str = "s", **more) -> "Clone":
        body = {"snapshot_path": str(folder / f"{name}.state"), "mem_backend": {"backend_type": "File", "backend_path": str(folder / f"{name}.memory")},
                "resume_vm": True, **more}
        answer = self.request("PUT", "/snapshot/load", body)
        assert answer.status == 204, f"{answer} {self.stderr()}"
        return self


@pytest.fixture
def clone():
    need_kvm()
    made: list[Clone] = []

    def make(folder, name="s", **more) -> Clone:
        made.append(Clone("--level", "Error"))
        return made[-1].load(folder, name, **more)

    yield make
    for one in made:
        one.close()


def save(guest, folder, name: str = "s", kind: str = "Full") -> None:
    guest.patch("/vm", state="Paused")
    guest.put("/snapshot/create", snapshot_type=kind, snapshot_path=str(folder / f"{name}.state"), mem_file_path=str(folder / f"{name}.memory"))


def ask(path, port: int = 5000, seconds: float = 60, then=lambda: None) -> str:
    """What the guest's vsock-tell says; then() is called between asking and reading."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    connection.connect(str(path))
    connection.sendall(f"CONNECT {port}\n".encode())
    then()
    answer = b""
    while piece := connection.recv(100):
        answer += piece
    connection.close()
    ok, said = answer.decode().splitlines()
    assert ok.startswith("OK ")
    return said


def own_memory_kib(pid: int) -> int:
    """What is the process' alone: private pages, clean or dirty, and none of the file's."""
    text = open(f"/proc/{pid}/smaps_rollup").read()
    return int(re.search(r"^Private_Dirty:\s+(\d+)", text, re.MULTILINE)[1])


def test_ten_clones(make_guest, clone, tmp_path):
    guest = make_guest()
    guest.put("/vsock", guest_cid=7, uds_path=str(guest.folder / "v.sock"))
    guest.put("/entropy")
    guest.boot()
    guest.run("(guest vsock-tell 5000 >/tmp/tell 2>&1 &) ; while ! grep -q listening /tmp/tell; do :; done")
    # A connection that the clones must not believe in.
    guest.run("(guest vsock-echo 5001 >/tmp/echo 2>&1 &) ; while ! grep -q listening /tmp/echo; do :; done")
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    held.connect(str(guest.folder / "v.sock"))
    held.sendall(b"CONNECT 5001\n")
    held.settimeout(60)
    assert held.recv(100).startswith(b"OK")
    before, clock = ask(guest.folder / "v.sock").split()
    lag = time.time() - float(clock)  # the first machine's own
    saving_at = time.time()
    save(guest, tmp_path)
    saved_at = time.time()
    guest.close()
    held.close()

    def load_and_ask(number: int) -> tuple[str, float]:
        """Asked at once: the guest has not heard of being another machine, and still believes in the connections of the first one."""
        clones[number] = clone(tmp_path, clock_realtime=True, vsock_override={"uds_path": str(tmp_path / f"v{number}.sock")})
        random, clock = ask(tmp_path / f"v{number}.sock").split()
        return random, time.time() - float(clock) - lag

    clones = {}
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(load_and_ask, range(10)))
    assert len({before, *(random for random, _ in answers)}) == 11
    assert all(abs(off) < 2 for _, off in answers), answers
    # The port whose other end is held open in the guest takes others.
    echo = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    echo.settimeout(60)
    echo.connect(str(tmp_path / "v0.sock"))
    echo.sendall(b"CONNECT 5001\n")
    assert echo.recv(100).startswith(b"OK ")
    echo.sendall(b"again")
    assert echo.recv(100) == b"again"
    echo.close()
    for one in clones.values():  # and their own memory is small, as the file has most of it
        assert own_memory_kib(one.process.pid) < 16 * 1024
    assert clones[9].run("echo alive") == "alive"
    # Without being told the time a clone goes on where the snapshot was.
    late = clone(tmp_path, resume_vm=False, vsock_override={"uds_path": str(tmp_path / "late.sock")})
    loaded_at = time.time()  # the state was taken between the two
    # And who asks before it runs waits.
    said = ask(tmp_path / "late.sock", then=lambda: late.patch("/vm", state="Resumed"))
    behind = time.time() - float(said.split()[1]) - lag
    assert behind > 2 and loaded_at - saved_at - 2 < behind < time.time() - saving_at + 2
    # So much has passed by now that being told of it is seen.
    clone(tmp_path, clock_realtime=True, vsock_override={"uds_path": str(tmp_path / "told.sock")})
    assert abs(time.time() - float(ask(tmp_path / "told.sock").split()[1]) - lag) < 2


def test_under_disk_and_network_load(make_guest, clone, tap, disk, tmp_path):
    guest = make_guest()
    guest.put("/drives/a", drive_id="a", path_on_host=str(disk), is_root_device=False, io_engine="Async", cache_type="Writeback")
    guest.put("/network-interfaces/eth0", iface_id="eth0", host_dev_name=tap.name, guest_mac=tap.mac)
    guest.boot()
    guest.run(f"ip addr add {tap.guest}/24 dev eth0 && ip link set eth0 up; mount -t tmpfs tmp /mnt; head -c 8000000 /dev/urandom >/mnt/data")
    sums = guest.run("md5sum /mnt/data /bin/busybox")
    server = socket.create_server((tap.host, 0))
    server.settimeout(120)
    guest.run(f"(guest tcp-pour {tap.host} {server.getsockname()[1]} 3000; echo net $? >/tmp/net) >/dev/null 2>&1 &")
    guest.run("(guest pattern /dev/vda write 0 12000000 5 && guest pattern /dev/vda check 0 12000000 5; echo disk $? >/tmp/disk) >/dev/null 2>&1 &")
    connection, _ = server.accept()
    connection.settimeout(120)
    received = 0
    while received < 1 << 20:  # it flows
        received += len(connection.recv(1 << 16))
    save(guest, tmp_path)
    shutil.copy(disk, tmp_path / "copy")
    guest.close()
    assert guest.process.returncode is not None
    # The disk as it was then, the same card: requests on their way and the stream go on as if nothing had been.
    one = clone(tmp_path, drive_overrides=[{"drive_id": "a", "path_on_host": str(tmp_path / "copy")}])
    while piece := connection.recv(1 << 18):
        received += len(piece)
    assert received > 1 << 20
    connection.close()
    server.close()
    one.run("while ! [ -s /tmp/net ] || ! [ -s /tmp/disk ]; do :; done", seconds=240)
    assert one.run("cat /tmp/net /tmp/disk") == "net 0\ndisk 0"
    assert one.run("md5sum /mnt/data /bin/busybox") == sums
    # The first disk has nothing that was written after the snapshot by the clone.
    assert one.run("guest pattern /dev/vda check 0 12000000 5; echo $?").endswith("0")


def test_diff(make_guest, clone, tmp_path):
    guest = make_guest()
    guest.put("/machine-config", vcpu_count=2, mem_size_mib=guest.memory, track_dirty_pages=True)
    guest.boot()
    guest.run("mount -t tmpfs tmp /mnt; head -c 1000000 /dev/urandom >/mnt/one")
    save(guest, tmp_path)
    guest.patch("/vm", state="Resumed")
    guest.run("head -c 3000000 /dev/urandom >/mnt/two")
    sums = guest.run("md5sum /mnt/one /mnt/two")
    guest.patch("/vm", state="Paused")
    # One diff by itself, which is small, and nothing more to tell a moment later.
    guest.put("/snapshot/create", snapshot_type="Diff", snapshot_path=str(tmp_path / "d.state"), mem_file_path=str(tmp_path / "d.memory"))
    size = (tmp_path / "d.memory").stat().st_blocks * 512
    assert 3_000_000 < size < 40_000_000
    guest.put("/snapshot/create", snapshot_type="Diff", snapshot_path=str(tmp_path / "e.state"), mem_file_path=str(tmp_path / "e.memory"))
    assert (tmp_path / "e.memory").stat().st_blocks * 512 < 1_000_000
    guest.close()
    with open(tmp_path / "s.memory", "r+b") as base:
        for name in ("d", "e"):
            with open(tmp_path / f"{name}.memory", "rb") as diff:
                end = 0
                while True:
                    try:
                        start = os.lseek(diff.fileno(), end, os.SEEK_DATA)
                    except OSError:
                        break
                    end = os.lseek(diff.fileno(), start, os.SEEK_HOLE)
                    os.pwrite(base.fileno(), os.pread(diff.fileno(), end - start, start), start)
    shutil.copy(tmp_path / "e.state", tmp_path / "s.state")
    one = clone(tmp_path)
    assert one.run("md5sum /mnt/one /mnt/two") == sums
    assert one.run("grep -c ^processor /proc/cpuinfo") == "2"
    assert one.run("x=0; for i in 1 2 3 4 5 6 7 8; do (: ; echo ok) & done; wait") == "\n".join(["ok"] * 8)


@pytest.mark.long
def test_again_and_again(make_guest, clone, tmp_path):
    """A snapshot of a clone of a clone, each with more to remember; balloon and metadata service come along."""
    guest = make_guest()
    guest.put("/balloon", amount_mib=0, deflate_on_oom=True, stats_polling_interval_s=1)
    guest.boot()
    for number in range(4):
        guest.run(f"echo {number} >>/tmp/log")
        save(guest, tmp_path, f"g{number}")
        guest.close()
        guest = clone(tmp_path, f"g{number}")
    assert guest.run("cat /tmp/log") == "0\n1\n2\n3"
    guest.patch("/balloon", amount_mib=32)
    deadline = time.monotonic() + 60
    while guest.get("/balloon/statistics").get("actual_mib") != 32:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    guest.patch("/balloon", amount_mib=0)
    assert guest.run("guest touch 60") == "touched"


@pytest.mark.long
def test_debians_kernel(make_guest, clone, tmp_path):
    guest = make_guest("debian")
    guest.put("/vsock", guest_cid=7, uds_path=str(guest.folder / "v.sock"))
    guest.boot()
    guest.run("echo kept >/tmp/file; (guest vsock-tell 5000 >/tmp/tell 2>&1 &) ; while ! grep -q listening /tmp/tell; do :; done")
    save(guest, tmp_path)
    guest.close()
    one = clone(tmp_path, clock_realtime=True, vsock_override={"uds_path": str(tmp_path / "clone.sock")})
    assert abs(time.time() - float(ask(tmp_path / "clone.sock").split()[1])) < 2
    assert one.run("cat /tmp/file") == "kept"
    assert abs(int(one.run("date +%s")) - time.time()) < 2
