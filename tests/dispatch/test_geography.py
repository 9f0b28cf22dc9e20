"""Dispatching by a geo database, and scopes beside Knot's geoip module: the same data, asked with dig +subnet."""

import json
import os
import random
import shutil
import subprocess

import pytest

from support.binaries import binary
from support.dns import Knot
from support.mmdb import MARKER, build, place
from test_dispatch import Server, wait_for

VIRGINIA, OREGON, PARIS = (38.9, -77.5), (45.8, -119.7), (48.9, 2.3)
SITES = ("site virginia { address 192.0.2.1 2001:db8::1; location 38.9 -77.5; priority 1 }\n"
         "site oregon { address 192.0.2.2 2001:db8::2; location 45.8 -119.7; priority 2 }\n"
         "site paris { address 192.0.2.3 2001:db8::3; location 48.9 2.3; priority 3 }\n"
         "site anywhere { address 192.0.2.9 2001:db8::9 }\n")
# Near each site, under a country that Knot knows the site by; who is elsewhere gets what is anywhere.
NETWORKS = {"198.51.100.0/24": place(40.7, -74.0, "US"), "198.51.96.0/22": place(47.6, -122.3, "CA"), "203.0.112.0/23": place(52.5, 13.4, "FR"),
            "203.0.114.0/24": place(47.6, -122.3, "CA"), "100.64.0.0/10": place(40.7, -74.0, "US"), "8.8.8.0/24": place(52.5, 13.4, "FR"),
            "2001:db8:1000::/36": place(52.5, 13.4, "FR"), "2001:db8:2000::/48": place(47.6, -122.3, "CA")}
ADDRESS = {"US": "192.0.2.1", "CA": "192.0.2.2", "FR": "192.0.2.3"}
STEERING = 'geo "places.mmdb"\n' + SITES + "name www.example.test { policy geo failover }\n"


@pytest.fixture
def server(tmp_path):
    started = []

    def make(database: bytes | None, steering=STEERING):
        if database is not None:
            (tmp_path / "places.mmdb").write_bytes(database)
        made = Server(tmp_path, steering).start()
        started.append(made)
        return made

    yield make
    for one in started:
        one.stop()


@pytest.mark.parametrize("record_size", [24, 28, 32])
def test_the_nearest_site_by_the_map(server, record_size):
    dns = server(build(NETWORKS, record_size=record_size))
    for network, value in NETWORKS.items():
        assert dns.answers(network) == [ADDRESS[value["country"]["iso_code"]]], network
    assert dns.answers("2001:db8:1000::/48", "AAAA") == ["2001:db8::3"]
    why = dns.explain("203.0.112.0/24")
    assert why["winner"] == ["paris"] and "paris is nearest on the map: 87" in why["why"]
    distances = {c["site"]: c.get("distance_km") for c in why["candidates"]}
    assert distances["paris"] < 1000 < distances["virginia"] < distances["oregon"]
    # Whom the map does not know gets what the next policy says.
    assert dns.answers("11.0.0.0/24") == ["192.0.2.9"]
    assert "first priority" in dns.explain("11.0.0.0/24")["why"]
    # Measurements come first where the policy says so, and the map is the last prior of what was not measured.
    assert {c["site"]: c["source"] for c in why["candidates"]} == {"virginia": "geography", "oregon": "geography", "paris": "geography", "anywhere": "none"}
    # Several networks with one order of sites are one prefix of the table.
    [name] = dns.get("/v1/status")["names"]
    assert name["prefixes"] < 300


def test_a_database_of_ipv4_alone(server):
    only = {n: v for n, v in NETWORKS.items() if ":" not in n}
    dns = server(build(only, ip_version=4, record_size=24))
    for network, value in only.items():
        assert dns.answers(network) == [ADDRESS[value["country"]["iso_code"]]], network
    assert dns.answers("2001:db8:1000::/48", "AAAA") == ["2001:db8::9"]


def test_a_new_database_is_taken_with_a_reload(server, tmp_path):
    dns = server(build(NETWORKS))
    assert dns.answers("198.51.100.0/24") == ["192.0.2.1"]
    (tmp_path / "new").write_bytes(build({"198.51.100.0/24": place(*PARIS)}))
    (tmp_path / "new").rename(tmp_path / "places.mmdb")
    dns.reload()
    wait_for("the new map", lambda: dns.answers("198.51.100.0/24") == ["192.0.2.3"])
    # One that cannot be read is refused, and the old one stays.
    (tmp_path / "new").write_bytes(b"no database")
    (tmp_path / "new").rename(tmp_path / "places.mmdb")
    dns.reload()
    wait_for("the refusal", lambda: "reload_failed" in dns.log() and "places.mmdb" in dns.log())
    assert dns.answers("198.51.100.0/24") == ["192.0.2.3"]


def test_a_replay_knows_the_map(server, tmp_path):
    server(build(NETWORKS), STEERING + "query-log queries\n")
    (tmp_path / "queries").write_text("203.0.112.0/24 www.example.test\n" * 3 + "198.51.100.0/24 www.example.test\n11.0.0.0/24 www.example.test\n")
    done = subprocess.run([binary("wherry"), "dns", "replay", "--config", str(tmp_path / "dns.conf"), "--down", "paris", "--json", str(tmp_path / "queries")],
                          capture_output=True, text=True, timeout=60, check=True)
    [move] = json.loads(done.stdout)["moves"]
    assert (move["from"], move["to"], move["queries"]) == ("paris", "virginia", 3)


def test_what_is_no_database_is_refused(tmp_path):
    whole = build(NETWORKS)
    for number, broken in enumerate((b"", b"x" * 100, MARKER, whole[:-40], whole[:whole.index(MARKER)], whole[len(whole) // 2:])):
        (tmp_path / "places.mmdb").write_bytes(broken)
        made = Server(tmp_path, STEERING)
        done = subprocess.run([binary("wherry-dns"), "--config", str(tmp_path / "dns.conf")], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1 and "places.mmdb" in done.stderr, (number, done)
        del made
    (tmp_path / "places.mmdb").unlink()
    done = subprocess.run([binary("wherry-dns"), "--config", str(tmp_path / "dns.conf")], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1 and "places.mmdb" in done.stderr, done


def test_a_damaged_database_does_no_harm(server, tmp_path):
    """Bytes changed at random: refused, or served with some places unknown; never an end, never a hang."""
    pick = random.Random(5)
    whole = build(NETWORKS)
    dns = server(whole)
    for round in range(25):
        broken = bytearray(whole)
        for _ in range(pick.choice([1, 3, 20])):
            broken[pick.randrange(len(broken))] = pick.choice([0, 255, pick.randrange(256)])
        (tmp_path / "new").write_bytes(broken)
        (tmp_path / "new").rename(tmp_path / "places.mmdb")
        before = dns.log().count("server.reloaded") + dns.log().count("server.reload_failed")
        dns.reload()
        wait_for("the reload", lambda before=before: dns.log().count("server.reloaded") + dns.log().count("server.reload_failed") > before)
        assert len(dns.answers("198.51.100.0/24")) == 1, round
    # A tree that leads back to its own root.
    nodes = bytearray(whole)
    nodes[0:7] = bytes(7)
    (tmp_path / "new").write_bytes(nodes)
    (tmp_path / "new").rename(tmp_path / "places.mmdb")
    before = dns.log().count("server.reload")
    dns.reload()
    wait_for("the reload", lambda: dns.log().count("server.reload") > before, timeout=60)
    assert len(dns.answers("198.51.100.0/24")) == 1


def knot_geoip(mode: str, folder, tmp_path):
    """Knot with its geoip module on the same data as STEERING."""
    if not any(os.path.exists(f"/usr/lib/x86_64-linux-gnu/knot/modules-{v}/geoip.so") for v in ("3.2", "3.3", "3.4")):
        pytest.skip("knot-module-geoip is not installed")
    knot = Knot().__enter__()
    knot.extra_server = "    edns-client-subnet: on\n"
    knot.write("zone", "$ORIGIN example.test.\n$TTL 60\n@ SOA ns hostmaster 1 2 3 4 5\n@ NS ns\nns A 127.0.0.1\nwww A 192.0.2.9\n")
    entries = "www.example.test:\n"
    if mode == "subnet":
        options = ""
        for network, value in NETWORKS.items():
            entries += f"  - net: {network}\n    A: {ADDRESS[value['country']['iso_code']]}\n"
    else:
        shutil.copy(tmp_path / "places.mmdb", knot.folder / "places.mmdb")
        options = f"    geodb-file: {knot.folder}/places.mmdb\n    geodb-key: [ country/iso_code ]\n"
        for country, address in ADDRESS.items():
            entries += f"  - geo: \"{country}\"\n    A: {address}\n"
    knot.write("geo", entries)
    knot.start("zone:\n  - domain: example.test\n    file: zone\n    zonefile-sync: -1\n    journal-content: none\n    module: mod-geoip/sites\n",
               f"mod-geoip:\n  - id: sites\n    config-file: {knot.folder}/geo\n    ttl: 30\n    mode: {mode}\n{options}")
    return knot


@pytest.mark.parametrize("mode", ["subnet", "geodb"])
def test_scopes_are_those_of_knots_geoip(server, tmp_path, mode):
    """Of clients in each network: the same answer, and the same scope, since no two neighbours here have one answer."""
    (tmp_path / "places.mmdb").write_bytes(build(NETWORKS))
    steering = STEERING
    if mode == "subnet":
        names = {"192.0.2.1": "virginia", "192.0.2.2": "oregon", "192.0.2.3": "paris"}
        overrides = "".join(f"; override {n} {names[ADDRESS[v['country']['iso_code']]]}" for n, v in NETWORKS.items())
        steering = SITES + f"name www.example.test {{ policy failover{overrides} }}\n"
    dns = server(None, steering)
    knot = knot_geoip(mode, tmp_path, tmp_path)
    try:
        def told(port, client):
            out = subprocess.run(["dig", "+tries=2", "+time=5", "@127.0.0.1", "-p", str(port), f"+subnet={client}", "www.example.test", "A"],
                                 capture_output=True, text=True, check=True).stdout
            answers = sorted(line.split()[-1] for line in out.splitlines() if line.startswith("www.example.test.") and "\tA\t" in line)
            [subnet] = [line.split()[-1] for line in out.splitlines() if "CLIENT-SUBNET" in line]
            return answers, subnet

        wrong = []
        for network, value in NETWORKS.items():
            address, bits = network.split("/")
            wanted = [ADDRESS[value["country"]["iso_code"]]]
            lengths = {int(bits), min(int(bits) + 3, 56 if ":" in network else 32), 56 if ":" in network else 24}
            for length in sorted(n for n in lengths if n >= int(bits)):
                client = f"{address}/{length}"
                ours, theirs = told(dns.port, client), told(knot.port, client)
                if ours[0] != wanted or theirs[0] != wanted or ours[1] != theirs[1]:
                    wrong.append((client, ours, theirs))
        assert not wrong, "\n".join(map(str, wrong))
        # Whom the data does not know: the same answer, and ours has a scope that is theirs or safer (longer).
        for client in ("11.0.0.0/24", "198.51.101.0/24", "2001:db8:9000::/48"):
            ours, theirs = told(dns.port, client), told(knot.port, client)
            assert ours[0] == theirs[0] == ["192.0.2.9"] and int(ours[1].split("/")[-1]) >= int(theirs[1].split("/")[-1]), (client, ours, theirs)
    finally:
        knot.__exit__()
