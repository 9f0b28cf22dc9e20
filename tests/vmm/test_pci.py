"""Devices that come and go over the API, with a guest of a hundred bytes that never looks at them (plain /dev/kvm): what
is refused and why, and that nothing is left behind. tests/vmm/guests/test_pci.py has guests that use them."""

import json
import pathlib
import signal
import subprocess
import uuid

import pytest

from support.microvm import Monitor, need_kvm


@pytest.fixture
def vm():
    need_kvm()
    with Monitor("--enable-pci", "--level", "Error") as monitor:
        monitor.disk = monitor.folder / "disk"
        monitor.disk.write_bytes(bytes(1 << 20))
        yield monitor


@pytest.fixture
def running(vm):
    drive(vm, "first")
    vm.start_payload("halt")
    return vm


@pytest.fixture
def tap():
    name = "wt" + uuid.uuid4().hex[:8]
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


def drive(vm, name: str, **options):
    return vm.put(f"/drives/{name}", **drive_body(vm, name, **options))


def drive_body(vm, name: str, **options) -> dict:
    return {"drive_id": name, "path_on_host": str(vm.disk), "is_root_device": False, "is_read_only": False} | options


def interface_body(tap: str, name: str, **options) -> dict:
    return {"iface_id": name, "host_dev_name": tap} | options


def refused(vm, method: str, path: str, body=None) -> str:
    answer = vm.request(method, path, body)
    assert answer.status == 400, answer
    return answer.fault


def pmem_body(vm, name: str, **options) -> dict:
    return {"id": name, "path_on_host": str(vm.disk), "root_device": False, "read_only": False} | options


def drives(vm) -> list[str]:
    return [one["drive_id"] for one in vm.get("/vm/config")["drives"]]


def resources(vm) -> tuple[int, int]:
    """Descriptors and mappings of the monitor."""
    return len(vm.descriptors()), len(pathlib.Path(f"/proc/{vm.process.pid}/maps").read_text().splitlines())


def test_without_the_flag_nothing_comes_or_goes():
    need_kvm()
    with Monitor() as vm:
        vm.disk = vm.folder / "disk"
        vm.disk.write_bytes(bytes(1 << 20))
        drive(vm, "a")
        vm.start_payload("halt")
        for method, path, body in (("PUT", "/drives/b", drive_body(vm, "b")), ("DELETE", "/drives/a", None),
                                   ("PUT", "/pmem/p", pmem_body(vm, "p")), ("DELETE", "/pmem/p", None),
                                   ("PUT", "/network-interfaces/n", interface_body("none", "n")),
                                   ("DELETE", "/network-interfaces/n", None)):
            assert "--enable-pci" in refused(vm, method, path, body)
        assert drives(vm) == ["a"]


def test_before_the_start_nothing_is_unplugged(vm):
    drive(vm, "a")
    assert "before starting" in refused(vm, "DELETE", "/drives/a")
    assert "before starting" in refused(vm, "DELETE", "/network-interfaces/a")


def test_drives_come_and_go(running):
    drive(running, "second", io_engine="Async")
    assert drives(running) == ["first", "second"]
    assert running.request("DELETE", "/drives/second").status == 204
    assert running.request("DELETE", "/drives/first").status == 204, "one of the start, too"
    assert drives(running) == []
    drive(running, "second")
    assert drives(running) == ["second"]


def test_the_last_metrics_know_who_has_come_and_gone(vm, tmp_path):
    """What is prepared for an end by a signal refers to the devices that are there."""
    vm.put("/metrics", metrics_path=str(tmp_path / "metrics"))
    drive(vm, "first")
    vm.start_payload("halt")
    drive(vm, "second")
    assert vm.request("DELETE", "/drives/first").status == 204
    vm.process.send_signal(signal.SIGSEGV)
    assert vm.wait() == 150
    last = json.loads((tmp_path / "metrics").read_text())
    assert last["signals"]["sigsegv"] == 1
    assert "block_second" in last and "block_first" not in last


def test_interfaces_come_and_go(running, tap):
    for _ in range(3):
        assert running.request("PUT", "/network-interfaces/n", interface_body(tap, "n")).status == 204
        assert "already in use" in refused(running, "PUT", "/network-interfaces/m", interface_body(tap, "m"))
        assert "with the id" in refused(running, "PUT", "/network-interfaces/n", interface_body(tap + "x", "n"))
        assert running.request("DELETE", "/network-interfaces/n").status == 204
        assert running.get("/vm/config")["network-interfaces"] == []


def test_windows_come_and_go(running):
    for _ in range(3):
        assert running.request("PUT", "/pmem/w", pmem_body(running, "w")).status == 204
        assert [one["id"] for one in running.get("/vm/config")["pmem"]] == ["w"]
        assert "with the id" in refused(running, "PUT", "/pmem/w", pmem_body(running, "w"))
        assert running.request("DELETE", "/pmem/w").status == 204
        assert running.get("/vm/config")["pmem"] == []
    assert "root" in refused(running, "PUT", "/pmem/r", pmem_body(running, "r", root_device=True))
    assert "no pmem device with the id w" in refused(running, "DELETE", "/pmem/w")


@pytest.mark.parametrize("path, body, text", [
    ("/drives/first", {"drive_id": "first"}, "there is a drive with the id"),
    ("/drives/r", {"drive_id": "r", "is_root_device": True}, "root"),
    ("/drives/gone", {"drive_id": "gone", "path_on_host": "/nonexistent"}, "No such file"),
    ("/drives/folder", {"drive_id": "folder", "path_on_host": "/tmp"}, "folder"),
    ("/drives/a", {"drive_id": "b"}, "does not match"),
])
def test_what_cannot_be_plugged(running, path, body, text):
    before = resources(running)
    assert text in refused(running, "PUT", path, drive_body(running, body["drive_id"]) | body)
    assert drives(running) == ["first"]
    assert resources(running) == before


def test_what_cannot_be_unplugged(running):
    assert "no drive with the id unknown" in refused(running, "DELETE", "/drives/unknown")
    assert "no network interface with the id first" in refused(running, "DELETE", "/network-interfaces/first")
    refused(running, "DELETE", "/drives/" + "x" * 65)
    refused(running, "DELETE", "/drives")
    refused(running, "DELETE", "/vsock")


def test_the_root_device_stays(vm):
    drive(vm, "root", is_root_device=True)
    vm.start_payload("halt")
    assert "root" in refused(vm, "DELETE", "/drives/root")


def test_slots_run_out_and_come_back(running):
    count = 0
    while running.request("PUT", f"/drives/d{count}", drive_body(running, f"d{count}")).status == 204:
        count += 1
    assert count == 16
    assert "no PCI slot is free" in refused(running, "PUT", "/drives/more", drive_body(running, "more"))
    assert running.request("DELETE", "/drives/d5").status == 204
    drive(running, "more")
    assert "more" in drives(running)


def test_more_devices_at_the_start_than_interrupt_lines_allow(vm):
    for number in range(30):
        drive(vm, f"d{number}")
    vm.start_payload("halt")
    assert len(drives(vm)) == 30


def test_a_hundred_times_leaves_nothing(running, tap):
    def once(engine: str):
        drive(running, "x", io_engine=engine)
        assert running.request("PUT", "/network-interfaces/n", interface_body(tap, "n")).status == 204
        assert running.request("PUT", "/pmem/w", pmem_body(running, "w", read_only=True)).status == 204
        assert running.request("DELETE", "/drives/x").status == 204
        assert running.request("DELETE", "/network-interfaces/n").status == 204
        assert running.request("DELETE", "/pmem/w").status == 204

    once("Sync")
    once("Async")
    before = resources(running)
    for number in range(100):
        once(["Sync", "Async"][number % 2])
    after = resources(running)
    assert after[0] == before[0]
    assert after[1] <= before[1] + 2, "the allocator may keep a mapping or two"


def test_while_paused(running):
    running.patch("/vm", state="Paused")
    drive(running, "x")
    assert running.request("DELETE", "/drives/x").status == 204
    running.patch("/vm", state="Resumed")
    assert drives(running) == ["first"]


@pytest.mark.parametrize("flags", [[], ["--enable-pci"]])
def test_a_restored_machine_has_its_slots(running, tap, flags):
    """Devices that came and went before the snapshot are where they were, and others come and go after it."""
    drive(running, "second")
    assert running.request("PUT", "/network-interfaces/n", interface_body(tap, "n")).status == 204
    assert running.request("DELETE", "/drives/first").status == 204
    drive(running, "third")
    running.patch("/vm", state="Paused")
    paths = {"snapshot_path": str(running.folder / "state"), "mem_file_path": str(running.folder / "memory")}
    running.put("/snapshot/create", snapshot_type="Full", **paths)
    assert running.request("DELETE", "/network-interfaces/n").status == 204
    with Monitor("--level", "Error", *flags) as clone:
        clone.disk = running.disk
        clone.put("/snapshot/load", snapshot_path=paths["snapshot_path"], resume_vm=True,
                  mem_backend={"backend_type": "File", "backend_path": paths["mem_file_path"]})
        assert drives(clone) == ["second", "third"]
        assert clone.request("DELETE", "/drives/second").status == 204
        assert clone.request("DELETE", "/network-interfaces/n").status == 204
        drive(clone, "first", io_engine="Async")
        count = 0
        while clone.request("PUT", f"/drives/d{count}", drive_body(clone, f"d{count}")).status == 204:
            count += 1
        assert count == 17 - 2, "17 slots, of which two are taken"
