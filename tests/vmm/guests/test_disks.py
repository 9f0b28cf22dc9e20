"""Block devices: reading, writing, flushing, both engines, read-only, size, limits, another file while the guest runs."""

import hashlib
import json
import os
import subprocess
import time

import pytest

MIB = 1 << 20


def attach(guest, path, name="a", **options):
    body = {"drive_id": name, "path_on_host": str(path), "is_root_device": False, "is_read_only": False} | options
    guest.put(f"/drives/{name}", **body)


def pattern(offset: int, seed: int) -> bytes:
    """What tests/vmm/guest/init.cpp writes into the block at an offset."""
    mask = (1 << 64) - 1
    out = b""
    for at in range(0, 4096, 8):
        out += (((offset + at + 1) * 0x9E3779B97F4A7C15 & mask) ^ (seed * 0xBF58476D1CE4E5B9 & mask)).to_bytes(8, "little")
    return out


@pytest.mark.parametrize("engine", ["Sync", "Async"])
def test_read_and_write(either, disk, engine):
    disk.write_bytes(os.urandom(4 * MIB) + bytes(12 * MIB))
    guest = either()
    attach(guest, disk, io_engine=engine)
    guest.boot()
    assert guest.run("cat /sys/block/vda/size") == str(16 * MIB // 512)
    expected = hashlib.sha256(disk.read_bytes()).hexdigest()
    assert guest.run("sha256sum /dev/vda").split()[0] == expected
    guest.run(f"guest pattern /dev/vda write {4 * MIB} {MIB} 7")
    guest.run(f"guest pattern /dev/vda check {4 * MIB} {MIB} 7")
    with open(disk, "rb") as file:
        file.seek(4 * MIB)
        for block in range(0, MIB, 4096):
            assert file.read(4096) == pattern(4 * MIB + block, 7), block


def test_an_ext4_root(make_guest, tmp_path):
    path = tmp_path / "ext4"
    with open(path, "wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(path)], check=True, capture_output=True)
    guest = make_guest()
    attach(guest, path, cache_type="Writeback")
    guest.boot()
    guest.run("mount -t ext4 /dev/vda /mnt && echo hello >/mnt/file && sync && umount /mnt")
    guest.send("guest reboot")
    assert guest.wait(120) == 0
    subprocess.run(["e2fsck", "-fn", str(path)], check=True, capture_output=True)
    shown = subprocess.run(["debugfs", "-R", "cat file", str(path)], check=True, capture_output=True, text=True).stdout
    assert shown == "hello\n"


@pytest.mark.long
def test_read_only(make_guest, disk):
    before = disk.read_bytes()
    guest = make_guest()
    attach(guest, disk, is_read_only=True)
    guest.boot()
    assert guest.run("cat /sys/block/vda/ro") == "1"
    status, _ = guest.try_run("guest pattern /dev/vda write 0 4096 1")
    assert status != 0
    assert disk.read_bytes() == before


@pytest.mark.long
def test_several_disks_in_order(make_guest, tmp_path):
    guest = make_guest()
    for number in range(4):
        path = tmp_path / f"disk{number}"
        path.write_bytes(f"disk {number}".encode().ljust(MIB, b"\0"))
        attach(guest, path, name=f"d{number}")
    guest.boot()
    for number, name in enumerate("abcd"):
        assert guest.run(f"head -c 6 /dev/vd{name}") == f"disk {number}"


@pytest.mark.long
def test_another_file_while_running(make_guest, tmp_path, disk):
    other = tmp_path / "other"
    other.write_bytes(b"the other one".ljust(2 * MIB, b"\0"))
    guest = make_guest()
    attach(guest, disk)
    guest.boot()
    guest.patch("/drives/a", drive_id="a", path_on_host=str(other))
    deadline = time.monotonic() + 30
    while guest.run("cat /sys/block/vda/size") != str(2 * MIB // 512):
        assert time.monotonic() < deadline
    assert guest.run("echo 3 >/proc/sys/vm/drop_caches; head -c 13 /dev/vda") == "the other one"


def test_a_file_that_grows(make_guest, disk):
    guest = make_guest()
    attach(guest, disk)
    guest.boot()
    os.truncate(disk, 24 * MIB)
    guest.patch("/drives/a", drive_id="a", path_on_host=str(disk))
    deadline = time.monotonic() + 30
    while guest.run("cat /sys/block/vda/size") != str(24 * MIB // 512):
        assert time.monotonic() < deadline
    guest.run(f"guest pattern /dev/vda write {20 * MIB} 4096 3")


def test_discard(make_guest, disk):
    disk.write_bytes(b"x" * (16 * MIB))
    guest = make_guest()
    attach(guest, disk)
    guest.boot()
    if guest.run("cat /sys/block/vda/queue/discard_max_bytes") == "0":
        pytest.skip("this monitor offers no discard")
    before = os.stat(disk).st_blocks
    guest.run(f"guest discard /dev/vda {MIB} {8 * MIB}")
    guest.run("sync")
    assert os.stat(disk).st_blocks < before - 4 * MIB // 512


@pytest.mark.long
def test_rate_limit_of_operations(make_guest, disk):
    guest = make_guest()
    attach(guest, disk, rate_limiter={"ops": {"size": 20, "refill_time": 1000}})
    guest.boot()
    begin = time.monotonic()
    guest.run("dd if=/dev/vda of=/dev/null bs=4096 count=60 iflag=direct", seconds=300)
    assert time.monotonic() - begin > 1.5
    guest.patch("/drives/a", drive_id="a", rate_limiter={"ops": {"size": 100000, "refill_time": 1000}})
    guest.run("dd if=/dev/vda of=/dev/null bs=4096 count=60 iflag=direct")


@pytest.mark.long
def test_serial_number(make_guest, disk):
    guest = make_guest()
    attach(guest, disk)
    guest.boot()
    assert guest.run("cat /sys/block/vda/serial") != ""


@pytest.mark.long
def test_block_metrics(make_guest, disk, tmp_path):
    guest = make_guest()
    guest.put("/metrics", metrics_path=str(tmp_path / "metrics"))
    attach(guest, disk, cache_type="Writeback")
    guest.boot()
    guest.run(f"guest pattern /dev/vda write 0 {MIB} 7")
    guest.action("FlushMetrics")
    lines = [json.loads(line) for line in (tmp_path / "metrics").read_text().splitlines()]
    assert sum(line["block"]["write_bytes"] for line in lines) >= MIB
    assert sum(line["block"]["flush_count"] for line in lines) >= 1
