#!/usr/bin/python3
"""wherry-vmm beside QEMU's microvm machine, in the testbed with time counted in instructions (-icount), so that figures
repeat whatever the load of this host. On a host with hardware KVM: bench/vmm.py --inside measures there directly.

    bench/vmm.py                 everything; $WHERRY_BIN (default build/release/bin) has wherry-vmm
    bench/vmm.py --rounds 5 --json FILE
"""

import argparse
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

MIB = 1 << 20
BARS = {  # name: (limit, unit)
    "CPU from start to the API socket": (3.0, "ms"),
    "the monitor's own CPU from InstanceStart to init": (5.0, "ms"),
    "CPU from create to init": (125.0, "ms"),
    "memory beyond the guest's": (3.0, "MiB"),
    "size of the binary": (3.0, "MB"),
    "start to init beside QEMU's microvm": (0.6, "ratio"),
    "CPU of a load until the guest runs, 128 MiB": (5.0, "ms"),
    "CPU of a load until the guest runs, 1024 MiB": (5.0, "ms"),
    "CPU from create to init restored": (10.0, "ms"),
    "a clone's own memory": (5.0, "MiB"),
}


def cpu_ns(pid: int) -> dict[str, int]:
    """CPU time by thread name: what the scheduler counted."""
    out: dict[str, int] = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            name = pathlib.Path(f"/proc/{pid}/task/{task}/comm").read_text().strip()
            spent = int(pathlib.Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
        out[name] = out.get(name, 0) + spent
    return out


def own_memory_kib(pid: int, guest_mib: int) -> int:
    """Resident memory without the mappings of the guest's size."""
    from support import microvm
    return sum(mapping["Rss"] for mapping in microvm.mappings(pid) if not microvm.is_guest_memory(mapping, guest_mib))


class Tap:
    def __init__(self, number: int):
        self.name, self.host, self.guest = f"bench{number}", f"172.29.{number}.1", f"172.29.{number}.2"
        self.mac = f"06:00:ac:1d:{number:02x}:02"
        for words in (f"tuntap add {self.name} mode tap vnet_hdr", f"addr add {self.host}/24 dev {self.name}", f"link set {self.name} up"):
            subprocess.run(["ip", *words.split()], check=True)

    def close(self):
        subprocess.run(["ip", "link", "del", self.name], check=True)


class Qemu:
    """The same guest under QEMU, behind the same interface of commands."""

    def __new__(cls, kernel, disk=None, tap=None):
        from support import microvm

        class Process(microvm.Guest):
            def __init__(self):
                folder = microvm.guests()
                microvm.Monitor.__init__(self, start=False)
                image = {"small": "vmlinux-small", "debian": "vmlinuz-debian"}[kernel]
                command = ["qemu-system-x86_64", "-M", "microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on", "-accel", "kvm", "-cpu", "host",
                           "-m", "128", "-smp", "1", "-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot",
                           "-kernel", str(folder / image), "-initrd", str(folder / f"initrd-{kernel}"), "-append", microvm.GUEST_ARGUMENTS.replace("reboot=k", "reboot=t")]
                if disk is not None:
                    command += ["-drive", f"if=none,id=a,file={disk},format=raw,cache=writeback,aio=io_uring", "-device", "virtio-blk-device,drive=a"]
                if tap is not None:
                    command += ["-netdev", f"tap,id=n,ifname={tap.name},script=no,downscript=no,vnet_hdr=on", "-device",
                                f"virtio-net-device,netdev=n,mac={tap.mac}"]
                self.errors = open(self.folder / "stderr", "w+b")
                self.begin = time.monotonic()
                self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
                threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        return Process()


def boot_wherry(rounds: int, kernel: str) -> dict:
    from support import microvm
    rows: dict[str, list[float]] = {}
    folder = microvm.guests()

    def note(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)

    for number in range(rounds + 1):
        if number == 1:
            rows.clear()  # the first one reads binary and kernel from the disk
        guest = microvm.Guest.__new__(microvm.Guest)  # configured below, step by step
        microvm.Monitor.__init__(guest, start=False)
        begin = time.monotonic()
        guest.start()
        to_socket = sum(cpu_ns(guest.process.pid).values())
        guest.put("/machine-config", vcpu_count=1, mem_size_mib=128)
        guest.put("/boot-source", kernel_image_path=str(folder / f"vmlinux-{kernel}"), initrd_path=str(folder / f"initrd-{kernel}"),
                  boot_args=microvm.GUEST_ARGUMENTS)
        guest.get("/")  # clients have more to say than this, as a rule; what is prepared meanwhile is in "from create to init"
        before = cpu_ns(guest.process.pid)
        asked = time.monotonic()
        guest.action("InstanceStart")
        answered = time.monotonic()
        guest.ready()
        reached = time.monotonic()
        after = cpu_ns(guest.process.pid)
        own = sum(value - before.get(name, 0) for name, value in after.items() if not name.startswith("fc_vcpu"))
        virtual = sum(value for name, value in after.items() if name.startswith("fc_vcpu"))
        note("CPU from start to the API socket", to_socket / 1e6)
        note("the monitor's own CPU from create to init", (sum(after.values()) - virtual) / 1e6)
        note("the monitor's own CPU from InstanceStart to init", own / 1e6)
        note("InstanceStart answered after", (answered - asked) * 1e3)
        note("CPU of the vCPU thread (kernel and its exits)", virtual / 1e6)
        note("CPU from create to init", sum(after.values()) / 1e6)
        note("InstanceStart to init", (reached - asked) * 1e3)
        note("start to init", (reached - begin) * 1e3)
        note("init by the guest's clock", guest.boot_us / 1e3)
        note("memory beyond the guest's", own_memory_kib(guest.process.pid, 128) / 1024)
        guest.close()
    return rows


def own_pages_kib(pid: int) -> int:
    """What the process has of its own: nothing of a snapshot's file."""
    return int(re.search(r"^Private_Dirty:\s+(\d+)", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1])


def restore_wherry(rounds: int, kernel: str) -> dict:
    """Each clone is loaded and resumed; its process 1, which waits for a line on the console, gets an empty one and says so at once (without
    starting a process). Of a machine's processor thread, what it spends before its first instruction is in the load: its start, its filter."""
    from support import microvm
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = pathlib.Path(name)
        for size in (128, 1024):
            guest = microvm.Guest(kernel, memory=size).boot()
            guest.patch("/vm", state="Paused")
            guest.put("/snapshot/create", snapshot_path=str(folder / "state"), mem_file_path=str(folder / "memory"))
            guest.close()
            for number in range(rounds + 1):
                if number == 0 and size == 128:
                    rows.clear()  # the first one reads the files from the disk

                def note(name: str, value: float) -> None:
                    if number > 0:
                        rows.setdefault(name, []).append(value)

                clone = microvm.Guest.__new__(microvm.Guest)
                microvm.Monitor.__init__(clone)
                before = cpu_ns(clone.process.pid)
                clone.put("/snapshot/load", snapshot_path=str(folder / "state"), mem_backend={"backend_type": "File", "backend_path": str(folder / "memory")})
                loaded = cpu_ns(clone.process.pid)
                own = own_pages_kib(clone.process.pid)
                clone.patch("/vm", state="Resumed")
                clone.send("")
                clone.wait_for_line("^@@here$")
                reached = cpu_ns(clone.process.pid)
                monitors = sum(value for name, value in reached.items() if not name.startswith("fc_vcpu"))
                resumed = monitors - sum(value for name, value in loaded.items() if not name.startswith("fc_vcpu"))
                note(f"CPU of a load until the guest runs, {size} MiB", (sum(loaded.values()) - sum(before.values()) + resumed) / 1e6)
                if size == 128:
                    note("CPU from create to the API socket", sum(before.values()) / 1e6)
                    note("CPU from create to init restored", sum(reached.values()) / 1e6)
                    note("CPU from create to init restored, the monitor's own", monitors / 1e6)
                    note("a clone's own memory", own / 1024)
                    note("a clone's own memory when init has answered", own_pages_kib(clone.process.pid) / 1024)
                clone.close()
    return rows


def boot_qemu(rounds: int, kernel: str) -> dict:
    rows: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        if number == 1:
            rows.clear()  # waiting for the disk is no measure of a start, the less so where idle time is skipped (-icount)
        guest = Qemu(kernel)
        guest.ready()
        rows.setdefault("start to init", []).append((time.monotonic() - guest.begin) * 1e3)
        rows.setdefault("CPU from create to init", []).append(sum(cpu_ns(guest.process.pid).values()) / 1e6)
        rows.setdefault("init by the guest's clock", []).append(guest.boot_us / 1e3)
        rows.setdefault("memory beyond the guest's", []).append(own_memory_kib(guest.process.pid, 128) / 1024)
        guest.close()
    return rows


def with_devices(make) -> dict:
    """Reads a second at depth 32, and one TCP stream each way, for a guest made by make(disk, tap)."""
    out = {}
    tap = Tap(1)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        disk = pathlib.Path(folder) / "disk"
        disk.write_bytes(os.urandom(MIB) * 64)
        guest = make(disk, tap)
        try:
            guest.run("ip link set lo up; ip addr add %s/24 dev eth0 && ip link set eth0 up" % tap.guest)
            before = sum(cpu_ns(guest.process.pid).values())
            out["4 KiB reads a second, depth 32"] = float(guest.run("guest random-read /dev/vda 32 300", seconds=1200))
            out["CPU of a read, guest and monitor, us"] = (sum(cpu_ns(guest.process.pid).values()) - before) / 1e3 / max(
                out["4 KiB reads a second, depth 32"] * 0.3, 1)
            server = socket.create_server((tap.host, 0))
            guest.send(f"guest tcp-pour {tap.host} {server.getsockname()[1]} 300")
            connection, _ = server.accept()
            begin, total = time.monotonic(), 0
            while data := connection.recv(1 << 18):
                total += len(data)
            out["TCP from the guest, Gbit/s"] = total * 8 / (time.monotonic() - begin) / 1e9
            connection.close()
            guest.finish()
            guest.send(f"guest tcp-drain {tap.host} {server.getsockname()[1]}")
            connection, _ = server.accept()
            end, block = time.monotonic() + 0.3, bytes(1 << 17)
            while time.monotonic() < end:
                connection.sendall(block)
            connection.shutdown(socket.SHUT_WR)
            _, text = guest.finish(600)
            received, spent = map(int, text.split())
            out["TCP to the guest, Gbit/s"] = received * 8 / spent / 1e3
            connection.close()
            server.close()
        finally:
            guest.close()
            tap.close()
    return out


def wherry_with_devices(disk, tap):
    from support.microvm import Guest
    guest = Guest("small")
    guest.put("/drives/a", drive_id="a", path_on_host=str(disk), is_root_device=False, io_engine="Async", cache_type="Writeback")
    guest.put("/network-interfaces/eth0", iface_id="eth0", host_dev_name=tap.name, guest_mac=tap.mac)
    return guest.boot()


def inside(rounds: int) -> None:
    from support.microvm import vmm_binary
    results = {"wherry-vmm": {}, "qemu microvm": {}}
    results["wherry-vmm"]["boot"] = boot_wherry(rounds, "small")
    results["wherry-vmm"]["snapshots"] = restore_wherry(rounds, "small")
    results["wherry-vmm"]["binary"] = os.path.getsize(vmm_binary()) / 1e6
    results["qemu microvm"]["boot"] = boot_qemu(rounds, "small")
    for name, make in (("wherry-vmm", wherry_with_devices), ("qemu microvm", lambda disk, tap: Qemu("small", disk, tap).ready())):
        try:
            results[name]["devices"] = with_devices(make)
        except AssertionError as error:
            results[name]["devices"] = {"failed": str(error)[:300]}
    print("RESULT " + json.dumps(results))


def median(rows: dict, name: str) -> float:
    return statistics.median(rows[name])


def show(results: dict, target: str | None) -> int:
    ours, peer = results["wherry-vmm"], results["qemu microvm"]
    print(f"{'':58} {'wherry-vmm':>12} {'qemu':>12}  {'bar':>10}")
    held = {
        "CPU from start to the API socket": median(ours["boot"], "CPU from start to the API socket"),
        "the monitor's own CPU from InstanceStart to init": median(ours["boot"], "the monitor's own CPU from InstanceStart to init"),
        "CPU from create to init": median(ours["boot"], "CPU from create to init"),
        "memory beyond the guest's": median(ours["boot"], "memory beyond the guest's"),
        "size of the binary": ours["binary"],
        "start to init beside QEMU's microvm": median(ours["boot"], "start to init") / median(peer["boot"], "start to init"),
    }
    for name in ours["snapshots"]:
        held[name] = median(ours["snapshots"], name)
        bar = f"<= {BARS[name][0]:g}" if name in BARS else ""
        print(f"{name:58} {held[name]:12.2f} {'':12}  {bar:>10}")
    for name in ours["boot"]:
        other = f"{median(peer['boot'], name):12.2f}" if name in peer["boot"] else " " * 12
        bar = f"<= {BARS[name][0]:g}" if name in BARS else ""
        print(f"{name:58} {median(ours['boot'], name):12.2f} {other}  {bar:>10}")
    print(f"{'size of the binary, MB':58} {ours['binary']:12.2f} {'':12}  {'<= 3':>10}")
    print(f"{'start to init beside QEMU, ratio':58} {held['start to init beside QEMU' + chr(39) + 's microvm']:12.2f} {'1.00':>12}  {'<= 0.6':>10}")
    for name in sorted(set(ours["devices"]) | set(peer["devices"])):
        values = [ours["devices"].get(name, "-"), peer["devices"].get(name, "-")]
        print(f"{name:58} " + " ".join(f"{value:12.2f}" if isinstance(value, float) else f"{value!s:>12}" for value in values))
    missed = [name for name, value in held.items() if name in BARS and value > BARS[name][0]]
    for name in missed:
        print(f"MISSED {name}: {held[name]:.2f} {BARS[name][1]}, the bar is {BARS[name][0]:g}")
    if target:
        pathlib.Path(target).write_text(json.dumps(results, indent=1))
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", action="store_true", help="measure on this very machine")
    parser.add_argument("--snapshots", action="store_true", help="with --inside: nothing else")
    parser.add_argument("--boots", action="store_true", help="with --inside: only wherry-vmm's boots")
    parser.add_argument("--rounds", type=int, default=5, help="starts that count; one before them warms up")
    parser.add_argument("--json")
    chosen = parser.parse_args()
    if chosen.inside and chosen.boots:
        print("RESULT " + json.dumps(boot_wherry(chosen.rounds, "small")))
        return 0
    if chosen.inside and chosen.snapshots:
        print("RESULT " + json.dumps(restore_wherry(chosen.rounds, "small")))
        return 0
    if chosen.inside:
        inside(chosen.rounds)
        return 0
    environment = dict(os.environ)
    environment.setdefault("WHERRY_BIN", str(ROOT / "build/release/bin"))
    done = subprocess.run([str(ROOT / "tests/testbed/run"), "--icount", "--guests", "--timeout", "1500", "--binaries", "wherry-vmm", "--command",
                           f"python3 -B bench/vmm.py --inside --rounds {chosen.rounds}"], env=environment, capture_output=True, text=True)
    found = re.search(r"RESULT (\{.*\})", done.stdout)
    if not found:
        print(done.stdout + done.stderr, file=sys.stderr)
        return 2
    return show(json.loads(found[1]), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
