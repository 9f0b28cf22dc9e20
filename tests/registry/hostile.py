"""A registry that can be told to misbehave: threads of the standard library's http.server, images in memory.

    with ScriptedRegistry() as registry:
        image = registry.add_image("a/b", "1", [layer_of({"file": b"x"})])
        registry.on(r"/blobs/", drop_after(1000), times=2)      # what is asked first is answered by the first hook that matches
"""

import base64
import gzip
import hashlib
import http.server
import json
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.parse

from support.images import tar_of

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER_TYPES = {"gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip", "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
               "none": "application/vnd.oci.image.layer.v1.tar"}


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def pack(tar: bytes, packing: str = "gzip") -> bytes:
    if packing == "gzip":
        return gzip.compress(tar, 1, mtime=0)
    if packing == "zstd":
        return subprocess.run(["zstd", "-q", "-c"], input=tar, capture_output=True, check=True).stdout
    return tar


class Image:
    def __init__(self, manifest: bytes, kind: str, config: bytes, blobs: list[bytes], tars: list[bytes]):
        self.manifest, self.kind, self.config, self.blobs, self.tars = manifest, kind, config, blobs, tars
        self.digest, self.id = digest_of(manifest), digest_of(config)
        self.diff_ids = [digest_of(tar) for tar in tars]
        self.layers = [digest_of(blob) for blob in blobs]


def make_image(tars: list[bytes], packing: str = "gzip", architecture: str = "amd64", config: dict | None = None, change=None) -> Image:
    """change(manifest, config) may spoil either before they are written."""
    blobs = [pack(tar, packing) for tar in tars]
    document = {"architecture": architecture, "os": "linux", "config": {"Cmd": ["sh"], "Env": ["PATH=/bin:/sbin:/usr/bin"], **(config or {})},
                "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]}, "history": []}
    kind = MANIFEST if packing == "gzip" else OCI_MANIFEST
    manifest = {"schemaVersion": 2, "mediaType": kind,
                "config": {"mediaType": CONFIG if packing == "gzip" else "application/vnd.oci.image.config.v1+json"},
                "layers": [{"mediaType": LAYER_TYPES[packing], "digest": digest_of(blob), "size": len(blob)} for blob in blobs]}
    if change:
        change(manifest, document)
    raw = json.dumps(document).encode()
    manifest["config"].setdefault("digest", digest_of(raw))
    manifest["config"].setdefault("size", len(raw))
    return Image(json.dumps(manifest).encode(), kind, raw, blobs, tars)


def noise(size: int, seed: bytes = b"noise") -> bytes:
    """Bytes that do not compress."""
    out = bytearray()
    counter = 0
    while len(out) < size:
        out += hashlib.sha512(seed + struct.pack("<Q", counter)).digest()
        counter += 1
    return bytes(out[:size])


class ScriptedRegistry:
    def __init__(self, token_users: dict[str, str] | None = None, basic_users: dict[str, str] | None = None):
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.owners: dict[str, set[str]] = {}  # repository -> digests it may give
        self.hooks: list[list] = []
        self.requests: list[tuple[str, str, dict]] = []
        self.token_users, self.basic_users = token_users, basic_users
        self.tokens: dict[str, list[str]] = {}
        self.bytes_sent = 0
        self.lock = threading.Lock()
        self.moved = threading.Condition(self.lock)
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def log_message(self, *_):
                pass

            def do(self):
                registry.handle(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    # What it holds

    def add(self, repository: str, tag: str, image: Image) -> Image:
        for data in [image.config, *image.blobs]:
            self.blobs[digest_of(data)] = data
            self.owners.setdefault(repository, set()).add(digest_of(data))
        self.manifests[repository, tag] = self.manifests[repository, image.digest] = (image.kind, image.manifest)
        return image

    def add_image(self, repository: str, tag: str, tars: list[bytes], **keywords) -> Image:
        return self.add(repository, tag, make_image(tars, **keywords))

    def add_list(self, repository: str, tag: str, entries: list[tuple[str, Image]], kind: str = MANIFEST_LIST) -> str:
        for _, image in entries:
            self.add(repository, image.digest, image)
        document = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [
            {"mediaType": image.kind, "digest": image.digest, "size": len(image.manifest),
             "platform": dict(zip(("os", "architecture", "variant"), platform.split("/")))} for platform, image in entries]}).encode()
        self.manifests[repository, tag] = self.manifests[repository, digest_of(document)] = (kind, document)
        return digest_of(document)

    # What it does

    def on(self, pattern: str, behaviour, times: int = -1, method: str = "GET"):
        """behaviour(handler, registry) answers; returning False leaves the request to the next hook."""
        self.hooks.append([re.compile(pattern), behaviour, times, method])

    def reset(self):
        self.hooks.clear()
        with self.lock:
            self.requests.clear()
            self.bytes_sent = 0

    def seen(self, pattern: str, method: str | None = None) -> list[tuple[str, str, dict]]:
        with self.lock:
            return [request for request in self.requests if re.search(pattern, request[1]) and method in (None, request[0])]

    def wait_for_bytes(self, count: int, timeout: float = 30) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: self.bytes_sent >= count, timeout), "the registry was not asked for that much"

    def wait_for_request(self, pattern: str, timeout: float = 30, method: str | None = None) -> None:
        with self.moved:
            assert self.moved.wait_for(
                lambda: any(re.search(pattern, r[1]) and method in (None, r[0]) for r in self.requests), timeout), f"nobody asked for {pattern}"

    def send(self, handler, status: int, body: bytes = b"", **headers):
        handler.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        if handler.command != "HEAD":
            self.write(handler, body)

    def write(self, handler, body: bytes):
        for at in range(0, len(body), 65536):
            handler.wfile.write(body[at:at + 65536])
            with self.moved:
                self.bytes_sent += len(body[at:at + 65536])
                self.moved.notify_all()

    def body(self, handler) -> bytes:
        if handler.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(handler.rfile.readline(), 16):
                data += handler.rfile.read(size)
                handler.rfile.readline()
            handler.rfile.readline()
            return data
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))

    def handle(self, handler):
        with self.moved:
            self.requests.append((handler.command, handler.path, dict(handler.headers)))
            self.moved.notify_all()
        for hook in self.hooks:
            if hook[2] != 0 and hook[3] in ("*", handler.command) and hook[0].search(handler.path):
                hook[2] -= 1
                if hook[1](handler, self) is not False:
                    return
        if not self.allowed(handler):
            return
        self.serve(handler)

    # Who may

    def allowed(self, handler) -> bool:
        path = urllib.parse.urlsplit(handler.path)
        given = handler.headers.get("Authorization", "")
        if path.path == "/token":
            self.give_token(handler, urllib.parse.parse_qs(path.query), given)
            return False
        if self.basic_users is not None:
            if self.is_user(given, self.basic_users):
                return True
            self.body(handler)
            self.send(handler, 401, b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}',
                      WWW_Authenticate='Basic realm="test"')
            return False
        if self.token_users is None:
            return True
        repository = re.match(r"/v2/(.+?)/(?:manifests|blobs|tags)/", handler.path)
        action = "pull" if handler.command in ("GET", "HEAD") else "push"
        wanted = f"repository:{repository[1]}:{action}" if repository else ""
        if given.startswith("Bearer ") and given[7:] in self.tokens and (not wanted or wanted in self.tokens[given[7:]]):
            return True
        self.body(handler)
        scope = f',scope="{wanted}"' if wanted else ""
        self.send(handler, 401, b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}',
                  WWW_Authenticate=f'Bearer realm="{self.url}/token",service="test"{scope}')
        return False

    @staticmethod
    def is_user(given: str, users: dict[str, str]) -> bool:
        if not given.startswith("Basic "):
            return False
        user, _, password = base64.b64decode(given[6:]).decode().partition(":")
        return users.get(user) == password

    def give_token(self, handler, query, given):
        self.body(handler)
        if given and not self.is_user(given, self.token_users):
            return self.send(handler, 401, b"{}")
        granted = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            for action in actions.split(","):
                if action == "pull" and "private" not in name or given:
                    granted.append(f"{kind}:{name}:{action}")
        token = f"token-{len(self.tokens)}"
        self.tokens[token] = granted
        return self.send(handler, 200, json.dumps({"token": token}).encode(), Content_Type="application/json")

    # The protocol

    def serve(self, handler):
        path = urllib.parse.urlsplit(handler.path)
        query = urllib.parse.parse_qs(path.query)
        if path.path == "/v2/":
            return self.send(handler, 200, b"{}")
        if found := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", path.path):
            return self.manifest(handler, found[1], found[2])
        if found := re.fullmatch(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})", path.path):
            return self.blob(handler, found[1], found[2])
        if found := re.fullmatch(r"/v2/(.+)/blobs/uploads/(.*)", path.path):
            return self.upload(handler, found[1], query)
        if found := re.fullmatch(r"/v2/(.+)/tags/list", path.path):
            tags = sorted({tag for repository, tag in self.manifests if repository == found[1] and ":" not in tag})
            after = query.get("last", [""])[0]
            page = [tag for tag in tags if tag > after][:2]
            more = {"Link": f'<{path.path}?last={page[-1]}&n=2>; rel="next"'} if page and page[-1] != tags[-1] else {}
            return self.send(handler, 200 if tags else 404, json.dumps({"name": found[1], "tags": page}).encode(), **more)
        self.body(handler)
        return self.send(handler, 404, b'{"errors":[{"code":"NOT_FOUND","message":"no such thing"}]}')

    def manifest(self, handler, repository, reference):
        if handler.command == "PUT":
            data = self.body(handler)
            kind = handler.headers["Content-Type"]
            self.manifests[repository, reference] = self.manifests[repository, digest_of(data)] = (kind, data)
            return self.send(handler, 201, Docker_Content_Digest=digest_of(data), Location=handler.path)
        if (repository, reference) not in self.manifests:
            return self.send(handler, 404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        kind, data = self.manifests[repository, reference]
        return self.send(handler, 200, data, Content_Type=kind, Docker_Content_Digest=digest_of(data))

    def blob(self, handler, repository, digest):
        if digest not in self.blobs or digest not in self.owners.get(repository, ()):
            return self.send(handler, 404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}')
        data = self.blobs[digest]
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", "")):
            first, last = int(found[1]), min(int(found[2]), len(data) - 1)
            return self.send(handler, 206, data[first:last + 1], Content_Range=f"bytes {first}-{last}/{len(data)}")
        return self.send(handler, 200, data, Content_Type="application/octet-stream")

    def upload(self, handler, repository, query):
        data = self.body(handler)
        if handler.command == "POST" and "mount" in query:
            digest = query["mount"][0]
            if digest in self.owners.get(query["from"][0], ()):
                self.owners.setdefault(repository, set()).add(digest)
                return self.send(handler, 201, Location=f"/v2/{repository}/blobs/{digest}")
        if handler.command == "POST":
            return self.send(handler, 202, Location=f"/v2/{repository}/blobs/uploads/1?state=x")
        if handler.command == "PUT" and digest_of(data) == query["digest"][0]:
            self.blobs[digest_of(data)] = data
            self.owners.setdefault(repository, set()).add(digest_of(data))
            return self.send(handler, 201, Docker_Content_Digest=digest_of(data), Location="/")
        return self.send(handler, 400, b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}')


# Behaviours


def hang_up(handler):
    """Ends the connection at once, with a reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()
    handler.rfile = handler.wfile = __import__("io").BytesIO()


def drop(handler, registry):
    registry.body(handler)
    hang_up(handler)


def drop_after(count: int):
    """Promises the whole of what was asked for, sends `count` bytes of it and hangs up."""

    def behave(handler, registry):
        digest = handler.path.rsplit("/", 1)[1]
        data = registry.blobs[digest]
        first = 0
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", "")):
            first = int(found[1])
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) - first))
        handler.end_headers()
        registry.write(handler, data[first:first + count])
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    return behave


def answer(status: int, body: bytes = b"", **headers):
    def behave(handler, registry):
        registry.body(handler)
        registry.send(handler, status, body, **headers)

    return behave


def raw(data: bytes):
    """Bytes instead of HTTP."""

    def behave(handler, registry):
        handler.wfile.write(data)
        handler.wfile.flush()
        handler.close_connection = True

    return behave


def redirect(location: str, status: int = 307):
    return answer(status, Location=location)


def slowly(bytes_a_second: int):
    def behave(handler, registry):
        data = registry.blobs[handler.path.rsplit("/", 1)[1]]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        step = max(1, bytes_a_second // 20)
        for at in range(0, len(data), step):
            handler.wfile.write(data[at:at + step])
            with registry.moved:
                registry.bytes_sent += step
                registry.moved.notify_all()
            time.sleep(0.05)

    return behave


def silence(handler, registry):
    """Never answers; returns when the client has gone."""
    handler.connection.settimeout(60)
    try:
        handler.connection.recv(1)
    except OSError:
        pass
    with registry.moved:
        registry.requests.append(("GONE", handler.path, {}))
        registry.moved.notify_all()
    handler.close_connection = True


def layer_of(entries: dict) -> bytes:
    return tar_of(entries)
