#!/usr/bin/python3
"""wherry beside Debian's docker.io: start, exec, memory, rate and leaks, in one run.

    sudo bench/containers.py [--rounds N] [--only NAME[,NAME]] [--json FILE]

Each daemon runs in a network namespace of its own with its own roots, so that neither sees the other's firewall.
Commands are timed in pairs (dockerd, wherry, dockerd, wherry ...) from outside, as whole processes; medians and the
median of the pairs' ratios are printed. Installs docker.io when it is missing, and never leaves a daemon behind.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("WHERRY_BIN", ROOT / "build/release/bin"))
DOCKER = shutil.which("docker", path="/usr/local/bin:/usr/bin") or "docker"


def children(pid: int) -> list[int]:
    """pid and all its descendants."""
    found, open_ = [], [pid]
    while open_:
        current = open_.pop()
        found.append(current)
        try:
            for task in os.listdir(f"/proc/{current}/task"):
                open_ += map(int, pathlib.Path(f"/proc/{current}/task/{task}/children").read_text().split())
        except OSError:
            pass
    return found


def memory_kib(pid: int) -> tuple[int, int]:
    """(PSS, RSS) of one process in KiB."""
    pss = rss = 0
    try:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                pss = int(line.split()[1])
            elif line.startswith("Rss:"):
                rss = int(line.split()[1])
    except OSError:
        pass
    return pss, rss


def name_of(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


class Daemon:
    """A daemon in its own network namespace; the stock docker CLI talks to it."""

    def __init__(self, name: str, folder: pathlib.Path, command: list[str]):
        self.name, self.folder = name, folder
        self.socket = folder / "docker.sock"
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen(
            ["unshare", "-n", "-m", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *command],
            stdout=self.log, stderr=self.log, start_new_session=True)
        deadline = time.monotonic() + 30
        while subprocess.run([DOCKER, "-H", f"unix://{self.socket}", "version"], capture_output=True).returncode != 0:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit(f"{name} does not start:\n{(folder / 'log').read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)

    def cli(self, *arguments: str, binary: str = DOCKER) -> subprocess.CompletedProcess:
        return subprocess.run([binary, "-H", f"unix://{self.socket}", *arguments], capture_output=True, text=True)

    def must(self, *arguments: str) -> str:
        result = self.cli(*arguments)
        if result.returncode != 0:
            raise SystemExit(f"{self.name}: docker {' '.join(arguments)}: {result.stderr}")
        return result.stdout.strip()

    def daemon_processes(self) -> list[int]:
        """The engine's own processes: daemons, not shims or containers."""
        return [p for p in children(self.process.pid) if name_of(p) in ("dockerd", "containerd", "wherryd")]

    def memory(self) -> tuple[int, int]:
        figures = [memory_kib(p) for p in self.daemon_processes()]
        return sum(f[0] for f in figures), sum(f[1] for f in figures)

    def shims(self) -> list[int]:
        """Shims of this daemon: found by their command line, since they detach."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                line = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "shim" in line[0] and any(str(self.folder) in part for part in line):
                found.append(int(entry))
        return found

    def inventory(self) -> dict[str, int]:
        """What could be leaked, counted."""
        enter = ["nsenter", "-t", str(self.process.pid), "-n", "-m"]

        def count(command: list[str]) -> int:
            return len(subprocess.run(command, capture_output=True, text=True).stdout.splitlines())

        cgroups = sum(1 for base, folders, _ in os.walk("/sys/fs/cgroup") if "wherry" in base or "docker" in base)
        containers = self.folder / "data" / "containers"
        return {
            "mounts": count([*enter, "cat", "/proc/self/mountinfo"]),
            "links": count([*enter, "ip", "-o", "link"]),
            "nftables lines": count([*enter, "nft", "list", "ruleset"]),
            "cgroups": cgroups,
            "processes": len([p for p in os.listdir("/proc") if p.isdigit()]),
            "container files": sum(len(f) + len(d) for _, d, f in os.walk(containers)) if containers.exists() else 0,
        }

    def stop(self):
        for identifier in self.cli("ps", "-aq").stdout.split():
            self.cli("rm", "-f", identifier)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def make_busybox(folder: pathlib.Path) -> pathlib.Path:
    """A root file system of busybox-static with its applets as links."""
    root = folder / "rootfs"
    for name in ("bin", "etc", "tmp", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    archive = folder / "busybox.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    return archive


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    elapsed = time.perf_counter() - started
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {result.stderr.decode(errors='replace')}")
    return elapsed * 1000


class Report:
    def __init__(self):
        self.rows = []

    def add(self, what, docker, wherry, unit, bar, higher_is_better=False, ratio=None):
        ratio = wherry / docker if ratio is None else ratio
        good = ratio >= bar if higher_is_better else ratio <= bar
        self.rows.append(dict(what=what, dockerd=docker, wherry=wherry, unit=unit, ratio=ratio, bar=bar, met=good))
        sign = ">=" if higher_is_better else "<="
        print(f"{what:<46} {docker:9.1f} {wherry:9.1f} {unit:<6} ratio {ratio:7.3f}  bar {sign} {bar:<6} {'met' if good else 'MISSED'}", flush=True)

    def absolute(self, what, docker, wherry, unit, bar):
        good = wherry <= bar
        self.rows.append(dict(what=what, dockerd=docker, wherry=wherry, unit=unit, ratio=wherry / docker if docker else 0, bar=bar, met=good))
        print(f"{what:<46} {docker:9.2f} {wherry:9.2f} {unit:<6} ratio {(wherry / docker if docker else 0):7.3f}  bar <= {bar} {unit} {'met' if good else 'MISSED'}", flush=True)


def pairs(report, what, first, second, bar, rounds):
    a, b = [], []
    for index in range(rounds + 2):
        x, y = timed(first), timed(second)
        if index >= 2:
            a.append(x)
            b.append(y)
    report.add(what, statistics.median(a), statistics.median(b), "ms", bar,
               ratio=statistics.median(q / p for p, q in zip(a, b)))


def container_memory(daemon: Daemon, count: int) -> float:
    """MiB a running container costs beyond its own processes: shims' PSS plus the daemons' growth."""
    before = daemon.memory()[0]
    shims_before = set(daemon.shims())
    names = [f"memory{i}" for i in range(count)]
    for name in names:
        daemon.must("run", "-d", "--name", name, "busybox", "sleep", "1000")
    time.sleep(2)  # let allocators settle
    shims = sum(memory_kib(p)[0] for p in daemon.shims() if p not in shims_before)
    growth = daemon.memory()[0] - before
    daemon.must("rm", "-f", *names)
    return (shims + growth) / count / 1024


def rate(daemon: Daemon, count: int, clients: int) -> tuple[float, float]:
    """(starts per second, removals per second) with `clients` stock CLIs at once."""
    names = [f"rate{i}" for i in range(count)]
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        list(pool.map(lambda name: daemon.must("run", "-d", "--name", name, "busybox", "sleep", "1000"), names))
        middle = time.perf_counter()
        list(pool.map(lambda name: daemon.must("rm", "-f", name), names))
        ended = time.perf_counter()
    return count / (middle - started), count / (ended - middle)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--only", default="run,none,exec,wherry,idle,container,rate")
    parser.add_argument("--json")
    options = parser.parse_args()
    only = options.only.split(",")
    if os.geteuid() != 0:
        raise SystemExit("run as root")
    subprocess.run([ROOT / "scripts/lib/install-packages", "bench"], check=True)
    subprocess.run([ROOT / "scripts/lib/install-dockerd"], check=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp"))
    report = Report()
    daemons = []
    try:
        archive = make_busybox(folder)
        (folder / "d").mkdir()
        (folder / "w").mkdir()
        dockerd = Daemon("dockerd", folder / "d", [
            "dockerd", "-H", f"unix://{folder}/d/docker.sock", "--data-root", f"{folder}/d/data",
            "--exec-root", f"{folder}/d/exec", "--pidfile", f"{folder}/d/pid"])
        daemons.append(dockerd)
        wherryd = Daemon("wherryd", folder / "w", [
            str(BIN / "wherryd"), "-H", f"unix://{folder}/w/docker.sock", "--data-root", f"{folder}/w/data",
            "--exec-root", f"{folder}/w/exec", "--pidfile", f"{folder}/w/pid"])
        daemons.append(wherryd)
        for daemon in daemons:
            daemon.must("import", str(archive), "busybox")
        print(f"{os.uname().release}, {os.cpu_count()} cores, {time.strftime('%F')}; "
              f"dockerd {dockerd.must('version', '--format', '{{.Server.Version}}')}, "
              f"docker CLI {dockerd.must('version', '--format', '{{.Client.Version}}')}, rounds {options.rounds}")
        print(f"{'':<46} {'dockerd':>9} {'wherry':>9}")
        d, w = [DOCKER, "-H", f"unix://{dockerd.socket}"], [DOCKER, "-H", f"unix://{wherryd.socket}"]
        own = [str(BIN / "wherry"), "-H", f"unix://{wherryd.socket}"]
        if "idle" in only:
            time.sleep(2)
            dm, wm = dockerd.memory(), wherryd.memory()
            report.absolute("idle daemon, PSS", dm[0] / 1024, wm[0] / 1024, "MiB", 15)
        run = ["run", "--rm", "busybox", "true"]
        none = ["run", "--rm", "--network", "none", "busybox", "true"]
        if "run" in only:
            pairs(report, "docker run --rm busybox true, bridge", d + run, w + run, 0.15, options.rounds)
        if "none" in only:
            pairs(report, "docker run --rm busybox true, none", d + none, w + none, 0.15, options.rounds)
        if "exec" in only:
            for daemon in daemons:
                daemon.must("run", "-d", "--name", "target", "busybox", "sleep", "1000")
            execute = ["exec", "target", "true"]
            pairs(report, "docker exec true", d + execute, w + execute, 0.4, options.rounds)
            for daemon in daemons:
                daemon.must("rm", "-f", "target")
        if "wherry" in only:
            pairs(report, "wherry run --rm against docker run, bridge", d + run, own + run, 0.05, options.rounds)
        if "container" in only:
            report.absolute("a running container beyond its processes, PSS",
                            container_memory(dockerd, 20), container_memory(wherryd, 20), "MiB", 0.6)
        if "rate" in only:
            before = {x.name: x.inventory() for x in daemons}
            # Two or three seconds of removals depend on what else the disk writes: the median of three rounds.
            rounds = [(rate(dockerd, options.containers, 8), rate(wherryd, options.containers, 8)) for _ in range(3)]
            dr, wr = ([statistics.median(one[i] for one in side) for i in range(2)] for side in zip(*rounds))
            report.add(f"{options.containers} starts by 8 stock CLIs", dr[0], wr[0], "/s", 5, higher_is_better=True)
            report.add(f"{options.containers} removals by 8 stock CLIs", dr[1], wr[1], "/s", 5, higher_is_better=True)
            deadline = time.monotonic() + 10
            while True:  # the kernel frees namespaces asynchronously
                after = wherryd.inventory()
                leaked = {k: after[k] - before["wherryd"][k] for k in after if after[k] > before["wherryd"][k]}
                leaked.pop("processes", None) if len(wherryd.shims()) == 0 else None
                if not leaked or time.monotonic() > deadline:
                    break
                time.sleep(0.2)
            print("left behind by wherry after the removals:", leaked or "nothing")
            report.rows.append(dict(what="leaked", wherry=leaked, met=not leaked))
    finally:
        for daemon in reversed(daemons):
            daemon.stop()
        subprocess.run(["findmnt", "-rn", "-o", "TARGET"], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(report.rows, indent=1))
    missed = [r["what"] for r in report.rows if not r["met"]]
    print(f"{len(report.rows) - len(missed)} of {len(report.rows)} bars met" + (f"; missed: {', '.join(missed)}" if missed else ""))


if __name__ == "__main__":
    sys.exit(main())
