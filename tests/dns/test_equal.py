"""Answers are those of NSD and Knot: thousands of generated questions over zones with every kind of name."""

import os
import random

from support.dns import Answer, Process, make_query, wait_until, zone_text
import select
import socket

LONG = os.environ.get("WHERRY_TEST_LONG") == "1"
LABELS = ["a", "b", "c", "d", "www", "mail", "x", "y", "sub", "del", "wild", "al", "dn", "ent", "deep", "Zz", "_tcp"]
TYPES = ["A", "AAAA", "NS", "CNAME", "SOA", "MX", "TXT", "SRV", "PTR", "DNAME", "DS", "CAA", "SVCB", "HTTPS", 65400]


def generate_zone(seed: int) -> str:
    """A zone of random names: plain data, aliases, wildcards, delegations with and without glue, DNAMEs, deep names."""
    pick = random.Random(seed)
    lines = ["$TTL 300", "@ SOA ns1 hostmaster 1 3600 600 86400 60", "@ NS ns1", "@ NS ns2", "ns1 A 192.0.2.1", "ns2 AAAA 2001:db8::2",
             "@ MX 10 mail", "@ TXT \"apex\"", "mail A 192.0.2.9"]
    cut, taken = [], {"@", "ns1", "ns2", "mail"}

    def free(name: str) -> bool:
        below = any(name == c or name.endswith("." + c) for c in cut)
        above = any(t.endswith("." + name) for t in taken)
        return name not in taken and not below and not above

    for i in range(160):
        name = ".".join(pick.choice(LABELS) for _ in range(pick.choice([1, 1, 2, 2, 3, 4])))
        if pick.random() < 0.12:
            name = "*." + name
        if name in taken or any(name == c or name.endswith("." + c) for c in cut):
            continue
        kind = pick.random()
        if kind < 0.45:
            for rtype in pick.sample(["A 192.0.2.%d" % (i % 250 + 1), "AAAA 2001:db8::%x" % i, "TXT \"t%d\" \"more\"" % i, "MX 5 mail",
                                      "SRV 1 2 3 mail", "CAA 0 issue \"ca.test\"", "SVCB 1 mail alpn=h2", "HTTPS 0 mail",
                                      "TYPE65400 \\# 3 010203", "PTR mail"], pick.choice([1, 1, 2, 3])):
                lines.append(f"{name} {rtype}")
        elif kind < 0.65:
            target = pick.choice(["mail", "none", "www.elsewhere.test.", pick.choice(sorted(taken)).replace("@", "ns1"), "loop1"])
            lines.append(f"{name} CNAME {target}")
        elif kind < 0.8 and free(name) and not name.startswith("*"):
            lines.append(f"{name} NS ns.{name}")
            lines.append(f"ns.{name} A 192.0.2.{i % 250 + 1}")
            if pick.random() < 0.5:
                lines.append(f"{name} NS outside.elsewhere.test.")
            if pick.random() < 0.3:
                lines.append(f"{name} DS 1 13 2 {'AB' * 32}")
            cut.append(name)
        elif kind < 0.9 and free(name) and not name.startswith("*"):
            lines.append(f"{name} DNAME {pick.choice(['sub', 'mail', 'target.elsewhere.test.'])}")
            cut.append(name)
        else:
            lines.append(f"{name} TXT \"{'x' * pick.choice([10, 200])}\"")
        taken.add(name)
    lines += ["loop1 CNAME loop2", "loop2 CNAME loop1"]
    return "\n".join(lines) + "\n"


def questions(seed: int, zones: list[tuple[str, str]], count: int):
    pick = random.Random(seed)
    names = {zone: [line.split()[0] for line in text.splitlines() if line[0] not in "$;"] for zone, text in zones}
    for _ in range(count):
        zone, _ = pick.choice(zones)
        name = pick.choice(names[zone])
        if pick.random() < 0.5:
            name = name.replace("*", pick.choice(LABELS))
        for _ in range(pick.choice([0, 0, 0, 1, 1, 2])):
            name = pick.choice(LABELS) + "." + name
        if pick.random() < 0.15:
            name = ".".join(pick.choice(LABELS) for _ in range(pick.choice([1, 2, 3])))
        if pick.random() < 0.1:
            name = name.upper()
        full = zone if name == "@" else name.replace(".@", "") + "." + zone
        yield full, pick.choice(TYPES), pick.choice([None, 512, 1232])


def ask_many(port: int, queries: list[bytes]) -> list[Answer]:
    """All the answers, a window of questions on their way at a time."""
    answers: dict[int, Answer] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        for start in range(0, len(queries), 64):
            window = {i: queries[i] for i in range(start, min(start + 64, len(queries)))}
            for attempt in range(8):
                for i, query in window.items():
                    client.send(i.to_bytes(2, "big") + query[2:])
                while window and select.select([client], [], [], 2.0)[0]:
                    wire = client.recv(65535)
                    number = int.from_bytes(wire[:2], "big")
                    if window.pop(number, None) is not None:
                        answers[number] = Answer(wire)
                if not window:
                    break
            assert not window, "no answer"
    return [answers[i] for i in range(len(queries))]


def view(answer: Answer, glue: bool):
    sections = ["answer", "authority"]
    return (answer.rcode, answer.aa, answer.tc, *(() if answer.tc else (answer.canonical(s) for s in sections)))


def test_equal(wherry, nsd, knot):
    zones = [(f"zone{seed}.test", generate_zone(seed)) for seed in range(4)]
    # One zone within another: the deeper one answers.
    zones.append(("inner.zone0.test", generate_zone(9)))
    for zone, text in zones:
        for server in (wherry, nsd, knot):
            server.write(zone, f"$ORIGIN {zone}.\n" + text)
    wherry.start("\n".join(f"zone {zone} {{ file {zone} }}" for zone, _ in zones))
    nsd.start("".join(f'zone:\n    name: {zone}\n    zonefile: "{zone}"\n' for zone, _ in zones))
    knot.start("zone:\n" + "".join(f'  - domain: {zone}\n    file: "{zone}"\n    zonefile-sync: -1\n    journal-content: none\n' for zone, _ in zones))
    asked = list(questions(1, zones, 60000 if LONG else 12000))
    queries = [make_query(name, rtype, id=0, edns=edns) for name, rtype, edns in asked]
    ours, nsds, knots = (ask_many(server.port, queries) for server in (wherry, nsd, knot))
    wrong, apart = [], 0
    for question, mine, one, other in zip(asked, ours, nsds, knots):
        a, b, c = (view(answer, True) for answer in (mine, one, other))
        apart += b != c
        # Where the two differ from each other, one of them must agree.
        if a not in (b, c):
            wrong.append((question, a, b, c))
    kinds = {}
    for question, a, b, c in wrong:
        kinds.setdefault((question[1], a[0:3], b[0:3], c[0:3]), []).append(question[0])
    assert not wrong, f"{len(wrong)} of {len(asked)} differ ({apart} between the two):\n" + \
        "\n".join(f"{k}: {v[:3]}" for k, v in list(kinds.items())[:20]) + "\n" + "\n".join(map(str, wrong[0]))
    assert {a.rcode for a in ours} >= {0, 3} and sum(len(a.answer) > 1 for a in ours) > 500 and apart < len(asked) / 10
