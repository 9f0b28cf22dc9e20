#!/usr/bin/python3
"""GET /containers/json with hundreds of containers: wherryd beside Debian's dockerd, asked by h2load over their sockets.

    sudo bench/list.py [--containers N] [--requests N] [--clients N] [--json FILE]

Two figures: the same question again and again (what watching tools ask), and questions that differ (`all=1&n=...`), so
that no answer can be reused. Beside the rates, the processor time that the daemon itself spends on a request.
"""
import argparse
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from containers import BIN, ROOT, Daemon, Report, make_busybox


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


def create(daemon: Daemon, count: int):
    connection = UnixConnection(daemon.socket)
    for number in range(count):
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "Labels": {"number": str(number), "app": "bench"},
                "ExposedPorts": {"80/tcp": {}}, "HostConfig": {"Binds": ["/tmp:/host"]}}
        connection.request("POST", f"/containers/create?name=list{number}", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 201:
            raise SystemExit(f"{daemon.name}: create: {answer.status} {text!r}")
    connection.close()


def check(daemon: Daemon, count: int) -> int:
    connection = UnixConnection(daemon.socket)
    connection.request("GET", "/containers/json?all=1")
    body = connection.getresponse().read()
    connection.close()
    if len(json.loads(body)) != count:
        raise SystemExit(f"{daemon.name} lists {len(json.loads(body))} containers, not {count}")
    return len(body)


def processor_seconds(daemon: Daemon) -> float:
    total = 0
    for pid in daemon.daemon_processes():
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def load(daemon: Daemon, requests: int, clients: int, paths: list[str], folder: pathlib.Path) -> tuple[float, float]:
    """(requests a second, milliseconds of the daemon's processor time a request)"""
    uris = folder / "uris"
    uris.write_text("".join(f"http://localhost{path}\n" for path in paths))
    before = processor_seconds(daemon)
    result = subprocess.run(["h2load", "--h1", "-n", str(requests), "-c", str(clients), "-t", "1", f"--base-uri=unix:{daemon.socket}", "-i", str(uris)],
                            capture_output=True, text=True, timeout=600)
    used = processor_seconds(daemon) - before
    rate = re.search(r"finished in [^,]+, ([\d.]+) req/s", result.stdout)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", result.stdout)
    if result.returncode != 0 or not rate or not failed or failed.groups() != ("0", "0", "0"):
        raise SystemExit(f"{daemon.name}: h2load:\n{result.stdout}\n{result.stderr}")
    return float(rate.group(1)), used * 1000 / requests


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--requests", type=int, default=200, help="for dockerd; wherryd gets twenty times as many")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--json")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("run as root")
    subprocess.run([ROOT / "scripts/lib/install-packages", "bench"], check=True)
    subprocess.run([ROOT / "scripts/lib/install-dockerd"], check=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp"))
    report, daemons = Report(), []
    try:
        archive = make_busybox(folder)
        for name, program in (("dockerd", "dockerd"), ("wherryd", str(BIN / "wherryd"))):
            (folder / name).mkdir()
            roots = folder / name
            daemons.append(Daemon(name, roots, [program, "-H", f"unix://{roots}/docker.sock", "--data-root", f"{roots}/data",
                                                "--exec-root", f"{roots}/exec", "--pidfile", f"{roots}/pid"]))
        dockerd, wherryd = daemons
        for daemon in daemons:
            daemon.must("import", str(archive), "busybox")
            started = time.monotonic()
            create(daemon, options.containers)
            print(f"{daemon.name}: {options.containers} containers made in {time.monotonic() - started:.1f} s; a list has {check(daemon, options.containers)} bytes")
        print(f"{os.uname().release}, {os.cpu_count()} cores, {time.strftime('%F')}; dockerd {dockerd.must('version', '--format', '{{.Server.Version}}')}, "
              f"{options.clients} connections")
        print(f"{'':<46} {'dockerd':>9} {'wherry':>9}")
        for what, paths, factor, bar in (
                (f"containers/json, {options.containers}, the same question", ["/containers/json?all=1"], 20, 10),
                (f"containers/json, {options.containers}, each another", [f"/containers/json?all=1&n={n}" for n in range(1000)], 5, 10)):
            slow = load(dockerd, options.requests, options.clients, paths, folder)
            fast = load(wherryd, options.requests * factor, options.clients, paths, folder)
            report.add(what, slow[0], fast[0], "/s", bar, higher_is_better=True)
            report.add("  processor time of the daemon a request", slow[1], fast[1], "ms", 1 / bar)
    finally:
        for daemon in reversed(daemons):
            connection = UnixConnection(daemon.socket)
            try:  # faster than the CLI's rm, one by one
                connection.request("POST", "/containers/prune")
                connection.getresponse().read()
            except OSError:
                pass
            daemon.stop()
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(report.rows, indent=1))
    missed = [row["what"] for row in report.rows if not row["met"]]
    print(f"{len(report.rows) - len(missed)} of {len(report.rows)} bars met" + (f"; missed: {', '.join(missed)}" if missed else ""))


if __name__ == "__main__":
    sys.exit(main())
