"""A small client of the Docker API over a unix socket, from the standard library alone."""

import http.client
import json
import socket
import urllib.parse


class ApiError(Exception):
    def __init__(self, status: int, body: bytes):
        self.status = status
        self.body = body
        try:
            self.message = json.loads(body).get("message", "")
        except (ValueError, AttributeError):
            self.message = body.decode(errors="replace")
        super().__init__(f"{status}: {self.message}")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Api:
    """api.get("/containers/json", all=1) -> (status, parsed JSON or bytes); api.ok(...) raises ApiError on 4xx and 5xx."""

    def __init__(self, socket_path: str, prefix: str = "", timeout: float = 60):
        self.socket_path = socket_path
        self.prefix = prefix
        self.timeout = timeout

    def request(self, method: str, path: str, /, body=None, headers=None, **query):
        """One exchange; returns (status, headers, bytes). Dicts and lists in query and body become JSON."""
        headers = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        if query:
            pairs = {key.rstrip("_"): json.dumps(value) if isinstance(value, (dict, list)) else value for key, value in query.items()}
            path += "?" + urllib.parse.urlencode(pairs)
        connection = UnixConnection(self.socket_path, self.timeout)
        try:
            connection.request(method, self.prefix + path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def call(self, method: str, path: str, /, body=None, headers=None, **query):
        """(status, decoded body): JSON where it is JSON, bytes otherwise, None when empty."""
        status, _, raw = self.request(method, path, body, headers, **query)
        return status, decode(raw)

    def ok(self, method: str, path: str, /, body=None, headers=None, **query):
        status, _, raw = self.request(method, path, body, headers, **query)
        if status >= 400:
            raise ApiError(status, raw)
        return decode(raw)

    def get(self, path: str, /, **query):
        return self.ok("GET", path, **query)

    def post(self, path: str, /, body=None, **query):
        return self.ok("POST", path, body, **query)

    def delete(self, path: str, /, **query):
        return self.ok("DELETE", path, **query)

    def hijack(self, path: str, body=b"", timeout: float = 30) -> tuple[socket.socket, int, bytes]:
        """POST with Upgrade: tcp; returns the raw socket, the status and what already came after the head."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(timeout)
        stream.connect(self.socket_path)
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        head = (
            f"POST {self.prefix}{path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        stream.sendall(head.encode() + body)
        data = b""
        while b"\r\n\r\n" not in data:
            piece = stream.recv(4096)
            if not piece:
                break
            data += piece
        head_bytes, _, rest = data.partition(b"\r\n\r\n")
        return stream, int(head_bytes.split(b" ", 2)[1]), rest


def decode(raw: bytes):
    if not raw:
        return None
    try:
        return json.loads(raw)
    except ValueError:
        return raw


def demultiplex(data: bytes) -> tuple[bytes, bytes]:
    """Splits Docker's framed stream into (stdout, stderr)."""
    out = {1: b"", 2: b""}
    while len(data) >= 8:
        kind, length = data[0], int.from_bytes(data[4:8], "big")
        out[kind] = out.get(kind, b"") + data[8 : 8 + length]
        data = data[8 + length :]
    return out[1], out[2]
