"""Dynamic update with nsupdate, journals across a kill, catalogs, and changes under load."""

import signal
import socket
import subprocess
import threading
import time

from support.dns import (Answer, Wherry, KEY_SECRET, ask_tcp, ask_udp, bind_key, knot_key, make_query, need, run, wait_serial,
                         wait_until, wherry_key, zone_text)

ZONE = "example.test"
DYNAMIC = f"zone {ZONE} {{ file zone\n allow-update key transfer.key\n allow-transfer any }}"


def nsupdate(port: int, *lines: str, tcp=False, check=True, secret=KEY_SECRET) -> str:
    script = f"server 127.0.0.1 {port}\nzone {ZONE}\n" + "\n".join(lines) + "\nsend\n"
    done = subprocess.run([need("nsupdate"), *(["-v"] if tcp else []), "-y", f"hmac-sha256:transfer.key:{secret}"], input=script,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or not check, done.stderr
    return done.stderr


def test_update_and_kill(wherry):
    wherry.write("zone", zone_text(1))
    wherry.start(DYNAMIC, extra=wherry_key())
    nsupdate(wherry.port, "update add new.example.test 60 A 192.0.2.99", "update delete h3.example.test A")
    assert wherry.serial(ZONE) == 2
    assert wherry.ask(f"new.{ZONE}").records("A")[0][5] == bytes([192, 0, 2, 99])
    assert wherry.ask(f"h3.{ZONE}").rcode == 3
    nsupdate(wherry.port, "update add new.example.test 60 TXT \"a b\"", tcp=True)
    assert wherry.serial(ZONE) == 3
    # What was answered is there after the hardest end.
    wherry.stop(signal.SIGKILL)
    wherry.restart()
    assert wherry.serial(ZONE) == 3
    assert wherry.ask(f"new.{ZONE}", "TXT").records("TXT") and wherry.ask(f"h3.{ZONE}").rcode == 3
    # And goes out as differences.
    out = run("dig", "@127.0.0.1", "-p", wherry.port, "+tcp", ZONE, "IXFR=1", "+noall", "+answer").stdout
    assert [line.split()[3] for line in out.strip().splitlines()] == ["SOA", "SOA", "A", "SOA", "A", "SOA", "SOA", "TXT", "SOA"]


def test_prerequisites(wherry):
    wherry.write("zone", zone_text(1, "alias CNAME h1\npair A 192.0.2.5\npair A 192.0.2.6"))
    wherry.start(DYNAMIC, extra=wherry_key())
    for prerequisite, error in (("prereq nxdomain h1.example.test", "YXDOMAIN"), ("prereq yxdomain none.example.test", "NXDOMAIN"),
                                ("prereq nxrrset h1.example.test A", "YXRRSET"), ("prereq yxrrset h1.example.test TXT", "NXRRSET"),
                                ("prereq yxrrset pair.example.test A 192.0.2.5", "NXRRSET"),
                                ("prereq yxdomain elsewhere.invalid", "NOTZONE")):
        assert error in nsupdate(wherry.port, prerequisite, "update add x.example.test 60 A 192.0.2.1", check=False), prerequisite
    assert wherry.serial(ZONE) == 1 and wherry.ask(f"x.{ZONE}").rcode == 3
    nsupdate(wherry.port, "prereq yxrrset pair.example.test A 192.0.2.6", "prereq yxrrset pair.example.test A 192.0.2.5",
             "update add x.example.test 60 A 192.0.2.1")
    assert wherry.ask(f"x.{ZONE}").records("A")
    # A CNAME stays alone; the apex keeps its SOA and its last NS.
    nsupdate(wherry.port, "update add alias.example.test 60 A 192.0.2.1", "update add h1.example.test 60 CNAME h2.example.test",
             "update delete example.test SOA", "update delete example.test NS")
    assert wherry.ask(f"alias.{ZONE}", "A").records("CNAME") and wherry.ask(f"h1.{ZONE}").records("A")
    assert wherry.ask(ZONE, "SOA").records("SOA") and wherry.ask(ZONE, "NS").records("NS")


def test_update_is_refused(wherry):
    wherry.write("zone", zone_text(1))
    wherry.start(DYNAMIC, extra=wherry_key())
    unsigned = subprocess.run([need("nsupdate")], input=f"server 127.0.0.1 {wherry.port}\nzone {ZONE}\nupdate add x.{ZONE} 60 A 192.0.2.1\nsend\n",
                              capture_output=True, text=True, timeout=60)
    assert "REFUSED" in unsigned.stderr
    assert "BADSIG" in nsupdate(wherry.port, f"update add x.{ZONE} 60 A 192.0.2.1", check=False, secret=KEY_SECRET[:-6] + "AAAAA=")
    assert wherry.serial(ZONE) == 1


def test_updates_reloads_and_transfers_under_load(wherry, knot):
    """While a zone changes all the time, every answer is whole and of one version: two names always agree."""
    def text(serial):
        return zone_text(serial, f"one TXT \"{serial}\"\ntwo TXT \"{serial}\"\n", names=2000)

    wherry.write("zone", text(1))
    wherry.start(f"zone {ZONE} {{ file zone\n notify 127.0.0.1:{knot.port}\n allow-transfer any }}", "    threads 2", extra=wherry_key())
    knot.start(f"zone:\n  - domain: {ZONE}\n    master: primary\n    acl: notify\n",
               f"remote:\n  - id: primary\n    address: 127.0.0.1@{wherry.port}\nacl:\n  - id: notify\n    address: 127.0.0.1\n    action: notify\n")
    stop, wrong, counts = threading.Event(), [], [0, 0]

    def ask(index):
        while not stop.is_set():
            try:
                query = make_query(f"one.{ZONE}", "TXT", edns=1232)
                answer = ask_tcp(wherry.port, query) if index else ask_udp(wherry.port, query, 20.0, tries=1)
                whole = ask_tcp(wherry.port, make_query(ZONE, "SOA")) if index else None
                if answer.rcode != 0 or len(answer.records("TXT")) != 1 or not answer.aa or (whole and len(whole.answer) != 1):
                    wrong.append(answer.wire)
                counts[index] += 1
            except Exception as error:  # noqa: BLE001
                wrong.append(repr(error))

    threads = [threading.Thread(target=ask, args=(i,)) for i in (0, 0, 1)]
    for thread in threads:
        thread.start()
    try:
        for serial in range(2, 12):
            wherry.write("zone", text(serial))
            wherry.hang_up()
            wait_serial(wherry.port, ZONE, serial)
            out = run("dig", "@127.0.0.1", "-p", wherry.port, ZONE, "AXFR", "+noall", "+answer").stdout
            versions = {line.split()[-1] for line in out.splitlines() if "TXT" in line}
            assert len(versions) == 1 and len(out.strip().splitlines()) == 2007, "a transfer mixes versions"
        wait_serial(knot.port, ZONE, 11)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong and min(counts) > 10, (wrong[:3], counts)


def test_updates_under_query_load(wherry, knot):
    """Dynamic updates change three records at once, again and again, with reloads of the file and transfers in between, while queries
    come by UDP and TCP. No answer is lost, half, or older than what was acknowledged before the question was asked."""
    names = 3000
    wherry.write("zone", zone_text(1, 'set TXT "1 a"\nset TXT "1 b"\nset TXT "1 c"', names=names))
    dynamic = f"zone {ZONE} {{ file zone\n allow-update key transfer.key\n allow-transfer any\n notify 127.0.0.1:{knot.port} }}"
    wherry.start(dynamic, "    threads 2", extra=wherry_key())
    knot.start(f"zone:\n  - domain: {ZONE}\n    master: primary\n    acl: notify\n",
               f"remote:\n  - id: primary\n    address: 127.0.0.1@{wherry.port}\nacl:\n  - id: notify\n    address: 127.0.0.1\n    action: notify\n")
    stop, wrong, counts, acknowledged = threading.Event(), [], [0, 0, 0], [1]

    def check(answer, least):
        values = sorted(r[5][1:].decode() for r in answer.records("TXT"))
        version = int(values[0].split()[0]) if values else 0
        if answer.rcode != 0 or not answer.aa or values != [f"{version} {letter}" for letter in "abc"] or version < least:
            wrong.append((least, values, answer.rcode))

    def ask(index):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.connect(("127.0.0.1", wherry.port))
            udp.settimeout(30)
            while not stop.is_set():
                try:
                    least = acknowledged[0]
                    query = make_query(f"set.{ZONE}", "TXT", edns=1232)
                    if index == 2:
                        check(ask_tcp(wherry.port, query), least)
                    else:
                        udp.send(query)  # asked once: what is lost is missed
                        check(Answer(udp.recv(4096)), least)
                    counts[index] += 1
                    # What no update touches is there all the time.
                    other = f"h{counts[index] % names}.{ZONE}"
                    if ask_udp(wherry.port, make_query(other, "A"), 30, tries=1).rcode != 0:
                        wrong.append(other)
                except Exception as error:  # noqa: BLE001
                    wrong.append(repr(error))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 42):
            nsupdate(wherry.port, f"update delete set.{ZONE} TXT", *(f'update add set.{ZONE} 60 TXT "{version} {letter}"' for letter in "abc"),
                     f"update add new{version}.{ZONE} 60 A 192.0.2.7", f"update delete new{version - 1}.{ZONE} A", tcp=version % 2 == 0)
            acknowledged[0] = version
            if version % 10 == 0:
                wherry.hang_up()  # the file is older than what is served: it changes nothing
            if version % 8 == 0:
                out = run("dig", "@127.0.0.1", "-p", wherry.port, ZONE, "AXFR", "+noall", "+answer").stdout
                texts = {line.split('"')[1].split()[0] for line in out.splitlines() if "TXT" in line}
                assert texts == {str(version)} and len([line for line in out.splitlines() if line.startswith("new")]) == 1, texts
        wait_serial(knot.port, ZONE, wherry.serial(ZONE))
        check(knot.ask(f"set.{ZONE}", "TXT"), 41)
        assert knot.ask(f"new41.{ZONE}").records("A") and knot.ask(f"new40.{ZONE}").rcode == 3
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong and min(counts) > 20, (wrong[:3], counts)


def test_many_updates_at_once(wherry):
    wherry.write("zone", zone_text(1))
    wherry.start(DYNAMIC, extra=wherry_key())

    def update(first):
        for i in range(first, first + 10):
            nsupdate(wherry.port, f"update add n{i}.{ZONE} 60 A 192.0.2.1", tcp=first % 2 == 0)

    threads = [threading.Thread(target=update, args=(base,)) for base in (100, 201, 300, 401)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for base in (100, 201, 300, 401):
        for i in range(base, base + 10):
            assert wherry.ask(f"n{i}.{ZONE}").records("A"), i
    serial = wherry.serial(ZONE)
    assert 2 <= serial <= 41
    wherry.stop(signal.SIGKILL)
    wherry.restart()
    assert wherry.serial(ZONE) == serial and wherry.ask(f"n409.{ZONE}").records("A")


def test_catalog_is_followed(wherry, knot):
    """Knot makes the catalog; zones come and go with it."""
    for name in ("a.test", "b.test", "c.test"):
        knot.write(f"{name}.zone", f"$ORIGIN {name}.\n" + zone_text(1))
    head = (f"remote:\n  - id: secondary\n    address: 127.0.0.1@{wherry.port}\n"
            "acl:\n  - id: transfer\n    address: 127.0.0.1\n    action: transfer\n")

    def zones(*names):
        return ("zone:\n  - domain: catalog.test\n    catalog-role: generate\n    notify: secondary\n    acl: transfer\n" +
                "".join(f"  - domain: {n}\n    file: {n}.zone\n    catalog-role: member\n    catalog-zone: catalog.test\n"
                        "    notify: secondary\n    acl: transfer\n" for n in names))

    knot.start(zones("a.test", "b.test"), head)
    primary = f"primary 127.0.0.1:{knot.port}"
    wherry.start(f"catalog catalog.test {{ {primary}\n members {{ {primary} }} }}")
    wait_serial(wherry.port, "a.test", 1)
    wait_serial(wherry.port, "b.test", 1)
    assert wherry.ask("c.test", "SOA").rcode == 5
    knot.write("knot.conf", (knot.folder / "knot.conf").read_text().replace("domain: b.test\n    file: b.test", "domain: c.test\n    file: c.test"))
    knot.hang_up()
    wait_serial(wherry.port, "c.test", 1)
    wait_until(lambda: wherry.ask("b.test", "SOA").rcode == 5, what="the end of b.test")
    wherry.stop()
    wherry.restart()
    assert wherry.serial("c.test") == 1 or wait_serial(wherry.port, "c.test", 1) is None


def test_catalog_is_given(wherry, bind):
    """Ours makes the catalog, BIND follows it."""
    for name in ("a.test", "b.test"):
        wherry.write(name, zone_text(1))
    member = f"member-of catalog.test\n notify 127.0.0.1:{bind.port}\n allow-transfer any"
    catalog = f"catalog catalog.test {{ notify 127.0.0.1:{bind.port}\n allow-transfer any }}\n"
    wherry.start(catalog + f"zone a.test {{ file a.test\n {member} }}\n")
    primaries = f"{{ 127.0.0.1 port {wherry.port}; }}"
    text = (f'zone "catalog.test" {{ type secondary; file "catalog"; primaries {primaries}; allow-notify {{ 127.0.0.1; }}; }};\n')
    bind.catalog = f'    catalog-zones {{ zone "catalog.test" default-primaries {primaries}; }};\n'
    bind.start(text)
    wait_serial(bind.port, "a.test", 1)
    wherry.configure(catalog + "".join(f"zone {n} {{ file {n}\n {member} }}\n" for n in ("a.test", "b.test")))
    wherry.hang_up()
    wait_serial(bind.port, "b.test", 1)
