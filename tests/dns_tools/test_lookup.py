"""wherry dns lookup beside dig: the same answers, from real servers and from servers that cheat."""

import json
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import textwrap

import pytest

from support.binaries import binary

WWW = ["127.0.0.80", "127.0.0.81"]


def lookup(world, *words, **keywords):
    return world.run("names", binary("wherry"), "dns", "lookup", *words, **keywords)


def test_addresses_of_a_name(names):
    result = lookup(names, "www.example.test", "@127.0.0.12")
    assert result.returncode == 0, result
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["www.example.test.", "300", "A", "127.0.0.80"] in lines
    assert ["www.example.test.", "300", "AAAA", "fd99::80"] in lines
    assert result.stdout.splitlines()[-1].startswith(";; from 127.0.0.12:53 by UDP in ")


@pytest.mark.parametrize("name, kind", [("www.example.test", "A"), ("example.test", "MX"), ("alias.example.test", "A"), ("text.example.test", "TXT"),
                                        ("example.test", "SOA"), ("big.example.test", "A")])
def test_same_answers_as_dig(names, name, kind):
    if not shutil.which("dig"):
        pytest.skip("dig is not installed")
    theirs = names.must("names", "dig", "+short", f"@127.0.0.12", name, kind)
    ours = lookup(names, "--short", name, kind, "@127.0.0.12")
    assert sorted(ours.stdout.splitlines()) == sorted(theirs.splitlines()) != []


def test_reverse_of_an_address(names):
    result = lookup(names, "127.0.0.80", "--short", "@127.0.0.13")
    assert (result.returncode, result.stdout) == (0, "www.example.test.\n")


def test_a_truncated_answer_is_fetched_by_tcp(names):
    answer = json.loads(lookup(names, "big.example.test", "A", "@127.0.0.12", "--json").stdout)[0]
    assert answer["transport"] == "TCP"
    assert len(answer["answer"]) == 119


def test_json_has_the_whole_answer(names):
    answer = json.loads(lookup(names, "www.example.test", "A", "@127.0.0.12", "+json", "+subnet=192.0.2.0/24").stdout)[0]
    assert answer["status"] == "NOERROR"
    assert "aa" in answer["flags"].split()
    assert answer["question"] == [{"name": "www.example.test.", "class": "IN", "type": "A"}]
    assert sorted(record["data"] for record in answer["answer"]) == WWW
    assert answer["edns"]["version"] == 0


def test_exit_codes(names):
    missing = lookup(names, "nothing.example.test", "@127.0.0.12")
    assert missing.returncode == 1 and "no such name" in missing.stderr
    no_data = lookup(names, "ns.test", "MX", "@127.0.0.11", "--short")
    assert (no_data.returncode, no_data.stdout) == (1, "")
    silent = lookup(names, "www.example.test", "@127.0.0.77", "+time=0.1", "+tries=1")
    assert silent.returncode == 9 and "127.0.0.77" in silent.stderr


@pytest.mark.parametrize("words, reason", [
    ([], "at least 1 argument"), (["a..b", "@127.0.0.12"], "a..b"), (["x", "NOTYPE", "@127.0.0.12"], "NOTYPE"), (["x", "+nonsense"], "+nonsense"),
    (["x", "+subnet=300.0.0.0/8"], "300.0.0.0/8"), (["x", "--timeout", "nan"], "seconds"), (["x", "--tries", "0"], "tries"), (["x", "--port", "70000"], "port"),
    (["x", "+noedns", "+dnssec", "@127.0.0.12"], "EDNS"), (["x" * 64, "@127.0.0.12"], "x" * 20),
])
def test_bad_words_are_refused_with_the_reason(names, words, reason):
    result = lookup(names, *words)
    assert result.returncode != 0
    assert reason in result.stderr, result.stderr


def test_trace_goes_down_from_the_root(names):
    result = lookup(names, "www.example.test", "A", "--trace", "--root", "127.0.0.10")
    assert result.returncode == 0, result
    lines = result.stdout.splitlines()
    assert lines[0].startswith(". asked at 127.0.0.10:53")
    assert "see test. at ns.test." in lines[0]
    assert "see example.test. at ns.glueless.other." in lines[1]
    # The server's address is no glue of that referral: it is looked up from the root, one level deeper.
    assert any(line.startswith("  ") and "ns.glueless.other." in line for line in lines), lines
    assert any(line.split()[-1] == "127.0.0.80" for line in lines)


def test_trace_follows_an_alias_out_of_the_zone(names):
    steps = json.loads(lookup(names, "away.example.test", "A", "--trace", "--root", "127.0.0.10", "--json").stdout)
    assert [record["data"] for record in steps[-1]["answer"] if record["type"] == "A"] == ["127.0.0.11"]
    assert steps[-1]["depth"] == 1


def test_trace_names_the_servers_that_do_not_answer(names):
    result = lookup(names, "www.lame", "A", "--trace", "--root", "127.0.0.10", "+time=0.1", "+tries=1")
    assert result.returncode != 0
    assert "no server of lame." in result.stderr and "127.0.0.99" in result.stderr


def test_transfer(names):
    ours = lookup(names, "example.test", "AXFR", "@127.0.0.12")
    if ours.returncode == 0:
        assert f"www.example.test." in ours.stdout and ours.stdout.splitlines()[-1].startswith(";; ")
    else:
        assert "REFUSED" in ours.stderr or "NOTIMP" in ours.stderr, ours


def test_rank_names_the_best_address(names):
    # 127.0.0.80 resets at once; 127.0.0.98 drops what it gets.
    names.must("names", "nft", "add table inet w; add chain inet w in { type filter hook input priority 0; }; add rule inet w in ip daddr 127.0.0.98 drop")
    result = lookup(names, "near.example.test", "--rank", "@127.0.0.12", timeout=60)
    assert result.returncode == 0, result
    lines = result.stdout.splitlines()
    assert lines[-1] == "best: 127.0.0.80"
    assert lines[1].startswith("*") and "127.0.0.80" in lines[1]
    assert "127.0.0.98" in lines[2] and "100%" in lines[2]
    report = json.loads(lookup(names, "near.example.test", "--rank", "@127.0.0.12", "--json", timeout=60).stdout)
    assert report["best"] == "127.0.0.80"
    assert [entry["address"] for entry in report["addresses"]] == ["127.0.0.80", "127.0.0.98"]


CHEAT = textwrap.dedent("""
    import socket, sys
    kind = sys.argv[1]
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.60", 53))
    print("ready", flush=True)
    while True:
        data, peer = s.recvfrom(4096)
        end = 12
        while data[end]: end += data[end] + 1
        question = data[12:end + 5]
        def answer(id, address, q=question, flags=b"\\x84\\x00"):
            return id + flags + b"\\0\\1\\0\\1\\0\\0\\0\\0" + q + b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + bytes(address)
        wrong = bytes([data[0] ^ 255, data[1]])
        if kind == "spoof":
            s.sendto(answer(wrong, [6, 6, 6, 6]), peer)                                  # another id
            s.sendto(answer(data[:2], [6, 6, 6, 6], b"\\4evil\\4test\\0\\0\\1\\0\\1"), peer)  # another question
            s.sendto(answer(data[:2], [6, 6, 6, 6], flags=b"\\4\\0"), peer)                # no answer at all
            s.sendto(b"x", peer)
            s.sendto(answer(data[:2], [192, 0, 2, 1]), peer)
        elif kind == "garbage":
            s.sendto(data[:2] + b"\\x84\\x00\\0\\1\\xff\\xff\\xff\\xff\\xff\\xff" + question + b"\\xc0\\xff\\0\\1" * 20, peer)
        elif kind == "loop":
            s.sendto(data[:2] + b"\\x84\\x00\\0\\1\\0\\1\\0\\0\\0\\0" + question + b"\\xc0" + bytes([12 + len(question)]) + b"\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4abcd", peer)
""")


@pytest.fixture
def cheat(names):
    def start(kind):
        process = names.start("names", sys.executable, "-c", CHEAT, kind, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        started.append(process)

    started = []
    yield start
    for process in started:
        process.kill()
        process.wait()


def test_only_the_real_answer_is_believed(names, cheat):
    cheat("spoof")
    result = lookup(names, "www.example.test", "A", "@127.0.0.60", "--short", "+tries=1")
    assert result.stdout == "192.0.2.1\n", result


@pytest.mark.parametrize("kind", ["garbage", "loop"])
def test_broken_answers_are_an_error(names, cheat, kind):
    cheat(kind)
    result = lookup(names, "www.example.test", "A", "@127.0.0.60", "+tries=1", "+time=1")
    assert result.returncode == 9 and result.stderr, result


TLS_SERVER = textwrap.dedent("""
    import socket, ssl, struct, sys
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    listener = socket.create_server(("127.0.0.61", 853))
    print("ready", flush=True)
    while True:
        try:
            stream = context.wrap_socket(listener.accept()[0], server_side=True)
            length = struct.unpack(">H", stream.recv(2))[0]
            data = stream.recv(length)
            end = 12
            while data[end]: end += data[end] + 1
            body = data[:2] + b"\\x84\\x00\\0\\1\\0\\1\\0\\0\\0\\0" + data[12:end + 5] + b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\xc0\\0\\2\\x35"
            stream.sendall(struct.pack(">H", len(body)) + body)
            stream.close()
        except OSError:
            pass
""")


def test_tls_and_its_certificate(names, tmp_path):
    pem = tmp_path / "server.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=dns.test",
                    "-addext", "subjectAltName=DNS:dns.test", "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")],
                   check=True, capture_output=True)
    pem.write_text((tmp_path / "key.pem").read_text() + (tmp_path / "cert.pem").read_text())
    server = names.start("names", sys.executable, "-c", TLS_SERVER, str(pem), stdout=subprocess.PIPE)
    try:
        assert server.stdout.readline() == b"ready\n"
        opportunistic = lookup(names, "www.example.test", "A", "@127.0.0.61", "+tls", "--short")
        assert opportunistic.stdout == "192.0.2.53\n", opportunistic
        checked = lookup(names, "www.example.test", "A", "@127.0.0.61", "+tls", "--tls-name", "dns.test", "--tls-ca", str(tmp_path / "cert.pem"), "--short")
        assert checked.stdout == "192.0.2.53\n", checked
        for words in (["--tls-name", "other.test", "--tls-ca", str(tmp_path / "cert.pem")], ["--tls-name", "dns.test"]):
            refused = lookup(names, "www.example.test", "A", "@127.0.0.61", "+tls", *words)
            assert refused.returncode == 9 and "certificate" in refused.stderr, refused
    finally:
        server.kill()
        server.wait()
