"""A wherryd of the test's own: temporary roots, its own socket, bridge and subnet; stopped by pid; leaks counted at the end.

    with Daemon() as daemon:
        daemon.wherry("run", "--rm", "busybox", "true")
        daemon.api.get("/containers/json")
        daemon.kill(); daemon.start()        # a crash and the next start, same roots
"""

import contextlib
import fcntl
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

from . import leaks
from .api import Api, ApiError
from .binaries import binary, folder, need_root
from .images import import_busybox

_numbers = iter(range(1, 10_000))


@functools.cache
def daemon_help() -> str:
    result = subprocess.run([binary("wherryd"), "--help"], capture_output=True, text=True, timeout=20, check=False)
    return result.stdout + result.stderr


def drop_nft_tables(bridge: str) -> None:
    """Tables that are named after a bridge (all whose name begins so)."""
    with contextlib.suppress(OSError):
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
        for line in tables.splitlines():
            if bridge in line:
                subprocess.run(["nft", "delete", *line.split()], check=False, capture_output=True)


class Subnet:
    """One of 64 /24 networks that no other test run on this machine holds, by a lock file, and no interface has.

    Bridges named after a number whose lock is free belong to a run that was killed: they are removed.
    """

    def __init__(self):
        for number in range(64):
            path = f"/tmp/wherry-test-subnet-{number}.lock"
            self._file = open(path, "w")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._file.close()
                continue
            for line in subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=False).stdout.splitlines():
                if line.split()[1].startswith(f"wt{number}br"):
                    subprocess.run(["ip", "link", "delete", line.split()[1].rstrip(":")], check=False, capture_output=True)
            drop_nft_tables(f"wt{number}br")
            if f" 10.213.{number}." in subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=False).stdout:
                self._file.close()
                continue
            self.number = number
            self.cidr = f"10.213.{number}.1/24"
            self.bridge = f"wt{number}br{os.getpid() % 10000}"
            return
        raise RuntimeError("all test subnets are taken")

    def release(self):
        self._file.close()


class Daemon:
    def __init__(self, *arguments: str, network: bool = True, root: str | None = None, environment: dict[str, str] | None = None):
        need_root()
        self.program = binary("wherryd")
        self.arguments = list(arguments)
        self.environment = environment or {}
        self.root = pathlib.Path(root or tempfile.mkdtemp(prefix="wherry-test-"))
        self.data_root = self.root / "data"
        self.exec_root = self.root / "run"
        self.socket = self.root / "wherry.sock"
        self.pidfile = self.root / "wherryd.pid"
        self.log_path = self.root / "wherryd.log"
        self.subnet = Subnet()
        self.network = network
        self.bridge = self.subnet.bridge
        self.cgroup_parent = f"wherry-test-{os.getpid()}-{next(_numbers)}" if "--cgroup-parent" in daemon_help() else ""
        self.process: subprocess.Popen | None = None
        self.api = Api(str(self.socket))
        self.seen: set[str] = set()

    # Life

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    def command_line(self) -> list[str]:
        known = daemon_help()
        command = [self.program, "--host", self.host, "--data-root", str(self.data_root), "--exec-root", str(self.exec_root),
                   "--pidfile", str(self.pidfile), "--log-level", "debug"]
        if "--bridge" in known:
            command += ["--bridge", self.bridge if self.network else "none"]
        if "--bip" in known and self.network:
            command += ["--bip", self.subnet.cidr]
        if self.cgroup_parent:
            command += ["--cgroup-parent", "/" + self.cgroup_parent]
        return command + self.arguments

    def start(self, timeout: float = 20) -> "Daemon":
        assert self.process is None, "already running"
        log = open(self.log_path, "ab")
        environment = {**os.environ, "PATH": f"{folder()}:{os.environ.get('PATH', '')}", **self.environment}
        self.process = subprocess.Popen(self.command_line(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                                        start_new_session=True)
        log.close()
        deadline = time.monotonic() + timeout
        while True:
            if self.process.poll() is not None:
                code, self.process = self.process.returncode, None
                raise RuntimeError(f"wherryd ended with {code}:\n{self.log()}")
            try:
                if self.api.request("GET", "/_ping")[0] == 200:
                    return self
            except OSError:
                pass
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"wherryd did not answer in {timeout} s:\n{self.log()}")
            time.sleep(0.01)

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, as systemd does; the exit code."""
        self.note_identifiers()
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.process = None
            raise AssertionError(f"wherryd did not end in {timeout} s after SIGTERM:\n{self.log()}") from None
        self.process = None
        return code

    def kill(self) -> None:
        """kill -9: what must lose nothing."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def log(self, limit: int = 8000) -> str:
        with contextlib.suppress(OSError):
            return self.log_path.read_text(errors="replace")[-limit:]
        return ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    # Use

    def wherry(self, *arguments: str, check: bool = True, input: bytes | str | None = None, timeout: float = 60, text: bool = True,
               env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        """The wherry command against this daemon."""
        return self.run([binary("wherry"), *arguments], check, input, timeout, text, env)

    def docker(self, *arguments: str, program: str = "docker", check: bool = True, input: bytes | str | None = None, timeout: float = 60,
               text: bool = True, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        """A stock docker CLI against this daemon."""
        return self.run([program, *arguments], check, input, timeout, text, env)

    def client_environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "WHERRY_"))}
        configuration = self.root / "docker-config"
        configuration.mkdir(exist_ok=True)
        return {**environment, "DOCKER_HOST": self.host, "DOCKER_CONFIG": str(configuration), **(extra or {})}

    def run(self, command, check=True, input=None, timeout=60, text=True, env=None) -> subprocess.CompletedProcess:
        if text and isinstance(input, bytes):
            input = input.decode()
        keywords = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        result = subprocess.run(command, capture_output=True, text=text, timeout=timeout, env=self.client_environment(env), check=False, **keywords)
        if check and result.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {result.returncode}\nstdout: {result.stdout}\nstderr: {result.stderr}\nlog:\n{self.log(3000)}")
        return result

    def import_busybox(self, reference: str = "busybox:latest", **keywords) -> str:
        return import_busybox(self.api, reference, **keywords)

    def containers(self) -> list[dict]:
        return self.api.get("/containers/json", all=1)

    def remove_all(self) -> None:
        """Every container, by force; images and volumes stay."""
        for container in self.containers():
            self.seen.add(container["Id"])
            try:
                self.api.delete(f"/containers/{container['Id']}", force=1, v=1)
            except ApiError as error:
                if error.status not in (404, 409):
                    raise

    def note_identifiers(self) -> None:
        with contextlib.suppress(OSError, ApiError):
            self.seen.update(container["Id"] for container in self.containers())

    # Leaks

    def leaks(self) -> dict[str, list[str]]:
        """What is left of containers, by kind; empty lists when clean. Call with no container left."""
        return {
            "mounts": leaks.mounts(str(self.root)),
            "links": leaks.links_of_bridge(self.bridge),
            "control groups": leaks.control_groups(self.cgroup_parent, self.seen),
            "processes": [line for line in leaks.processes(str(self.root)) if self.process is None or not line.startswith(f"{self.pid} ")],
            "files": leaks.entries(str(self.data_root / "containers"), str(self.exec_root / "sandboxes")),
        }

    def assert_clean(self, timeout: float = 5) -> None:
        """Waits for asynchronous teardown (namespaces, last processes), then insists."""
        deadline = time.monotonic() + timeout
        while True:
            found = {kind: items for kind, items in self.leaks().items() if items}
            if not found:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"left behind: {found}")
            time.sleep(0.05)

    def close(self, check_leaks: bool = True) -> None:
        """Removes all containers, stops the daemon and wipes every trace, even when a check fails."""
        problem: BaseException | None = None
        try:
            if self.process is None and self.data_root.exists():
                self.start()
            if self.process is not None:
                self.remove_all()
                if check_leaks:
                    self.assert_clean()
                self.stop()
        except BaseException as error:  # noqa: BLE001 - cleaning goes on, the error is raised at the end
            problem = error
        if self.process is not None:
            self.kill()
        for line in leaks.processes(str(self.root)):
            with contextlib.suppress(OSError):
                os.kill(int(line.split(" ", 1)[0]), signal.SIGKILL)
        for mount in reversed(leaks.mounts(str(self.root))):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        for link in [*leaks.links_of_bridge(self.bridge), self.bridge]:
            subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)
        for path in sorted(leaks.control_groups(self.cgroup_parent, self.seen), key=len, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        if self.cgroup_parent:
            for base in ["/sys/fs/cgroup", *(str(path) for path in pathlib.Path("/sys/fs/cgroup").iterdir() if path.is_dir())]:
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.join(base, self.cgroup_parent))
        drop_nft_tables(self.bridge)
        self.subnet.release()
        if problem is None or not os.environ.get("WHERRY_KEEP"):
            shutil.rmtree(self.root, ignore_errors=True)
        if problem is not None:
            raise problem

    def __enter__(self) -> "Daemon":
        try:
            return self.start()
        except BaseException:
            self.close(check_leaks=False)
            raise

    def __exit__(self, kind, value, traceback) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(BaseException):
                self.close(check_leaks=False)
