"""GET /containers/{id}/attach/ws: attach over a WebSocket (RFC 6455), as SDKs and browsers do it."""

import base64
import hashlib
import os
import socket
import time

import pytest

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebSocket:
    def __init__(self, daemon, path: str, **changes):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(daemon.socket))
        key = base64.b64encode(os.urandom(16)).decode()
        fields = {"Host": "docker", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key, **changes}
        head = f"GET {path} HTTP/1.1\r\n" + "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value is not None)
        self.socket.sendall(head.encode() + b"\r\n")
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            piece = self.socket.recv(4096)
            if not piece:
                break
            self.data += piece
        answer, _, self.data = self.data.partition(b"\r\n\r\n")
        lines = answer.decode().split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        if self.status == 101:
            wanted = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
            assert self.headers["sec-websocket-accept"] == wanted and self.headers["upgrade"] == "websocket"

    def send(self, payload: bytes, opcode: int = 2, final: bool = True) -> None:
        mask = os.urandom(4)
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0xFE]) + len(payload).to_bytes(2, "big")
        self.socket.sendall(bytes([(0x80 if final else 0) | opcode]) + length + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)))

    def take(self, count: int) -> bytes:
        while len(self.data) < count:
            piece = self.socket.recv(65536)
            if not piece:
                return b""
            self.data += piece
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def frame(self) -> tuple[int, bytes] | None:
        """The next frame's opcode and payload; None at the end."""
        head = self.take(2)
        if not head:
            return None
        assert head[0] & 0x80 and not head[1] & 0x80, "a server's frames are whole and not masked"
        length = head[1]
        if length >= 126:
            length = int.from_bytes(self.take(2 if length == 126 else 8), "big")
        return head[0] & 0x0F, self.take(length)

    def until(self, text: bytes) -> bytes:
        data = b""
        while text not in data:
            opcode, payload = self.frame()
            assert opcode == 2
            data += payload
        return data

    def rest(self) -> tuple[bytes, int | None]:
        """All data to the end, and the code of the close frame."""
        data, code = b"", None
        while frame := self.frame():
            if frame[0] == 8:
                code = int.from_bytes(frame[1][:2], "big")
            else:
                data += frame[1]
        return data, code


def create(api, command: str, **body) -> str:
    return api.post("/containers/create", {"Image": "busybox", "Cmd": ["sh", "-c", command], "HostConfig": {"NetworkMode": "none"}, **body})["Id"]


def running(daemon, command: str, **body) -> str:
    container = create(daemon.api, command, OpenStdin=True, AttachStdin=True, **body)
    daemon.api.post(f"/containers/{container}/start")
    return container


def test_both_ways_without_frames_of_docker(clean):
    container = running(clean, "while read line; do echo got $line; echo error $line >&2; [ $line = end ] && exit 4; done")
    client = WebSocket(clean, f"/v1.47/containers/{container}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1")
    assert client.status == 101
    client.send(b"one\n")
    assert sorted(client.until(b"error one\n").splitlines()) == [b"error one", b"got one"]
    client.send(b"tw", final=False)  # fragments, a ping between them
    client.send(b"are you there?", opcode=9)
    assert client.frame() == (10, b"are you there?")
    client.send(b"o\n", opcode=0)
    client.until(b"got two\n")
    client.send(b"x" * 300 + b"\nend\n")
    data, code = client.rest()
    assert b"got " + b"x" * 300 in data and b"got end\n" in data and code == 1000
    assert clean.api.post(f"/containers/{container}/wait")["StatusCode"] == 4


def test_streams_are_chosen_since_1_42(clean):
    container = running(clean, "read line; echo out; echo error >&2; echo last")
    new = WebSocket(clean, f"/v1.47/containers/{container}/attach/ws?stream=1&stdout=1")
    old = WebSocket(clean, f"/v1.41/containers/{container}/attach/ws?stream=1")
    old.send(b"go\n")
    assert new.rest() == (b"out\nlast\n", 1000)
    assert sorted(old.rest()[0].splitlines()) == [b"error", b"last", b"out"]


def test_logs_are_replayed(clean):
    container = create(clean.api, "echo before")
    clean.api.post(f"/containers/{container}/start")
    clean.api.post(f"/containers/{container}/wait")
    client = WebSocket(clean, f"/containers/{container}/attach/ws?logs=1&stdout=1")
    assert client.rest() == (b"before\n", 1000)


def test_a_client_that_closes_leaves_the_container_alone(clean):
    container = running(clean, "read line; echo still; sleep 100")
    client = WebSocket(clean, f"/containers/{container}/attach/ws?stream=1&stdin=1&stdout=1")
    client.send((1000).to_bytes(2, "big"), opcode=8)
    assert client.rest()[0] == b""
    deadline = time.monotonic() + 20
    while b"still" not in clean.api.request("GET", f"/containers/{container}/logs?stdout=1")[2]:  # its input has ended: read fails, it goes on
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert clean.api.get(f"/containers/{container}/json")["State"]["Running"]


@pytest.mark.parametrize("changes, status", [
    ({"Upgrade": "tcp"}, 400), ({"Upgrade": None, "Connection": None}, 400), ({"Sec-WebSocket-Version": "8"}, 400), ({"Sec-WebSocket-Key": "short"}, 400),
    ({"Sec-WebSocket-Key": None}, 400)])
def test_bad_handshakes(clean, changes, status):
    container = running(clean, "sleep 100")
    assert WebSocket(clean, f"/containers/{container}/attach/ws?stream=1&stdout=1", **changes).status == status


def test_errors_are_ordinary_answers(clean):
    assert WebSocket(clean, "/containers/absent/attach/ws?stream=1&stdout=1").status == 404


@pytest.mark.parametrize("frame", [b"\x82\x01x", b"\x83\x80\0\0\0\0", b"\x80\x81\0\0\0\0x", b"\x89\xfe\x00\x80\0\0\0\0", b"\xc2\x80\0\0\0\0"],
                         ids=["unmasked", "opcode", "continuation", "long ping", "reserved"])
def test_broken_frames_end_the_connection(clean, frame):
    container = running(clean, "sleep 100")
    client = WebSocket(clean, f"/containers/{container}/attach/ws?stream=1&stdin=1&stdout=1")
    client.socket.sendall(frame)
    assert client.rest() == (b"", 1002)
    assert clean.api.get(f"/containers/{container}/json")["State"]["Running"]
