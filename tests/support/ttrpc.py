"""A small ttrpc client and just enough of Protocol Buffers: messages are {field number: value}."""

import itertools
import socket
import struct
import threading

TASK = "containerd.task.v2.Task"


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(fields: dict) -> bytes:
    """int and bool: varint; str, bytes: as they are; dict: a message; list: repeated."""
    out = b""
    for number, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int):
                out += varint(number << 3) + varint(item)
            else:
                data = encode(item) if isinstance(item, dict) else item.encode() if isinstance(item, str) else item
                out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def decode(data: bytes) -> dict[int, list]:
    fields: dict[int, list] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            value = number()
        elif key & 7 == 2:
            length = number()
            value = data[at:at + length]
            at += length
        else:
            raise ValueError(f"wire type {key & 7}")
        fields.setdefault(key >> 3, []).append(value)
    return fields


class RpcError(Exception):
    def __init__(self, code: int, message: str):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, UNIMPLEMENTED, UNAVAILABLE = 3, 5, 6, 9, 12, 14


def frame(kind: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IIBB", len(payload), stream, kind, 0) + payload


def read_frame(connection: socket.socket) -> tuple[int, int, bytes] | None:
    def exactly(count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            piece = connection.recv(count - len(data))
            if not piece:
                return None
            data += piece
        return data

    header = exactly(10)
    if header is None:
        return None
    length, stream, kind, _ = struct.unpack(">IIBB", header)
    return kind, stream, exactly(length) or b""


class Client:
    def __init__(self, path: str, timeout: float = 60):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.streams = itertools.count(1, 2)
        self.early: dict[int, bytes] = {}

    def send(self, method: str, fields: dict, service: str = TASK) -> int:
        stream = next(self.streams)
        self.socket.sendall(frame(1, stream, encode({1: service, 2: method, 3: encode(fields)})))
        return stream

    def receive(self, stream: int) -> dict[int, list]:
        while stream not in self.early:
            got = read_frame(self.socket)
            if got is None:
                raise ConnectionError("the shim closed the connection")
            self.early[got[1]] = got[2]
        response = decode(self.early.pop(stream))
        if 1 in response:
            status = decode(response[1][0])
            raise RpcError(status.get(1, [0])[0], status.get(2, [b""])[0].decode())
        return decode(response.get(2, [b""])[0])

    def call(self, method: str, fields: dict, service: str = TASK) -> dict[int, list]:
        return self.receive(self.send(method, fields, service))

    def close(self):
        self.socket.close()


class EventServer:
    """containerd's side of events: takes every one, remembers (topic, type, fields)."""

    def __init__(self, path: str):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.events: list[tuple[str, str, dict]] = []
        self.changed = threading.Condition()
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            while (got := read_frame(connection)) is not None:
                request = decode(got[2])
                envelope = decode(decode(request[3][0])[1][0])
                event = decode(envelope[4][0])
                with self.changed:
                    self.events.append((envelope[3][0].decode(), event[1][0].decode(), decode(event.get(2, [b""])[0])))
                    self.changed.notify_all()
                connection.sendall(frame(2, got[1], b""))
        except OSError:
            pass

    def wait_for(self, topic: str, timeout: float = 30) -> list[str]:
        with self.changed:
            assert self.changed.wait_for(lambda: topic in [event[0] for event in self.events], timeout), \
                f"no {topic}: {[event[0] for event in self.events]}"
            return [event[0] for event in self.events]

    def close(self):
        self.listener.close()
        for connection in self.connections:
            connection.close()
