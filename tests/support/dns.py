"""wherry-dns and its peers (NSD, Knot, BIND) for tests: each with a folder, a port on loopback and a configuration of
its own, ended by its process id. And a small client that speaks plain DNS messages."""

import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

import pytest

from support.binaries import binary

TYPES = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33, "DNAME": 39,
         "DS": 43, "RRSIG": 46, "NSEC": 47, "DNSKEY": 48, "NSEC3": 50, "SVCB": 64, "HTTPS": 65, "IXFR": 251,
         "AXFR": 252, "ANY": 255, "CAA": 257, "OPT": 41, "CDS": 59, "CDNSKEY": 60, "NSEC3PARAM": 51}
NAMES = {number: name for name, number in TYPES.items()}
KEY_SECRET = "c2VjcmV0LW9mLXRoZS10ZXN0cy0wMTIzNDU2Nzg5YWI="


def free_port() -> int:
    """A port that nothing has now, for UDP and TCP on 127.0.0.1."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            port = random.randint(20000, 32000)
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def encode_name(name: str) -> bytes:
    wire = b""
    for label in name.rstrip(".").split(".") if name != "." else []:
        raw = label.encode()
        wire += bytes([len(raw)]) + raw
    return wire + b"\0"


def make_query(name: str, rtype="A", *, id=None, flags=0, edns=None, do=False, options=b"", dns_class=1, opcode=0) -> bytes:
    number = TYPES[rtype] if isinstance(rtype, str) else rtype
    id = random.randrange(65536) if id is None else id
    flags |= opcode << 11
    question = encode_name(name) + struct.pack("!HH", number, dns_class)
    additional = b""
    if edns is not None or do or options:
        ttl = 0x8000 if do else 0
        additional = b"\0" + struct.pack("!HHIH", 41, edns or 1232, ttl, len(options)) + options
    return struct.pack("!6H", id, flags, 1, 0, 0, 1 if additional else 0) + question + additional


def option(code: int, data: bytes = b"") -> bytes:
    """An EDNS option."""
    return struct.pack("!HH", code, len(data)) + data


def probe(name: str, rtype="SOA", edns=None, version=0, do=False, ednsflags=0, options=b"", flags=0, opcode=0) -> bytes:
    """A query whose every EDNS field can be chosen; `edns` is the payload size, None: no EDNS."""
    query = make_query(name, rtype, flags=flags, opcode=opcode)
    if edns is None:
        return query
    ttl = version << 16 | (0x8000 if do else 0) | ednsflags
    return query[:10] + b"\0\1" + query[12:] + b"\0" + struct.pack("!HHIH", 41, edns, ttl, len(options)) + options


class Answer:
    """A parsed message: header fields and sections of (owner, type, class, ttl, data offset, data)."""

    def __init__(self, wire: bytes):
        self.wire = wire
        self.id, self.flags, *counts = struct.unpack("!6H", wire[:12])
        self.rcode = self.flags & 15
        self.aa, self.tc = bool(self.flags & 0x400), bool(self.flags & 0x200)
        at = 12
        self.questions = []
        for _ in range(counts[0]):
            name, at = self.name(at)
            self.questions.append((name, *struct.unpack("!HH", wire[at:at + 4])))
            at += 4
        sections = []
        for count in counts[1:]:
            section = []
            for _ in range(count):
                name, at = self.name(at)
                rtype, rclass, ttl, length = struct.unpack("!HHIH", wire[at:at + 10])
                section.append((name, rtype, rclass, ttl, at + 10, wire[at + 10:at + 10 + length]))
                at += 10 + length
            sections.append(section)
        assert at == len(wire), "bytes after the message"
        self.answer, self.authority, self.additional = sections
        self.opt = next((r for r in self.additional if r[1] == 41), None)
        if self.opt:
            self.rcode |= (self.opt[3] >> 24) << 4

    def name(self, at: int) -> tuple[str, int]:
        labels, end = [], None
        while True:
            length = self.wire[at]
            if length >= 0xC0:
                end = end or at + 2
                at = struct.unpack("!H", self.wire[at:at + 2])[0] & 0x3FFF
                continue
            if length == 0:
                break
            labels.append(self.wire[at + 1:at + 1 + length].decode("latin1"))
            at += 1 + length
        return ".".join(labels) + ".", end or at + 1

    def options(self) -> dict[int, bytes]:
        found, data = {}, self.opt[5] if self.opt else b""
        while data:
            code, length = struct.unpack("!HH", data[:4])
            found[code] = data[4:4 + length]
            data = data[4 + length:]
        return found

    def records(self, rtype: str) -> list:
        return [r for r in self.answer if r[1] == TYPES[rtype]]

    def _data(self, record) -> bytes:
        """Data with its names in full and lower case, so that compression does not matter."""
        owner, rtype, rclass, ttl, at, data = record
        layouts = {2: (0, 1), 5: (0, 1), 12: (0, 1), 39: (0, 1), 6: (0, 2), 15: (2, 1), 33: (6, 1), 47: (0, 1)}
        if rtype not in layouts:
            return data
        skip, names = layouts[rtype]
        end, out = at + len(data), self.wire[at:at + skip]
        at += skip
        for _ in range(names):
            name, at = self.name(at)
            out += encode_name(name.lower())
        return out + self.wire[at:end]

    def canonical(self, section: str) -> list:
        return sorted((r[0].lower(), r[1], r[2], r[3], self._data(r)) for r in getattr(self, section) if r[1] != 41)


def ask_udp(port: int, query: bytes, timeout=5.0, address="127.0.0.1", tries=3) -> Answer:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.connect((address, port))
        for attempt in range(tries):
            client.send(query)
            try:
                while True:
                    wire = client.recv(65535)
                    if wire[:2] == query[:2]:
                        return Answer(wire)
            except (TimeoutError, ConnectionRefusedError):
                if attempt == tries - 1:
                    raise
                time.sleep(0.05)


def receive_tcp(client: socket.socket) -> bytes:
    def exactly(count):
        data = b""
        while len(data) < count:
            more = client.recv(count - len(data))
            if not more:
                raise EOFError("connection closed")
            data += more
        return data
    return exactly(struct.unpack("!H", exactly(2))[0])


def ask_tcp(port: int, query: bytes, timeout=20.0, address="127.0.0.1") -> Answer:
    with socket.create_connection((address, port), timeout) as client:
        client.sendall(struct.pack("!H", len(query)) + query)
        return Answer(receive_tcp(client))


def serial_of(port: int, zone: str, timeout=2.0) -> int | None:
    """The serial that a server has of a zone; None while it has none or does not answer."""
    try:
        answer = ask_udp(port, make_query(zone, "SOA"), timeout, tries=1)
    except OSError:
        return None
    soa = answer.records("SOA")
    return struct.unpack("!5I", soa[0][5][-20:])[0] if soa and answer.rcode == 0 and answer.aa else None


def wait_until(condition, seconds=40.0, what="the condition"):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s")


def wait_serial(port: int, zone: str, serial: int, seconds=40.0):
    wait_until(lambda: serial_of(port, zone) == serial, seconds, f"{zone} at serial {serial}, is at {serial_of(port, zone)}")


def need(program: str) -> str:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/bin")
    if not path:
        pytest.skip(f"{program} is not installed")
    return path


def run(*command, check=True, **keywords) -> subprocess.CompletedProcess:
    return subprocess.run([str(c) for c in command], check=check, capture_output=True, text=True, timeout=60, **keywords)


class Process:
    """A server with a folder and a port."""

    def __init__(self):
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-dns-test-"))
        self.folder.chmod(0o755)
        self.process: subprocess.Popen | None = None
        self.log = self.folder / "log"

    def write(self, name: str, text: str) -> pathlib.Path:
        path = self.folder / name
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(text)
        temporary.rename(path)
        return path

    def spawn(self, *command):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            cwd=self.folder)

    def wait_answering(self, seconds=40.0):
        def answers():
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.log.read_text()}")
            try:
                return ask_udp(self.port, make_query("ready.invalid", "SOA"), 1.0, tries=1)
            except OSError:
                return None
        wait_until(answers, seconds, f"an answer on port {self.port}")

    def hang_up(self):
        self.process.send_signal(signal.SIGHUP)

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
        return self.process.returncode if self.process else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, name, rtype="A", tcp=False, **keywords) -> Answer:
        query = make_query(name, rtype, **keywords)
        return ask_tcp(self.port, query) if tcp else ask_udp(self.port, query)

    def serial(self, zone: str):
        return serial_of(self.port, zone)


class Wherry(Process):
    """wherry-dns with a configuration: config(server) is given the text of its server block's inside."""

    def start(self, zones: str, server: str = "", wait=True, extra: str = ""):
        self.configure(zones, server, extra)
        self.spawn(binary("wherry-dns"), "--config", self.folder / "config")
        if wait:
            self.wait_answering()
        return self

    def configure(self, zones: str, server: str = "", extra: str = ""):
        self.write("config", f"server {{\n    listen 127.0.0.1:{self.port}\n    state state\n{server}\n}}\n{extra}\n{zones}\n")

    def restart(self):
        self.spawn(binary("wherry-dns"), "--config", self.folder / "config")
        self.wait_answering()


class Nsd(Process):
    def start(self, zones: str, keys: str = ""):
        need("nsd")
        self.write("nsd.conf", f"""
server:
    ip-address: 127.0.0.1@{self.port}
    username: ""
    chroot: ""
    zonesdir: "{self.folder}"
    database: ""
    pidfile: ""
    xfrdfile: "{self.folder}/xfrd.state"
    zonelistfile: "{self.folder}/zone.list"
    logfile: "{self.folder}/nsd.log"
    verbosity: 2
    server-count: 1
    minimal-responses: yes
    xfrd-reload-timeout: 0
remote-control:
    control-enable: no
{keys}
{zones}
""")
        self.spawn(need("nsd"), "-d", "-c", self.folder / "nsd.conf")
        self.wait_answering()
        return self


class Knot(Process):
    extra_server = ""  # more lines of its server section

    def start(self, zones: str, head: str = ""):
        need("knotd")
        (self.folder / "db").mkdir()
        self.write("knot.conf", f"""
server:
    rundir: "{self.folder}"
    listen: 127.0.0.1@{self.port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    version: ""
    identity: ""
{self.extra_server}log:
  - target: stderr
    any: info
database:
    storage: "{self.folder}/db"
{head}
template:
  - id: default
    storage: "{self.folder}"
{zones}
""")
        self.spawn(need("knotd"), "-c", self.folder / "knot.conf")
        self.wait_answering()
        return self


class Bind(Process):
    catalog = ""

    def start(self, zones: str, head: str = ""):
        need("named")
        self.write("named.conf", f"""
options {{
    directory "{self.folder}";
    listen-on port {self.port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    pid-file none;
    session-keyfile "{self.folder}/session.key";
    dnssec-validation no;
    notify explicit;
    allow-transfer {{ none; }};
    minimal-responses no;
    max-refresh-time 3600;
    serial-query-rate 1000;
    notify-rate 1000;
    startup-notify-rate 1000;
    empty-zones-enable no;
{self.catalog}}};
controls {{ }};
{head}
{zones}
""")
        self.spawn(need("named"), "-g", "-c", self.folder / "named.conf", "-n", "1")
        self.wait_answering()
        return self


def bind_key(name="transfer.key", algorithm="hmac-sha256", secret=KEY_SECRET) -> str:
    return f'key "{name}" {{ algorithm {algorithm}; secret "{secret}"; }};\n'


def nsd_key(name="transfer.key", algorithm="hmac-sha256", secret=KEY_SECRET) -> str:
    return f'key:\n    name: "{name}"\n    algorithm: {algorithm}\n    secret: "{secret}"\n'


def knot_key(name="transfer.key", algorithm="hmac-sha256", secret=KEY_SECRET) -> str:
    return f"key:\n  - id: {name}\n    algorithm: {algorithm}\n    secret: {secret}\n"


def wherry_key(name="transfer.key", algorithm="hmac-sha256", secret=KEY_SECRET) -> str:
    return f'key {name} {{ algorithm {algorithm}; secret "{secret}" }}\n'


def zone_text(serial: int, extra: str = "", names: int = 20) -> str:
    hosts = "\n".join(f"h{i} A 192.0.2.{i % 250 + 1}" for i in range(names))
    return f"""$TTL 300
@ SOA ns1 hostmaster {serial} 3600 600 86400 60
@ NS ns1
@ NS ns2.elsewhere.test.
ns1 A 192.0.2.1
{hosts}
{extra}
"""
