"""wherry dns trace and ping over real hops: routers in network namespaces, with and without privileges, for both families."""

import json
import subprocess

import pytest

from support.binaries import binary

HOPS_4 = ["10.90.1.2", "10.90.2.2", "10.90.3.2", "10.90.4.2"]
HOPS_6 = ["fd90:1::2", "fd90:2::2", "fd90:3::2", "fd90:4::2"]
UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


def trace(world, *words, unprivileged=False, client="client", timeout=60):
    prefix = UNPRIVILEGED if unprivileged else []
    return world.run(client, *prefix, binary("wherry"), "dns", "trace", "-n", *words, timeout=timeout)


def report(world, *words, **keywords):
    result = trace(world, "--json", *words, **keywords)
    assert result.stdout, result
    return json.loads(result.stdout)


def hosts(found):
    return [[host["address"] for host in hop["hosts"]] for hop in found["hops"]]


@pytest.fixture(autouse=True)
def ping_sockets(path):
    """Ordinary users may use ping sockets in the client's namespace."""
    path.must("client", "sysctl", "-q", "-w", "net.ipv4.ping_group_range=0 2147483647")


@pytest.mark.parametrize("unprivileged", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("protocol", ["--udp", "--icmp", "--tcp"])
@pytest.mark.parametrize("hops", [HOPS_4, HOPS_6], ids=["ipv4", "ipv6"])
def test_the_real_path(path, protocol, hops, unprivileged):
    found = report(path, protocol, hops[-1], unprivileged=unprivileged)
    assert hosts(found) == [[hop] for hop in hops]
    assert found["reached"] is True
    assert all(hop["received"] == 3 and hop["loss"] == 0 for hop in found["hops"]), found
    assert all(0 < hop["best_ms"] <= hop["average_ms"] <= hop["worst_ms"] for hop in found["hops"])


def test_root_without_ping_sockets_uses_raw_ones(path):
    path.must("client", "sysctl", "-q", "-w", "net.ipv4.ping_group_range=1 0")
    for hops in (HOPS_4, HOPS_6):
        assert hosts(report(path, "--icmp", hops[-1])) == [[hop] for hop in hops]
    refused = trace(path, "--icmp", HOPS_4[-1], unprivileged=True)
    assert refused.returncode == 1 and "ping_group_range" in refused.stderr


def test_an_open_port_ends_a_tcp_trace(path):
    server = path.start("server", "/usr/bin/python3", "-c",
                        "import socket; s = socket.create_server(('10.90.4.2', 8080)); print('ready', flush=True)\nwhile True: s.accept()", stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    for unprivileged in (False, True):
        assert hosts(report(path, "--tcp", "-p", "8080", HOPS_4[-1], unprivileged=unprivileged)) == [[hop] for hop in HOPS_4]
    server.kill()


def test_max_hops_stops_and_says_so(path):
    result = trace(path, "-m", "2", HOPS_4[-1])
    assert result.returncode == 1
    assert [line.split()[0:2] for line in result.stdout.splitlines()[1:]] == [["1", HOPS_4[0]], ["2", HOPS_4[1]]]
    assert "at most 30 hops" in trace(path, HOPS_4[-1]).stdout


def test_first_hop(path):
    assert [hop["hop"] for hop in report(path, "-f", "3", HOPS_4[-1])["hops"]] == [3, 4]


def test_a_silent_router_is_a_star(path):
    path.must("r2", "nft", "add table inet w; add chain inet w out { type filter hook output priority 0; }; add rule inet w out meta l4proto icmp drop")
    try:
        result = trace(path, "-w", "0.3", HOPS_4[-1])
        lines = result.stdout.splitlines()
        assert lines[2].split() == ["2", "*", "*", "*"]
        assert lines[4].split()[1] == HOPS_4[-1] and result.returncode == 0
    finally:
        path.must("r2", "nft", "delete", "table", "inet", "w")


@pytest.mark.parametrize("reject, mark", [("icmp host-unreachable", "!H"), ("icmp admin-prohibited", "!X"), ("icmp net-unreachable", "!N")])
def test_a_refusing_router_ends_the_path(path, reject, mark):
    path.must("r2", "nft", f"add table inet w; add chain inet w f {{ type filter hook forward priority 0; }}; add rule inet w f ip daddr {HOPS_4[-1]} reject with {reject}")
    try:
        result = trace(path, HOPS_4[-1])
        assert result.returncode == 1
        last = result.stdout.splitlines()[-1].split()
        # Its own hop answers as every router does; what goes further is refused there.
        assert last[:2] == ["3", HOPS_4[1]] and last.count(mark) == 3, result.stdout
    finally:
        path.must("r2", "nft", "delete", "table", "inet", "w")


def test_loss_of_a_hop_is_counted(path):
    # Every second answer of the second router is dropped.
    path.must("r2", "nft", "add table inet w; add chain inet w out { type filter hook output priority 0; }; add rule inet w out meta l4proto icmp numgen inc mod 2 0 drop")
    try:
        found = report(path, "-c", "10", "-w", "0.3", HOPS_4[-1])
        assert [hop["loss"] for hop in found["hops"]] == [0, 0.5, 0, 0]
        assert found["hops"][1]["sent"] == 10
    finally:
        path.must("r2", "nft", "delete", "table", "inet", "w")


def test_live_view_without_a_terminal_is_one_table(path):
    result = trace(path, "--live", "-c", "2", "-i", "0.05", HOPS_4[-1])
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[1] == ["HOP", "HOST", "LOSS", "SENT", "LAST", "AVG", "BEST", "WORST", "JITTER"]
    assert [line[:4] for line in lines[2:]] == [[str(n + 1), hop, "0.0%", "2"] for n, hop in enumerate(HOPS_4)]


def test_ping(path):
    for unprivileged in (False, True):
        prefix = UNPRIVILEGED if unprivileged else []
        for target in (HOPS_4[-1], HOPS_6[-1]):
            result = path.run("client", *prefix, binary("wherry"), "dns", "ping", "-c", "3", "-i", "0.02", target)
            assert result.returncode == 0, result
            replies = [line for line in result.stdout.splitlines() if "bytes from" in line]
            assert len(replies) == 3 and all(f"64 bytes from {target}: seq={n + 1} ttl=61 time=" in line for n, line in enumerate(replies)), replies
            assert "3 sent, 3 received, 0% loss" in result.stdout


def test_ping_that_gets_nowhere(path):
    short = path.run("client", binary("wherry"), "dns", "ping", "-c", "1", "-t", "2", HOPS_4[-1])
    assert short.returncode == 1 and f"from {HOPS_4[1]}: seq=1 time to live exceeded" in short.stdout
    silent = json.loads(path.run("client", binary("wherry"), "dns", "ping", "-c", "2", "-i", "0.01", "-W", "0.2", "--json", "10.90.4.99").stdout)
    assert (silent["sent"], silent["received"], silent["loss"]) == (2, 0, 1)


def test_ping_of_a_tcp_port(path):
    result = path.run("client", *UNPRIVILEGED, binary("wherry"), "dns", "ping", "-c", "2", "-i", "0.02", "--tcp", "9", HOPS_4[-1])
    assert result.returncode == 0 and f"port 9 of {HOPS_4[-1]}: seq=2 time=" in result.stdout, result


@pytest.mark.parametrize("words, reason", [
    (["trace", "--icmp", "--tcp", "127.0.0.1"], "exclude"), (["trace", "-m", "0", "127.0.0.1"], "max-hops"), (["trace", "-f", "9", "-m", "3", "127.0.0.1"], "first-hop"),
    (["ping", "-i", "0", "127.0.0.1"], "interval"), (["ping", "-s", "99999", "127.0.0.1"], "size"), (["ping"], "argument"), (["trace", "no.such.invalid"], "no.such.invalid"),
])
def test_bad_words_are_refused_with_the_reason(path, words, reason):
    result = path.run("client", binary("wherry"), "dns", *words)
    assert result.returncode == 1 and reason in result.stderr, result


@pytest.fixture(scope="module")
def two_ways(path):
    """A second router beside r2, and balancing by ports between the two."""
    path.add("alt")
    path.must("alt", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0")
    path.must("r1", "sysctl", "-q", "-w", "net.ipv4.fib_multipath_hash_policy=1")
    path.join("r1", "alt", 21)
    path.join("alt", "r3", 22)
    path.ip("alt", "route add 10.90.1.0/24 via 10.90.21.1")
    path.ip("alt", "route add 10.90.4.0/24 via 10.90.22.2")
    path.ip("client", "route add 10.90.21.0/24 via 10.90.1.2")
    path.ip("r1", "route replace 10.90.4.0/24 nexthop via 10.90.2.2 weight 1 nexthop via 10.90.21.2 weight 1")
    yield path  # the last tests: the path is not what it was
    path.ip("r1", "route replace 10.90.4.0/24 via 10.90.2.2")


@pytest.mark.parametrize("protocol", ["--udp", "--icmp", "--tcp"])
def test_probes_stay_on_one_of_several_paths(two_ways, protocol):
    seen = set()
    for _ in range(24):
        found = report(two_ways, protocol, "-c", "4", HOPS_4[-1])
        second = [host["address"] for host in found["hops"][1]["hosts"]]
        assert len(second) == 1, f"one trace saw two paths: {found['hops'][1]}"
        seen.update(second)
    if protocol != "--icmp":  # the kernel balances ICMP by addresses alone
        assert seen == {"10.90.2.2", "10.90.21.2"}, "the balancing that the test relies on is not there"
