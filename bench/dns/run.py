#!/usr/bin/env python3
"""wherry-dns beside a bare echo loop, gdnsd, NSD and Knot in one run: each server alone on one core, the load on another.

  bench/dns/run.py [--rounds N] [--seconds S] [--only NAME,...] [--load-only | --skip-load]

Figures of each server: answers a second of wall time, answers a second of its own processor time (which other work on
the machine disturbs less), and user time an answer. Then the time and memory of a zone of a million names."""

import argparse
import os
import pathlib
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.dns import Knot, Nsd, Process, encode_name, make_query, need, serial_of, wait_until  # noqa: E402

BINARY = pathlib.Path(os.environ.get("WHERRY_BIN", ROOT / "build/release/bin")) / "wherry-dns"
SERVER_CORE, LOAD_CORE = 0, 1
ZONE = "bench.test"
TICK = os.sysconf("SC_CLK_TCK")


def zone_file(names: int) -> str:
    lines = [f"$ORIGIN {ZONE}.", "$TTL 300", "@ SOA ns1 hostmaster 1 3600 600 86400 60", "@ NS ns1", "ns1 A 192.0.2.1"]
    lines += [f"host{i:07d} A 10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}" for i in range(names)]
    return "\n".join(lines) + "\n"


def query_file(folder: pathlib.Path, names: int, **keywords) -> pathlib.Path:
    path = folder / f"queries-{names}-{'-'.join(keywords)}"
    picked = random.Random(7).sample(range(names), min(names, 10000))
    with open(path, "wb") as out:
        for i in picked:
            query = make_query(f"host{i:07d}.{ZONE}", "A", **keywords)
            out.write(struct.pack("!H", len(query)) + query)
    return path


class Server(Process):
    name = ""

    def begin(self, zone: pathlib.Path):
        raise NotImplementedError

    def pin(self):
        """Every thread of the server and of its children onto one core."""
        for pid in self.pids():
            for thread in os.listdir(f"/proc/{pid}/task"):
                try:
                    os.sched_setaffinity(int(thread), {SERVER_CORE})
                except ProcessLookupError:
                    pass

    def pids(self) -> list[int]:
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                for thread in os.listdir(f"/proc/{pid}/task"):
                    todo += [int(c) for c in pathlib.Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
            except FileNotFoundError:
                pass
        return found

    def cpu(self) -> tuple[float, float]:
        """User and system time, summed over the threads: the kernel divides a thread's time into the two by what it saw of that thread,
        a process's by what it saw of all of them since the start, loading included."""
        user = system = 0.0
        for pid in self.pids():
            try:
                for thread in os.listdir(f"/proc/{pid}/task"):
                    fields = pathlib.Path(f"/proc/{pid}/task/{thread}/stat").read_text().rsplit(")", 1)[1].split()
                    user += int(fields[11]) / TICK
                    system += int(fields[12]) / TICK
            except FileNotFoundError:
                continue
        return user, system


class WherryServer(Server):
    name = "wherry-dns"
    extra: list[str] = []

    def begin(self, zone):
        self.spawn(BINARY, "--zone", f"{ZONE}={zone}", "--listen", f"127.0.0.1:{self.port}", *self.extra)
        self.wait_answering()


class SignedServer(Server):
    """Signed online; asked with DO."""
    name = "wherry-dns signed"
    signing = True

    def begin(self, zone):
        (self.folder / "keys").mkdir()
        sign = "sign { keys keys\n algorithm ecdsap256sha256 }" if self.signing else ""
        self.write("config", f"server {{ listen 127.0.0.1:{self.port} }}\nzone {ZONE} {{ file {zone}\n {sign} }}\n")
        self.spawn(BINARY, "--config", self.folder / "config")
        self.wait_answering()


class UnsignedServer(SignedServer):
    name = "wherry-dns unsigned, DO"
    signing = False


class EchoServer(Server):
    name = "echo"

    def begin(self, zone):
        self.spawn(LOAD, "echo", self.port)
        self.wait_answering()


class NsdServer(Server, Nsd):
    name = "NSD"

    def begin(self, zone):
        self.start(f'zone:\n    name: {ZONE}\n    zonefile: "{zone}"\n')


class KnotServer(Server, Knot):
    name = "Knot"

    def begin(self, zone):
        self.start(f'zone:\n  - domain: {ZONE}\n    file: "{zone}"\n    zonefile-sync: -1\n    journal-content: none\n')


class GdnsdServer(Server):
    name = "gdnsd"

    def begin(self, zone):
        for sub in ("zones", "run", "lib"):
            (self.folder / sub).mkdir()
        (self.folder / "zones" / ZONE).write_text(zone.read_text())
        self.write("config", f'options => {{ listen => {{ "127.0.0.1:{self.port}" => {{ udp_threads = 1, tcp_threads = 1 }} }},\n'
                             f' run_dir = "{self.folder}/run", state_dir = "{self.folder}/lib" }}\n')
        self.spawn(need("gdnsd"), "-c", self.folder, "start")
        self.wait_answering()


def measure(server: Server, queries: pathlib.Path, seconds: float, window: int) -> dict:
    user0, system0 = server.cpu()
    out = subprocess.run(["taskset", "-c", str(LOAD_CORE), LOAD, "load", str(server.port), str(seconds), queries, str(window)],
                         check=True, capture_output=True, text=True).stdout.split()
    user1, system1 = server.cpu()
    answered, lost, failed, took = int(out[0]), int(out[1]), int(out[2]), float(out[3])
    user, total = user1 - user0, user1 - user0 + system1 - system0
    return {"rate": answered / took, "per_cpu": answered / max(total, 1e-9), "user_us": user / max(answered, 1) * 1e6,
            "total_us": total / max(answered, 1) * 1e6, "lost": lost, "failed": failed}


def warm(server: Server, queries: pathlib.Path):
    """Every question once, so that what is kept for answers is there."""
    data, at = queries.read_bytes(), 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", server.port))
        client.settimeout(1)
        while at < len(data):
            size = struct.unpack("!H", data[at:at + 2])[0]
            client.send(data[at + 2:at + 2 + size])
            at += 2 + size
            try:
                client.recv(4096)
            except TimeoutError:
                pass


def compare(kinds, zone, queries, rounds, seconds, window):
    servers = []
    for kind in kinds:
        server = kind()
        server.__enter__()
        try:
            server.begin(zone)
        except BaseException as error:  # pytest's skip too
            print(f"{server.name}: left out: {error}")
            server.__exit__()
            continue
        server.pin()
        if isinstance(server, SignedServer):
            warm(server, queries)
        servers.append(server)
    results = {server.name: [] for server in servers}
    try:
        for _ in range(rounds):
            for server in servers:
                results[server.name].append(measure(server, queries, seconds, window))
    finally:
        for server in servers:
            server.__exit__()
    middle = {name: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for name, runs in results.items()}
    print(f"{'':26}{'answers/s':>12}{'per CPU s':>12}{'user us':>9}{'CPU us':>9}{'lost':>7}{'failed':>8}")
    for name, r in middle.items():
        print(f"{name:26}{r['rate']:12.0f}{r['per_cpu']:12.0f}{r['user_us']:9.3f}{r['total_us']:9.3f}{r['lost']:7.0f}{r['failed']:8.0f}")
    return middle


def million(folder: pathlib.Path):
    names = 1_000_000
    zone = folder / "million.zone"
    zone.write_text(zone_file(names))
    with WherryServer() as server:
        start = time.monotonic()
        server.spawn("taskset", "-c", SERVER_CORE, BINARY, "--zone", f"{ZONE}={zone}", "--listen", f"127.0.0.1:{server.port}")
        user = None
        wait_until(lambda: serial_of(server.port, ZONE, 0.05) == 1, 120)
        took = time.monotonic() - start
        user = sum(server.cpu())
        status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
        resident = int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) * 1024
    records = names + 3
    data = sum(len(encode_name(f"host0000000.{ZONE}")) + 4 for _ in range(1)) * names
    print(f"\n1,000,000 names: loaded in {took:.2f} s ({user:.2f} s of processor time), {resident / 2**20:.0f} MiB anonymous memory, "
          f"{(resident - data) / records:.0f} bytes a record beyond names and data")


def main():
    global LOAD
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--only", default="")
    parser.add_argument("--parts", default="rate,signed,million")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wherry-dns-bench-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        LOAD = folder / "load"
        subprocess.run(["clang++-19", "-O2", "-std=c++20", ROOT / "bench/dns/load.cpp", "-o", LOAD], check=True)
        zone = folder / "zone"
        zone.write_text(zone_file(10000))
        parts = options.parts.split(",")
        if "rate" in parts:
            kinds = [EchoServer, WherryServer, GdnsdServer, NsdServer, KnotServer]
            if options.only:
                kinds = [k for k in kinds if k.name in options.only.split(",")]
            print("10,000 names, A over UDP")
            r = compare(kinds, zone, query_file(folder, 10000), options.rounds, options.seconds, options.window)
            ours = r.get("wherry-dns")
            for name, other in r.items():
                if ours and name != "wherry-dns":
                    print(f"wherry-dns / {name}: {ours['rate'] / other['rate']:.3f} by wall time, {ours['per_cpu'] / other['per_cpu']:.3f} by processor time")
        if "signed" in parts:
            print("\nsigned online (ECDSA P-256), from cache, A with DO over UDP")
            r = compare([UnsignedServer, SignedServer], zone, query_file(folder, 10000, do=True), options.rounds, options.seconds, options.window)
            if len(r) == 2:
                unsigned, signed = r.values()
                print(f"signed / unsigned: {signed['rate'] / unsigned['rate']:.3f} by wall time, {signed['per_cpu'] / unsigned['per_cpu']:.3f} by processor time")
        if "million" in parts:
            million(folder)


if __name__ == "__main__":
    main()
