"""DNSSEC as a validator sees it: zones that came signed, and zones signed while answering."""

import os
import pwd
import signal
import stat

import pytest

from support.dns import TYPES, Knot, Nsd, ask_udp, need, probe, run, wait_until, zone_text, serial_of

ZONE = "example.test"
EXTRA = """
*.wild A 192.0.2.80
*.wild TXT "wild"
deep.empty.nonterminal A 192.0.2.81
alias CNAME h1
outside CNAME www.elsewhere.test.
loop CNAME alias
dn DNAME nonterminal
unsigned NS ns.unsigned
ns.unsigned A 192.0.2.82
signed NS ns.signed
ns.signed A 192.0.2.83
signed DS 12345 13 2 000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F
mixed.Case A 192.0.2.84
mail MX 10 h1
mail MX 20 h2
"""
# name, type, and what delv says
QUESTIONS = [
    ("", "SOA", "fully validated"), ("", "NS", "fully validated"), ("", "DNSKEY", "fully validated"),
    ("h1", "A", "fully validated"), ("h1", "AAAA", "negative response, fully validated"),
    ("mail", "MX", "fully validated"), ("none", "A", "negative response, fully validated"),
    ("none.h1", "A", "negative response, fully validated"), ("a.b.c.d", "TXT", "negative response, fully validated"),
    ("x.wild", "A", "fully validated"), ("y.x.wild", "TXT", "fully validated"), ("x.wild", "MX", "negative response, fully validated"),
    ("wild", "A", "negative response, fully validated"), ("*.wild", "A", "fully validated"),
    ("empty.nonterminal", "A", "negative response, fully validated"), ("alias", "A", "fully validated"),
    ("loop", "A", "fully validated"), ("signed", "DS", "fully validated"), ("unsigned", "DS", "negative response, fully validated"),
    ("MIXED.case", "A", "fully validated"), ("deep.empty.dn", "A", "fully validated"),
]


def anchors(folder, dnskey_lines: str):
    """delv's trust anchors from DNSKEY records, secure entry points only."""
    keys = []
    for line in dnskey_lines.splitlines():
        fields = line.split()
        if "DNSKEY" not in fields:
            continue
        at = fields.index("DNSKEY")
        if fields[at + 1] == "257":
            keys.append(f'  "{ZONE}." static-key {fields[at + 1]} {fields[at + 2]} {fields[at + 3]} "{"".join(fields[at + 4:])}";')
    assert keys, dnskey_lines
    path = folder / "anchors"
    path.write_text("trust-anchors {\n" + "\n".join(keys) + "\n};\n")
    return path


def validate(server, questions=QUESTIONS):
    keys = run("dig", "@127.0.0.1", "-p", server.port, ZONE, "DNSKEY", "+noall", "+answer", "+tcp").stdout
    path = anchors(server.folder, keys)
    wrong = []
    for name, rtype, wanted in questions:
        full = f"{name}.{ZONE}" if name else ZONE
        done = run(need("delv"), "@127.0.0.1", "-p", server.port, "-a", path, f"+root={ZONE}", full, rtype, check=False)
        said = next((line for line in done.stdout.splitlines() if line.startswith("; ") and "validated" in line), done.stdout + done.stderr)
        if said != "; " + wanted:
            wrong.append((full, rtype, said))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("denial", ["compact", "nsec3"])
@pytest.mark.parametrize("algorithm", ["ecdsap256sha256", "ed25519"])
def test_online(wherry, algorithm, denial):
    wherry.write("zone", zone_text(1, EXTRA))
    wherry.start(f"zone {ZONE} {{ file zone\n sign {{ keys keys\n algorithm {algorithm}\n denial {denial} }} }}")
    validate(wherry)
    validate(wherry, QUESTIONS[6:11])  # from the cache
    # Without DO nothing of it is seen.
    assert not wherry.ask(f"h1.{ZONE}").records("RRSIG")
    assert wherry.ask(f"none.{ZONE}").rcode == 3
    # The compact form says NOERROR to those who want proofs.
    assert wherry.ask(f"none.{ZONE}", do=True).rcode == (0 if denial == "compact" else 3)
    for path in (wherry.folder / "keys").glob("*.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # The same keys after a restart.
    before = wherry.ask(ZONE, "DNSKEY", tcp=True).canonical("answer")
    wherry.stop()
    wherry.restart()
    assert wherry.ask(ZONE, "DNSKEY", tcp=True).canonical("answer") == before


def test_keys_are_in_another_process(wherry):
    wherry.write("zone", zone_text(1, EXTRA))
    wherry.start(f"zone {ZONE} {{ file zone\n sign {{ keys keys }} }}", "    user nobody" if os.geteuid() == 0 else "")
    pid = wherry.process.pid
    children = open(f"/proc/{pid}/task/{pid}/children").read().split()
    assert len(children) == 1 and open(f"/proc/{children[0]}/comm").read().strip() == "dns-signer"
    validate(wherry, QUESTIONS[:4])
    # Without it there are no new signatures, and no wrong answers either.
    os.kill(int(children[0]), signal.SIGKILL)
    answer = wherry.ask(f"h9.{ZONE}", do=True)
    assert answer.rcode == 2 and not answer.answer
    assert wherry.ask(f"h9.{ZONE}").records("A")


def test_the_signer_may_little(wherry):
    """One capability or, as another user, none; no files but the keys; no system calls but a few."""
    if os.geteuid() != 0:
        pytest.skip("needs root")

    def signer():
        pid = wherry.process.pid
        child = open(f"/proc/{pid}/task/{pid}/children").read().split()[0]
        return dict(line.split(":\t", 1) for line in open(f"/proc/{child}/status").read().splitlines() if ":\t" in line)

    wherry.write("zone", zone_text(1, EXTRA))
    zones = f"zone {ZONE} {{ file zone\n sign {{ keys keys }} }}"
    wherry.start(zones)
    status = signer()
    assert status["Seccomp"] == "2" and int(status["CapEff"], 16) in (0, 2) and int(status["CapBnd"], 16) in (0, 2), status
    keys = wherry.ask(ZONE, "DNSKEY", tcp=True).canonical("answer")
    wherry.stop()
    # The same keys, now another user's.
    wherry.configure(zones, "    signer-user daemon\n    user nobody")
    wherry.restart()
    status, daemon = signer(), pwd.getpwnam("daemon").pw_uid
    assert status["Uid"].split() == [str(daemon)] * 4 and int(status["CapEff"], 16) == 0
    assert wherry.ask(ZONE, "DNSKEY", tcp=True).canonical("answer") == keys
    validate(wherry, QUESTIONS[:6])
    assert {p.stat().st_uid for p in (wherry.folder / "keys").iterdir()} == {daemon}
    # A folder that it was not started with is closed to it.
    wherry.write("zone2", zone_text(1))
    (wherry.folder / "other").mkdir(mode=0o777)
    (wherry.folder / "other").chmod(0o777)
    wherry.configure(zones + "\nzone second.test { file zone2\n sign { keys other } }", "    signer-user daemon\n    user nobody")
    wherry.hang_up()
    wait_until(lambda: "second.test" in wherry.log.read_text() and "Permission denied" in wherry.log.read_text(), what="the refusal")
    assert not list((wherry.folder / "other").iterdir())
    validate(wherry, QUESTIONS[:2])


def test_zone_and_key_signing_keys(wherry):
    wherry.write("zone", zone_text(1, EXTRA))
    config = f"zone {ZONE} {{ file zone\n sign {{ keys keys\n zone-key-lifetime 30d }} }}"
    wherry.start(config)
    validate(wherry)
    flags = sorted(r[5][:2] for r in wherry.ask(ZONE, "DNSKEY", tcp=True).records("DNSKEY"))
    assert flags == [b"\1\0", b"\1\1"]
    # A month later in the files' view: a new zone signing key is published, the old one still signs.
    for state in (wherry.folder / "keys").glob("*.state"):
        text = state.read_text()
        if "flags 256" in text:
            moment = int(text.split("activate ")[1].split()[0])
            state.write_text(text.replace(f"activate {moment}", f"activate {moment - 30 * 86400 + 600}"))
    wherry.hang_up()
    wait_until(lambda: len(wherry.ask(ZONE, "DNSKEY", tcp=True).records("DNSKEY")) == 3, what="a second zone signing key")
    validate(wherry)


def test_key_rollover(wherry):
    from support.binaries import binary
    wherry.write("zone", zone_text(1, EXTRA))
    wherry.start(f"zone {ZONE} {{ file zone\n sign {{ keys keys }} }}")
    before = run(binary("wherry-dns"), "--config", wherry.folder / "config", "--list-ds", ZONE).stdout
    assert len(before.strip().splitlines()) == 1
    made = run(binary("wherry-dns"), "--config", wherry.folder / "config", "--roll-key", ZONE).stdout
    wherry.hang_up()
    wait_until(lambda: len(wherry.ask(ZONE, "DNSKEY", tcp=True).records("DNSKEY")) == 2, what="the new key")
    answer = wherry.ask(ZONE, "DNSKEY", tcp=True, do=True)
    assert len(answer.records("RRSIG")) == 2  # either key's DS will do
    assert len(wherry.ask(ZONE, "CDS", tcp=True).records("CDS")) == 2
    validate(wherry)
    assert len(run(binary("wherry-dns"), "--config", wherry.folder / "config", "--list-ds", ZONE).stdout.strip().splitlines()) == 2
    run(binary("wherry-dns"), "--config", wherry.folder / "config", "--retire-keys", ZONE)
    states = [p.read_text() for p in (wherry.folder / "keys").glob("*.state")]
    assert sum("retire 0" in s for s in states) == 1 and made.split()[0] == ZONE + "."


def sign_zone(folder, nsec3: bool, optout=False):
    (folder / "zone").write_text(f"$ORIGIN {ZONE}.\n" + zone_text(1, EXTRA))
    base = run(need("dnssec-keygen"), "-K", folder, "-a", "ECDSAP256SHA256", "-f", "KSK", ZONE).stdout.strip()
    zsk = run("dnssec-keygen", "-K", folder, "-a", "ECDSAP256SHA256", ZONE).stdout.strip()
    arguments = ["-3", "ABCD", "-H", "3"] if nsec3 else []
    if optout:
        arguments.append("-A")
    run(need("dnssec-signzone"), "-S", "-K", folder, "-o", ZONE, *arguments, "-f", folder / "zone.signed", folder / "zone", cwd=folder)
    return base, zsk


@pytest.mark.parametrize("kind", ["nsec", "nsec3", "optout"])
def test_presigned(wherry, nsd, knot, kind):
    sign_zone(wherry.folder, kind != "nsec", kind == "optout")
    wherry.start(f"zone {ZONE} {{ file zone.signed\n allow-transfer any }}")
    # With opt-out, what is not there is not proven (RFC 5155 section 6): delv calls such answers unsigned.
    questions = QUESTIONS if kind != "optout" else [q for q in QUESTIONS if q[0] not in ("unsigned", "x.wild", "y.x.wild")]
    validate(wherry, questions)
    signed = (wherry.folder / "zone.signed").read_text()
    for peer in (nsd, knot):
        peer.write("zone.signed", signed)
    nsd.start(f'zone:\n    name: {ZONE}\n    zonefile: "zone.signed"\n')
    knot.start(f'zone:\n  - domain: {ZONE}\n    file: "zone.signed"\n    zonefile-sync: -1\n    journal-content: none\n')
    wrong = []
    names = [q[0] for q in QUESTIONS] + ["h1.none", "zzz", "a", "x.unsigned", "x.signed", "ns.unsigned", "q.dn", "*.wild", "n.*.wild"]
    for name in sorted(set(names)):
        full = f"{name}.{ZONE}" if name else ZONE
        for rtype in ("A", "TXT", "DS", "NS", "MX", "CNAME", "SOA", "DNSKEY", "NSEC"):
            ours, theirs = (s.ask(full, rtype, do=True, edns=4096, tcp=True) for s in (wherry, nsd))
            knots = knot.ask(full, rtype, do=True, edns=4096, tcp=True)
            mine = (ours.rcode, ours.aa, ours.canonical("answer"), ours.canonical("authority"))
            others = [(o.rcode, o.aa, o.canonical("answer"), o.canonical("authority")) for o in (theirs, knots)]
            if mine not in others:
                wrong.append((full, rtype, mine, others[0], others[1]))
    assert not wrong, f"{len(wrong)} differ, first: " + "\n".join(str(w) for w in wrong[0]) + str([w[:2] for w in wrong])


@pytest.mark.parametrize("denial", ["compact", "nsec3"])
@pytest.mark.parametrize("algorithm", ["ecdsap256sha256", "ed25519"])
def test_ldns_validates_what_we_sign(wherry, algorithm, denial):
    """ldns's drill chases signatures to the key, and finds denials proven; with another key it does not."""
    wherry.write("zone", zone_text(1, EXTRA))
    wherry.start(f"zone {ZONE} {{ file zone\n sign {{ keys keys\n algorithm {algorithm}\n denial {denial} }} }}")
    key = run("dig", "@127.0.0.1", "-p", wherry.port, ZONE, "DNSKEY", "+noall", "+answer", "+tcp").stdout
    trusted, other = wherry.folder / "key", wherry.folder / "other"
    trusted.write_text(key)
    fields = key.split()
    other.write_text(" ".join(fields[:7] + ["AAAA" + "".join(fields[7:])[4:]]) + "\n")

    def chase(name, rtype, anchor=trusted):
        return run(need("drill"), "-S", "-k", anchor, "-p", wherry.port, "@127.0.0.1", f"{name}.{ZONE}", rtype, check=False).stdout

    for name, rtype in (("h1", "A"), ("mail", "MX"), ("signed", "DS"), ("MIXED.case", "A")):
        out = chase(name, rtype)
        assert ";; Chase successful" in out and "DNSKEY keytag" in out and "denied" not in out, out
    for name, rtype in (("h1", "AAAA"), ("none", "A"), ("a.b.none", "A")):
        out = chase(name, rtype)
        assert ";; Chase successful" in out and "Existence is denied by" in out, out
    assert ";; Chase successful" not in chase("h1", "A", other)


def test_knots_client_sees_what_we_sign(wherry):
    wherry.write("zone", zone_text(1, EXTRA))
    wherry.start(f"zone {ZONE} {{ file zone\n sign {{ keys keys }} }}")
    for words in ((), ("+tcp",), ("+cookie",), ("+bufsize=512",), ("+subnet=192.0.2.0/24",)):
        out = run(need("kdig"), "@127.0.0.1", "-p", wherry.port, "+dnssec", *words, f"h1.{ZONE}", "A").stdout
        assert "status: NOERROR" in out and "flags: do;" in out and "192.0.2.2" in out and "RRSIG\tA 13 3 300" in out, out
    denied = run("kdig", "@127.0.0.1", "-p", wherry.port, "+dnssec", f"none.{ZONE}", "A").stdout
    assert "NSEC" in denied and "SOA" in denied and ("NXNAME" in denied or "TYPE128" in denied), denied


def test_compact_denial_says_nxdomain_to_who_does_not_look_at_the_proof_or_asks_for_it(wherry):
    wherry.write("zone", zone_text(1, EXTRA))
    wherry.start(f"zone {ZONE} {{ file zone\n sign {{ keys keys }} }}")
    name, do, co = f"none.{ZONE}", 0x8000, 0x4000
    rcodes = [ask_udp(wherry.port, probe(name, "A", edns=1232, ednsflags=flags)).rcode for flags in (0, do, do | co)]
    assert rcodes == [3, 0, 3]  # RFC 9824 sections 3.1 and 5.1


@pytest.mark.parametrize("kind", ["nsec", "nsec3"])
def test_a_transferred_zone_verifies(wherry, kind):
    """A zone that came signed goes out whole: ldns verifies what was transferred."""
    sign_zone(wherry.folder, kind != "nsec")
    wherry.start(f"zone {ZONE} {{ file zone.signed\n allow-transfer any }}")
    out = run("dig", "@127.0.0.1", "-p", wherry.port, ZONE, "AXFR", "+noall", "+answer", "+onesoa").stdout
    (wherry.folder / "got").write_text(out)
    done = run(need("ldns-verify-zone"), wherry.folder / "got", check=False)
    assert done.returncode == 0 and "verified and complete" in done.stdout + done.stderr, done
