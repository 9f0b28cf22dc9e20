"""What containerd is for a shim: a socket for events, bundles, and the shim's command line."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import uuid

from support import binaries, leaks
from support.containerd import SHIM
from support.runtime import Bundle
from support.ttrpc import Client, EventServer


class Host:
    def __init__(self):
        binaries.need_root()
        self.binary = binaries.binary(SHIM)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-shim-test-"))
        self.folder.chmod(0o711)
        self.events = EventServer(str(self.folder / "ttrpc.sock"))
        self.environment = {**os.environ, "TTRPC_ADDRESS": str(self.folder / "ttrpc.sock")}
        self.names: list[str] = []
        self.sockets: set[str] = set()

    def bundle(self, *arguments: str) -> Bundle:
        self.names.append(f"s{uuid.uuid4().hex[:12]}")
        bundle = Bundle(self.folder / self.names[-1], *arguments)
        bundle.name = self.names[-1]
        bundle.linux["cgroupsPath"] = f"/wherry-shim-test/{bundle.name}"
        return bundle

    def command(self, bundle, *words: str, **keywords) -> subprocess.CompletedProcess:
        return subprocess.run([self.binary, "-namespace", "ns", "-address", str(self.folder / "containerd.sock"),
                               "-publish-binary", keywords.pop("publish", "/bin/true"), "-id", bundle.name, *words],
                              cwd=bundle.path, env=keywords.pop("env", self.environment), capture_output=True, timeout=60,
                              stdin=subprocess.DEVNULL, **keywords)

    def start(self, bundle, **keywords) -> str:
        bundle.write()
        done = self.command(bundle, "start", **keywords)
        assert done.returncode == 0 and done.stdout.startswith(b"unix:///"), done
        assert (bundle.path / "address").read_bytes() == done.stdout
        self.sockets.add(done.stdout.decode().removeprefix("unix://"))
        return done.stdout.decode().removeprefix("unix://")

    def client(self, bundle, **keywords) -> Client:
        return Client(self.start(bundle, **keywords))

    def shims(self) -> list[int]:
        return [int(line.split()[0]) for line in leaks.processes(str(self.folder)) if SHIM in line]

    def close(self):
        for pid in self.shims():
            os.kill(pid, signal.SIGKILL)
        for name in self.names:
            if (self.folder / name / "config.json").exists():
                subprocess.run([self.binary, "-namespace", "ns", "-address", str(self.folder / "containerd.sock"), "-id", name,
                                "-bundle", str(self.folder / name), "delete"], capture_output=True, timeout=60)
        self.events.close()
        for path in self.sockets:
            pathlib.Path(path).unlink(missing_ok=True)
        # What ends with a shim ends a moment after it.
        deadline = time.monotonic() + 10
        while leaks.processes(str(self.folder)) and time.monotonic() < deadline:
            time.sleep(0.02)
        left = leaks.control_groups("", self.names) + leaks.mounts(str(self.folder)) + leaks.processes(str(self.folder))
        for base, _, _ in os.walk("/sys/fs/cgroup"):
            if base.endswith("/wherry-shim-test"):
                try:
                    os.rmdir(base)
                except OSError:
                    pass
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left


def create(client: Client, bundle, **fields) -> int:
    names = {"rootfs": 3, "terminal": 4, "stdin": 5, "stdout": 6, "stderr": 7, "checkpoint": 8, "options": 10}
    request = {1: bundle.name, 2: str(bundle.path), **{names[name]: value for name, value in fields.items()}}
    return client.call("Create", request).get(1, [0])[0]


def status(client: Client, bundle, exec_id: str = "") -> int:
    return client.call("State", {1: bundle.name, 2: exec_id}).get(4, [0])[0]


CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4
