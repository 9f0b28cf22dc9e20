"""Dispatching by measured latency: real servers, clients behind delayed links, health, lies, reloads, replay and the picture."""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from support.binaries import binary, need_root

SECRET = b"0123456789abcdef"
ZONE = """$TTL 60
@ SOA ns hostmaster 1 2 3 4 5
@ NS ns
ns A 127.0.0.1
www A 192.0.2.99
www AAAA 2001:db8::99
plain A 192.0.2.98
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, check, timeout=30.0):
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.02)


class Server:
    """A wherry-dns with a steering block. `sites`, `names` and the rest are statements of the configuration."""

    def __init__(self, folder: pathlib.Path, steering: str, prefix=(), address="127.0.0.1"):
        self.folder, self.prefix, self.address = folder, list(prefix), address
        self.port, self.control = free_port(), free_port()
        (folder / "zone").write_text(ZONE)
        self.write(steering)
        self.process = None

    def write(self, steering: str):
        senders = "".join(f'sender {site}{n} {{ site {site}; secret "{base64.b64encode(SECRET).decode()}" }}\n'
                          for site in ("virginia", "oregon") for n in (1, 2, 3))
        (self.folder / "dns.conf").write_text(
            f"server {{ listen {self.address}:{self.port} }}\nzone example.test {{ file zone }}\n"
            f"steering {{\ncontrol {self.address}:{self.control}\n{senders}{steering}\n}}\n")

    def start(self):
        with open(self.folder / "log", "ab") as log:
            before = log.tell()  # the log of an earlier process says nothing of this one
            self.process = subprocess.Popen([*self.prefix, binary("wherry-dns"), "--config", str(self.folder / "dns.conf")], stdout=log, stderr=log)
        wait_for("the control service", lambda: "steering.listen" in self.log()[before:] or self.process.poll() is not None)
        assert self.process.poll() is None, self.log()
        return self

    def log(self):
        return (self.folder / "log").read_text()

    def reload(self):
        before = self.log().count("\n")
        self.process.send_signal(signal.SIGHUP)
        return before

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    @property
    def url(self):
        return f"http://{self.address}:{self.control}"

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.loads(answer.read())

    def send(self, sender, lines, at=None, secret=SECRET, offset=0):
        """Status and answer of one message of samples."""
        at = at if at is not None else self.next_time(sender) + offset
        body = "\n".join(lines) + "\n"
        mac = hmac.new(secret, f"{sender}\n{at}\n{body}".encode(), hashlib.sha256).hexdigest()
        request = urllib.request.Request(self.url + "/v1/samples", data=body.encode(),
                                         headers={"X-Wherry-Sender": sender, "X-Wherry-Time": str(at), "X-Wherry-Signature": mac})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    times: dict = {}

    def next_time(self, sender):
        # Each message's time is after the last one's; the clock may be five minutes off.
        key = (self.control, sender)
        self.times[key] = max(int(time.time()), self.times.get(key, 0) + 1)
        return self.times[key]

    def explain(self, client, name="www.example.test"):
        return self.get(f"/v1/explain?name={name}&client={client}")

    def dig(self, *words):
        return subprocess.run([*self.prefix, "dig", "+tries=1", "+time=3", f"@{self.address}", "-p", str(self.port), *words],
                              capture_output=True, text=True, check=True).stdout

    def answers(self, client, kind="A", name="www.example.test"):
        return sorted(self.dig("+short", f"+subnet={client}", name, kind).split())

    def scope(self, client, name="www.example.test"):
        return int(re.search(r"CLIENT-SUBNET: \S+/\d+/(\d+)", self.dig(f"+subnet={client}", name, "A")).group(1))


SITES = "site virginia { address 192.0.2.1 2001:db8::1; location 38.9 -77.5 }\nsite oregon { address 192.0.2.2 2001:db8::2; location 45.8 -119.7 }\n"


@pytest.fixture
def server(tmp_path):
    started = []

    def make(steering, **keywords):
        made = Server(tmp_path, steering, **keywords).start()
        started.append(made)
        return made

    yield make
    for one in started:
        one.stop()


def measured(server, client, virginia, oregon, senders=(1, 2)):
    for n in senders:
        assert server.send(f"virginia{n}", [f"{client} {virginia}"])[0] == 200
        assert server.send(f"oregon{n}", [f"{client} {oregon}"])[0] == 200


def test_each_client_gets_its_nearest_site(server):
    dns = server(SITES + "name www.example.test { policy latency failover }")
    measured(dns, "198.51.100.0/24", 5, 80)
    measured(dns, "203.0.113.0/24", 80, 5)
    measured(dns, "2001:db8:1::/48", 80, 5)
    wait_for("the samples", lambda: dns.answers("203.0.113.0/24") == ["192.0.2.2"])
    assert dns.answers("198.51.100.0/24") == ["192.0.2.1"]
    assert dns.answers("2001:db8:1::/56") == ["192.0.2.2"]
    assert dns.answers("198.51.100.0/24", "AAAA") == ["2001:db8::1"]
    why = dns.explain("203.0.113.0/24")
    assert why["winner"] == ["oregon"] and "oregon is nearest: 5" in why["why"] and "measured" in why["why"]
    assert {c["site"]: c["rtt_ms"] for c in why["candidates"]} == {"virginia": 80, "oregon": 5}
    # What is not steered stays as the zone has it.
    assert dns.answers("203.0.113.0/24", name="plain.example.test") == ["192.0.2.98"]


def test_the_scope_covers_exactly_those_who_get_the_same_answer(server):
    dns = server(SITES + "name www.example.test { policy latency failover; override 203.0.113.0/24 oregon; override 10.0.0.0/8 virginia; override 10.128.0.0/10 oregon }")
    measured(dns, "198.51.100.0/24", 5, 80)
    wait_for("the samples", lambda: dns.explain("198.51.100.0/24")["candidates"][0]["source"] == "measured")
    wait_for("the tables", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.1"])
    for client in ("203.0.113.0/24", "198.51.100.0/24", "10.1.0.0/16", "10.130.0.0/16", "8.8.8.0/24"):
        address, bits = client.split("/")
        scope = dns.scope(client)
        value = int.from_bytes(socket.inet_aton(address), "big")
        base = value >> (32 - scope) << (32 - scope) if scope else 0
        # Both ends of what the scope covers are answered alike: caches may share the answer there.
        for end in (base, base + (1 << (32 - scope)) - 1):
            end_text = socket.inet_ntoa(end.to_bytes(4, "big"))
            assert dns.answers(f"{end_text}/32") == dns.answers(client), (client, scope, end_text)
    assert dns.answers("10.130.0.0/16") == ["192.0.2.2"] and dns.answers("10.1.0.0/16") == ["192.0.2.1"]
    assert dns.scope("0.0.0.0/0") == 0


def test_only_authenticated_senders_are_heard(server):
    dns = server(SITES + "name www.example.test { policy latency failover }")
    lines = ["198.51.100.0/24 1"]
    assert dns.send("virginia1", lines, secret=b"another secret 1")[0] == 401
    assert dns.send("nobody", lines)[0] == 401
    assert dns.send("virginia1", lines, at=int(time.time()) - 1000)[0] == 401
    at = dns.next_time("virginia1")
    assert dns.send("virginia1", lines, at=at) == (200, {"taken": 1})
    status, body = dns.send("virginia1", lines, at=at)
    assert status == 401 and "repetition" in body["message"]
    status, body = dns.send("virginia1", ["198.51.100.0/24 1", "nonsense"])
    assert status == 400 and "line 2" in body["message"]
    assert dns.get("/v1/status")["samples_taken"] == 1


def test_one_lying_sender_moves_nothing(server):
    dns = server(SITES + "name www.example.test { policy latency failover }")
    measured(dns, "198.51.100.0/24", 5, 80, senders=(1, 2))
    wait_for("the samples", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.1"])
    for _ in range(5):
        assert dns.send("oregon3", ["198.51.100.0/24 0.1"] * 50)[0] == 200  # "I am next door"
        assert dns.send("virginia3", ["198.51.100.0/24 9000"] * 50)[0] == 200  # "stay away"
    wait_for("the lies", lambda: dns.get("/v1/status")["samples_taken"] == 504)
    wait_for("the tables", lambda: dns.explain("198.51.100.0/24")["winner"] == ["virginia"])
    assert dns.answers("198.51.100.0/24") == ["192.0.2.1"]


class Site:
    """A web server that is a site's health."""

    def __init__(self):
        self.port = free_port()
        self.process = None

    def answers(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
            return True
        return self.process.poll() is not None

    def start(self):
        self.process = subprocess.Popen([sys.executable, "-c", "import http.server,sys\nhttp.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()", str(self.port)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/var/empty" if os.path.isdir("/var/empty") else "/tmp")
        wait_for("the web server", self.answers)
        return self

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def web():
    made = [Site().start(), Site().start()]
    yield made
    for site in made:
        site.stop()


def check(port, rise=2):
    return f'check http http://127.0.0.1:{port}/ {{ every 0.2; timeout 0.5; rise {rise}; fall 2 }}'


def healthy_sites(web, rise=2):
    return (f"site virginia {{ address 192.0.2.1\n priority 1\n {check(web[0].port, rise)}\n }}\n"
            f"site oregon {{ address 192.0.2.2\n priority 2\n {check(web[1].port, rise)}\n }}\n")


def test_a_dead_site_is_left_and_taken_back(server, web):
    dns = server(healthy_sites(web) + "name www.example.test { policy failover; ttl 1 }")
    assert dns.answers("198.51.100.0/24") == ["192.0.2.1"]
    web[0].stop()
    began = time.monotonic()
    wait_for("the change", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.2"], timeout=20)
    left_within = time.monotonic() - began
    status = {s["site"]: s for s in dns.get("/v1/status")["sites"]}
    assert status["virginia"]["up"] is False and "refused" in status["virginia"]["checks"][0]["problem"]
    # Two failures 0.2 s apart and the settling: on a loaded machine some more.
    assert left_within < 10
    assert "www.example.test.\t1\tIN\tA\t192.0.2.2" in dns.dig("www.example.test", "A")
    web[0].start()
    wait_for("the way back", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.1"], timeout=20)


def test_one_success_of_a_dead_site_does_not_flap(server, web):
    web[0].stop()
    dns = server(healthy_sites(web, rise=100) + "name www.example.test { policy failover }")
    wait_for("the change", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.2"])
    web[0].start()
    wait_for("a success", lambda: dns.get("/v1/status")["sites"][0]["checks"][0]["problem"] == "")
    assert dns.answers("198.51.100.0/24") == ["192.0.2.2"]


@pytest.mark.parametrize("what, expected", [("all", ["192.0.2.1", "192.0.2.2"]), ("none", ["192.0.2.99"])])
def test_when_all_are_down_the_answer_is_the_configured_one(server, web, what, expected):
    for site in web:
        site.stop()
    dns = server(healthy_sites(web) + f"name www.example.test {{ policy failover; all-down {what} }}")
    wait_for("the verdicts", lambda: dns.answers("198.51.100.0/24") == expected)
    assert "every site is down" in dns.explain("198.51.100.0/24")["why"]


def test_a_quorum_of_checks_decides(server, web):
    dns = server(f"site virginia {{ address 192.0.2.1\n quorum 2\n {check(web[0].port)}\n {check(web[1].port)}\n check command /bin/true {{ every 0.2 }}\n }}\n"
                 "site oregon { address 192.0.2.2; priority 5 }\nname www.example.test { policy failover }")
    web[0].stop()
    wait_for("the first verdict", lambda: not dns.get("/v1/status")["sites"][0]["checks"][0]["up"])
    assert dns.answers("198.51.100.0/24") == ["192.0.2.1"]  # two of three are up
    web[1].stop()
    wait_for("the change", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.2"])


def test_weights_share_the_clients(server):
    dns = server("site virginia { address 192.0.2.1; weight 3 }\nsite oregon { address 192.0.2.2; weight 1 }\nname www.example.test { policy weighted }")
    counts = {"192.0.2.1": 0, "192.0.2.2": 0}
    for n in range(160):
        [answer] = dns.answers(f"{20 + n % 80}.{n}.0.0/16")
        counts[answer] += 1
    assert 95 <= counts["192.0.2.1"] <= 145, counts
    assert dns.answers("20.0.0.0/16") == dns.answers("20.0.0.0/16")


def test_drain_and_planned_moves_by_reload(server):
    dns = server(SITES + "name www.example.test { policy latency failover; ttl 300 }")
    measured(dns, "198.51.100.0/24", 5, 80)
    wait_for("the samples", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.1"])
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    dns.write(SITES.replace("location 38.9", "drain; location 38.9") + f"name www.example.test {{ policy latency failover; ttl 300; planned-move {later} 20 }}")
    dns.reload()
    wait_for("the drain", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.2"])
    assert "www.example.test.\t20\t" in dns.dig("www.example.test", "A")
    # What was measured before is still known.
    assert {c["site"]: c["source"] for c in dns.explain("198.51.100.0/24")["candidates"]} == {"virginia": "measured", "oregon": "measured"}
    dns.write("site broken {")
    dns.reload()
    wait_for("the refusal", lambda: "reload_failed" in dns.log())
    assert dns.answers("198.51.100.0/24") == ["192.0.2.2"]


@pytest.mark.parametrize("steering, reason", [
    ("name www.example.test { }", "no site"), (SITES, "no name"), (SITES + "name www.example.test { policy nearest }", "policy"),
    (SITES + "name www.example.test { sites mars }", "mars"), (SITES + "name www.example.test { override 10.0.0.1/8 oregon }", "beyond"),
    ("site a { }\nname x { }", "no address"), (SITES + "speed fast\nname x { }", "speed"), (SITES + "name x { ttl -1 }", "ttl"),
    ("site a { address 192.0.2.1; check http ftp://x }\nname x { }", "check"),
])
def test_a_wrong_configuration_is_refused_with_its_line(tmp_path, steering, reason):
    made = Server(tmp_path, steering)
    result = subprocess.run([binary("wherry-dns"), "--config", str(tmp_path / "dns.conf"), "--check"], capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode != 0 and reason in result.stderr and "dns.conf" in result.stderr, result
    del made


def test_samples_survive_a_restart(server, tmp_path):
    dns = server(SITES + "state samples\nname www.example.test { policy latency failover }")
    measured(dns, "203.0.113.0/24", 80, 5)
    wait_for("the file", lambda: (tmp_path / "samples").exists() and "203.0.113.0/24" in (tmp_path / "samples").read_text() and (tmp_path / "samples").read_text().count("\n") == 5)
    dns.stop()
    dns.start()
    assert dns.answers("203.0.113.0/24") == ["192.0.2.2"]


def test_replay_shows_what_would_move(server, tmp_path):
    dns = server(SITES + "state samples\nquery-log queries\nname www.example.test { policy latency failover }")
    measured(dns, "198.51.100.0/24", 5, 80)
    measured(dns, "203.0.113.0/24", 80, 5)
    wait_for("the samples", lambda: dns.answers("203.0.113.0/24") == ["192.0.2.2"])
    for _ in range(3):
        dns.answers("198.51.100.0/24")
    wait_for("the log", lambda: (tmp_path / "queries").exists() and (tmp_path / "queries").read_text().count("198.51.100.0/24") == 3)
    wherry = [binary("wherry"), "dns", "replay", "--config", str(tmp_path / "dns.conf")]
    same = subprocess.run([*wherry, str(tmp_path / "queries")], capture_output=True, text=True, check=True).stdout
    assert " 0 would be answered otherwise" in same
    moved = json.loads(subprocess.run([*wherry, "--down", "virginia", "--json", str(tmp_path / "queries")], capture_output=True, text=True, check=True).stdout)
    [move] = moved["moves"]
    assert (move["from"], move["to"], move["queries"], move["clients"]) == ("virginia", "oregon", 3, 1)
    assert move["rtt_change_ms"] == pytest.approx(75, abs=1)


def test_the_picture(server, tmp_path):
    dns = server(SITES + "name www.example.test { policy latency failover }")
    measured(dns, "198.51.100.0/24", 5, 80)
    wait_for("the samples", lambda: [cell["rtt_ms"] for cell in dns.get("/v1/map")["cells"]] == [[5, 80]])
    drawn = subprocess.run([binary("wherry"), "dns", "map", "--control", dns.url], capture_output=True, text=True, check=True).stdout
    assert "A  virginia  1" in drawn and "B  oregon" in drawn
    subprocess.run([binary("wherry"), "dns", "map", "--control", dns.url, "-o", str(tmp_path / "map.svg")], check=True)
    svg = (tmp_path / "map.svg").read_text()
    assert svg.startswith("<svg") and "198.51.100.0/24" in svg and "virginia: 1 prefixes" in svg
    import xml.dom.minidom
    xml.dom.minidom.parseString(svg)


@pytest.mark.parametrize("raw, status", [
    (b"GET / HTTP/1.1\r\n\r\n", b"404"), (b"nonsense\r\n\r\n", b"400"), (b"POST /v1/status HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
    (b"POST /v1/samples HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"), (b"POST /v1/samples HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
    (b"GET /v1/explain?name=%zz HTTP/1.1\r\n\r\n", b"400"), (b"GET /v1/explain?name=other.test&client=192.0.2.0/24 HTTP/1.1\r\n\r\n", b"404"),
])
def test_the_control_service_refuses_nonsense(server, raw, status):
    dns = server(SITES + "name www.example.test { policy latency failover }")
    with socket.create_connection(("127.0.0.1", dns.control), timeout=10) as stream:
        stream.sendall(raw)
        assert stream.recv(4096).split(b" ")[1] == status


# Two coasts: what a client pays who is sent to the wrong one (ms round trip to each site).
COASTS = {"washington": {"oregon": 21.7, "virginia": 78}, "ashburn": {"oregon": 78, "virginia": 1.6}}


@pytest.fixture
def coasts(tmp_path):
    need_root()
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("/dev/net/tun is not there")
    names = {name: f"wdc{os.getpid()}{name[:4]}" for name in ("oregon", "virginia", "washington", "ashburn")}
    processes = []
    try:
        for namespace in names.values():
            subprocess.run(["ip", "netns", "add", namespace], check=True)
            subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)
        for c, (client, sites) in enumerate(COASTS.items()):
            for s, (site, rtt) in enumerate(sites.items()):
                link = subprocess.Popen([sys.executable, str(pathlib.Path(__file__).with_name("delay_link.py")), names[client], site, names[site], client, str(rtt)],
                                        stdout=subprocess.PIPE)
                processes.append(link)
                assert link.stdout.readline() == b"ready\n"
                client_address, site_address = f"10.88.{c}.10", f"10.89.{s if client == 'washington' else s}.10"
                for namespace, device, own, peer in ((names[client], site, client_address, site_address), (names[site], client, site_address, client_address)):
                    subprocess.run(["ip", "-n", namespace, "addr", "add", f"{own}/32", "peer", peer, "dev", device], check=True)
                    subprocess.run(["ip", "-n", namespace, "link", "set", device, "up"], check=True)
        yield names, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for namespace in names.values():
            subprocess.run(["ip", "netns", "delete", namespace], check=False)


SITE_ADDRESS = {"oregon": "10.89.0.10", "virginia": "10.89.1.10"}
CLIENT_ADDRESS = {"washington": "10.88.0.10", "ashburn": "10.88.1.10"}
# Answers a byte to a byte; "connect": connects, and times one exchange after the first.
ECHO = """
import socket, threading
s = socket.create_server(('', 7007))
print('ready', flush=True)
def echo(c):
    while data := c.recv(1): c.sendall(data)
while True: threading.Thread(target=echo, args=(s.accept()[0],), daemon=True).start()
"""
# The shortest of ten exchanges: what a loaded machine adds is not the link's.
TIME = """
import socket, sys, time
c = socket.create_connection((sys.argv[1], 7007))
def exchange():
    t = time.monotonic(); c.sendall(b'y'); c.recv(1)
    return (time.monotonic() - t) * 1000
print(min(exchange() for _ in range(10)), flush=True)
sys.stdin.read()
"""


def test_two_coasts(coasts, tmp_path, capsys):
    names, processes = coasts
    inside = lambda host, *command: ["nsenter", f"--net=/run/netns/{names[host]}", *command]  # noqa: E731
    for site in SITE_ADDRESS:
        echo = subprocess.Popen(inside(site, sys.executable, "-c", ECHO), stdout=subprocess.PIPE)
        processes.append(echo)
        assert echo.stdout.readline() == b"ready\n"

    def exchange(client, address):
        """A client's connection, kept open; the time of one exchange, ms."""
        process = subprocess.Popen(inside(client, sys.executable, "-c", TIME, address), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return float(process.stdout.readline())

    # The dispatcher is reached by agents through files of their own namespaces: it runs here, each agent reports what it read inside.
    dns = Server(tmp_path, "quorum 1\nsite oregon { address 10.89.0.10 }\nsite virginia { address 10.89.1.10 }\nname www.example.test { policy latency failover }").start()
    try:
        paid = {client: {site: exchange(client, address) for site, address in SITE_ADDRESS.items()} for client in CLIENT_ADDRESS}
        # Passive samples: the front ends' kernels know their clients' round trips. The agent reads them in the site's namespace and
        # speaks to the dispatcher through a relay socket, since the namespaces have no way to it.
        for site in SITE_ADDRESS:
            secret = tmp_path / "secret"
            secret.write_text(base64.b64encode(SECRET).decode())
            relay = subprocess.Popen(["/usr/bin/python3", "-c", RELAY, f"/run/netns/{names[site]}", str(dns.control)], stdout=subprocess.PIPE)
            processes.append(relay)
            assert relay.stdout.readline() == b"ready\n"
            result = subprocess.run(inside(site, binary("wherry"), "dns", "agent", "--once", "--no-probe", "--sender", f"{site}1", "--secret-file", str(secret),
                                           "--watch-port", "7007", "--control", "http://127.0.0.1:7053"), capture_output=True, text=True, timeout=60, check=False)
            assert result.returncode == 0 and "2 observed" in result.stdout, result
        wait_for("the samples", lambda: dns.explain(CLIENT_ADDRESS["ashburn"] + "/32")["winner"] == ["virginia"])
        lines = []
        for client, address in CLIENT_ADDRESS.items():
            [chosen] = wait_for("an answer", lambda address=address: dns.answers(address + "/32"))
            best = min(paid[client].values())
            wrong = max(paid[client].values()) / best
            with_dispatching = exchange(client, chosen) / best
            due = max(COASTS[client].values()) / min(COASTS[client].values())
            lines.append(f"{client}: at the wrong coast {wrong:.1f} times the best round trip (the links' own: {due:.1f}), dispatched {with_dispatching:.1f} times")
            assert chosen == SITE_ADDRESS[min(COASTS[client], key=COASTS[client].get)]
            assert with_dispatching < wrong / 1.5
        with capsys.disabled():
            print("\n" + "\n".join(lines))
        # 78/21.7 and 78/1.6, with what a loaded machine adds to the short ones.
        assert paid["washington"]["virginia"] / paid["washington"]["oregon"] == pytest.approx(3.6, rel=0.4)
        assert paid["ashburn"]["oregon"] / paid["ashburn"]["virginia"] > 8
    finally:
        dns.stop()


# Listens on 127.0.0.1:7053 inside of a namespace and hands connections to a port outside.
RELAY = """
import ctypes, os, socket, sys, threading
libc = ctypes.CDLL(None)
home = os.open('/proc/self/ns/net', os.O_RDONLY)
libc.setns(os.open(sys.argv[1], os.O_RDONLY), 0)
listener = socket.create_server(('127.0.0.1', 7053))
libc.setns(home, 0)
print('ready', flush=True)
def pump(a, b):
    try:
        while data := a.recv(65536): b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError: pass
while True:
    inner = listener.accept()[0]
    outer = socket.create_connection(('127.0.0.1', int(sys.argv[2])))
    for a, b in ((inner, outer), (outer, inner)): threading.Thread(target=pump, args=(a, b), daemon=True).start()
"""
