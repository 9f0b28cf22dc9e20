"""Memory that devices bring: pmem with DAX (files as memory, shared, many in one window), memory that grows and shrinks."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from support.microvm import GUEST_ARGUMENTS

MIB = 1 << 20
KERNELS = pytest.mark.parametrize("kernel", ["any", pytest.param("debian", marks=pytest.mark.long)])


def tree(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755)
    return folder


def make_ext4(path: pathlib.Path, source: pathlib.Path, size: int) -> pathlib.Path:
    """DAX wants blocks as large as pages."""
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-m", "0", "-d", str(source), str(path), str(size // 4096)],
                   check=True, capture_output=True)
    return path


def make_erofs(path: pathlib.Path, source: pathlib.Path) -> pathlib.Path:
    """Without data inside of inodes, which DAX cannot map."""
    done = subprocess.run(["mkfs.erofs", "-E", "noinline_data", str(path), str(source)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"mkfs.erofs makes no images for DAX: {done.stderr.strip()[-200:]}")
    return path


def from_image(image: pathlib.Path, name: str) -> str:
    return subprocess.run(["debugfs", "-R", f"cat {name}", str(image)], check=True, capture_output=True, text=True).stdout


def host_kib(guest, path: pathlib.Path, field: str) -> int:
    """Of the mappings of a file in the monitor."""
    total, counts = 0, False
    for line in pathlib.Path(f"/proc/{guest.process.pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = line.endswith(str(path))
        elif counts and line.startswith(field + ":"):
            total += int(line.split()[1])
    return total


def eventually(condition, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


SCRIPT = b"#!/bin/sh\necho from memory\n"


@KERNELS
def test_pmem_is_a_disk_without_copies(make_guest, tmp_path, kernel):
    """ext4 with DAX: a program of it runs, what is written is in the file after a flush; a size that is no multiple of 2 MiB."""
    image = make_ext4(tmp_path / "image", tree(tmp_path / "tree", {"script": SCRIPT, "data": b"d" * MIB}), 9 * MIB)
    assert os.stat(image).st_size % (2 * MIB) != 0
    guest = make_guest(kernel)
    guest.put("/pmem/p", id="p", path_on_host=str(image))
    guest.boot()
    assert guest.run("cat /sys/block/pmem0/size") == str(10 * MIB // 512)
    guest.run("mount -t ext4 -o dax /dev/pmem0 /mnt")
    assert "dax" in guest.run("grep pmem0 /proc/mounts")
    assert guest.run("/mnt/script") == "from memory"
    assert guest.run("md5sum /mnt/data | cut -c -32") == subprocess.run(
        ["md5sum", tmp_path / "tree/data"], capture_output=True, text=True).stdout[:32]
    guest.run("cp /bin/busybox /mnt/busybox && /mnt/busybox echo runs")
    guest.run("echo written >/mnt/file && sync")
    # The flush has been answered: it is in the file while the guest still runs.
    assert from_image(image, "file") == "written\n"
    guest.run("umount /mnt")
    assert subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True).returncode == 0
    assert guest.get("/vm/config")["pmem"][0]["path_on_host"] == str(image)


@KERNELS
def test_read_only_files_are_shared(make_guest, tmp_path, kernel):
    """Two guests read one file: the host has it once. What they write there goes nowhere."""
    content = os.urandom(16 * MIB)
    image = make_erofs(tmp_path / "layer.erofs", tree(tmp_path / "tree", {"data": content, "script": SCRIPT}))
    before = image.read_bytes()
    pair = [make_guest(kernel), make_guest(kernel)]
    for guest in pair:
        guest.put("/pmem/layer", id="layer", path_on_host=str(image), read_only=True)
        guest.put("/metrics", metrics_path=str(guest.folder / "metrics"))
        guest.boot()
        guest.run("mount -t erofs -o dax=always,ro /dev/pmem0 /mnt")
        assert guest.run("/mnt/script") == "from memory"
        guest.run("cat /mnt/data >/dev/null && cat /mnt/data >/dev/null")
    shared = [host_kib(guest, image, "Rss") for guest in pair]
    alone = sum(host_kib(guest, image, "Pss") for guest in pair)
    assert all(rss > 15 * 1024 for rss in shared), shared
    assert alone < 20 * 1024, (alone, shared)
    # Memory of the guests that holds a copy would be as large as the file.
    assert int(pair[0].run("grep ^Cached /proc/meminfo").split()[1]) < 30 * 1024 + 16 * 1024
    head = pair[0].run("head -c 4096 /dev/pmem0 | md5sum")
    pair[0].run("umount /mnt; echo overwritten | dd of=/dev/pmem0 bs=512 count=1 conv=sync; sync; echo 3 >/proc/sys/vm/drop_caches")
    assert pair[0].run("head -c 4096 /dev/pmem0 | md5sum") == head
    assert pair[1].run("/mnt/script") == "from memory"
    assert image.read_bytes() == before


@KERNELS
def test_an_image_of_127_layers_is_one_device(make_guest, tmp_path, kernel):
    """Each file of a window is a partition; those with file systems mount with DAX, and an overlay over them."""
    files, systems = [], {1, 64, 127}
    for number in range(1, 128):
        path = tmp_path / f"layer{number}"
        if number in systems:
            make_erofs(path, tree(tmp_path / f"tree{number}", {"name": f"layer {number}\n".encode(), f"only{number}": SCRIPT}))
        else:
            path.write_bytes(f"layer {number}\n".encode() + bytes(number * 100))
        files.append(str(path))
    guest = make_guest(kernel)
    guest.put("/pmem/layers", id="layers", files=files, read_only=True)
    guest.boot()
    told = guest.run("for i in $(seq 2 63) $(seq 65 126); do read line </dev/pmem0p$i; echo $line; done", seconds=300)
    assert told.splitlines() == [f"layer {number}" for number in range(1, 128) if number not in systems]
    assert guest.run("cat /sys/block/pmem0/pmem0p100/size") == str((10010 + 4095) // 4096 * 8)
    assert "alternate" not in guest.run("dmesg | grep -i gpt || true").lower()
    guest.run("mkdir -p /a /b /c /o && mount -t erofs -o ro,dax=always /dev/pmem0p127 /a && mount -t erofs -o ro,dax=always /dev/pmem0p64 /b "
              "&& mount -t erofs -o ro,dax=always /dev/pmem0p1 /c && mount -t overlay -o lowerdir=/a:/b:/c overlay /o")
    assert guest.run("cat /o/name; /o/only127; /o/only64; /o/only1") == "layer 127" + "\nfrom memory" * 3
    told = guest.get("/vm/config")["pmem"][0]
    assert told["files"] == files and told["read_only"]


@pytest.mark.long
@pytest.mark.parametrize("kernel", ["any", "debian"])
def test_several_devices_keep_their_order(make_guest, tmp_path, kernel):
    guest = make_guest(kernel)
    for number in range(3):
        path = tmp_path / f"file{number}"
        path.write_bytes(f"file {number}".encode())
        guest.put(f"/pmem/p{number}", id=f"p{number}", path_on_host=str(path))
    guest.boot()
    for number in range(3):
        assert guest.run(f"head -c 6 /dev/pmem{number}") == f"file {number}"


@pytest.mark.long
def test_pmem_as_root(make_guest, tmp_path):
    """Without an initial file system: the kernel mounts the window itself."""
    guest = make_guest("small", boot_arguments="init=/init rootflags=dax rootfstype=ext4")
    folder = tree(tmp_path / "tree", {"init": (guest.kernel.parent / "init").read_bytes()})
    for name in ("dev", "proc", "sys", "tmp", "mnt", "bin"):
        (folder / name).mkdir()
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    for name in ("cat", "grep", "sh"):
        (folder / "bin" / name).symlink_to("busybox")
    image = make_ext4(tmp_path / "root", folder, 16 * MIB)
    guest.put("/boot-source", kernel_image_path=str(guest.kernel), boot_args=GUEST_ARGUMENTS + " init=/init rootflags=dax rootfstype=ext4")
    guest.put("/pmem/root", id="root", path_on_host=str(image), root_device=True)
    guest.boot()
    assert "root=/dev/pmem0 rw" in guest.run("cat /proc/cmdline")
    assert "dax" in guest.run("grep ' / ' /proc/mounts")


@pytest.mark.long
def test_flushes_are_limited_and_counted(make_guest, tmp_path):
    image = make_ext4(tmp_path / "image", tree(tmp_path / "tree", {"script": SCRIPT}), 8 * MIB)
    guest = make_guest("debian")
    guest.put("/metrics", metrics_path=str(tmp_path / "metrics"))
    guest.put("/pmem/p", id="p", path_on_host=str(image), rate_limiter={"ops": {"size": 2, "refill_time": 1000}})
    guest.boot()
    guest.run("mount -t ext4 -o dax /dev/pmem0 /mnt")
    begin = time.monotonic()
    guest.run("for i in 1 2 3 4 5 6; do echo $i >/mnt/file; sync; done")
    assert time.monotonic() - begin > 1
    guest.patch("/pmem/p", id="p", rate_limiter={"ops": {"size": 100000, "refill_time": 1000}})
    guest.run("for i in 1 2 3 4 5 6; do echo $i >/mnt/file; sync; done")
    guest.action("FlushMetrics")
    lines = [json.loads(line) for line in (tmp_path / "metrics").read_text().splitlines()]
    assert sum(line["pmem"]["flush_count"] for line in lines) >= 12
    assert sum(line["pmem_p"]["rate_limiter_throttled_events"] for line in lines) >= 1


def total_mib(guest) -> int:
    return int(guest.run("grep MemTotal /proc/meminfo").split()[1]) // 1024


def resident_mib(guest) -> int:
    """Of the memory that was plugged."""
    return host_kib(guest, pathlib.Path("/memfd:pluggable guest memory (deleted)"), "Rss") // 1024


@KERNELS
def test_memory_grows_and_shrinks(make_guest, kernel):
    guest = make_guest(kernel)
    guest.put("/hotplug/memory", total_size_mib=512)
    guest.boot()
    booted = total_mib(guest)
    assert guest.get("/hotplug/memory") == {"total_size_mib": 512, "block_size_mib": 2, "slot_size_mib": 128, "plugged_size_mib": 0,
                                            "requested_size_mib": 0}
    guest.patch("/hotplug/memory", requested_size_mib=256)
    eventually(lambda: guest.get("/hotplug/memory")["plugged_size_mib"] == 256)
    eventually(lambda: total_mib(guest) >= booted + 250)
    # More than the guest has without: the new memory is used, and the host has it to give.
    assert guest.run(f"guest touch {guest.memory + 60}") == "touched"
    assert resident_mib(guest) > 40
    guest.patch("/hotplug/memory", requested_size_mib=0)
    eventually(lambda: guest.get("/hotplug/memory")["plugged_size_mib"] == 0)
    eventually(lambda: total_mib(guest) <= booted + 2)
    assert resident_mib(guest) == 0
    guest.patch("/hotplug/memory", requested_size_mib=128)
    eventually(lambda: guest.get("/hotplug/memory")["plugged_size_mib"] == 128)
    for wrong in (127, 514, -2, "128"):
        assert guest.request("PATCH", "/hotplug/memory", {"requested_size_mib": wrong}).status == 400
    assert guest.get("/hotplug/memory")["requested_size_mib"] == 128


@pytest.mark.long
def test_memory_changes_many_times_under_load(make_guest):
    guest = make_guest("debian", vcpus=2)
    guest.put("/hotplug/memory", total_size_mib=512, block_size_mib=4, slot_size_mib=256)
    guest.put("/balloon", amount_mib=0, deflate_on_oom=True)
    guest.boot()
    for size in (512, 128, 384, 4, 256, 0, 512, 0):
        guest.patch("/hotplug/memory", requested_size_mib=size)
        guest.run("guest touch 60")
        eventually(lambda: guest.get("/hotplug/memory")["plugged_size_mib"] == size)
    assert resident_mib(guest) == 0


def test_plugged_memory_is_in_snapshots(make_guest, tmp_path):
    from test_snapshots import Clone, save
    guest = make_guest()
    guest.put("/hotplug/memory", total_size_mib=256)
    guest.boot()
    guest.patch("/hotplug/memory", requested_size_mib=128)
    eventually(lambda: guest.get("/hotplug/memory")["plugged_size_mib"] == 128)
    guest.run("mount -t tmpfs -o size=90m tmpfs /mnt && (seq 1 100000; tr '\\0' x </dev/zero | head -c 40000000) >/mnt/file")
    assert resident_mib(guest) > 20, "the file lies elsewhere"
    before = guest.run("md5sum /mnt/file")
    save(guest, tmp_path)
    image = os.stat(tmp_path / "s.memory")
    assert image.st_size == (guest.memory + 256) * MIB and image.st_blocks * 512 < (guest.memory + 128) * MIB
    guest.close()
    with Clone() as one:
        one.load(tmp_path)
        assert one.get("/hotplug/memory")["plugged_size_mib"] == one.get("/hotplug/memory")["requested_size_mib"] == 128
        assert one.run("md5sum /mnt/file") == before
        one.run("umount /mnt")
        one.patch("/hotplug/memory", requested_size_mib=0)
        eventually(lambda: one.get("/hotplug/memory")["plugged_size_mib"] == 0)
