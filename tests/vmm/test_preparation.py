"""Memory and kernel are prepared while the client is still configuring; a start is of what is configured, and there, when it is asked for."""

import os
import time

import pytest

from support.microvm import Monitor, mappings, need_kvm, payload

PREPARED = "memory and kernel are prepared"
MADE_AGAIN = "does not fit any more"


@pytest.fixture
def vm(tmp_path):
    need_kvm()
    log = tmp_path / "log"
    log.touch()
    with Monitor("--log-path", str(log), "--level", "Debug") as monitor:
        monitor.log = log
        yield monitor


def until(condition, seconds: float = 30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def write_kernel(vm, text: str) -> str:
    """A guest that says `text` and ends; of an age at which another write to the file can be told from this one."""
    path = vm.folder / "kernel"
    path.write_bytes(payload("reset", text + "\n"))
    until(lambda: time.time() > path.stat().st_ctime + 0.03)
    return str(path)


def configure(vm, text: str = "first", memory: int = 128) -> None:
    count = vm.log.read_text().count(PREPARED)
    vm.put("/machine-config", vcpu_count=1, mem_size_mib=memory)
    vm.put("/boot-source", kernel_image_path=write_kernel(vm, text))
    until(lambda: vm.log.read_text().count(PREPARED) == count + 1)


def memory_of(vm, mib: int) -> list[dict[str, int]]:
    return [one for one in mappings(vm.process.pid) if one["Size"] == mib * 1024]


def said(vm, line: str) -> bool:
    vm.wait_for_line("^" + line)
    return vm.wait(60) == 0


def test_prepared_before_the_start_and_used(vm):
    configure(vm)
    assert memory_of(vm, 128)[0]["Rss"] > 0
    vm.put("/boot-source", kernel_image_path=str(vm.folder / "kernel"), boot_args="quiet")  # of no consequence for what is there
    vm.action("InstanceStart")
    assert said(vm, "first")
    log = vm.log.read_text()
    assert log.count(PREPARED) == 1 and MADE_AGAIN not in log


def test_nothing_is_prepared_for_the_defaults(vm):
    vm.put("/boot-source", kernel_image_path=write_kernel(vm, "first"))
    vm.get("/")
    assert not memory_of(vm, 128)
    vm.action("InstanceStart")
    assert said(vm, "first")


@pytest.mark.parametrize("how", ["written", "replaced", "another"])
def test_a_kernel_that_changes_after_it_was_prepared(vm, how):
    configure(vm)
    path = vm.folder / "kernel"
    if how == "written":  # of the same size
        with open(path, "r+b") as file:
            file.write(payload("reset", "other\n"))
    elif how == "replaced":
        (vm.folder / "new").write_bytes(payload("reset", "other\n"))
        os.rename(vm.folder / "new", path)
    else:
        (vm.folder / "new").write_bytes(payload("reset", "other\n"))
        vm.put("/boot-source", kernel_image_path=str(vm.folder / "new"))
    vm.action("InstanceStart")
    assert said(vm, "other")


def test_a_kernel_that_goes_bad_and_is_mended(vm):
    configure(vm)
    path = vm.folder / "kernel"
    path.write_bytes(os.urandom(5000))
    answer = vm.request("PUT", "/actions", {"action_type": "InstanceStart"})
    assert answer.status == 400 and "kernel" in answer.fault
    assert MADE_AGAIN in vm.log.read_text()
    path.unlink()
    assert vm.request("PUT", "/actions", {"action_type": "InstanceStart"}).status == 400
    path.write_bytes(payload("reset", "mended\n"))
    vm.action("InstanceStart")
    assert said(vm, "mended")


def test_other_memory_than_was_prepared(vm):
    configure(vm)
    vm.patch("/machine-config", mem_size_mib=256)
    until(lambda: vm.log.read_text().count(PREPARED) == 2)
    assert memory_of(vm, 256) and not memory_of(vm, 128)  # never both
    vm.action("InstanceStart")
    assert said(vm, "first")
    assert MADE_AGAIN not in vm.log.read_text()


def test_what_cannot_be_prepared_is_reported_by_the_start(vm):
    vm.put("/machine-config", vcpu_count=1, mem_size_mib=128)
    path = vm.folder / "noise"
    path.write_bytes(os.urandom(10000))
    vm.put("/boot-source", kernel_image_path=str(path))
    assert vm.get("/")["state"] == "Not started"
    assert not memory_of(vm, 128)
    answer = vm.request("PUT", "/actions", {"action_type": "InstanceStart"})
    assert answer.status == 400 and "kernel image" in answer.fault


def test_a_start_that_fails_elsewhere_can_be_asked_for_again(vm):
    configure(vm)
    disk = vm.folder / "disk"
    disk.write_bytes(bytes(1 << 20))
    vm.put("/drives/a", drive_id="a", path_on_host=str(disk), is_root_device=False, is_read_only=False)
    disk.unlink()
    assert vm.request("PUT", "/actions", {"action_type": "InstanceStart"}).status == 400
    disk.write_bytes(bytes(1 << 20))
    vm.action("InstanceStart")
    assert said(vm, "first")
