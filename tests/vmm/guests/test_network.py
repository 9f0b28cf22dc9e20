"""Network through a tap: packets, streams, big frames, limits; metadata answered inside the monitor."""

import socket
import subprocess
import threading
import time

import pytest

MMDS = "169.254.169.254"


def connect(guest, tap, name="eth0", **options):
    guest.put(f"/network-interfaces/{name}", iface_id=name, host_dev_name=tap.name, guest_mac=tap.mac, **options)


def configure(guest, tap, device="eth0"):
    guest.run(f"ip link set lo up; ip addr add {tap.guest}/24 dev {device} && ip link set {device} up")


def test_ping(either, tap):
    guest = either()
    connect(guest, tap)
    guest.boot()
    assert guest.run("cat /sys/class/net/eth0/address") == tap.mac
    configure(guest, tap)
    assert "0% packet loss" in guest.run(f"ping -c 3 -W 10 {tap.host}")
    # The other way round.
    done = subprocess.run(["ping", "-c", "3", "-W", "10", tap.guest], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "0% packet loss" in guest.run(f"ping -c 2 -s 1400 -W 10 {tap.host}")


class Server(threading.Thread):
    """Takes one connection, counts what comes, sends `reply`."""

    def __init__(self, address: str, reply: bytes = b""):
        super().__init__(daemon=True)
        self.listener = socket.create_server((address, 0))
        self.port = self.listener.getsockname()[1]
        self.reply, self.received = reply, 0
        self.data = b""

    def run(self):
        connection, _ = self.listener.accept()
        connection.settimeout(120)
        if self.reply:
            connection.sendall(self.reply)
            connection.shutdown(socket.SHUT_WR)
        while True:
            data = connection.recv(1 << 16)
            if not data:
                break
            self.received += len(data)
            self.data = (self.data + data)[:1 << 20]
        connection.close()
        self.listener.close()


@pytest.mark.long
def test_streams(make_guest, tap):
    guest = make_guest()
    connect(guest, tap)
    guest.boot()
    configure(guest, tap)
    server = Server(tap.host)
    server.start()
    guest.run(f"dd if=/dev/zero bs=65536 count=64 2>/dev/null | nc {tap.host} {server.port}", seconds=200)
    server.join(60)
    assert server.received == 64 * 65536
    reply = bytes(range(256)) * 8192
    server = Server(tap.host, reply)
    server.start()
    import hashlib
    assert guest.run(f"nc {tap.host} {server.port} </dev/null | md5sum", seconds=200).split()[0] == hashlib.md5(reply).hexdigest()


@pytest.mark.long
def test_offloads_are_offered(make_guest, tap):
    guest = make_guest()
    connect(guest, tap)
    guest.boot()
    features = guest.run("cat /sys/bus/virtio/drivers/virtio_net/virtio*/features").strip()
    assert features[0] == "1", "checksums by the host (VIRTIO_NET_F_CSUM)"
    assert features[11] == "1", "big segments to the host (VIRTIO_NET_F_HOST_TSO4)"
    assert features[32] == "1", "VIRTIO_F_VERSION_1"


@pytest.mark.long
def test_two_interfaces(make_guest, tap):
    from conftest import Tap
    other = Tap()
    try:
        guest = make_guest()
        connect(guest, tap)
        connect(guest, other, name="eth1")
        guest.boot()
        configure(guest, tap)
        configure(guest, other, "eth1")
        for one in (tap, other):
            assert "0% packet loss" in guest.run(f"ping -c 1 -W 10 {one.host}")
    finally:
        guest.close()
        other.close()


@pytest.mark.long
def test_rate_limit(make_guest, tap):
    guest = make_guest()
    connect(guest, tap, tx_rate_limiter={"bandwidth": {"size": 200_000, "refill_time": 1000}})
    guest.boot()
    configure(guest, tap)
    server = Server(tap.host)
    server.start()
    begin = time.monotonic()
    guest.run(f"dd if=/dev/zero bs=10000 count=100 2>/dev/null | nc {tap.host} {server.port}", seconds=300)
    server.join(120)
    assert server.received == 1_000_000
    assert time.monotonic() - begin > 3


@pytest.mark.long
def test_a_flood_towards_the_guest(make_guest, tap):
    guest = make_guest()
    connect(guest, tap)
    guest.boot()
    configure(guest, tap)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for size in (1, 100, 1400):
        for _ in range(500):
            sender.sendto(b"x" * size, (tap.guest, 9))
    sender.close()
    assert "0% packet loss" in guest.run(f"ping -c 2 -W 20 {tap.host}")


@pytest.fixture
def metadata_guest(make_guest, tap):
    def make(version: str):
        guest = make_guest()
        connect(guest, tap)
        guest.put("/mmds/config", network_interfaces=["eth0"], version=version)
        guest.put("/mmds", latest={"meta-data": {"ami-id": "ami-42", "tags": {"a": "1", "b": "2"}}, "big": "x" * 20000})
        guest.boot()
        configure(guest, tap)
        guest.run(f"ip route add {MMDS} dev eth0")
        return guest
    return make


def http(guest, request: str) -> str:
    lines = request.replace("\n", "\\r\\n")
    return guest.run(f"printf '{lines}\\r\\n\\r\\n' | nc -w 20 {MMDS} 80", seconds=120)


def test_metadata_version_1(metadata_guest):
    guest = metadata_guest("V1")
    assert guest.run(f"wget -q -O - http://{MMDS}/latest/meta-data/ami-id", seconds=120) == "ami-42"
    assert guest.run(f"wget -q -O - http://{MMDS}/latest/meta-data/").split() == ["ami-id", "tags/"]
    assert guest.run(f"wget -q -O - http://{MMDS}/latest/meta-data/tags/b") == "2"
    assert len(guest.run(f"wget -q -O - http://{MMDS}/latest/big", seconds=120)) == 20000
    assert "404" in http(guest, "GET /latest/nothing HTTP/1.1\nConnection: close").splitlines()[0]
    said = http(guest, "GET /latest/meta-data/tags HTTP/1.1\nAccept: application/json\nConnection: close")
    assert '{"a":"1","b":"2"}' in said
    guest.patch("/mmds", latest={"meta-data": {"ami-id": "ami-43"}})
    assert guest.run(f"wget -q -O - http://{MMDS}/latest/meta-data/ami-id") == "ami-43"


def test_metadata_version_2(metadata_guest, tap):
    guest = metadata_guest("V2")
    assert "401" in http(guest, "GET /latest/meta-data/ami-id HTTP/1.1\nConnection: close").splitlines()[0]
    said = http(guest, "PUT /latest/api/token HTTP/1.1\nX-metadata-token-ttl-seconds: 60\nConnection: close")
    assert "200" in said.splitlines()[0]
    token = said.splitlines()[-1].strip()
    said = http(guest, f"GET /latest/meta-data/ami-id HTTP/1.1\nX-metadata-token: {token}\nConnection: close")
    assert said.splitlines()[-1] == "ami-42"
    assert "401" in http(guest, "GET /latest/meta-data/ami-id HTTP/1.1\nX-metadata-token: wrong\nConnection: close").splitlines()[0]
    for seconds in ("0", "21601", "x"):
        said = http(guest, f"PUT /latest/api/token HTTP/1.1\nX-metadata-token-ttl-seconds: {seconds}\nConnection: close")
        assert "400" in said.splitlines()[0], seconds
    # Metadata never leaves on the wire, and other traffic goes on.
    assert "0% packet loss" in guest.run(f"ping -c 1 -W 10 {tap.host}")
