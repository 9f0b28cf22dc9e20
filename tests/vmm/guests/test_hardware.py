"""Ways a guest finds its hardware, kinds of memory, templates, balloons that give memory back without being asked, queues."""

import json
import pathlib
import subprocess
import time

import pytest

from support import binaries
from support.microvm import is_guest_memory, mappings
from test_disks import attach
from test_network import Server, configure, connect
from test_others import eventually, resident_kib

MIB = 1 << 20
HUGE_PAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")


def dmesg(guest, pattern: str) -> str:
    return guest.run(f"dmesg | grep -iE '{pattern}' || true")


def guest_mapping(guest) -> dict[str, int]:
    """KiB of the mapping that is the guest's memory, by the names of smaps."""
    return next(mapping for mapping in mappings(guest.process.pid) if is_guest_memory(mapping, guest.memory))


def test_without_acpi(make_guest, disk):
    """A kernel that is told to leave ACPI alone finds two processors by the MP table and its disk by the command line."""
    disk.write_bytes(b"found by the command line".ljust(MIB, b"\0"))
    guest = make_guest("small", vcpus=2, boot_arguments="acpi=off")
    attach(guest, disk)
    guest.boot()
    assert guest.run("nproc") == "2"
    assert guest.run("test -d /sys/firmware/acpi/tables || echo none") == "none"
    assert guest.run("head -c 25 /dev/vda") == "found by the command line"


@pytest.mark.long
def test_with_acpi(make_guest):
    guest = make_guest("debian").boot()
    tables = guest.run("ls /sys/firmware/acpi/tables").split()
    assert {"APIC", "DSDT", "FACP"} <= set(tables)
    assert dmesg(guest, "ACPI.*(error|warning|exception)") == ""


def test_eight_processors(make_guest):
    """More than there are here; all of them have work."""
    guest = make_guest("small", vcpus=8, memory=256).boot(300)
    assert guest.run("nproc") == "8"

    def worked() -> dict[str, int]:
        tasks = pathlib.Path(f"/proc/{guest.process.pid}/task").iterdir()
        times = {(task / "comm").read_text().strip(): int((task / "schedstat").read_text().split()[0]) for task in tasks}
        return {name: spent for name, spent in times.items() if name.startswith("fc_vcpu")}

    before = worked()
    guest.run("for i in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do seq 20000 >/dev/null & done; wait", seconds=300)
    after = worked()
    assert len(after) == 8
    assert all(after[name] > before[name] for name in after), (before, after)
    guest.send("guest reboot")
    assert guest.wait(200) == 0


@pytest.mark.long
def test_threads_of_a_core(make_guest):
    guest = make_guest("small", vcpus=4)
    guest.patch("/machine-config", smt=True)
    guest.boot(300)
    assert guest.run("cat /sys/devices/system/cpu/cpu0/topology/thread_siblings_list") in ("0-1", "0,1")
    assert guest.run("cat /sys/devices/system/cpu/cpu3/topology/thread_siblings_list") in ("2-3", "2,3")


@pytest.mark.long
def test_huge_pages_of_hugetlbfs(make_guest):
    binaries.need_root()
    before = int(HUGE_PAGES.read_text())
    guest = make_guest("small")
    HUGE_PAGES.write_text(str(before + 64))
    try:
        if int(HUGE_PAGES.read_text()) < before + 64:
            pytest.skip("this host has no 128 MiB of huge pages to give")
        guest.patch("/machine-config", huge_pages="2M")
        guest.boot()
        assert guest_mapping(guest)["KernelPageSize"] == 2048
        assert guest.run("guest touch 40") == "touched"
        guest.send("guest reboot")
        assert guest.wait(120) == 0
    finally:
        guest.close()
        HUGE_PAGES.write_text(str(before))


@pytest.mark.long
def test_huge_pages_that_are_not_there(make_guest):
    guest = make_guest("small", memory=512)
    if int(HUGE_PAGES.read_text()) > 0:
        pytest.skip("this host has huge pages")
    guest.patch("/machine-config", huge_pages="2M")
    answer = guest.request("PUT", "/actions", {"action_type": "InstanceStart"})
    assert answer.status == 400 and "memory" in answer.fault


@pytest.mark.long
def test_transparent_huge_pages(make_guest):
    if "[never]" in pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("transparent huge pages are off here")
    guest = make_guest("small")
    guest.patch("/machine-config", huge_pages="Transparent")
    guest.boot()
    assert guest.run("guest touch 40") == "touched"
    assert guest_mapping(guest)["AnonHugePages"] > 16 * 1024


@pytest.mark.long
def test_cpu_template(make_guest):
    """Of the host's vendor; the others are refused in words."""
    is_amd = "AuthenticAMD" in pathlib.Path("/proc/cpuinfo").read_text()
    guest = make_guest("small")
    guest.patch("/machine-config", cpu_template="T2" if is_amd else "T2A")
    answer = guest.request("PUT", "/actions", {"action_type": "InstanceStart"})
    assert answer.status == 400 and "template" in answer.fault
    guest.patch("/machine-config", cpu_template="T2A" if is_amd else "T2")
    guest.boot()
    flags = guest.run("grep -m1 ^flags /proc/cpuinfo").split()
    assert "hypervisor" in flags and "sse2" in flags
    assert not {"sha_ni", "avx512f", "sse4a", "clflushopt"} & set(flags)


@pytest.mark.long
def test_custom_cpu_template(make_guest):
    guest = make_guest("small")
    # Leaf 1, ECX bit 30: RDRAND is hidden.
    guest.put("/cpu-config", cpuid_modifiers=[{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [
        {"register": "ecx", "bitmap": "0bx0" + "x" * 30}]}])
    guest.boot()
    assert "rdrand" not in guest.run("grep -m1 ^flags /proc/cpuinfo").split()


def test_free_pages_are_reported(make_guest):
    """What the guest no longer uses goes back to the host by itself."""
    guest = make_guest("small")
    guest.put("/balloon", amount_mib=0, deflate_on_oom=False, free_page_reporting=True)
    guest.boot()
    guest.run("guest touch 60")
    resident = resident_kib(guest.process.pid)
    eventually(lambda: resident_kib(guest.process.pid) < resident - 30 * 1024, 120)
    assert guest.run("guest touch 60") == "touched"


@pytest.mark.long
def test_free_pages_are_hinted(make_guest):
    guest = make_guest("small")
    guest.put("/balloon", amount_mib=0, deflate_on_oom=False, free_page_hinting=True)
    guest.boot()
    guest.run("guest touch 60")
    resident = resident_kib(guest.process.pid)
    guest.patch("/balloon/hinting/start", acknowledge_on_stop=True)
    eventually(lambda: resident_kib(guest.process.pid) < resident - 30 * 1024, 120)
    # The guest has said that it is through, and gets its pages back.
    eventually(lambda: guest.get("/balloon/hinting/status")["host_cmd"] == 1, 120)
    assert guest.run("guest touch 60") == "touched"
    guest.patch("/balloon/hinting/start", acknowledge_on_stop=False)
    guest.patch("/balloon/hinting/stop")
    assert guest.run("echo alive") == "alive"


@pytest.mark.long
def test_several_queues(make_guest, tap):
    """As many queue pairs as the tap has, and packets through them."""
    subprocess.run(["ip", "link", "del", tap.name], check=True)
    for words in (f"tuntap add {tap.name} mode tap vnet_hdr multi_queue", f"addr add {tap.host}/24 dev {tap.name}", f"link set {tap.name} up"):
        subprocess.run(["ip", *words.split()], check=True)
    guest = make_guest("small", vcpus=2)
    connect(guest, tap, num_queues=2)
    guest.boot()
    configure(guest, tap)
    assert guest.run("ls -d /sys/class/net/eth0/queues/rx-* | wc -l").strip() == "2"
    assert "0% packet loss" in guest.run(f"ping -c 3 -W 10 {tap.host}")


@pytest.mark.long
def test_limit_of_what_is_received(make_guest, tap):
    guest = make_guest("small")
    connect(guest, tap, rx_rate_limiter={"bandwidth": {"size": 200_000, "refill_time": 1000}})
    guest.boot()
    configure(guest, tap)
    server = Server(tap.host, bytes(1_000_000))
    server.start()
    begin = time.monotonic()
    assert guest.run(f"nc {tap.host} {server.port} </dev/null | wc -c", seconds=300).strip() == "1000000"
    assert time.monotonic() - begin > 3


@pytest.mark.long
def test_limit_of_bytes_of_a_disk(make_guest, disk):
    """A burst at once, the rest at the rate; writes count as reads do."""
    guest = make_guest("small")
    attach(guest, disk, io_engine="Async", rate_limiter={"bandwidth": {"size": MIB, "one_time_burst": MIB, "refill_time": 1000}})
    guest.boot()
    begin = time.monotonic()
    guest.run("dd if=/dev/zero of=/dev/vda bs=65536 count=16 oflag=direct", seconds=300)
    burst = time.monotonic() - begin
    begin = time.monotonic()
    guest.run("dd if=/dev/vda of=/dev/null bs=65536 count=64 iflag=direct", seconds=300)
    assert time.monotonic() - begin > max(1.5, burst)


@pytest.mark.long
def test_limit_of_the_console(make_guest, tmp_path):
    """What is over the limit is dropped and counted: the guest does not wait."""
    guest = make_guest("small")
    output, metrics = tmp_path / "console", tmp_path / "metrics"
    guest.put("/boot-source", kernel_image_path=str(guest.kernel), initrd_path=str(guest.initrd), boot_args="console=ttyS0 reboot=k panic=-1")
    guest.put("/serial", serial_out_path=str(output), rate_limiter={"size": 2000, "refill_time": 3_600_000})
    guest.put("/metrics", metrics_path=str(metrics))
    guest.action("InstanceStart")
    dropped = 0

    def has_dropped() -> bool:
        nonlocal dropped
        guest.action("FlushMetrics")
        dropped = sum(json.loads(line)["uart"]["rate_limiter_dropped_bytes"] for line in metrics.read_text().splitlines())
        return dropped > 4000

    eventually(has_dropped, 120)
    assert output.stat().st_size <= 2000 + 200  # what an hour's refill gives in these minutes


@pytest.mark.long
def test_the_kernel_gets_huge_pages(make_guest):
    """Whatever the host does for others, as long as it does so for who asks."""
    if "[never]" in pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("this host has no transparent huge pages")
    guest = make_guest("small").boot()
    assert guest_mapping(guest)["AnonHugePages"] >= 14 * 1024


@pytest.mark.long
def test_a_small_machine(make_guest):
    """64 MiB are enough for the small kernel."""
    guest = make_guest("small", memory=64).boot()
    assert int(guest.run("grep MemTotal /proc/meminfo").split()[1]) < 64 * 1024
