"""Debian's containerd with roots of its own, and `ctr` against it; the shim under test comes first in its PATH."""

import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
import uuid

import pytest

from support import binaries, leaks
from support.images import busybox_rootfs

SHIM = "containerd-shim-wherry-v2"
RUNTIME = "io.containerd.wherry.v2"
BUSYBOX = "docker.io/library/busybox:latest"
SOCKETS = "/run/wherry-containerd"


def need(*names: str) -> None:
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")


def oci_archive(reference: str = BUSYBOX, layers: tuple[bytes, ...] = ()) -> bytes:
    """An OCI image layout as a tar: one image of the given layers (busybox alone by default)."""
    blobs: dict[str, bytes] = {}

    def add(content: bytes) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"digest": f"sha256:{digest}", "size": len(content)}

    layers = layers or (busybox_rootfs(),)
    described = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **add(layer)} for layer in layers]
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"], "Env": ["PATH=/bin:/sbin:/usr/bin"]},
              "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in described]}}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": described,
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **add(json.dumps(config).encode())}}
    index = {"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", **add(json.dumps(manifest).encode()),
         "annotations": {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": "latest"},
         "platform": {"architecture": "amd64", "os": "linux"}}]}
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
        files.update({f"blobs/sha256/{digest}": content for digest, content in blobs.items()})
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


class EventLog:
    """`ctr events`, read by a thread: wait_for() returns as soon as what is asked for has come."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.events: list[tuple[str, dict]] = []  # topic, body
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            parts = line.rstrip("\n").split(" ", 6)  # date time zone zone-name namespace topic body
            topic = next((part for part in parts if part.startswith("/")), None)
            if topic is None:
                continue
            body = line.split(topic, 1)[1].strip()
            with self.changed:
                self.events.append((topic, json.loads(body) if body.startswith("{") else {}))
                self.changed.notify_all()

    def of(self, container: str) -> list[tuple[str, dict]]:
        return [(topic, body) for topic, body in self.events
                if topic.startswith("/tasks/") and body.get("container_id", body.get("id")) == container]

    def wait_for(self, container: str, topic: str, process: str | None = None, timeout: float = 30) -> list[tuple[str, dict]]:
        """`process`: the event has to be of that one, the container's name or an exec's."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while not any(name == topic and process in (None, body.get("id")) for name, body in self.of(container)):
                if not self.changed.wait(max(0, deadline - time.monotonic())):
                    raise AssertionError(f"no {topic} of {container}: {self.of(container)}")
        return self.of(container)

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.thread.join(timeout=30)


class Containerd:
    """One containerd; close() ends it and says what the shims left behind."""

    def __init__(self, shim_folder: str | None = None):
        binaries.need_root()
        need("containerd", "ctr")
        self.shim_binary = binaries.binary(SHIM)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-containerd-test-"))
        self.address = str(self.folder / "containerd.sock")
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        os.symlink(shim_folder or self.shim_binary, self.bin / SHIM)
        (self.folder / "config.toml").write_text(f"""version = 2
root = "{self.folder}/root"
state = "{self.folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{self.address}"
[ttrpc]
  address = "{self.address}.ttrpc"
""")
        self.log = open(self.folder / "containerd.log", "ab")
        self.daemon: subprocess.Popen | None = None
        self.name_space = "test"
        self.names: list[str] = []
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}

    def start(self):
        self.daemon = subprocess.Popen(["containerd", "--config", str(self.folder / "config.toml"), "--log-level", "info"],
                                       env=self.environment, stdout=self.log, stderr=self.log, start_new_session=True)
        deadline = time.monotonic() + 60
        while subprocess.run(["ctr", "-a", self.address, "version"], capture_output=True).returncode != 0:
            assert self.daemon.poll() is None, (self.folder / "containerd.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "containerd did not come up"
            time.sleep(0.05)

    def kill(self):
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def command(self, *arguments: str) -> list[str]:
        return ["ctr", "-a", self.address, "-n", self.name_space, *arguments]

    def ctr(self, *arguments: str, check: bool = True, stdin: str | None = None, timeout: float = 90) -> subprocess.CompletedProcess:
        result = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout,
                                input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL)
        if check:
            assert result.returncode == 0, f"ctr {' '.join(arguments)}: {result.stdout}{result.stderr}"
        return result

    def popen(self, *arguments: str, **keywords) -> subprocess.Popen:
        return subprocess.Popen(self.command(*arguments), text=True, **keywords)

    def import_busybox(self):
        archive = self.folder / "busybox.tar"
        archive.write_bytes(oci_archive())
        self.ctr("images", "import", str(archive))

    def name(self) -> str:
        self.names.append(f"c{uuid.uuid4().hex[:12]}")
        return self.names[-1]

    def run(self, *command: str, flags: tuple[str, ...] = ("--rm",), name: str | None = None, runtime: str = RUNTIME, **keywords):
        name = name or self.name()
        return self.ctr("run", "--runtime", runtime, *flags, BUSYBOX, name, *command, **keywords)

    def run_detached(self, *command: str, flags: tuple[str, ...] = (), runtime: str = RUNTIME) -> str:
        name = self.name()
        self.run(*command, flags=("-d", *flags), name=name, runtime=runtime)
        return name

    def events(self) -> EventLog:
        log = EventLog(self.popen("events", stdout=subprocess.PIPE))
        # `ctr events` says nothing when it listens: an event of our own shows that it does.
        label = uuid.uuid4().hex
        deadline = time.monotonic() + 30
        while not any(topic == "/namespaces/update" and label in json.dumps(body) for topic, body in log.events):
            subprocess.run(["ctr", "-a", self.address, "namespaces", "label", self.name_space, f"probe={label}"], check=True)
            assert time.monotonic() < deadline, "ctr events does not listen"
            time.sleep(0.05)
        return log

    def task(self, name: str) -> tuple[int, str] | None:
        for line in self.ctr("tasks", "ls").stdout.splitlines()[1:]:
            fields = line.split()
            if fields[0] == name:
                return int(fields[1]), fields[2]
        return None

    def wait_for(self, name: str, status: str, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while (task := self.task(name)) is None or task[1] != status:
            assert time.monotonic() < deadline, task
            time.sleep(0.05)

    def exit_code(self, name: str) -> int:
        """Of a container that ends by itself; its task is removed."""
        self.wait_for(name, "STOPPED")
        said = self.ctr("tasks", "rm", name).stderr
        return int(said.rsplit("exit code ", 1)[1].strip().rstrip('"')) if "exit code" in said else 0

    def bundle(self, name: str) -> pathlib.Path:
        return self.folder / "state/io.containerd.runtime.v2.task" / self.name_space / name

    def socket(self, name: str) -> str:
        return (self.bundle(name) / "address").read_text().removeprefix("unix://")

    def shims(self) -> dict[int, str]:
        """Pids of our shims for this containerd, with the container they were started for."""
        found = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if words and words[0].endswith(SHIM) and self.address in words:
                found[int(entry)] = words[words.index("-id") + 1]
        return found

    def remove_all(self):
        for name in self.ctr("containers", "ls", "-q").stdout.split():
            self.ctr("tasks", "rm", "-f", name, check=False)
            self.ctr("containers", "rm", name, check=False)

    def close(self) -> None:
        try:
            if self.daemon.poll() is not None:
                self.start()
            self.remove_all()
            deadline = time.monotonic() + 20
            while self.shims() and time.monotonic() < deadline:
                time.sleep(0.05)
            left = {
                "shims": list(self.shims().values()),
                "mounts": leaks.mounts(str(self.folder)),
                "control groups": leaks.control_groups("", self.names),
            }
        finally:
            for pid in self.shims():
                os.kill(pid, signal.SIGKILL)
            if self.daemon.poll() is None:
                self.daemon.terminate()
                self.daemon.wait(timeout=30)
            self.log.close()
            for path in reversed(leaks.mounts(str(self.folder))):
                subprocess.run(["umount", "-l", path], check=False)
        text = (self.folder / "containerd.log").read_text(errors="replace")
        shutil.rmtree(self.folder, ignore_errors=True)
        left = {what: things for what, things in left.items() if things}
        assert not left, f"left behind: {left}\n{text[-2000:]}"
