"""Booting, processors, memory, and every way a guest ends."""

import json
import pathlib
import time

import pytest


def test_boots(either):
    guest = either().boot()
    assert "Linux" in guest.run("uname -a")
    assert guest.run("nproc") == "1"
    assert guest.get("/")["state"] == "Running"
    # Nothing the kernel complains about.
    assert guest.run("dmesg | grep -ciE 'call trace|general protection|BUG:|unchecked MSR' || true") == "0"


@pytest.mark.long
def test_boots_a_bzimage(make_guest):
    assert "Linux" in make_guest("small-bzimage").boot().run("uname -a")


def test_processors(either):
    guest = either(vcpus=2).boot()
    assert guest.run("nproc") == "2"
    assert guest.run("cat /sys/devices/system/cpu/online") == "0-1"


@pytest.mark.long
@pytest.mark.parametrize("mebibytes", [128, 512])
def test_memory(make_guest, mebibytes):
    guest = make_guest(memory=mebibytes).boot()
    total = int(guest.run("grep MemTotal /proc/meminfo").split()[1])
    assert guest.memory * 1024 * 0.7 < total < guest.memory * 1024
    assert guest.run(f"guest touch {mebibytes // 2}") == "touched"


@pytest.mark.long
def test_memory_above_the_gap(make_guest):
    """Over 3 GiB the rest lies above 4 GiB."""
    guest = make_guest(memory=3500).boot()
    total = int(guest.run("grep MemTotal /proc/meminfo").split()[1])
    assert total > 3300 * 1024
    assert "100000000" in guest.run("grep 'System RAM' /proc/iomem | tail -n 1")


@pytest.mark.parametrize("command", ["guest reboot", "guest poweroff"])
def test_ends(either, command):
    guest = either().boot()
    guest.send(command)
    assert guest.wait(120) == 0


@pytest.mark.long
def test_a_panic_ends_the_monitor(make_guest):
    guest = make_guest().boot()
    guest.send("@@die")
    assert guest.wait(120) == 0


def test_control_alt_delete(make_guest):
    # The small kernel has no virtual terminals, whose keyboard handler is the one that knows the three keys.
    guest = make_guest("debian").boot()
    guest.run("echo 1 >/proc/sys/kernel/ctrl-alt-del")
    guest.action("SendCtrlAltDel")
    assert guest.wait(120) == 0


def test_pause_and_resume(make_guest):
    guest = make_guest().boot()
    guest.send("echo before; sleep 2; echo after")
    guest.wait_for_line("^before")
    guest.patch("/vm", state="Paused")
    assert guest.get("/")["state"] == "Paused"
    ticks = pathlib.Path(f"/proc/{guest.process.pid}/stat").read_text().split()[13:15]
    time.sleep(3)
    after = pathlib.Path(f"/proc/{guest.process.pid}/stat").read_text().split()[13:15]
    assert sum(map(int, after)) - sum(map(int, ticks)) <= 5
    # The monitor's own log may be among the lines; the guest says nothing.
    assert not [line for line in guest.lines.queue if line and line.startswith("after")]
    guest.patch("/vm", state="Resumed")
    guest.wait_for_line("^after")


def test_configuration_file_boots(make_guest, tmp_path):
    guest = make_guest()
    config = {"boot-source": {"kernel_image_path": str(guest.kernel), "initrd_path": str(guest.initrd), "boot_args": "console=ttyS0 quiet reboot=k panic=-1"},
              "drives": [], "machine-config": {"vcpu_count": 1, "mem_size_mib": 128}}
    guest.process.kill()
    guest.process.wait()
    path = tmp_path / "vm.json"
    path.write_text(json.dumps(config))
    guest.api = False
    guest.lines.queue.clear()
    guest.start("--no-api", "--config-file", str(path))
    guest.ready()
    guest.send("guest reboot")
    assert guest.wait(120) == 0


@pytest.mark.long
def test_boot_time_of_the_small_kernel(make_guest):
    guest = make_guest().boot()
    print("init after", guest.boot_us, "us of the guest's time")
    assert guest.boot_us < 20_000_000


@pytest.mark.long
def test_metrics_of_a_run(make_guest, tmp_path):
    guest = make_guest()
    guest.put("/metrics", metrics_path=str(tmp_path / "metrics"))
    guest.boot()
    guest.action("FlushMetrics")
    told = json.loads((tmp_path / "metrics").read_text().splitlines()[-1])
    assert told["uart"]["write_count"] > 10
    assert told["vcpu"]["exit_io_out"] > 10
    assert told["put_api_requests"]["actions_count"] >= 1
