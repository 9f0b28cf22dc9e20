"""Debian's dockerd with roots of its own, in a network and mount namespace of its own."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

from support import binaries, leaks
from support.containerd import need


class Dockerd:
    """Its firewall and bridge are nobody else's. `shim`: stands in for runc's, first in the PATH of its containerd."""

    def __init__(self, shim: str | None = None):
        binaries.need_root()
        need("dockerd", "containerd", "docker", "unshare")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-dockerd-test-", dir="/var/tmp"))
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        if shim:
            os.symlink(shim, self.bin / "containerd-shim-runc-v2")
        self.socket = self.folder / "docker.sock"
        self.log = open(self.folder / "log", "ab")
        # The namespaces outlive the daemon, which one of the tests kills.
        self.holder = subprocess.Popen(["unshare", "-n", "-m", "sh", "-c", "ip link set lo up; echo; exec sleep infinity"],
                                       stdout=subprocess.PIPE, start_new_session=True)
        self.holder.stdout.readline()
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["nsenter", "-t", str(self.holder.pid), "-n", "-m", "dockerd", "--data-root", str(self.folder / "data"),
             "--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid"), "-H", f"unix://{self.socket}",
             "--live-restore", "--bip", "10.213.91.1/24", "--storage-driver", "overlay2", "--cgroup-parent", "/wherry-dockerd-test"],
            env={**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}, stdout=self.log, stderr=self.log, start_new_session=True)
        deadline = time.monotonic() + 90
        while self.docker("version", check=False).returncode != 0:
            if time.monotonic() > deadline or self.process.poll() is not None:
                text = (self.folder / "log").read_text(errors="replace")[-2000:]
                pytest.fail(f"dockerd does not start: {text}")
            time.sleep(0.1)

    def command(self, *arguments: str) -> list[str]:
        return ["docker", "-H", f"unix://{self.socket}", *arguments]

    def docker(self, *arguments: str, check: bool = True, **keywords) -> subprocess.CompletedProcess:
        if "input" not in keywords:
            keywords["stdin"] = subprocess.DEVNULL
        done = subprocess.run(self.command(*arguments), capture_output=True, timeout=120, **keywords)
        assert not check or done.returncode == 0, done
        return done

    def run(self, *arguments: str, **keywords) -> subprocess.CompletedProcess:
        return self.docker("run", *arguments, text=True, **keywords)

    def inspect(self, name: str, path: str):
        return json.loads(self.docker("inspect", "-f", "{{json " + path + "}}", name).stdout)

    def stop(self):
        """As a user would, before Docker's root is given to somebody else."""
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close(self):
        if self.process.poll() is None:
            names = self.docker("ps", "-aq", text=True).stdout.split()
            if names:
                self.docker("rm", "-f", *names)
            self.stop()
        for line in leaks.processes(str(self.folder)):
            os.kill(int(line.split()[0]), signal.SIGKILL)
        self.holder.kill()
        self.holder.wait()
        self.log.close()
        for base, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
            if "/wherry-dockerd-test" in base:
                try:
                    os.rmdir(base)
                except OSError:
                    pass
        for _ in range(20):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                break
            time.sleep(0.1)
