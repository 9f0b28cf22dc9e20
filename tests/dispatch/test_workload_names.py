"""Names of workloads: containers with the label wherry.dns are in the zone while they run and are healthy."""

import base64
import os
import pathlib
import subprocess
import time

import pytest

from support.binaries import binary
from support.daemon import Daemon
from test_dispatch import free_port, wait_for

KEY = "hmac-sha256:names:" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


class Zone:
    def __init__(self, folder: pathlib.Path):
        self.folder, self.port = folder, free_port()
        (folder / "zone").write_text("$TTL 60\n@ SOA ns hostmaster 1 2 3 4 5\n@ NS ns\nns A 127.0.0.1\n")
        (folder / "key").write_text(KEY + "\n")
        (folder / "state").mkdir()
        algorithm, name, secret = KEY.split(":")
        (folder / "dns.conf").write_text(
            f'server {{ listen 127.0.0.1:{self.port}; state "{folder}/state" }}\nkey {name} {{ algorithm {algorithm}; secret "{secret}" }}\n'
            f"zone work.test {{ file zone; allow-update key {name} }}\n")
        self.start()

    def start(self):
        self.process = subprocess.Popen([binary("wherry-dns"), "--config", str(self.folder / "dns.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("the name server", lambda: "ns.work.test" in self.dig("work.test", "NS"))

    def dig(self, *words):
        return subprocess.run(["dig", "+tries=1", "+time=1", "+short", "@127.0.0.1", "-p", str(self.port), *words], capture_output=True, text=True, check=False).stdout

    def addresses(self, name):
        return sorted(self.dig(name + ".work.test", "A").split())

    def stop(self):
        self.process.kill()
        self.process.wait()

    def flags(self):
        return ("--names-server", f"127.0.0.1:{self.port}", "--names-zone", "work.test", "--names-key-file", str(self.folder / "key"))


@pytest.fixture
def zone(tmp_path):
    made = Zone(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def publisher(zone):
    with Daemon(*zone.flags()) as running:
        running.import_busybox()
        yield running


def address_of(daemon, name):
    return daemon.api.get(f"/containers/{name}/json")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]


def test_names_come_and_go_with_their_containers(zone, publisher, capsys):
    publisher.wherry("run", "-d", "--name", "one", "--label", "wherry.dns=web,alias.web.work.test.", "busybox", "sleep", "600")
    began = time.monotonic()
    wait_for("the name", lambda: zone.addresses("web") == [address_of(publisher, "one")])
    took = time.monotonic() - began
    # Within a second; on a machine with more to do than processors, five.
    loaded = os.getloadavg()[0] > os.cpu_count()
    assert took < (5 if loaded else 1), took
    with capsys.disabled():
        print(f"\na label's name was there after {took:.2f} s (load {os.getloadavg()[0]:.0f})")
    assert zone.addresses("alias.web") == zone.addresses("web")
    publisher.wherry("run", "-d", "--name", "two", "--label", "wherry.dns=web", "busybox", "sleep", "600")
    wait_for("both", lambda: zone.addresses("web") == sorted([address_of(publisher, "one"), address_of(publisher, "two")]))
    two = address_of(publisher, "two")
    publisher.wherry("kill", "one")
    wait_for("the one that is left", lambda: zone.addresses("web") == [two])
    publisher.wherry("rm", "-f", "two")
    wait_for("the end", lambda: zone.addresses("web") == [])


def test_only_healthy_ones_are_named(zone, publisher):
    publisher.wherry("run", "-d", "--name", "sick", "--label", "wherry.dns=sick", "--health-cmd", "test ! -e /tmp/ill", "--health-interval", "200ms",
                     "--health-retries", "1", "busybox", "sleep", "600")
    wait_for("the name", lambda: len(zone.addresses("sick")) == 1)
    publisher.wherry("exec", "sick", "touch", "/tmp/ill")
    wait_for("the unhealthy one to leave", lambda: zone.addresses("sick") == [])
    publisher.wherry("exec", "sick", "rm", "/tmp/ill")
    wait_for("its return", lambda: len(zone.addresses("sick")) == 1)


def test_a_killed_daemon_takes_back_what_is_gone(zone, publisher):
    publisher.wherry("run", "-d", "--name", "gone", "--label", "wherry.dns=gone", "busybox", "sleep", "600")
    publisher.wherry("run", "-d", "--name", "stays", "--label", "wherry.dns=stays", "busybox", "sleep", "600")
    wait_for("the names", lambda: zone.addresses("gone") and zone.addresses("stays"))
    pid = publisher.api.get("/containers/gone/json")["State"]["Pid"]
    publisher.kill()
    subprocess.run(["kill", "-9", str(pid)], check=True)
    publisher.start()
    wait_for("the one that ended meanwhile to leave", lambda: zone.addresses("gone") == [])
    assert len(zone.addresses("stays")) == 1


def test_a_name_server_that_was_away_is_told_later(zone, publisher):
    zone.stop()
    publisher.wherry("run", "-d", "--name", "late", "--label", "wherry.dns=late", "busybox", "sleep", "600")
    wait_for("the complaint", lambda: "names.not_published" in publisher.log(100_000))
    zone.start()
    wait_for("the name", lambda: len(zone.addresses("late")) == 1, timeout=60)


def test_hosts_share_a_name(zone, publisher, tmp_path):
    with Daemon(*zone.flags(), "--names-address", "192.0.2.77") as other:
        other.import_busybox()
        publisher.wherry("run", "-d", "--name", "here", "--label", "wherry.dns=shared", "busybox", "sleep", "600")
        other.wherry("run", "-d", "--name", "there", "--label", "wherry.dns=shared", "busybox", "sleep", "600")
        wait_for("both", lambda: zone.addresses("shared") == sorted([address_of(publisher, "here"), "192.0.2.77"]))
        publisher.wherry("rm", "-f", "here")
        wait_for("the other host's", lambda: zone.addresses("shared") == ["192.0.2.77"])


def test_labels_of_other_zones_are_refused_once(zone, publisher):
    publisher.wherry("run", "-d", "--label", "wherry.dns=evil.example.org.", "busybox", "sleep", "600")
    wait_for("the complaint", lambda: "names.not_in_zone" in publisher.log(100_000))
    assert zone.dig("evil.example.org", "A") == ""


@pytest.mark.parametrize("flags, reason", [
    (("--names-server", "127.0.0.1"), "go together"), (("--names-server", "nowhere", "--names-zone", "x"), "names-server"),
    (("--names-server", "127.0.0.1", "--names-zone", "x", "--names-key-file", "/nonexistent"), "names-key-file"),
])
def test_wrong_options_are_refused(flags, reason):
    with pytest.raises(RuntimeError, match=f"(?s)ended with 1:.*{reason}"):
        Daemon(*flags).__enter__()
