"""EDNS, cookies, TCP, TLS, rate limiting, metrics and privileges of the running server."""

import os
import pwd
import socket
import ssl
import struct
import urllib.request

import pytest

from support.binaries import binary
from support.dns import (Answer, ask_tcp, ask_udp, free_port, make_query, need, option, probe, receive_tcp, run,
                         wait_until, zone_text)

ZONE = "example.test"
EXTRA = """
big TXT "%s" "%s" "%s" "%s" "%s" "%s"
sub NS ns.sub
ns.sub A 192.0.2.77
*.wild A 192.0.2.78
alias CNAME h1
""" % (("x" * 230,) * 6)


@pytest.fixture
def served(wherry):
    wherry.write("zone", zone_text(1, EXTRA))
    return wherry.start(f"zone {ZONE} {{ file zone }}", "    nsid here\n    version wherry")


def test_no_answer_and_bad_messages(served):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", served.port))
        client.settimeout(0.5)
        answer_to_nobody = make_query(ZONE, "SOA", flags=0x8000)
        for packet in (b"", b"x", b"\0" * 11, answer_to_nobody):
            client.send(packet)
        client.send(make_query(ZONE, "SOA", id=7))
        assert client.recv(4096)[:2] == b"\0\7"  # the first answer is the one to the only question
        with pytest.raises(TimeoutError):
            client.recv(4096)
    two = make_query(ZONE, "SOA")
    two = two[:4] + b"\0\2" + two[6:] + two[12:]
    assert ask_udp(served.port, two).rcode == 1
    assert ask_udp(served.port, make_query(ZONE, "SOA")[:-3]).rcode == 1
    assert ask_udp(served.port, probe(ZONE, edns=1232)[:-1] + b"\7").rcode == 1  # options longer than the message


def test_cookie_goes_round(served):
    first = ask_udp(served.port, probe(ZONE, edns=1232, options=option(10, b"abcdefgh")))
    again = ask_udp(served.port, probe(ZONE, edns=1232, options=option(10, first.options()[10])))
    assert again.rcode == 0 and again.options()[10][:8] == b"abcdefgh"
    out = run(need("dig"), "@127.0.0.1", "-p", served.port, ZONE, "SOA", "+cookie").stdout
    assert "(good)" in out


def test_tcp_pipelining(served):
    with socket.create_connection(("127.0.0.1", served.port), 20) as client:
        names = [f"h{i}.{ZONE}" for i in range(20)] * 10
        queries = [make_query(name, "A", id=i) for i, name in enumerate(names)]
        stream = b"".join(struct.pack("!H", len(q)) + q for q in queries)
        for at in range(0, len(stream), 37):  # in odd pieces
            client.sendall(stream[at:at + 37])
        got = {}
        for _ in queries:
            answer = Answer(receive_tcp(client))
            got[answer.id] = answer
        assert all(got[i].questions[0][0] == name + "." and got[i].records("A") for i, name in enumerate(names))
        # Half a question and the end: no answer to it, and the connection ends.
        client.sendall(b"\0\x40abc")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b""
    keepalive = ask_tcp(served.port, probe(ZONE, edns=1232, options=option(11)))
    assert struct.unpack("!H", keepalive.options()[11])[0] == 100


def test_truncation_then_tcp(served):
    assert ask_udp(served.port, make_query(f"big.{ZONE}", "TXT", edns=1232)).tc
    assert len(ask_tcp(served.port, make_query(f"big.{ZONE}", "TXT")).records("TXT")) == 1
    out = run(need("kdig"), "@127.0.0.1", "-p", served.port, f"big.{ZONE}", "TXT").stdout
    assert "xxx" in out
    assert "wherry" in run("dig", "@127.0.0.1", "-p", served.port, "version.bind", "CH", "TXT").stdout


@pytest.fixture
def certificate(wherry):
    run(need("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=dns.example.test", "-addext", "subjectAltName=DNS:dns.example.test", "-keyout", wherry.folder / "key.pem",
        "-out", wherry.folder / "cert.pem")
    return wherry.folder / "cert.pem"


def test_tls(wherry, certificate):
    port = free_port()
    wherry.write("zone", zone_text(1, EXTRA, names=3000))
    wherry.start(f"zone {ZONE} {{ file zone\n allow-transfer any }}", f"    listen-tls 127.0.0.1:{port}\n    tls-certificate cert.pem\n    tls-key key.pem")
    out = run(need("kdig"), "@127.0.0.1", "-p", port, f"+tls-ca={certificate}", "+tls-hostname=dns.example.test", f"h7.{ZONE}").stdout
    assert "192.0.2.8" in out and "TLS" in out
    whole = run("kdig", "@127.0.0.1", "-p", port, "+tls", ZONE, "AXFR").stdout
    assert "h2999" in whole
    context = ssl.create_default_context(cafile=str(certificate))
    with socket.create_connection(("127.0.0.1", port), 20) as raw, context.wrap_socket(raw, server_hostname="dns.example.test") as client:
        queries = [make_query(f"h{i}.{ZONE}", "A", id=i) for i in range(50)]
        client.sendall(b"".join(struct.pack("!H", len(q)) + q for q in queries))
        assert {Answer(receive_tcp(client)).id for _ in queries} == set(range(50))
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(b"\0\x20" + bytes(200))  # not TLS at all
        client.settimeout(20)
        while client.recv(4096):
            pass
    assert wherry.ask(ZONE, "SOA").rcode == 0


def test_a_reload_takes_the_certificate_it_names(wherry, certificate):
    port = free_port()
    zones = f"zone {ZONE} {{ file zone }}"
    server = f"    listen-tls 127.0.0.1:{port}\n    tls-key %s.pem\n    tls-certificate %s.pem"
    wherry.write("zone", zone_text(1))
    wherry.start(zones, server % ("key", "cert"))
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=dns.example.test",
        "-keyout", wherry.folder / "key2.pem", "-out", wherry.folder / "cert2.pem")

    def served():
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=20).strip()

    assert served() == certificate.read_text().strip()
    wherry.configure(zones, server % ("key2", "cert2"))
    wherry.hang_up()
    wait_until(lambda: "server.reloaded" in wherry.log.read_text(), what="the reload")
    assert served() == (wherry.folder / "cert2.pem").read_text().strip()


def test_rate_limit(wherry):
    wherry.write("zone", zone_text(1))
    wherry.start(f"zone {ZONE} {{ file zone }}", "    rate-limit 20\n    rate-slip 2")
    counts = {"whole": 0, "cut": 0, "none": 0}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", wherry.port))
        client.settimeout(1)
        for i in range(400):
            client.send(make_query(f"h1.{ZONE}", "A", id=i))
        for _ in range(400):
            try:
                answer = Answer(client.recv(4096))
                counts["cut" if answer.tc else "whole"] += 1
            except TimeoutError:
                break
    assert 20 <= counts["whole"] <= 120 and counts["cut"] >= 100
    # Whoever has shown its address, by TCP or a cookie, is not limited.
    assert ask_tcp(wherry.port, make_query(f"h1.{ZONE}", "A")).records("A")
    cookie = ask_tcp(wherry.port, probe(ZONE, edns=1232, options=option(10, b"abcdefgh"))).options()[10]
    for _ in range(60):
        assert not ask_udp(wherry.port, probe(f"h1.{ZONE}", rtype="A", edns=1232, options=option(10, cookie))).tc


def test_metrics(wherry):
    port = free_port()
    wherry.write("zone", zone_text(1))
    wherry.start(f"zone {ZONE} {{ file zone }}", f"    metrics 127.0.0.1:{port}")
    for _ in range(5):
        wherry.ask(f"h1.{ZONE}")
    wherry.ask(f"none.{ZONE}")
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert int(values['wherry_dns_query_types_total{type="A"}']) == 6
    assert int(values['wherry_dns_responses_total{rcode="NXDOMAIN"}']) == 1
    assert int(values["wherry_dns_zones"]) == 1


def test_privileges_are_dropped(wherry):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    wherry.write("zone", zone_text(1))
    (wherry.folder / "state").mkdir()
    wherry.start(f"zone {ZONE} {{ file zone }}", f"    user nobody\n    chroot {wherry.folder}")
    status = dict(line.split(":\t", 1) for line in open(f"/proc/{wherry.process.pid}/status").read().splitlines() if ":\t" in line)
    nobody = pwd.getpwnam("nobody").pw_uid
    assert status["Uid"].split() == [str(nobody)] * 4 and int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert os.readlink(f"/proc/{wherry.process.pid}/root") == str(wherry.folder)
    wherry.write("zone", zone_text(2))
    wherry.hang_up()
    wait_until(lambda: wherry.serial(ZONE) == 2, what="a reload inside of the new root")


def test_reload_keeps_what_is_broken(wherry):
    wherry.write("zone", zone_text(1))
    wherry.start(f"zone {ZONE} {{ file zone }}")
    wherry.write("zone", zone_text(2) + "broken line here\n")
    wherry.hang_up()
    wait_until(lambda: "zone.load_failed" in wherry.log.read_text(), what="the complaint")
    assert wherry.serial(ZONE) == 1
    wherry.write("config", "server { log-level error }\nnonsense\n")
    wherry.hang_up()
    wait_until(lambda: "server.reload_failed" in wherry.log.read_text(), what="the complaint")
    assert wherry.serial(ZONE) == 1
    wherry.write("zone", zone_text(3))
    wherry.write("new", zone_text(5))
    wherry.configure(f"zone {ZONE} {{ file zone }}\nzone new.test {{ file new }}")
    wherry.hang_up()
    wait_until(lambda: wherry.serial("new.test") == 5 and wherry.serial(ZONE) == 3, what="the new configuration")
    # Nothing of what was refused was taken: the log still says what is no error.
    wait_until(lambda: "server.reloaded" in wherry.log.read_text(), what="the log")


def test_configuration_errors(wherry):
    for text, complaint in (("zone a.test { }", "needs"), ("zone a.test { file x", "not closed"), ("zonk", "zonk"),
                            ("server { listen nowhere }", "nowhere"), ("zone a.test { primary 1.2.3.4 key k }", "no key"),
                            ("zone a.test { file x; allow-update 127.0.0.1 }", "state"), ("}", "without"),
                            ("key k { secret !!! }", "secret"), ("zone a.test { file x }\nzone A.TEST { file y }", "twice")):
        wherry.write("config", text)
        done = run(binary("wherry-dns"), "--config", wherry.folder / "config", check=False)
        assert done.returncode == 2 and complaint in done.stderr, (text, done.stderr)


def test_answers_are_not_fragmented(wherry, tmp_path):
    """RFC 9715: what does not leave in one piece is sent truncated."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    wherry.write("zone", zone_text(1, EXTRA))
    wherry.configure(f"zone {ZONE} {{ file zone }}", "    udp-size 4096")
    wherry.spawn("unshare", "-n", "sh", "-c", f'ip link set lo mtu 1400 up && exec "$0" --config {wherry.folder / "config"}', binary("wherry-dns"))
    inside = ["nsenter", f"--net=/proc/{wherry.process.pid}/ns/net", "dig", "@127.0.0.1", "-p", wherry.port, "+tries=1", "+time=2", f"big.{ZONE}", "TXT"]
    wait_until(lambda: run(*inside, "+tcp", check=False).returncode == 0, what="an answer")
    assert "xxx" in run(*inside, "+tcp").stdout
    cut = run(*inside, "+bufsize=4096", "+ignore").stdout
    assert "flags: qr aa tc" in cut and "xxx" not in cut, cut
    assert "flags: qr aa rd;" in run(*inside, "+bufsize=4096", "+ignore", f"h1.{ZONE}", "A").stdout
