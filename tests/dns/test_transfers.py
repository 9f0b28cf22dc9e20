"""Transfers with NSD, Knot and BIND both ways: AXFR, IXFR, NOTIFY, signed with TSIG."""

import random
import signal
import struct

import pytest

from support.dns import (Answer, KEY_SECRET, Wherry, bind_key, encode_name, knot_key, make_query, need, nsd_key,
                         receive_tcp, run, serial_of, wait_serial, wait_until, wherry_key, zone_text)

ZONE = "example.test"


def start_secondary(peer, kind: str, primary_port: int, key: bool, zone=ZONE):
    """Another server that follows ours."""
    if kind == "nsd":
        name = "transfer.key" if key else "NOKEY"
        peer.start(f'zone:\n    name: {zone}\n    zonefile: "{zone}.zone"\n    request-xfr: 127.0.0.1@{primary_port} {name}\n'
                   f"    allow-notify: 127.0.0.1 {name}\n", nsd_key())
    elif kind == "knot":
        use = "\n    key: transfer.key" if key else ""
        peer.start(f"zone:\n  - domain: {zone}\n    master: primary\n    acl: notify\n",
                   knot_key() + f"remote:\n  - id: primary\n    address: 127.0.0.1@{primary_port}{use}\n"
                   f"acl:\n  - id: notify\n    address: 127.0.0.1\n    action: notify{use}\n")
    else:
        use = ' key "transfer.key"' if key else ""
        peer.start(f'zone "{zone}" {{ type secondary; file "{zone}.zone"; masterfile-format text; '
                   f"primaries {{ 127.0.0.1 port {primary_port}{use}; }}; allow-notify {{ 127.0.0.1; }}; }};\n", bind_key())


def start_primary(peer, kind: str, text: str, secondary_port: int, key: bool, zone=ZONE):
    """Another server that ours follows."""
    peer.write(f"{zone}.zone", f"$ORIGIN {zone}.\n" + text)
    if kind == "nsd":
        name = "transfer.key" if key else "NOKEY"
        peer.start(f'zone:\n    name: {zone}\n    zonefile: "{zone}.zone"\n    provide-xfr: 127.0.0.1 {name}\n'
                   f"    notify: 127.0.0.1@{secondary_port} {name}\n", nsd_key())
    elif kind == "knot":
        use = "\n    key: transfer.key" if key else ""
        peer.start(f'zone:\n  - domain: {zone}\n    file: "{zone}.zone"\n    notify: secondary\n    acl: transfer\n'
                   "    zonefile-load: difference\n    zonefile-sync: -1\n    journal-content: changes\n",
                   knot_key() + f"remote:\n  - id: secondary\n    address: 127.0.0.1@{secondary_port}{use}\n"
                   f"acl:\n  - id: transfer\n    address: 127.0.0.1\n    action: transfer{use}\n")
    else:
        use = ' key "transfer.key"' if key else ""
        allow = '{ key "transfer.key"; }' if key else "{ 127.0.0.1; }"
        peer.start(f'zone "{zone}" {{ type primary; file "{zone}.zone"; ixfr-from-differences yes; allow-transfer {allow}; '
                   f"also-notify {{ 127.0.0.1 port {secondary_port}{use}; }}; }};\n", bind_key())


def assert_agree(wherry, peer, name: str, rtype: str = "A"):
    """The follower answers as we do. It may have a process left for a moment that answers from the version before (NSD's reload)."""
    def answers(server):
        answer = server.ask(f"{name}.{ZONE}", rtype)
        return answer.rcode, answer.canonical("answer")

    wait_until(lambda: answers(peer) == answers(wherry), what=f"the same answer to {name} {rtype}")


@pytest.mark.parametrize("key", [False, True], ids=["plain", "tsig"])
@pytest.mark.parametrize("kind", ["nsd", "knot", "bind"])
def test_others_follow_us(wherry, request, kind, key):
    peer = request.getfixturevalue(kind)
    use = " key transfer.key" if key else ""
    rule = "key transfer.key" if key else "127.0.0.1"
    wherry.write("zone", zone_text(1))
    wherry.start(f"zone {ZONE} {{ file zone\n notify 127.0.0.1:{peer.port}{use}\n allow-transfer {rule} }}", extra=wherry_key())
    start_secondary(peer, kind, wherry.port, key)
    wait_serial(peer.port, ZONE, 1)
    assert_agree(wherry, peer, "h7")
    # A new version arrives by NOTIFY, not by waiting for the refresh an hour later.
    wherry.write("zone", zone_text(2, "added TXT \"two\"").replace("h5 A", "h5x A"))
    wherry.hang_up()
    wait_serial(peer.port, ZONE, 2)
    for name in ("added", "h5", "h5x", "h6"):
        for rtype in ("TXT", "A"):
            assert_agree(wherry, peer, name, rtype)


@pytest.mark.parametrize("key", [False, True], ids=["plain", "tsig"])
@pytest.mark.parametrize("kind", ["nsd", "knot", "bind"])
def test_we_follow_others(wherry, request, kind, key):
    peer = request.getfixturevalue(kind)
    use = " key transfer.key" if key else ""
    start_primary(peer, kind, zone_text(1, names=3000), wherry.port, key)
    wherry.start(f"zone {ZONE} {{ primary 127.0.0.1:{peer.port}{use} }}", extra=wherry_key())
    wait_serial(wherry.port, ZONE, 1)
    peer.write(f"{ZONE}.zone", f"$ORIGIN {ZONE}.\n" + zone_text(2, "added TXT two", names=3000).replace("h5 A", "h5x A"))
    peer.hang_up()
    wait_serial(wherry.port, ZONE, 2)
    for name in ("added", "h5", "h5x", "h2999"):
        for rtype in ("TXT", "A"):
            ours, theirs = wherry.ask(f"{name}.{ZONE}", rtype), peer.ask(f"{name}.{ZONE}", rtype)
            assert (ours.rcode, ours.canonical("answer")) == (theirs.rcode, theirs.canonical("answer"))
    if kind != "nsd":  # which gives whole zones only
        wait_until(lambda: "kind=IXFR" in wherry.log.read_text(), what="an incremental transfer")
    # What was transferred survives the primary and our own end.
    peer.stop()
    wherry.stop(signal.SIGKILL)
    wherry.restart()
    wait_serial(wherry.port, ZONE, 2)
    assert wherry.ask(f"added.{ZONE}", "TXT").records("TXT")


def test_dig_and_kdig_transfer(wherry):
    wherry.write("zone", zone_text(1, names=500))
    wherry.start(f"zone {ZONE} {{ file zone\n allow-transfer key transfer.key }}", extra=wherry_key())
    secret = f"hmac-sha256:transfer.key:{KEY_SECRET}"
    whole = run(need("dig"), "@127.0.0.1", "-p", wherry.port, "-y", secret, ZONE, "AXFR", "+noall", "+answer").stdout
    assert len(whole.strip().splitlines()) == 505 and "h499" in whole
    knot_view = run(need("kdig"), "@127.0.0.1", "-p", wherry.port, "-y", secret, ZONE, "AXFR").stdout
    assert "h499" in knot_view and "BADSIG" not in knot_view
    refused = run("dig", "@127.0.0.1", "-p", wherry.port, ZONE, "AXFR", check=False).stdout
    assert "Transfer failed" in refused
    wrong = f"hmac-sha256:transfer.key:{KEY_SECRET[:-6]}AAAAA="
    assert "BADSIG" in run("dig", "@127.0.0.1", "-p", wherry.port, "-y", wrong, ZONE, "SOA", check=False).stdout
    unknown = f"hmac-sha256:other.key:{KEY_SECRET}"
    assert "BADKEY" in run("dig", "@127.0.0.1", "-p", wherry.port, "-y", unknown, ZONE, "SOA", check=False).stdout
    signed = run("dig", "@127.0.0.1", "-p", wherry.port, "-y", secret, ZONE, "SOA").stdout
    assert "NOERROR" in signed and "TSIG" in signed and "verify signature" not in signed


@pytest.mark.parametrize("algorithm", ["hmac-sha1", "hmac-sha224", "hmac-sha384", "hmac-sha512"])
def test_tsig_algorithms(wherry, algorithm):
    wherry.write("zone", zone_text(1))
    wherry.start(f"zone {ZONE} {{ file zone\n allow-transfer key k }}", extra=wherry_key("k", algorithm))
    out = run(need("dig"), "@127.0.0.1", "-p", wherry.port, "-y", f"{algorithm}:k:{KEY_SECRET}", ZONE, "AXFR").stdout
    assert "Transfer failed" not in out and "h19" in out and "verify" not in out


def test_incremental(wherry):
    """Differences between versions of a file are served as IXFR; an unknown serial gets the whole zone."""
    wherry.write("zone", zone_text(1, names=200))
    config = f"zone {ZONE} {{ file zone\n allow-transfer any }}"
    wherry.start(config)
    for serial in (2, 3):
        wherry.write("zone", zone_text(serial, f"v{serial} TXT x", names=200))
        wherry.hang_up()
        wait_serial(wherry.port, ZONE, serial)
    out = run(need("dig"), "@127.0.0.1", "-p", wherry.port, "+tcp", ZONE, "IXFR=1", "+noall", "+answer").stdout.strip().splitlines()
    assert [line.split()[3] for line in out] == ["SOA", "SOA", "SOA", "TXT", "SOA", "TXT", "SOA", "TXT", "SOA"]
    out = run("dig", "@127.0.0.1", "-p", wherry.port, "+tcp", ZONE, "IXFR=77", "+noall", "+answer").stdout
    assert len(out.strip().splitlines()) == 1  # newer than ours: nothing to send
    out = run("dig", "@127.0.0.1", "-p", wherry.port, ZONE, "IXFR=0", "+notcp", "+noall", "+answer").stdout
    assert len(out.strip().splitlines()) == 1  # UDP: ask again over TCP
    out = run("dig", "@127.0.0.1", "-p", wherry.port, "+tcp", ZONE, "IXFR=3000000000", "+noall", "+answer").stdout
    assert len(out.strip().splitlines()) > 200


def test_notify_is_not_for_everybody(wherry):
    wherry.start(f"zone {ZONE} {{ primary 127.0.0.1:9 key transfer.key }}", extra=wherry_key())
    query = make_query(ZONE, "SOA", opcode=4)
    from support.dns import ask_udp
    assert ask_udp(wherry.port, query).rcode == 5
    assert ask_udp(wherry.port, make_query("other.test", "SOA", opcode=4)).rcode == 9
    assert wherry.ask(ZONE, "SOA").rcode == 2  # nothing to serve yet: SERVFAIL
