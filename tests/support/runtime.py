"""An OCI runtime under test and bundles for it. RUNTIME names another one (runc, crun) to compare with."""

import glob
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import uuid

import pytest

from support import binaries

APPLETS = ("sh true false cat ls id mount umount sleep echo ps readlink mkdir env hostname stat grep ln dd wc head kill chmod "
           "chown touch rm tty stty pwd test printf mknod unshare sed tail cut tr nproc ip find dmesg sysctl date mv cp").split()
DEFAULT_CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
                        "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
                        "CAP_AUDIT_WRITE"]
MASKED = ["/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
          "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def runtime_binary() -> str:
    chosen = os.environ.get("RUNTIME")
    if chosen:
        path = shutil.which(chosen)
        if path is None:
            pytest.skip(f"{chosen} is not installed")
        return path
    return binaries.binary("wherry-runtime")


def is_ours() -> bool:
    return os.environ.get("RUNTIME") in (None, "", "wherry-runtime")


def need_busybox() -> str:
    for path in ("/bin/busybox", "/usr/bin/busybox"):
        if os.path.exists(path) and b"NEEDED" not in subprocess.run(["readelf", "-d", path], capture_output=True).stdout:
            return path
    pytest.skip("busybox-static is not installed")


def default_config(*arguments: str) -> dict:
    """Docker's defaults as a config.json."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": list(arguments) or ["/bin/true"], "cwd": "/",
            "env": ["PATH=/usr/bin:/bin"],
            "capabilities": {name: list(DEFAULT_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": list(MASKED), "readonlyPaths": list(READONLY),
            "resources": {"devices": [{"allow": False, "access": "rwm"}] + [
                {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
                for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2))] + [
                {"allow": True, "type": "c", "major": 136, "access": "rwm"},
                {"allow": True, "type": "c", "access": "m"}, {"allow": True, "type": "b", "access": "m"}]},
        },
    }


class Bundle:
    """A bundle with a busybox root file system; `config` is written when a container is made from it."""

    def __init__(self, folder: pathlib.Path, *arguments: str):
        self.path = folder
        self.rootfs = folder / "rootfs"
        self.config = default_config(*arguments)
        busybox = need_busybox()
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "run", "var"):
            (self.rootfs / name).mkdir(parents=True)
        shutil.copy(busybox, self.rootfs / "bin/busybox")
        for name in APPLETS:
            (self.rootfs / "bin" / name).symlink_to("busybox")
        (self.rootfs / "etc/passwd").write_text(
            "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000:Bob:/home/bob:/bin/sh\n")
        (self.rootfs / "etc/group").write_text("root:x:0:\nbob:x:1000:\nwheel:x:10:root,bob\naudio:x:29:bob\n")

    def write(self):
        (self.path / "config.json").write_text(json.dumps(self.config))

    @property
    def process(self) -> dict:
        return self.config["process"]

    @property
    def linux(self) -> dict:
        return self.config["linux"]

    def script(self, text: str):
        self.process["args"] = ["/bin/sh", "-c", text]
        return self

    def mount(self, destination: str, source: str, *options: str, kind: str = "bind"):
        self.config["mounts"].append(
            {"destination": destination, "type": kind, "source": str(source), "options": list(options)})
        return self

    def drop_namespace(self, kind: str):
        self.linux["namespaces"] = [entry for entry in self.linux["namespaces"] if entry["type"] != kind]

    def set_namespace(self, kind: str, path: str | None = None):
        self.drop_namespace(kind)
        self.linux["namespaces"].append({"type": kind, "path": path} if path else {"type": kind})


class Runtime:
    """The runtime with a state folder of its own; close() removes what is left and says what that was."""

    def __init__(self):
        binaries.need_root()
        self.binary = runtime_binary()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-runtime-test-"))
        os.chmod(self.folder, 0o755)
        self.root = self.folder / "root"
        self.identifiers: list[str] = []
        self.mounts_before = self._mounts()

    @staticmethod
    def _mounts() -> list[str]:
        return pathlib.Path("/proc/self/mountinfo").read_text().splitlines()

    def bundle(self, *arguments: str) -> Bundle:
        folder = self.folder / f"bundle-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        return Bundle(folder, *arguments)

    def new_id(self) -> str:
        self.identifiers.append("wt-" + uuid.uuid4().hex[:12])
        return self.identifiers[-1]

    def command(self, *arguments, check=False, timeout=60, **keywords) -> subprocess.CompletedProcess:
        keywords.setdefault("stdin", subprocess.DEVNULL)
        keywords.setdefault("stdout", subprocess.PIPE)
        keywords.setdefault("stderr", subprocess.PIPE)
        done = subprocess.run([self.binary, "--root", str(self.root), *map(str, arguments)], text=True, timeout=timeout,
                              **keywords)
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def run(self, bundle: Bundle, *options, **keywords) -> subprocess.CompletedProcess:
        bundle.write()
        return self.command("run", "-b", bundle.path, *options, self.new_id(), **keywords)

    def output(self, bundle: Bundle, script: str | None = None, *options) -> str:
        """What a script prints in a container of the bundle."""
        if script is not None:
            bundle.script(script)
        done = self.run(bundle, *options)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def create(self, bundle: Bundle, *options, **keywords) -> str:
        bundle.write()
        identifier = self.new_id()
        # The container inherits the streams: files, so that nobody waits for its end.
        with open(self.folder / f"{identifier}.out", "w") as out:
            done = self.command("create", "-b", bundle.path, *options, identifier, stdout=out, stderr=out, **keywords)
        assert done.returncode == 0, self.log(identifier)
        return identifier

    def log(self, identifier: str) -> str:
        return (self.folder / f"{identifier}.out").read_text()

    def start(self, bundle: Bundle, *options) -> str:
        """Created and started."""
        identifier = self.create(bundle, *options)
        self.command("start", identifier, check=True)
        return identifier

    def state(self, identifier: str) -> dict:
        return json.loads(self.command("state", identifier, check=True).stdout)

    def exec(self, identifier: str, *arguments, **keywords) -> subprocess.CompletedProcess:
        return self.command("exec", *arguments[:0], identifier, *arguments, **keywords)

    def wait_for(self, identifier: str, status: str, seconds: float = 10):
        deadline = time.monotonic() + seconds
        while self.state(identifier)["status"] != status:
            assert time.monotonic() < deadline, f"{identifier} is not {status}"
            time.sleep(0.02)

    def delete(self, identifier: str):
        self.command("delete", "-f", identifier)

    def close(self):
        for identifier in self.identifiers:
            self.command("delete", "-f", identifier)
        left = [path for base, folders, _ in os.walk("/sys/fs/cgroup")
                for path in (os.path.join(base, name) for name in folders) if os.path.basename(path) in self.identifiers]
        leaked = [line for line in self._mounts() if str(self.folder) in line and line not in self.mounts_before]
        shutil.rmtree(self.folder, ignore_errors=True)
        for parent in glob.glob("/sys/fs/cgroup/*/wherry-runtime") + glob.glob("/sys/fs/cgroup/wherry-runtime"):
            try:
                os.rmdir(parent)  # the folder of all; stays while others use it
            except OSError:
                pass
        assert not left, f"cgroups left behind: {left}"
        assert not leaked, f"mounts left behind: {leaked}"
