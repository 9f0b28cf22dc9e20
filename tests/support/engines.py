"""Other people's engines with our runtime under them: podman, and Debian's dockerd; each with roots of its own."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

from support import binaries
from support.runtime import need_busybox, runtime_binary

APPLETS = "sh true false cat ls id sleep echo ps env hostname mount grep touch stty tty kill head wc test".split()


def image_tree(folder: pathlib.Path) -> pathlib.Path:
    """A root of busybox to import as an image."""
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "root"):
        (folder / name).mkdir(parents=True)
    shutil.copy(need_busybox(), folder / "bin/busybox")
    for name in APPLETS:
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/tmp:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\nbob:x:1000:\n")
    return folder


def cgroups_named(text: str) -> list[str]:
    return [os.path.join(base, name) for base, folders, _ in os.walk("/sys/fs/cgroup") for name in folders if text in name]


class Podman:
    """podman with cgroupfs and no network; close() removes everything and says what stayed."""

    def __init__(self):
        binaries.need_root()
        if shutil.which("podman") is None:
            pytest.skip("podman is not installed")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-podman-"))
        self.parent = "wherry-test-" + self.folder.name[-8:]
        # Its own limits are above what a machine without CAP_SYS_RESOURCE can give, whatever the runtime.
        (self.folder / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n')
        self.environment = {**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")}
        tree = image_tree(self.folder / "image")
        archive = self.folder / "image.tar"
        subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
        self.ok("import", archive, "busybox:latest")

    def command(self, *arguments, timeout=120, **keywords) -> subprocess.CompletedProcess:
        keywords.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(["podman", "--root", self.folder / "root", "--runroot", self.folder / "runroot", "--tmpdir", self.folder / "tmp",
                               "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs", "--runtime", runtime_binary(),
                               *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=self.environment, **keywords)

    def ok(self, *arguments, **keywords) -> str:
        done = self.command(*arguments, **keywords)
        assert done.returncode == 0, f"podman {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, *arguments, **keywords) -> subprocess.CompletedProcess:
        return self.command("run", "--network", "none", "--cgroup-parent", "/" + self.parent, *arguments, **keywords)

    def close(self):
        self.command("pod", "rm", "-f", "-t", "0", "-a")
        self.command("rm", "-f", "-t", "0", "-a")
        left = [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(self.folder) in line]
        for line in left:
            subprocess.run(["umount", "-l", line.split()[4]], check=False, stderr=subprocess.DEVNULL)
        # conmon's own cgroup is podman's, which leaves it.
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for path in sorted(cgroups_named(self.parent), key=len, reverse=True):
                for base, _, _ in os.walk(path, topdown=False):
                    try:
                        os.rmdir(base)
                    except OSError:
                        pass
            if not cgroups_named(self.parent):
                break
            time.sleep(0.1)
        shutil.rmtree(self.folder, ignore_errors=True)


class Dockerd:
    """Debian's dockerd in a network namespace of its own, with our runtime as "wherry"."""

    def __init__(self):
        binaries.need_root()
        if shutil.which("dockerd") is None or shutil.which("docker") is None:
            pytest.skip("dockerd is not installed")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-dockerd-"))
        self.socket = self.folder / "docker.sock"
        self.parent = "/wherry-test-" + self.folder.name[-8:]
        self.log = open(self.folder / "log", "w")
        self.process = subprocess.Popen(
            ["unshare", "-n", "dockerd", "--data-root", self.folder / "data", "--exec-root", self.folder / "exec", "--pidfile",
             self.folder / "pid", "-H", f"unix://{self.socket}", "--add-runtime", f"wherry={runtime_binary()}", "--iptables=false",
             "--ip6tables=false", "--bridge=none", "--storage-driver=vfs", "--cgroup-parent", self.parent],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while self.command("version").returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder / "log").read_text()[-2000:]
                self.close()
                pytest.skip(f"dockerd does not start here: {text}")
            time.sleep(0.1)
        tree = image_tree(self.folder / "image")
        archive = self.folder / "image.tar"
        subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
        done = self.command("import", archive, "busybox:latest")
        assert done.returncode == 0, done

    def command(self, *arguments, timeout=120, **keywords) -> subprocess.CompletedProcess:
        keywords.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(["docker", "-H", f"unix://{self.socket}", *map(str, arguments)], capture_output=True, text=True,
                              timeout=timeout, **keywords)

    def ok(self, *arguments, **keywords) -> str:
        done = self.command(*arguments, **keywords)
        assert done.returncode == 0, f"docker {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, *arguments, **keywords) -> subprocess.CompletedProcess:
        return self.command("run", "--runtime", "wherry", "--network", "none", *arguments, **keywords)

    def close(self):
        for identifier in self.command("ps", "-aq").stdout.split():
            self.command("rm", "-f", identifier)
        # The process is dockerd itself: unshare became it. It ends its containerd.
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
            if str(self.folder) in line:
                subprocess.run(["umount", "-l", line.split()[4]], check=False, stderr=subprocess.DEVNULL)
        for path in sorted(cgroups_named(self.parent.strip("/")), key=len, reverse=True):
            for base, _, _ in os.walk(path, topdown=False):
                try:
                    os.rmdir(base)
                except OSError:
                    pass
        shutil.rmtree(self.folder, ignore_errors=True)


def inspected(engine, identifier: str) -> dict:
    return json.loads(engine.ok("inspect", identifier))[0]
