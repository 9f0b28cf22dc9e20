"""What ISC's DNS compliance tester (genreport) asks of an authoritative server, by the names that it reports its probes under, and
what it calls ok. Each over UDP and TCP, of an unsigned zone and of one that is signed online."""

import struct

import pytest

from support.dns import ask_tcp, ask_udp, encode_name, make_query, option, probe, zone_text

ZONES = ("example.test", "signed.test")
NSID, SUBNET, EXPIRE, COOKIE = option(3), option(8, bytes([0, 1, 0, 0])), option(9), option(10, bytes(range(1, 9)))
DO, VERSION_1 = 0x8000, dict(edns=4096, version=1)
AA, TC, RD, RA, Z, AD, CD = 0x400, 0x200, 0x100, 0x80, 0x40, 0x20, 0x10
TYPES = {"A": 1, "NS": 2, "MD": 3, "MF": 4, "CNAME": 5, "SOA": 6, "MB": 7, "MG": 8, "MR": 9, "NULL": 10, "WKS": 11, "PTR": 12, "HINFO": 13,
         "MINFO": 14, "MX": 15, "TXT": 16, "RP": 17, "AFSDB": 18, "X25": 19, "ISDN": 20, "RT": 21, "NSAP": 22, "NSAP-PTR": 23, "SIG": 24,
         "KEY": 25, "PX": 26, "GPOS": 27, "AAAA": 28, "LOC": 29, "NXT": 30, "SRV": 33, "NAPTR": 35, "KX": 36, "CERT": 37, "A6": 38,
         "DNAME": 39, "APL": 42, "DS": 43, "SSHFP": 44, "IPSECKEY": 45, "RRSIG": 46, "NSEC": 47, "DNSKEY": 48, "DHCID": 49, "NSEC3": 50,
         "NSEC3PARAM": 51, "TLSA": 52, "SMIMEA": 53, "HIP": 55, "CDS": 59, "CDNSKEY": 60, "OPENPGPKEY": 61, "SPF": 99, "NID": 104, "L32": 105,
         "L64": 106, "LP": 107, "EUI48": 108, "EUI64": 109, "URI": 256, "CAA": 257, "AVC": 258, "DOA": 259, "DLV": 32769, "TYPE1000": 1000}


def has_soa(answer) -> bool:
    return answer.rcode == 0 and answer.aa and bool(answer.records("SOA")) and not answer.flags & (TC | RA | Z | AD)


def is_plain(answer) -> bool:
    return has_soa(answer) and answer.opt is None and not answer.flags & RD


def is_edns(answer) -> bool:
    return has_soa(answer) and answer.opt is not None and answer.opt[3] & 0x00FF7FFF == 0


def is_badvers(answer) -> bool:
    """Version 1 is not known: said in version 0, with nothing in it."""
    return answer.rcode == 16 and answer.opt is not None and answer.opt[3] >> 16 & 255 == 0 and not answer.answer and not answer.flags & (AA | AD)


def is_notimp(answer) -> bool:
    return answer.rcode == 4 and answer.flags >> 11 & 15 == 15 and not answer.flags & (AA | TC | RD | RA | Z | AD | CD) and not answer.questions


def cookie_of(answer) -> bool:
    return answer.options().get(10, b"")[:8] == bytes(range(1, 9)) and len(answer.options()[10]) == 24


PROBES = {
    "dns": (dict(), is_plain),
    "aa": (dict(flags=AA), is_plain),
    "ad": (dict(flags=AD), is_plain),
    "cd": (dict(flags=CD), is_plain),
    "ra": (dict(flags=RA), is_plain),
    "rd": (dict(flags=RD), lambda a: has_soa(a) and a.flags & RD),
    "tc": (dict(flags=TC), is_plain),
    "zflag": (dict(flags=Z), is_plain),
    "type666": (dict(rtype=666), lambda a: a.rcode == 0 and a.aa and not a.answer and a.authority),
    "edns": (dict(edns=4096), lambda a: is_edns(a) and not a.opt[3] & DO),
    "edns1": (VERSION_1, is_badvers),
    "edns@512": (dict(edns=512, rtype="DNSKEY", do=True), lambda a: a.rcode == 0 and a.opt is not None and (len(a.wire) <= 512 or not a.tc)),
    "ednsopt": (dict(edns=4096, options=option(100)), lambda a: is_edns(a) and 100 not in a.options()),
    "edns1opt": (VERSION_1 | dict(options=option(100)), lambda a: is_badvers(a) and 100 not in a.options()),
    "do": (dict(edns=4096, do=True), lambda a: is_edns(a) and a.opt[3] & DO),
    "docd": (dict(edns=4096, do=True, flags=CD), lambda a: is_edns(a) and a.opt[3] & DO),
    "edns1do": (VERSION_1 | dict(do=True), lambda a: is_badvers(a) and a.opt[3] & DO),
    "ednsflags": (dict(edns=4096, ednsflags=0x80), is_edns),
    "optlist": (dict(edns=4096, options=NSID + SUBNET + EXPIRE + COOKIE),
                lambda a: is_edns(a) and a.options().get(3) == b"here" and a.options().get(8) == bytes([0, 1, 0, 0]) and cookie_of(a)),
    "ednsnsid": (dict(edns=4096, options=NSID), lambda a: is_edns(a) and a.options() == {3: b"here"}),
    "ednscookie": (dict(edns=4096, options=COOKIE), lambda a: is_edns(a) and cookie_of(a)),
    "ednsexpire": (dict(edns=4096, options=EXPIRE), is_edns),
    "ednssubnet": (dict(edns=4096, options=SUBNET), lambda a: is_edns(a) and a.options() == {8: bytes([0, 1, 0, 0])}),
    "edns1nsid": (VERSION_1 | dict(options=NSID), is_badvers),
    "edns1cookie": (VERSION_1 | dict(options=COOKIE), is_badvers),
    "edns1expire": (VERSION_1 | dict(options=EXPIRE), is_badvers),
    "edns1subnet": (VERSION_1 | dict(options=SUBNET), is_badvers),
    "ednstcp": (dict(edns=512, rtype="DNSKEY", do=True), lambda a: a.rcode == 0 and a.opt is not None),
    "bind11": (dict(edns=4096, do=True, options=COOKIE), lambda a: is_edns(a) and a.opt[3] & DO and cookie_of(a)),
    "dig11": (dict(edns=4096, flags=RD | AD, options=COOKIE), lambda a: has_soa(a) and a.flags & RD and cookie_of(a)),
    # Not genreport's: options that are wrong.
    "short cookie": (dict(edns=4096, options=option(10, b"123")), lambda a: a.rcode == 1),
    "subnet with a bit too many": (dict(edns=4096, options=option(8, bytes([0, 1, 24, 0, 192, 0, 2, 5]))), lambda a: a.rcode == 1),
    "padding": (dict(edns=4096, options=option(12, bytes(50))), is_edns),
}


@pytest.fixture(scope="module")
def served():
    from support.dns import Wherry
    with Wherry() as server:
        server.write("zone", zone_text(1))
        sign = "sign { keys keys }"
        yield server.start(f"zone {ZONES[0]} {{ file zone }}\nzone {ZONES[1]} {{ file zone\n {sign} }}", "    nsid here\n    version wherry")


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_probes(served, tcp, zone):
    wrong = []
    for name, (wanted, good) in PROBES.items():
        query = probe(zone, **wanted)
        answer = ask_tcp(served.port, query) if tcp else ask_udp(served.port, query)
        if not good(answer) or answer.id != struct.unpack("!H", query[:2])[0] or not answer.flags & 0x8000:
            wrong.append((name, answer.rcode, hex(answer.flags), answer.wire.hex()))
    assert not wrong


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_unknown_opcodes(served, tcp):
    """A header alone: what its flags mean is as unknown as the operation."""
    ask = ask_tcp if tcp else ask_udp
    for flags in (0, AA | TC | RD | RA | Z | AD | CD):
        assert is_notimp(ask(served.port, struct.pack("!6H", 4711, 15 << 11 | flags, 0, 0, 0, 0))), hex(flags)


def test_signed(served):
    """Signatures come with DO and without it do not."""
    for zone, signed in zip(ZONES, (False, True)):
        assert bool(ask_udp(served.port, probe(zone, edns=4096, do=True)).records("RRSIG")) == signed
        assert not ask_udp(served.port, probe(zone, edns=4096)).records("RRSIG")
    answer = ask_udp(served.port, probe(ZONES[1], rtype="DNSKEY", edns=512, do=True))
    assert answer.tc or answer.records("DNSKEY") and len(answer.wire) <= 512


@pytest.mark.parametrize("zone", ZONES)
def test_every_type(served, zone):
    wrong = []
    for name, number in TYPES.items():
        answer = ask_udp(served.port, make_query(zone, number))
        if answer.rcode != 0 or not answer.aa or not (answer.answer or answer.authority):
            wrong.append((name, answer.rcode, answer.wire.hex()))
    assert not wrong


def test_a_key_that_everybody_knows(served):
    """genreport's "dnswkk": signed with a key named "." that is not known here (RFC 8945 section 5.2.1)."""
    query = make_query(ZONES[0], "SOA", id=7)
    rdata = encode_name("hmac-sha256") + struct.pack("!HIHH", 0, 0, 300, 32) + bytes(32) + struct.pack("!HHH", 7, 0, 0)
    query = query[:10] + b"\0\1" + query[12:] + b"\0" + struct.pack("!HHIH", 250, 255, 0, len(rdata)) + rdata
    answer = ask_udp(served.port, query)
    [tsig] = [r for r in answer.additional if r[1] == 250]
    assert answer.rcode == 9 and not answer.answer and struct.unpack("!HH", tsig[5][-4:]) == (17, 0)  # NOTAUTH, BADKEY
