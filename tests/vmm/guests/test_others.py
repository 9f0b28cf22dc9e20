"""Balloon, entropy, generation id, the jailer with a guest that boots."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import uuid

import pytest

from support import binaries
from support.microvm import GUEST_ARGUMENTS, Guest, guests, is_guest_memory, mappings, need_kvm, vmm_binary


def resident_kib(pid: int) -> int:
    return int(re.search(r"^Rss:\s+(\d+)", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1])


def available(guest) -> int:
    return int(guest.run("grep MemAvailable /proc/meminfo").split()[1])


def eventually(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_balloon_inflates_and_deflates(make_guest):
    guest = make_guest()
    guest.put("/balloon", amount_mib=0, deflate_on_oom=False, stats_polling_interval_s=1)
    guest.boot()
    guest.run("guest touch 60")
    before, resident = available(guest), resident_kib(guest.process.pid)
    guest.patch("/balloon", amount_mib=50)
    assert guest.get("/balloon")["amount_mib"] == 50
    eventually(lambda: available(guest) < before - 40 * 1024)
    # What the guest gave is given back to the host.
    eventually(lambda: resident_kib(guest.process.pid) < resident - 30 * 1024)
    guest.patch("/balloon", amount_mib=0)
    eventually(lambda: available(guest) > before - 10 * 1024)
    assert guest.run("guest touch 40") == "touched"


def test_balloon_statistics(make_guest):
    guest = make_guest()
    guest.put("/balloon", amount_mib=8, deflate_on_oom=True, stats_polling_interval_s=1)
    guest.boot()
    eventually(lambda: guest.get("/balloon/statistics").get("total_memory", 0) > 0)
    told = guest.get("/balloon/statistics")
    assert told["target_mib"] == 8
    assert guest.memory * 0.7 * (1 << 20) < told["total_memory"] < guest.memory << 20
    assert 0 < told["free_memory"] <= told["total_memory"]
    guest.patch("/balloon/statistics", stats_polling_interval_s=2)
    assert guest.request("PATCH", "/balloon/statistics", {"stats_polling_interval_s": 0}).status == 400


@pytest.mark.long
def test_balloon_deflates_before_the_guest_runs_out(make_guest):
    guest = make_guest()
    guest.put("/balloon", amount_mib=guest.memory - 68, deflate_on_oom=True)
    guest.boot()
    eventually(lambda: available(guest) < 60 * 1024)
    assert guest.run("guest touch 70") == "touched"


def test_entropy(either):
    guest = either()
    guest.put("/entropy")
    guest.boot()
    assert "virtio" in guest.run("cat /sys/class/misc/hw_random/rng_current")
    one, two = (guest.run("head -c 64 /dev/hwrng | md5sum") for _ in range(2))
    assert one != two


@pytest.mark.long
def test_entropy_is_limited(make_guest):
    guest = make_guest()
    guest.put("/entropy", rate_limiter={"bandwidth": {"size": 1000, "refill_time": 1000}})
    guest.boot()
    begin = time.monotonic()
    guest.run("head -c 4000 /dev/hwrng >/dev/null", seconds=200)
    assert time.monotonic() - begin > 1.5


def test_memory_beyond_the_guests(make_guest):
    """What the monitor itself needs: everything of its own that is in memory, without the guest's memory."""
    guest = make_guest().boot()
    own = sum(mapping["Rss"] for mapping in mappings(guest.process.pid) if not is_guest_memory(mapping, guest.memory))
    print("memory beyond the guest's:", own, "KiB")
    assert own <= 3 * 1024


def test_jailed(tmp_path):
    """The whole of it as it is meant to run: jailer, monitor, guest."""
    need_kvm()
    binaries.need_root()
    folder = guests()
    kernel, initrd = ("vmlinux-small", "initrd-small") if (folder / "vmlinux-small").exists() else ("vmlinuz-debian", "initrd-debian")
    identifier = "jailed-" + uuid.uuid4().hex[:8]
    monitor = pathlib.Path(vmm_binary())
    root = tmp_path / monitor.name / identifier / "root"
    root.mkdir(parents=True)
    shutil.copy(folder / kernel, root / "kernel")
    shutil.copy(folder / initrd, root / "initrd")
    os.chmod(root / "kernel", 0o644)
    os.chmod(root / "initrd", 0o644)
    guest = Guest.__new__(Guest)
    Guest.__mro__[1].__init__(guest, start=False)
    guest.socket = root / "run/api.sock"
    try:
        guest.errors = open(guest.folder / "stderr", "w+b")
        guest.process = subprocess.Popen(
            [os.environ.get("JAILER") or binaries.binary("wherry-jailer"), "--id", identifier, "--exec-file", str(monitor), "--uid", "54321",
             "--gid", "54321", "--chroot-base-dir", str(tmp_path), "--", "--api-sock", "/run/api.sock"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=guest.errors)
        import threading
        threading.Thread(target=guest._read, args=(guest.process.stdout,), daemon=True).start()
        guest.wait_for_socket()
        assert guest.get("/")["id"] == identifier
        guest.put("/machine-config", vcpu_count=1, mem_size_mib=256)
        guest.put("/boot-source", kernel_image_path="/kernel", initrd_path="/initrd", boot_args=GUEST_ARGUMENTS)
        guest.boot()
        assert "Linux" in guest.run("uname -a")
        assert f"Uid:\t54321" in pathlib.Path(f"/proc/{guest.process.pid}/status").read_text()
        guest.send("guest reboot")
        assert guest.wait(120) == 0
    finally:
        guest.close()
