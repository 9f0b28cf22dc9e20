#!/usr/bin/python3
"""containerd's shims side by side: `ctr run` of true, and the memory of the shim of a sleeping container. Root.

    bench/containerd.py [--rounds N] [--json FILE]

One containerd with roots of its own serves both runtimes; commands are timed in pairs (runc, wherry, runc, wherry ...)
from outside, as whole processes. Processor time is that of ctr, containerd, and what containerd waited for (`start` and
`delete` of the shims); the shims that stay are not in it.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
os.environ.setdefault("WHERRY_BIN", str(ROOT / "build/release/bin"))
sys.path.insert(0, str(ROOT / "tests"))

from support.containerd import BUSYBOX, RUNTIME, Containerd  # noqa: E402

PEER = "io.containerd.runc.v2"


def processor_seconds(pid: int) -> float:
    """Of a process, its threads and the children it has waited for."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def run_true(containerd: Containerd, runtime: str) -> float:
    command = containerd.command("run", "--rm", "--runtime", runtime, BUSYBOX, containerd.name(), "true")
    began = time.perf_counter()
    pid = os.posix_spawn("/usr/bin/ctr", command, containerd.environment)
    _, status, _ = os.wait4(pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed: {status}")
    return (time.perf_counter() - began) * 1000


def memory_kib(containerd: Containerd, runtime: str, count: int = 4) -> float:
    """PSS of one idle shim, beside others of its kind."""
    names = [containerd.run_detached("sleep", "1000", runtime=runtime) for _ in range(count)]
    time.sleep(2)  # allocators settle
    figures = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().decode().split("\0")
            if "containerd-shim" not in words[0] or containerd.address not in words:
                continue
            lines = pathlib.Path(f"/proc/{entry}/smaps_rollup").read_text().splitlines()
            figures.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")))
        except OSError:
            continue
    for name in names:
        containerd.ctr("tasks", "rm", "-f", name, check=False)
        containerd.ctr("containers", "rm", name, check=False)
    return statistics.mean(figures)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json")
    options = parser.parse_args()
    containerd = Containerd()
    try:
        containerd.import_busybox()
        ours, theirs = [], []
        for index in range(options.rounds + 2):
            pair = run_true(containerd, PEER), run_true(containerd, RUNTIME)
            if index >= 2:
                theirs.append(pair[0])
                ours.append(pair[1])
        rows = [("ctr run true", "ms", statistics.median(theirs), statistics.median(ours)),
                ("ctr run true, best", "ms", min(theirs), min(ours))]
        spent = {}
        for runtime in (PEER, RUNTIME):
            before, children = processor_seconds(containerd.daemon.pid), os.times()
            for _ in range(options.rounds):
                run_true(containerd, runtime)
            after = os.times()
            own = after.children_user + after.children_system - children.children_user - children.children_system
            spent[runtime] = (own + processor_seconds(containerd.daemon.pid) - before) / options.rounds * 1000
        rows.append(("ctr's and containerd's processor time a run", "ms", spent[PEER], spent[RUNTIME]))
        rows.append(("PSS of an idle shim", "KiB", memory_kib(containerd, PEER), memory_kib(containerd, RUNTIME)))
    finally:
        containerd.close()
    for what, unit, peer, wherry in rows:
        print(f"{what:44} runc {peer:9.1f}  wherry {wherry:9.1f} {unit:4} ratio {wherry / peer:6.3f}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps([dict(what=w, unit=u, runc=p, wherry=x) for w, u, p, x in rows], indent=1))


if __name__ == "__main__":
    main()
