#!/usr/bin/env python3
"""wherry-dns steering one name over 56,000 client prefixes, asked with client subnets (RFC 7871), beside a bare echo loop of the
same questions, gdnsd's and Knot's geoip modules with the same prefixes: each server alone on one core, the load on another.

  bench/dns/steered.py [--rounds N] [--seconds S] [--prefixes N] [--only NAME,...]

The sites of neighbouring prefixes differ, so that hardly anything can be merged."""

import argparse
import pathlib
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time

import run
from run import ZONE, EchoServer, GdnsdServer, KnotServer, Server, compare

sys.path.insert(0, str(run.ROOT / "tests"))
from support.dns import make_query, need, wait_until  # noqa: E402

SITES = 12
NAME = f"www.{ZONE}"
ZONE_TEXT = f"$ORIGIN {ZONE}.\n$TTL 300\n@ SOA ns1 hostmaster 1 3600 600 86400 60\n@ NS ns1\nns1 A 192.0.2.254\nwww 30 A 192.0.2.99\n"


def client_prefixes(count: int) -> dict[str, int]:
    """/24s as they are spread in the routing table, in runs, and the site of each."""
    pick = random.Random(11)
    prefixes: dict[str, int] = {}
    while len(prefixes) < count:
        first, at, length = pick.randrange(11, 220), pick.randrange(65536), pick.choice([1, 2, 4, 16, 64])
        if first == 127:
            continue
        for n in range(at, min(at + length, 65536)):
            if len(prefixes) < count:
                prefixes.setdefault(f"{first}.{n >> 8}.{n & 255}.0/24", pick.randrange(SITES))
    return prefixes


def site_address(site: int) -> str:
    return f"192.0.2.{site + 1}"


def query_file(folder: pathlib.Path, prefixes: dict[str, int]) -> pathlib.Path:
    path = folder / "queries-steered"
    with open(path, "wb") as out:
        for prefix in prefixes:
            address = socket.inet_aton(prefix.split("/")[0])
            query = make_query(NAME, "A", options=struct.pack("!HHHBB", 8, 7, 1, 24, 0) + address[:3])
            out.write(struct.pack("!H", len(query)) + query)
    return path


class Steered(Server):
    prefixes: dict[str, int] = {}

    def wait_right(self):
        """Until sampled prefixes get their own site's address: all of the data is there."""
        self.wait_answering()
        sampled = random.Random(3).sample(sorted(self.prefixes.items()), 20)

        def right():
            for prefix, site in sampled:
                address = socket.inet_aton(prefix.split("/")[0])
                answer = self.ask(NAME, "A", options=struct.pack("!HHHBB", 8, 7, 1, 24, 0) + address[:3])
                if [r[5] for r in answer.records("A")] != [socket.inet_aton(site_address(site))]:
                    return False
            return True
        wait_until(right, 120, f"{self.name}'s answers")


class WherrySteered(Steered):
    name = "wherry-dns"

    def begin(self, zone):
        now = int(time.time())
        lines = ["# cell site sender newest rtt..."]
        for prefix, site in self.prefixes.items():
            for other in range(SITES):
                lines.append(f"{prefix} {other} 0 {now} {5 if other == site else 50}")
        self.write("samples", "\n".join(lines) + "\n")
        self.write("zone", ZONE_TEXT)
        sites = "".join(f"    site s{n} {{ address {site_address(n)} }}\n" for n in range(SITES))
        self.write("config", f"server {{ listen 127.0.0.1:{self.port} }}\nzone {ZONE} {{ file zone }}\n"
                             f"steering {{\n    state samples\n    quorum 1\n{sites}"
                             "    sender agent { site s0; secret \"MDEyMzQ1Njc4OWFiY2RlZg==\" }\n"
                             f"    name {NAME} {{ policy latency failover }}\n}}\n")
        self.spawn(run.BINARY, "--config", self.folder / "config")
        self.wait_right()


class GdnsdSteered(Steered, GdnsdServer):
    name = "gdnsd"

    def begin(self, zone):
        for sub in ("zones", "geoip", "run", "lib"):
            (self.folder / sub).mkdir()
        (self.folder / "zones" / ZONE).write_text(ZONE_TEXT.replace("www 30 A 192.0.2.99", "www 30 DYNA geoip!www"))
        names = [f"s{n}" for n in range(SITES)]
        # Each prefix has its order of sites.
        nets = "".join(f"{prefix} => [ {', '.join(names[site:] + names[:site])} ]\n" for prefix, site in self.prefixes.items())
        (self.folder / "geoip" / "nets").write_text(nets)
        addresses = ", ".join(f"s{n} => {site_address(n)}" for n in range(SITES))
        self.write("config", f'options => {{ listen => {{ "127.0.0.1:{self.port}" => {{ udp_threads = 1, tcp_threads = 1 }} }},\n'
                             f' edns_client_subnet = true, run_dir = "{self.folder}/run", state_dir = "{self.folder}/lib" }}\n'
                             f"plugins => {{ geoip => {{ maps => {{ m => {{ datacenters => [ {', '.join(names)} ], nets => nets }} }},\n"
                             f" resources => {{ www => {{ map => m, dcmap => {{ {addresses} }} }} }} }} }}\n")
        self.spawn(need("gdnsd"), "-c", self.folder, "start")
        self.wait_right()


class KnotSteered(Steered, KnotServer):
    name = "Knot"

    def begin(self, zone):
        self.write("zone", ZONE_TEXT)
        entries = "".join(f"  - net: {prefix}\n    A: {site_address(site)}\n" for prefix, site in self.prefixes.items())
        self.write("geo", f"{NAME}:\n{entries}")
        head = f"mod-geoip:\n  - id: sites\n    config-file: {self.folder}/geo\n    ttl: 30\n    mode: subnet\n"
        # The Knot of tests keeps its server block to itself: the option that it lacks is added.
        text = f"zone:\n  - domain: {ZONE}\n    file: zone\n    zonefile-sync: -1\n    journal-content: none\n    module: mod-geoip/sites\n"
        self.extra_server = "    edns-client-subnet: on\n"
        self.start(text, head)
        self.wait_right()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--prefixes", type=int, default=56_000)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wherry-dns-bench-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        run.LOAD = folder / "load"
        subprocess.run(["clang++-19", "-O2", "-std=c++20", run.ROOT / "bench/dns/load.cpp", "-o", run.LOAD], check=True)
        Steered.prefixes = client_prefixes(options.prefixes)
        queries = query_file(folder, Steered.prefixes)
        kinds = [EchoServer, WherrySteered, GdnsdSteered, KnotSteered]
        if options.only:
            kinds = [k for k in kinds if k.name in options.only.split(",")]
        print(f"one name, {options.prefixes} client prefixes, {SITES} sites, A with a client subnet over UDP")
        results = compare(kinds, folder / "unused", queries, options.rounds, options.seconds, options.window)
        ours = results.get("wherry-dns")
        for other, r in results.items():
            if ours and other != "wherry-dns":
                print(f"wherry-dns / {other}: {ours['rate'] / r['rate']:.3f} by wall time, {ours['per_cpu'] / r['per_cpu']:.3f} by processor time")


if __name__ == "__main__":
    main()
