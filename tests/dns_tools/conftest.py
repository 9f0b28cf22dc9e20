"""A small internet of network namespaces, and name servers in it."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from support.binaries import binary, need_root  # noqa: E402


class World:
    """Network namespaces that are deleted at the end."""

    def __init__(self):
        self.prefix = f"wdt{os.getpid()}"
        self.namespaces: list[str] = []
        self.processes: list[subprocess.Popen] = []

    def add(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", self.name(name)], check=True)
        self.namespaces.append(name)
        self.ip(name, "link set lo up")

    def name(self, short: str) -> str:
        return f"{self.prefix}{short}"

    def ip(self, namespace: str, arguments: str) -> None:
        subprocess.run(["ip", "-n", self.name(namespace), *arguments.split()], check=True)

    def command(self, namespace: str, *command: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.name(namespace)}", *command]

    def run(self, namespace: str, *command: str, timeout: float = 60) -> subprocess.CompletedProcess:
        return subprocess.run(self.command(namespace, *command), capture_output=True, text=True, timeout=timeout, check=False)

    def must(self, namespace: str, *command: str) -> str:
        result = self.run(namespace, *command)
        assert result.returncode == 0, result
        return result.stdout

    def start(self, namespace: str, *command: str, **keywords) -> subprocess.Popen:
        process = subprocess.Popen(self.command(namespace, *command), **keywords)
        self.processes.append(process)
        return process

    def join(self, one: str, other: str, number: int) -> None:
        """A link one -- other with 10.90.<number>.1 and .2, fd90:<number>::1 and ::2."""
        subprocess.run(["ip", "-n", self.name(one), "link", "add", f"{other}", "type", "veth", "peer", "name", f"{one}", "netns", self.name(other)], check=True)
        for side, device, last in ((one, other, 1), (other, one, 2)):
            self.ip(side, f"addr add 10.90.{number}.{last}/24 dev {device}")
            self.ip(side, f"-6 addr add fd90:{number}::{last}/64 dev {device} nodad")
            self.ip(side, f"link set {device} up")

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "delete", self.name(namespace)], check=False)


def sysctl(world: World, namespace: str, **values) -> None:
    for key, value in values.items():
        world.must(namespace, "sysctl", "-q", "-w", f"{key.replace('__', '.')}={value}")


@pytest.fixture(scope="module")
def path():
    """client -- r1 -- r2 -- r3 -- server: four hops. Routers answer every expired packet."""
    need_root()
    world = World()
    try:
        hosts = ["client", "r1", "r2", "r3", "server"]
        for host in hosts:
            world.add(host)
            # Addresses are used at once, the link's own too.
            sysctl(world, host, net__ipv6__conf__default__dad_transmits=0, net__ipv6__conf__default__accept_dad=0)
            sysctl(world, host, net__ipv4__icmp_ratelimit=0, net__ipv6__icmp__ratelimit=0, net__ipv4__icmp_msgs_per_sec=100000,
                   net__ipv4__icmp_msgs_burst=100000)
        for host in hosts[1:4]:
            sysctl(world, host, net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        for number in range(4):
            world.join(hosts[number], hosts[number + 1], number + 1)
        for index, host in enumerate(hosts):
            for number in range(1, 5):
                if number in (index, index + 1):
                    continue
                towards = (index + 1, 2) if number > index else (index, 1)
                world.ip(host, f"route add 10.90.{number}.0/24 via 10.90.{towards[0]}.{towards[1]}")
                world.ip(host, f"-6 route add fd90:{number}::/64 via fd90:{towards[0]}::{towards[1]}")
        yield world
    finally:
        world.close()


@pytest.fixture(scope="module")
def names():
    """One namespace with a root, a top-level zone and a zone below it, on port 53 of 127.0.0.x."""
    need_root()
    world = World()
    folder = tempfile.TemporaryDirectory(prefix="wherry-dns-tools-")
    try:
        world.add("names")
        zones = {
            "127.0.0.10": (".", """. 86400 SOA a.root. hostmaster.root. 1 2 3 4 5
. NS a.root.
a.root. A 127.0.0.10
test. NS ns.test.
ns.test. A 127.0.0.11
other. NS ns.other.
ns.other. A 127.0.0.14
lame. NS ns.lame.
ns.lame. A 127.0.0.99
"""),
            "127.0.0.11": ("test.", """test. 3600 SOA ns.test. hostmaster.test. 1 2 3 4 60
test. NS ns.test.
ns.test. A 127.0.0.11
example.test. NS ns.glueless.other.
"""),
            "127.0.0.14": ("other.", """other. 3600 SOA ns.other. hostmaster.other. 1 2 3 4 60
other. NS ns.other.
ns.other. A 127.0.0.14
ns.glueless.other. A 127.0.0.12
"""),
            "127.0.0.12": ("example.test.", """$TTL 300
example.test. SOA ns.glueless.other. hostmaster.test. 7 2 3 4 60
example.test. NS ns.glueless.other.
www.example.test. A 127.0.0.80
www.example.test. A 127.0.0.81
www.example.test. AAAA fd99::80
example.test. MX 10 mail.example.test.
alias.example.test. CNAME www.example.test.
away.example.test. CNAME ns.test.
text.example.test. TXT "a \\"quoted\\" text" "second"
near.example.test. A 127.0.0.80
near.example.test. A 127.0.0.98
""" + "".join(f"big.example.test. A 192.0.2.{n}\n" for n in range(1, 120))),
        }
        for address, (zone, text) in zones.items():
            file = pathlib.Path(folder.name) / f"{address}.zone"
            file.write_text(text)
            log = open(pathlib.Path(folder.name) / f"{address}.log", "wb")
            world.start("names", binary("wherry-dns"), "--zone", f"{zone}={file}", "--listen", f"{address}:53", stdout=log, stderr=log)
        reverse = pathlib.Path(folder.name) / "reverse.zone"
        reverse.write_text("""0.0.127.in-addr.arpa. 300 SOA ns.test. hostmaster.test. 1 2 3 4 60
0.0.127.in-addr.arpa. NS ns.test.
80.0.0.127.in-addr.arpa. PTR www.example.test.
""")
        world.start("names", binary("wherry-dns"), "--zone", f"0.0.127.in-addr.arpa.={reverse}", "--listen", "127.0.0.13:53",
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        for address in [*zones, "127.0.0.13"]:
            while world.run("names", binary("wherry"), "dns", "lookup", ".", "SOA", f"@{address}", "+time=0.2", "+tries=1").returncode == 9:
                assert time.monotonic() < deadline, f"the name server at {address} does not answer"
        yield world
    finally:
        world.close()
        folder.cleanup()
