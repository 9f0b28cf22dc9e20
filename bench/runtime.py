#!/usr/bin/python3
"""OCI runtimes side by side: `run` of true with Docker's defaults, and `exec` of true. Root.

    bench/runtime.py [--count N] [runtime...]      default: wherry-runtime of build/release, and runc and crun where installed

Prints the median and the best of the wall time, the processor time with that of the container, and the peak memory of `run`. The runtimes
take turns. States are kept on tmpfs, as below /run of any system with systemd: ext4 takes a third of a millisecond for an inode when many
were removed within the last seconds. What is in a build folder runs as an installed copy: the pages of a file that the linker wrote lie singly in
the page cache, and cost more to map.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support import runtime as support  # noqa: E402


def measure(binary: str, *arguments: str) -> tuple[float, float]:
    null = os.open("/dev/null", os.O_RDWR)
    began = time.perf_counter()
    pid = os.posix_spawn(binary, [binary, *map(str, arguments)], os.environ,
                         file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)])
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - began
    os.close(null)
    if status != 0:
        raise SystemExit(f"{binary} {' '.join(map(str, arguments))} failed: {status}")
    return wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def peak_memory(binary: str, *arguments: str) -> int:
    """KiB. Started by busybox: a process begins with its starter's peak (getrusage(2)), and Python's is 8 MiB."""
    launcher = "/usr/bin/busybox" if os.path.exists("/usr/bin/busybox") else "/bin/busybox"
    text = subprocess.run([launcher, "time", "-f", "%M", binary, *map(str, arguments)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60).stderr
    # busybox takes the kernel's KiB for pages and multiplies once more.
    return int(text.split()[-1]) // (os.sysconf("SC_PAGE_SIZE") // 1024)


def show(name: str, what: str, samples: list[tuple[float, float]]) -> float:
    walls, times = zip(*samples)
    median = statistics.median(walls)
    print(f"{name:16} {what:5} {median:8.2f} ms  best {min(walls):7.2f}  cpu {statistics.median(times):7.2f} ms")
    return median


class Contestant:
    def __init__(self, binary: str, states: pathlib.Path):
        self.name = pathlib.Path(binary).name
        copies = None
        if pathlib.Path(binary).resolve().is_relative_to(ROOT):
            copies = tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp")
            binary = shutil.copy(binary, copies)
        self.binary = str(binary)
        os.environ["RUNTIME"] = self.binary
        self.copies = copies
        self.runtime = support.Runtime()
        self.runtime.root = states / f"{self.name}.root"
        try:
            self.bundle = self.runtime.bundle("/bin/true")
            self.bundle.write()
            self.long_lived = self.runtime.start(self.runtime.bundle("/bin/sleep", "1000"))
        except BaseException:
            self.runtime.close()
            raise
        self.runs: list[tuple[float, float]] = []
        self.execs: list[tuple[float, float]] = []

    def run_arguments(self) -> tuple:
        return "--root", self.runtime.root, "run", "-b", self.bundle.path, self.runtime.new_id()

    def turn(self):
        self.runs.append(measure(self.binary, *self.run_arguments()))
        self.execs.append(measure(self.binary, "--root", self.runtime.root, "exec", self.long_lived, "/bin/true"))

    def show(self) -> dict[str, float]:
        warm = 3
        result = {"run": show(self.name, "run", self.runs[warm:]), "exec": show(self.name, "exec", self.execs[warm:]),
                  "memory": peak_memory(self.binary, *self.run_arguments())}
        print(f"{self.name:16} run   {result['memory'] / 1024:8.2f} MiB at most")
        return result

    def close(self):
        self.runtime.identifiers = [self.long_lived]
        self.runtime.close()
        if self.copies:
            shutil.rmtree(self.copies)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("runtimes", nargs="*")
    options = parser.parse_args()
    binaries = options.runtimes or [str(ROOT / "build/release/bin/wherry-runtime"),
                                    *filter(None, (shutil.which("crun"), shutil.which("runc")))]
    results: dict[str, dict[str, float]] = {}
    contestants: list[Contestant] = []
    states = pathlib.Path(tempfile.mkdtemp(prefix="wherry-bench-", dir="/dev/shm"))
    try:
        for binary in binaries:
            try:
                contestants.append(Contestant(binary, states))
            except BaseException as problem:  # a runtime that is not there, or refuses the host, is no reason to stop
                print(f"{pathlib.Path(binary).name}: {problem}")
        for _ in range(options.count + 3):
            for contestant in contestants:
                contestant.turn()
        for contestant in contestants:
            results[contestant.name] = contestant.show()
    finally:
        for contestant in contestants:
            contestant.close()
        shutil.rmtree(states, ignore_errors=True)
    first = next(iter(results), None)
    for name in list(results)[1:]:
        for what in ("run", "exec", "memory"):
            print(f"{first} / {name}, {what}: {results[first][what] / results[name][what]:.3f}")


if __name__ == "__main__":
    main()
