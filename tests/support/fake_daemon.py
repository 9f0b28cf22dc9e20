"""A daemon that only remembers: it answers what a CLI needs to go on and keeps every request, to compare what two CLIs send."""

import http.server
import json
import os
import socketserver
import tempfile
import threading


class FakeDaemon:
    """with FakeDaemon() as fake: run a CLI with DOCKER_HOST=fake.host, then look at fake.requests."""

    def __init__(self, answers: dict[tuple[str, str], tuple[int, object]] | None = None):
        self.answers = answers or {}
        self.requests: list[tuple[str, str, object]] = []
        self.folder = tempfile.mkdtemp(prefix="wherry-fake-")
        self.path = os.path.join(self.folder, "fake.sock")
        self.host = "unix://" + self.path

    def answer(self, method: str, path: str) -> tuple[int, object]:
        for (wanted_method, prefix), reply in self.answers.items():
            if method == wanted_method and path.startswith(prefix):
                return reply
        if path.startswith("/containers/create"):
            return 201, {"Id": "c" * 64, "Warnings": []}
        if path.startswith("/version"):
            return 200, {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux", "Arch": "amd64"}
        if path.startswith("/info"):
            return 200, {"ID": "fake", "SecurityOptions": []}
        return 404, {"message": f"no answer for {method} {path}"}

    def __enter__(self):
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path
                if path.startswith("/v1."):
                    path = "/" + path.split("/", 2)[2]
                if path.startswith("/_ping"):
                    status, body = 200, b"OK"
                else:
                    fake.requests.append((self.command, path, json.loads(raw) if raw else None))
                    status, document = fake.answer(self.command, path)
                    body = json.dumps(document).encode() if document is not None else b""
                self.send_response(status)
                self.send_header("Api-Version", "1.41")
                self.send_header("Ostype", "linux")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_POST = do_DELETE = do_HEAD = do_PUT = handle_any

            def log_message(self, *_):
                pass

            def address_string(self):
                return "unix"

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self.server = Server(self.path, Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        os.unlink(self.path)
        os.rmdir(self.folder)

    def bodies(self, prefix: str) -> list[object]:
        return [body for _, path, body in self.requests if path.startswith(prefix)]
