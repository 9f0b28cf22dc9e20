#!/usr/bin/python3
"""A shared folder beside a disk in the same guest: sequential reads of a file that the host has in its page cache, by virtio-fs and by
virtio-blk, in the testbed with time counted in instructions (-icount). On a host with hardware KVM: bench/fs.py --inside measures there.

    bench/fs.py                 $WHERRY_BIN (default build/release/bin) has wherry-vmm and wherry-fs
    bench/fs.py --rounds 5 --json FILE
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

MIB = 1 << 20
SIZE = 48 * MIB
BAR = 0.7  # of the disk's speed


def spent_ns(*processes: int) -> dict[str, int]:
    """Time on the processor so far, by thread."""
    told = {}
    for process in processes:
        for task in pathlib.Path(f"/proc/{process}/task").iterdir():
            told[(task / "comm").read_text().strip()] = int((task / "schedstat").read_text().split()[0])
    return told


def inside(rounds: int, kernel: str) -> None:
    from support import binaries
    from support.microvm import Guest
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = pathlib.Path(name)
        (folder / "shared").mkdir()
        (folder / "shared/file").write_bytes(os.urandom(MIB) * (SIZE // MIB))
        (folder / "disk").write_bytes((folder / "shared/file").read_bytes())
        server = subprocess.Popen([binaries.binary("wherry-fs"), "--shared-dir", str(folder / "shared"), "--socket", str(folder / "socket")])
        while not (folder / "socket").exists():
            time.sleep(0.01)
        with Guest(kernel, memory=256) as guest:
            guest.put("/drives/a", drive_id="a", path_on_host=str(folder / "disk"), is_root_device=False, io_engine="Sync")
            guest.put("/drives/b", drive_id="b", path_on_host=str(folder / "disk"), is_root_device=False, is_read_only=True, io_engine="Async")
            guest.put("/fs/f", id="f", tag="shared", socket=str(folder / "socket"))
            guest.boot()
            guest.run("mount -t virtiofs shared /mnt")
            # The first is not counted: memory that the guest never used is made by the host then, whoever fills it.
            for number in range(rounds + 1):
                for label, path in (("disk, synchronous", "/dev/vda"), ("disk, io_uring", "/dev/vdb"), ("shared folder", "/mnt/file")):
                    guest.run("echo 3 >/proc/sys/vm/drop_caches")
                    before = spent_ns(guest.process.pid, server.pid)
                    size, spent = map(int, guest.run(f"folder-suite / read {path} 131072", seconds=1200).split())
                    assert size == SIZE, (label, size)
                    if number == 0:
                        rows[f"{label}, into new memory"] = [size / spent]
                        continue
                    rows.setdefault(label, []).append(size / spent)
                    for thread, ns in spent_ns(guest.process.pid, server.pid).items():
                        rows.setdefault(f"{label}: {thread}, us for a MiB", []).append((ns - before.get(thread, 0)) / 1000 / (size / MIB))
            begin = time.monotonic()
            guest.run("mkdir /mnt/many && cd /mnt/many && for i in $(seq 100); do echo >$i; done", seconds=600)
            rows["files made, us each"] = [(time.monotonic() - begin) * 1e4]
        server.wait(30)
    print("RESULT " + json.dumps(rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", action="store_true", help="measure on this very machine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kernel", default="any", choices=("any", "small", "debian"))
    parser.add_argument("--json", help="file for every figure")
    chosen = parser.parse_args()
    if chosen.inside:
        inside(chosen.rounds, chosen.kernel)
        return 0
    environment = dict(os.environ)
    environment.setdefault("WHERRY_BIN", str(ROOT / "build/release/bin"))
    done = subprocess.run([str(ROOT / "tests/testbed/run"), "--icount", "--guests", "--timeout", "1500", "--binaries", "wherry-vmm", "wherry-fs", "--command",
                           f"python3 -B bench/fs.py --inside --rounds {chosen.rounds} --kernel {chosen.kernel}"], env=environment, capture_output=True, text=True)
    found = re.search(r"RESULT (\{.*\})", done.stdout)
    if not found:
        print(done.stdout + done.stderr, file=sys.stderr)
        return 2
    rows = {name: statistics.median(values) for name, values in json.loads(found[1]).items()}
    for name, value in rows.items():
        print(f"{name:44} {value:10.1f} {'' if name.endswith(('each', 'a MiB')) else 'MB/s'}")
    ratios = {label: rows["shared folder"] / rows[f"disk, {label}"] for label in ("synchronous", "io_uring")}
    for label, ratio in ratios.items():
        print(f"{'shared folder beside the disk, ' + label:44} {ratio:10.2f} (bar: at least {BAR})")
    if chosen.json:
        pathlib.Path(chosen.json).write_text(json.dumps(json.loads(found[1]), indent=1))
    return 0 if min(ratios.values()) >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
