"""The device model under a bare-metal guest (guest/payload.cpp): a driver that behaves, and ones that never should be.
Runs on any /dev/kvm, also one that interprets instructions. Longer with WHERRY_TEST_LONG=1."""

import os
import pathlib
import re
import subprocess
import uuid

import pytest

from support.microvm import Monitor, need_kvm

LONG = os.environ.get("WHERRY_TEST_LONG") == "1"
SEEDS = range(1, 21 if LONG else 4)


@pytest.fixture
def machine(programs):
    """machine(test, ...) boots the payload with every device attached and gives the monitor and what the guest printed."""
    need_kvm()
    made: list[Monitor] = []
    taps: list[str] = []

    def make(test: str, *, seed: int = 1, rounds: int = 3, engine: str = "Sync", disk: bytes | None = None, only_disk: bool = False,
             read_only: bool = False, bus: str = "mmio"):
        vm = Monitor("--level", "Error", *(["--enable-pci"] if bus == "pci" else []))
        made.append(vm)
        vm.disk = vm.folder / "disk"
        vm.disk.write_bytes(disk if disk is not None else bytes(range(97, 123)) * 20 + bytes(1 << 20))
        os.truncate(vm.disk, 1 << 20)
        vm.put("/machine-config", vcpu_count=1, mem_size_mib=128)
        vm.put("/drives/a", drive_id="a", path_on_host=str(vm.disk), is_root_device=False, is_read_only=read_only, io_engine=engine)
        if not only_disk:
            name = "wt" + uuid.uuid4().hex[:8]
            subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
            taps.append(name)
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
            vm.put("/network-interfaces/n", iface_id="n", host_dev_name=name, guest_mac="06:00:00:00:00:01")
            vm.put("/mmds/config", network_interfaces=["n"])
            vm.put("/mmds", a={"b": "c"})
            vm.put("/vsock", guest_cid=3, uds_path=str(vm.folder / "v.sock"))
            vm.put("/balloon", amount_mib=4, deflate_on_oom=True, stats_polling_interval_s=1)
            vm.put("/entropy")
            (vm.folder / "pmem").write_bytes(b"pages" * 1000)
            vm.put("/pmem/p", id="p", path_on_host=str(vm.folder / "pmem"))
            vm.put("/pmem/r", id="r", path_on_host=str(vm.folder / "pmem"), read_only=True)
            vm.put("/hotplug/memory", total_size_mib=256)
        vm.put("/boot-source", kernel_image_path=str(programs / "payload.elf"), boot_args=f"test={test} seed={seed} rounds={rounds}")
        vm.action("InstanceStart")
        return vm

    yield make
    for vm in made:
        vm.close()
    for name in taps:
        subprocess.run(["ip", "link", "del", name], check=True)


def finish(vm, seconds: float = 240) -> list[str]:
    """Everything the guest printed; the monitor has ended by itself, and well."""
    vm.wait_for_line("^done", seconds)
    assert vm.wait(60) == 0, vm.stderr()[-2000:]
    return vm.output


BUSES = pytest.mark.parametrize("bus", ["mmio", "pci"])


@BUSES
@pytest.mark.parametrize("engine", ["Sync", "Async"])
def test_a_read(machine, engine, bus):
    said = finish(machine("read", engine=engine, only_disk=True, bus=bus))
    assert "devices 1" in said
    assert "read 0" in said
    assert "data abcdefghijklmnopqrstuvwxyz" in said
    assert "past the end 1" in said  # VIRTIO_BLK_S_IOERR
    assert "unknown 2" in said  # VIRTIO_BLK_S_UNSUPP


@pytest.mark.parametrize("engine", ["Sync", "Async"])
def test_a_write(machine, engine):
    vm = machine("write", engine=engine, only_disk=True)
    said = finish(vm)
    assert "write 0" in said and "flush 0" in said and "read 0" in said
    assert vm.disk.read_bytes()[1024:1024 + 26] == b"abcdefghijklmnopqrstuvwxyz"
    assert vm.disk.stat().st_size == 1 << 20


def test_a_write_to_a_read_only_disk(machine):
    vm = machine("write", only_disk=True, read_only=True)
    before = vm.disk.read_bytes()
    assert "write 1" in finish(vm)
    assert vm.disk.read_bytes() == before


@BUSES
def test_every_device_is_there(machine, bus):
    assert "devices 8" in finish(machine("read", bus=bus))


@BUSES
@pytest.mark.parametrize("engine", ["Sync", "Async"])
def test_bad_chains(machine, engine, bus):
    """Loops, addresses outside, lengths that wrap, heads out of range, in every queue of every device: refused, and the device
    comes up after a reset."""
    assert "scenarios passed" in finish(machine("scenarios", engine=engine, bus=bus))


@BUSES
@pytest.mark.parametrize("seed", SEEDS)
def test_garbage_in_the_queues(machine, seed, bus):
    vm = machine("fuzz", seed=seed, rounds=3, engine=["Sync", "Async"][seed % 2], bus=bus)
    assert "fuzzed 3" in finish(vm)
    assert vm.disk.stat().st_size == 1 << 20, "a guest cannot make its disk grow"


@BUSES
@pytest.mark.parametrize("seed", SEEDS)
def test_garbage_in_the_registers(machine, seed, bus):
    said = finish(machine("registers", seed=seed, rounds=5, bus=bus))
    assert "afterwards 0" in said, "the device works after a reset"


@pytest.mark.parametrize("seed", SEEDS)
def test_garbage_in_configuration_spaces(machine, seed):
    """BARs over each other and over memory, vectors behind the table, buses with any number, while a driver works."""
    said = finish(machine("pci", seed=seed, rounds=5, bus="pci", only_disk=seed % 2 == 0))
    assert "afterwards 0" in said, "it works when all is as it was"


def test_the_api_answers_meanwhile(machine):
    vm = machine("fuzz", rounds=4)
    while vm.process.poll() is None:
        try:
            answer = vm.request("GET", "/")
        except OSError:
            break  # it has just ended
        assert answer.status == 200
    vm.wait_for_line("^done")
    assert vm.wait(60) == 0


def test_nothing_is_written_outside(machine, tmp_path):
    """Files that lie beside the disk are what they were."""
    vm = machine("fuzz", seed=99)
    beside = vm.folder / "beside"
    beside.write_bytes(b"untouched" * 1000)
    finish(vm)
    assert beside.read_bytes() == b"untouched" * 1000
    assert pathlib.Path(vm.folder / "disk").exists()


@BUSES
def test_memory_of_devices(machine, bus):
    """Windows onto files, read-only ones included; blocks that come, are used, go, and are touched all the same."""
    vm = machine("memory", bus=bus)
    vm.wait_for_line("ready to plug")
    said = vm.output
    assert "an old driver is refused" in said and "too early 1" in said, said  # VIRTIO_MEM_RESP_NACK
    # Each window: its contents, a write, a flush, a request that there is none of.
    assert [line for line in said if line.startswith(("window", "after", "flush", "unknown"))] == [
        "window pages", "after writing 65", "flush 0", "unknown 1",
        "window Aages", "after writing 65", "flush 0", "unknown 1"]  # read-only: its 'B' went nowhere
    assert (vm.folder / "pmem").read_bytes()[:5] == b"Aages"
    vm.patch("/hotplug/memory", requested_size_mib=4)
    vm.wait_for_line("touching it")
    said = vm.output
    for line in ("plug 0", "outside 3", "fresh 0", "used 42", "unplug 0", "answer into it 255", "needs reset 1", "the other block 0"):
        assert line in said, (line, said)
    status = vm.wait(60)
    vm.wait_for_end()
    says = [line for line in vm.output if line.startswith("it says")]
    if re.search(r"^flags.* (svm|vmx) ", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE):
        assert status == 1 and not says
        assert any("touched memory that is not there" in line for line in vm.output + vm.stderr().splitlines()), vm.output
    else:
        assert "it says 42" not in says, "an interpreting KVM may let the guest go on, but there is nothing to see"
