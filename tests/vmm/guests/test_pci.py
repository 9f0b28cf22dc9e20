"""Guests with --enable-pci: every device a PCI function with MSI-X, disks and interfaces that come and go while the guest
runs, without a rescan by hand."""

import json
import re
import subprocess
import time

import pytest

from test_memory import SCRIPT, from_image, make_ext4, tree
from test_network import configure
from test_snapshots import Clone, ask, save
from test_vsock import connect, start_echo

MIB = 1 << 20


@pytest.fixture
def make_pci_guest(make_guest, tmp_path):
    """Guests whose monitor logs into a file, so that the console is the guest's alone."""

    def make(kernel="any", **keywords):
        log = tmp_path / "log"
        log.touch()
        guest = make_guest(kernel, "--enable-pci", "--log-path", str(log), **keywords)
        guest.log = log
        return guest

    return make


@pytest.fixture(params=[pytest.param("small", marks=pytest.mark.long), "debian"])
def either_pci(request, make_pci_guest):
    return lambda **keywords: make_pci_guest(request.param, **keywords)


def new_disk(folder, name: str, mib: int = 2):
    path = folder / f"disk-{name}"
    path.write_bytes(f"the disk {name}".encode().ljust(mib * MIB, b"\0"))
    return path


def drive(guest, path, name, **options):
    body = {"drive_id": name, "path_on_host": str(path), "is_root_device": False, "is_read_only": False} | options
    return guest.put(f"/drives/{name}", **body)


def interface(guest, tap, name):
    return guest.put(f"/network-interfaces/{name}", iface_id=name, host_dev_name=tap.name, guest_mac=tap.mac)


def appears(guest, path: str):
    guest.run(f"i=0; until [ -e {path} ]; do i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done")


def disappears(guest, path: str):
    guest.run(f"i=0; while [ -e {path} ]; do i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done")


def ids(guest, section: str) -> list[str]:
    key = {"drives": "drive_id", "network-interfaces": "iface_id", "pmem": "id"}[section]
    return [one[key] for one in guest.get("/vm/config")[section]]


def unplug(guest, section: str, name: str, seconds: float = 120):
    """Asks for it, and waits until the device is gone on the host's side."""
    answer = guest.request("DELETE", f"/{section}/{name}")
    assert answer.status == 204, answer
    unplugged(guest, section, name, seconds)


def unplugged(guest, section: str, name: str, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while name in ids(guest, section):
        assert time.monotonic() < deadline, f"{name} is still there\n" + guest.log.read_text()[-2000:]
        time.sleep(0.05)


def interrupts(guest) -> dict[str, int]:
    """Interrupts so far by name, of those that are messages."""
    lines = re.findall(r"^ *\d+: +(\d+) .*PCI-MSI.* (\S+)$", guest.run("cat /proc/interrupts"), re.MULTILINE)
    return {name: int(count) for count, name in lines}


def test_devices_come_and_go(either_pci, disk, tap, other_tap, tmp_path):
    guest = either_pci()
    drive(guest, disk, "a", io_engine="Async")
    interface(guest, tap, "n0")
    guest.put("/vsock", guest_cid=7, uds_path=str(guest.folder / "v.sock"))
    guest.put("/balloon", amount_mib=2, deflate_on_oom=True, stats_polling_interval_s=1)
    guest.put("/entropy")
    guest.boot()
    # What was there from the start works, and by messages.
    guest.run(f"guest pattern /dev/vda write 0 {MIB} 7 && guest pattern /dev/vda check 0 {MIB} 7")
    configure(guest, tap)
    assert "0% packet loss" in guest.run(f"ping -c 2 -W 10 {tap.host}")
    start_echo(guest)
    connection, answer = connect(guest, 5000)
    assert answer.startswith(b"OK ")
    connection.sendall(b"hello")
    assert connection.recv(5) == b"hello"
    connection.close()
    assert guest.run("dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c") == "16"
    counts = interrupts(guest)
    for queue in ("req", "input", "rx", "inflate", "stats"):
        assert any(queue in name and count > 0 for name, count in counts.items()), (queue, counts)
    assert guest.run("ls /sys/bus/virtio/devices | wc -l") == "5"
    assert guest.run("ls -d /sys/devices/pci0000:00/*/virtio* /sys/devices/pci0000:00/*/*/virtio* 2>/dev/null | wc -l") == "5"

    before = guest.descriptors()
    new = new_disk(tmp_path, "b")
    drive(guest, new, "b")
    appears(guest, "/dev/vdb")
    assert guest.run("head -c 10 /dev/vdb") == "the disk b"
    guest.run("guest pattern /dev/vdb write 4096 8192 3")
    interface(guest, other_tap, "n1")
    appears(guest, "/sys/class/net/eth1")
    configure(guest, other_tap, "eth1")
    assert "0% packet loss" in guest.run(f"ping -c 2 -W 10 {other_tap.host}")
    assert ids(guest, "drives") == ["a", "b"]
    assert len(guest.descriptors()) > len(before)

    plugged = (("drives", "b"), ("network-interfaces", "n1"))
    for section, name in plugged:
        assert guest.request("DELETE", f"/{section}/{name}").status == 204
        assert guest.request("DELETE", f"/{section}/{name}").status == 204, "asking again changes nothing"
    disappears(guest, "/dev/vdb")
    disappears(guest, "/sys/class/net/eth1")
    for section, name in plugged:
        deadline = time.monotonic() + 60
        while name in ids(guest, section):
            assert time.monotonic() < deadline, guest.log.read_text()[-2000:]
            time.sleep(0.05)
        assert "no" in guest.request("DELETE", f"/{section}/{name}").fault
    assert guest.descriptors() == before, "what it had on the host is given back"
    # The interface is free for others again, and what stayed works.
    interface(guest, other_tap, "n2")
    appears(guest, "/sys/class/net/eth1")
    assert "0% packet loss" in guest.run(f"ping -c 1 -W 10 {tap.host}")
    guest.run(f"guest pattern /dev/vda check 0 {MIB} 7")


def test_a_restored_guest(make_pci_guest, disk, tap, other_tap, tmp_path):
    """From a snapshot, in another process that was not told of PCI: what was there works, what comes and goes is found without a rescan."""
    guest = make_pci_guest()
    drive(guest, disk, "a")
    interface(guest, tap, "n0")
    guest.put("/vsock", guest_cid=7, uds_path=str(guest.folder / "v.sock"))
    guest.boot()
    drive(guest, new_disk(tmp_path, "b"), "b")
    appears(guest, "/dev/vdb")
    configure(guest, tap)
    guest.run(f"guest pattern /dev/vda write 0 {MIB} 7")
    guest.run("(guest vsock-tell 5000 >/tmp/tell 2>&1 &) ; while ! grep -q listening /tmp/tell; do :; done")
    save(guest, tmp_path)
    guest.close()
    log = tmp_path / "clone.log"
    log.touch()
    with Clone("--log-path", str(log)) as clone:
        clone.log = log
        clone.load(tmp_path, clock_realtime=True, vsock_override={"uds_path": str(tmp_path / "clone.sock")})
        assert len(ask(tmp_path / "clone.sock").split()) == 2
        clone.run(f"guest pattern /dev/vda check 0 {MIB} 7 && guest pattern /dev/vda write {MIB} {MIB} 8")
        assert clone.run("head -c 10 /dev/vdb") == "the disk b"
        assert "0% packet loss" in clone.run(f"ping -c 1 -W 10 {tap.host}")
        assert ids(clone, "drives") == ["a", "b"]
        before = clone.descriptors()
        drive(clone, new_disk(tmp_path, "c"), "c", io_engine="Async")
        interface(clone, other_tap, "n1")
        appears(clone, "/dev/vdc")
        appears(clone, "/sys/class/net/eth1")
        assert clone.run("head -c 10 /dev/vdc") == "the disk c"
        configure(clone, other_tap, "eth1")
        assert "0% packet loss" in clone.run(f"ping -c 1 -W 10 {other_tap.host}")
        # One that came before the snapshot, and what came after it.
        for path in ("/drives/b", "/drives/c", "/network-interfaces/n1"):
            assert clone.request("DELETE", path).status == 204
        for path in ("/dev/vdb", "/dev/vdc", "/sys/class/net/eth1"):
            disappears(clone, path)
        deadline = time.monotonic() + 60
        while ids(clone, "drives") != ["a"] or ids(clone, "network-interfaces") != ["n0"]:
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.05)
        assert len(clone.descriptors()) < len(before)
        # The slots are free again, and what stayed works.
        drive(clone, new_disk(tmp_path, "d"), "d")
        appears(clone, "/dev/vdb")
        assert clone.run("head -c 10 /dev/vdb") == "the disk d"
        clone.run(f"guest pattern /dev/vda check {MIB} {MIB} 8")


@pytest.mark.parametrize("kernel", ["any", pytest.param("debian", marks=pytest.mark.long)])
def test_files_as_memory_come_and_go(make_pci_guest, tmp_path, kernel):
    """pmem devices in a running guest: mounted with DAX, flushed into their files, several, and the window of one that went is another's."""
    guest = make_pci_guest(kernel)
    image = make_ext4(tmp_path / "image", tree(tmp_path / "tree", {"script": SCRIPT}), 8 * MIB)
    layers = []
    for number in range(3):
        layers.append(tmp_path / f"layer{number}")
        layers[-1].write_bytes(f"layer {number}".encode())
    guest.boot()
    before = guest.descriptors()
    for turn in range(2):
        guest.put("/pmem/p", id="p", path_on_host=str(image))
        appears(guest, "/dev/pmem0")
        guest.put("/pmem/layers", id="layers", files=[str(path) for path in layers], read_only=True)
        appears(guest, "/dev/pmem1p3")
        guest.run("mount -t ext4 -o dax /dev/pmem0 /mnt")
        assert "dax" in guest.run("grep pmem0 /proc/mounts")
        assert guest.run("/mnt/script") == "from memory"
        guest.run(f"echo {turn} >/mnt/file{turn} && sync")
        assert from_image(image, f"file{turn}") == f"{turn}\n"
        assert guest.run("for i in 1 2 3; do head -c 7 /dev/pmem1p$i; done") == "layer 0layer 1layer 2"
        assert ids(guest, "pmem") == ["p", "layers"]
        guest.run("umount /mnt")
        for name in ("p", "layers"):
            assert guest.request("DELETE", f"/pmem/{name}").status == 204
        for name in ("p", "layers"):
            unplugged(guest, "pmem", name)
        disappears(guest, "/dev/pmem0")
        disappears(guest, "/dev/pmem1")
        assert guest.descriptors() == before, turn
    assert subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True).returncode == 0


@pytest.mark.long
def test_a_loop_of_plugging_and_unplugging(make_pci_guest, tmp_path):
    guest = make_pci_guest()
    paths = [new_disk(tmp_path, str(n)) for n in range(4)]
    guest.boot()
    before = None
    for turn in range(8):
        for n, path in enumerate(paths):
            drive(guest, path, f"d{n}", io_engine=["Sync", "Async"][n % 2])
        for n in range(len(paths)):
            appears(guest, f"/dev/vd{'abcd'[n]}")
        said = guest.run("for d in a b c d; do head -c 10 /dev/vd$d; echo; done")
        assert sorted(said.splitlines()) == [f"the disk {n}" for n in range(4)]
        for n in range(len(paths)):
            assert guest.request("DELETE", f"/drives/d{n}").status == 204
        deadline = time.monotonic() + 120
        while ids(guest, "drives"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        before = before or guest.descriptors()
        assert guest.descriptors() == before, turn


@pytest.mark.long
def test_plugging_and_unplugging_at_once(make_pci_guest, tmp_path):
    """Faster than a guest can follow: it finds what is there at the end."""
    guest = make_pci_guest()
    path = new_disk(tmp_path, "x")
    guest.boot()
    before = guest.descriptors()
    for turn in range(20):
        drive(guest, path, "x")
        deadline = time.monotonic() + 120
        answer = guest.request("DELETE", "/drives/x")
        while answer.status != 204:
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)
            answer = guest.request("DELETE", "/drives/x")
        while "x" in ids(guest, "drives"):
            assert time.monotonic() < deadline, turn
            time.sleep(0.05)
    assert guest.descriptors() == before
    drive(guest, path, "x")
    appears(guest, "/dev/vda")
    assert guest.run("head -c 10 /dev/vda") == "the disk x"


@pytest.mark.long
def test_a_disk_in_use(make_pci_guest, tmp_path):
    """A guest that writes meanwhile loses nothing that it was told is written."""
    guest = make_pci_guest()
    path = new_disk(tmp_path, "w", mib=16)
    guest.boot()
    drive(guest, path, "w")
    appears(guest, "/dev/vda")
    # A dd that comes when the disk is gone makes a file of that name, and succeeds.
    guest.run("(while [ -b /dev/vda ] && dd if=/dev/zero of=/dev/vda bs=4096 count=64 conv=fsync 2>/dev/null; do :; done; echo over >/tmp/over) &")
    unplug(guest, "drives", "w")
    appears(guest, "/tmp/over")
    assert guest.run("cat /tmp/over") == "over"


@pytest.mark.long
def test_a_disk_of_the_start_goes_too(make_pci_guest, disk, tmp_path):
    guest = make_pci_guest()
    drive(guest, disk, "a")
    drive(guest, new_disk(tmp_path, "b"), "b")
    guest.boot()
    unplug(guest, "drives", "a")
    disappears(guest, "/dev/vda")
    assert guest.run("head -c 10 /dev/vdb") == "the disk b"


@pytest.mark.long
def test_a_guest_that_releases_the_device_itself(make_pci_guest, tmp_path):
    """As Firecracker's documentation has it: removed in the guest first, then gone at once."""
    guest = make_pci_guest()
    guest.boot()
    drive(guest, new_disk(tmp_path, "b"), "b")
    appears(guest, "/dev/vda")
    guest.run("d=/sys/block/vda/device; cd -P $d && echo 1 >../remove")
    assert guest.request("DELETE", "/drives/b").status == 204
    assert ids(guest, "drives") == []


@pytest.mark.long
def test_a_guest_that_does_not_listen(make_pci_guest, tmp_path):
    """Without a driver for slots a device is found by a rescan and released by the guest; asking for it is a fault."""
    guest = make_pci_guest(boot_arguments="pcie_ports=compat")
    guest.boot()
    drive(guest, new_disk(tmp_path, "b"), "b")
    guest.run("echo 1 >/sys/bus/pci/rescan")
    appears(guest, "/dev/vda")
    answer = guest.request("DELETE", "/drives/b")
    assert answer.status == 400 and "does not listen" in answer.fault
    assert ids(guest, "drives") == ["b"]
    assert guest.run("head -c 10 /dev/vda") == "the disk b"


@pytest.mark.long
def test_more_than_there_are_slots(make_pci_guest, tmp_path):
    guest = make_pci_guest()
    guest.boot()
    path = new_disk(tmp_path, "b")
    count = 0
    while True:
        answer = guest.request("PUT", f"/drives/d{count}", {"drive_id": f"d{count}", "path_on_host": str(path),
                                                          "is_root_device": False, "is_read_only": True})
        if answer.status != 204:
            break
        count += 1
    assert count == 16 and "no PCI slot is free" in answer.fault
    appears(guest, "/dev/vdp")
    unplug(guest, "drives", "d3")
    drive(guest, path, "again")


@pytest.mark.long
def test_several_processors_and_queues(make_pci_guest, disk, tap):
    guest = make_pci_guest(vcpus=2)
    drive(guest, disk, "a")
    guest.put("/network-interfaces/n", iface_id="n", host_dev_name=tap.name, guest_mac=tap.mac)
    guest.boot()
    configure(guest, tap)
    guest.run(f"guest pattern /dev/vda write 0 {MIB} 7 & ping -c 5 -i 0.2 -W 10 {tap.host} >/dev/null && wait")
    # Vectors are moved to the other processor, masked and unmasked on the way.
    guest.run("for i in /proc/irq/*/virtio*req*; do echo 2 >${i%/*}/smp_affinity; done; "
              f"guest pattern /dev/vda write {MIB} {MIB} 8 && guest pattern /dev/vda check {MIB} {MIB} 8")


@pytest.mark.long
def test_metrics_of_what_came_and_went(make_pci_guest, tmp_path):
    guest = make_pci_guest()
    guest.put("/metrics", metrics_path=str(tmp_path / "metrics"))
    guest.boot()
    drive(guest, new_disk(tmp_path, "b"), "b")
    appears(guest, "/dev/vda")
    guest.run("head -c 4096 /dev/vda >/dev/null")
    guest.action("FlushMetrics")
    unplug(guest, "drives", "b")
    guest.action("FlushMetrics")
    lines = [json.loads(line) for line in (tmp_path / "metrics").read_text().splitlines()]
    assert any(line.get("block_b", {}).get("read_count", 0) > 0 for line in lines)
    assert "block_b" not in lines[-1]
    assert lines[-1]["delete_api_requests"]["drive_count"] == 1
