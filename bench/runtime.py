#!/usr/bin/python3
"""OCI runtimes side by side: `run` of true with Docker's defaults, and `exec` of true. Root.

    bench/runtime.py [--count N] [runtime...]      default: wherry-runtime of build/release, and runc and crun where installed

Prints the median and the best of the wall time, and the processor time with that of the container.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import sys
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


def show(name: str, what: str, samples: list[tuple[float, float]]) -> float:
    walls, times = zip(*samples)
    median = statistics.median(walls)
    print(f"{name:16} {what:5} {median:8.2f} ms  best {min(walls):7.2f}  cpu {statistics.median(times):7.2f} ms")
    return median


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("runtimes", nargs="*")
    options = parser.parse_args()
    binaries = options.runtimes or [str(ROOT / "build/release/bin/wherry-runtime"),
                                    *filter(None, (shutil.which("crun"), shutil.which("runc")))]
    results: dict[str, dict[str, float]] = {}
    for binary in binaries:
        name = pathlib.Path(binary).name
        os.environ["RUNTIME"] = binary
        try:
            under_test = support.Runtime()
        except BaseException as problem:  # a runtime that is not there is no reason to stop
            print(f"{name}: {problem}")
            continue
        try:
            bundle = under_test.bundle("/bin/true")
            bundle.write()
            samples = []
            for number in range(options.count + 3):
                samples.append(measure(binary, "--root", under_test.root, "run", "-b", bundle.path, under_test.new_id()))
            long_lived = under_test.bundle("/bin/sleep", "1000")
            identifier = under_test.start(long_lived)
            execs = [measure(binary, "--root", under_test.root, "exec", identifier, "/bin/true") for _ in range(options.count + 3)]
            results[name] = {"run": show(name, "run", samples[3:]), "exec": show(name, "exec", execs[3:])}
            under_test.identifiers = [identifier]
        except SystemExit as problem:
            print(f"{name}: {problem}")
        finally:
            under_test.close()
    first = next(iter(results), None)
    for name in list(results)[1:]:
        for what in ("run", "exec"):
            print(f"{first} / {name}, {what}: {results[first][what] / results[name][what]:.3f}")


if __name__ == "__main__":
    main()
