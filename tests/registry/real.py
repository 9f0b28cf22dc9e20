"""Debian's docker-registry on loopback: a root and a port of its own, ended by pid."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class RealRegistry:
    """with RealRegistry() as registry: registry.host is "127.0.0.1:port".

    users: {"name": "password"} for basic authentication. tls: (certificate, key)."""

    def __init__(self, users: dict[str, str] | None = None, tls: tuple[str, str] | None = None, proxy_for: str = ""):
        self.program = shutil.which("docker-registry")
        if self.program is None:
            pytest.skip("docker-registry is not installed")
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="wherry-registry-"))
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.tls = tls
        lines = ["version: 0.1", "log: {level: warn}", "storage:", f"  filesystem: {{rootdirectory: {self.root}/data}}",
                 "  delete: {enabled: true}", "http:", f"  addr: {self.host}", "  secret: test"]
        if tls:
            lines += [f"  tls: {{certificate: {tls[0]}, key: {tls[1]}}}"]
        if users:
            password_file = self.root / "htpasswd"
            password_file.write_text("".join(f"{user}:{bcrypt(password)}\n" for user, password in users.items()))
            lines += ["auth:", f"  htpasswd: {{realm: test, path: {password_file}}}"]
        if proxy_for:
            lines += ["proxy:", f"  remoteurl: {proxy_for}"]
        self.configuration = self.root / "config.yml"
        self.configuration.write_text("\n".join(lines) + "\n")
        self.process = None

    def __enter__(self):
        self.log = open(self.root / "log", "ab")
        self.process = subprocess.Popen([self.program, "serve", str(self.configuration)], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            assert self.process.poll() is None, (self.root / "log").read_text()
            assert time.monotonic() < deadline, "docker-registry does not listen"
            time.sleep(0.02)

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def get(self, path: str, accept: str = "*/*") -> tuple[int, dict, bytes]:
        request = urllib.request.Request(f"http://{self.host}{path}", headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def manifest(self, repository: str, reference: str) -> dict:
        kinds = ", ".join([
            "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"])
        status, headers, body = self.get(f"/v2/{repository}/manifests/{reference}", kinds)
        assert status == 200, (status, body)
        return {**json.loads(body), "digest": headers["Docker-Content-Digest"]}

    def tags(self, repository: str) -> list[str]:
        status, _, body = self.get(f"/v2/{repository}/tags/list")
        return sorted(json.loads(body).get("tags") or []) if status == 200 else []


def bcrypt(password: str) -> str:
    import crypt
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        salt = "$2b$05$" + "".join("abcdefghijklmnopqrstuv"[byte % 22] for byte in os.urandom(22))
        hashed = crypt.crypt(password, salt)
    if not hashed or not hashed.startswith("$2"):
        pytest.skip("this crypt(3) has no bcrypt")
    return hashed.replace("$2b$", "$2y$", 1)
