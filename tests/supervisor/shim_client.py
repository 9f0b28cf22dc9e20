"""A client of the supervisor's control protocol, written from docs/supervisor.md alone."""

import array
import itertools
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

import pytest

_numbers = itertools.count(1)
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def shim_binary() -> str:
    """The binary under test: WHERRY_BIN names its folder, else the newest preset that was built."""
    folder = os.environ.get("WHERRY_BIN")
    candidates = [pathlib.Path(folder)] if folder else sorted(
        (REPOSITORY / "build").glob("*/bin"), key=lambda p: -(p / "wherry-shim").stat().st_mtime if (p / "wherry-shim").exists() else 0)
    for candidate in candidates:
        if (candidate / "wherry-shim").exists():
            return str(candidate / "wherry-shim")
    pytest.skip("wherry-shim is not built")


class Failure(Exception):
    def __init__(self, error: dict):
        super().__init__(f"{error['code']}: {error['message']}")
        self.code = error["code"]
        self.errno = error.get("errno", 0)


class Connection:
    """A control connection: call() for one request at a time, send()/receive() for more."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.sock.settimeout(30)
        self.buffer = bytearray()
        self.next_id = 1
        self.answers: dict[int, dict] = {}
        self.events: list[dict] = []

    def send(self, method: str, params: dict | None = None, fds: list[int] = ()) -> int:
        message = {"id": self.next_id, "method": method, "params": params or {}}
        if fds:
            message["fds"] = len(fds)
        payload = json.dumps(message).encode()
        frame = struct.pack(">I", len(payload)) + payload
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self.sock.sendmsg([frame], ancillary)
        if sent < len(frame):
            self.sock.sendall(frame[sent:])
        self.next_id += 1
        return message["id"]

    def read_exact(self, count: int) -> bytes:
        while len(self.buffer) < count:
            more = self.sock.recv(1 << 16)
            if not more:
                raise EOFError("the shim closed the connection")
            self.buffer += more
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def receive_one(self) -> None:
        (length,) = struct.unpack(">I", self.read_exact(4))
        message = json.loads(self.read_exact(length))
        if "event" in message:
            self.events.append(message)
        else:
            self.answers[message["id"]] = message

    def receive(self, request: int) -> dict:
        while request not in self.answers:
            self.receive_one()
        answer = self.answers.pop(request)
        if "error" in answer:
            raise Failure(answer["error"])
        return answer["result"]

    def call(self, method: str, params: dict | None = None, fds: list[int] = ()) -> dict:
        return self.receive(self.send(method, params, fds))

    def next_event(self) -> dict:
        while not self.events:
            self.receive_one()
        return self.events.pop(0)

    def close(self) -> None:
        self.sock.close()


class Stream:
    """A stdio stream connection."""

    STDIN, STDOUT, STDERR, STDIN_END, OUTPUT_END, GAP = 0, 1, 2, 16, 17, 18

    def __init__(self, connection: Connection, reply: dict):
        self.connection = connection
        self.reply = reply
        self.output = {1: bytearray(), 2: bytearray()}
        self.lost = {1: 0, 2: 0}
        self.ended = False

    def read_frame(self) -> tuple[int, bytes]:
        kind, zeros, length = struct.unpack(">B3sI", self.connection.read_exact(8))
        assert zeros == b"\0\0\0"
        payload = self.connection.read_exact(length)
        if kind in self.output:
            self.output[kind] += payload
        elif kind == self.GAP:
            stream, count = struct.unpack(">BQ", payload)
            self.lost[stream] += count
        elif kind == self.OUTPUT_END:
            self.ended = True
        return kind, payload

    def read_to_end(self) -> "Stream":
        while not self.ended:
            self.read_frame()
        return self

    def read_until(self, text: bytes, stream: int = 1) -> bytes:
        while text not in self.output[stream]:
            assert not self.ended, self.output
            self.read_frame()
        return self.output[stream]

    @property
    def stdout(self) -> bytes:
        return self.output[1]

    @property
    def stderr(self) -> bytes:
        return self.output[2]

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), 65536):
            piece = data[at:at + 65536]
            self.connection.sock.sendall(struct.pack(">BxxxI", self.STDIN, len(piece)) + piece)

    def close_input(self) -> None:
        self.connection.sock.sendall(struct.pack(">BxxxI", self.STDIN_END, 0))

    def close(self) -> None:
        self.connection.close()


class Shim:
    """A wherry-shim of its own in a temporary folder, with a busybox root."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-shim-test-"))
        self.directory = self.folder / "sandbox"
        self.directory.mkdir()
        self.root = self.folder / "root"
        self.make_root()
        ours, theirs = socket.socketpair()
        self.messages = open(self.folder / "messages", "wb")
        self.process = subprocess.Popen(
            [shim_binary(), "--control-fd", str(theirs.fileno()), "--sandbox-id", "s1", "--directory", str(self.directory)],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.messages)
        theirs.close()
        self.control = Connection(ours)
        self.hello = self.control.call("hello", {"version": 1, "client": "test"})

    def make_root(self) -> None:
        for name in ("bin", "proc", "dev", "sys", "tmp", "etc", "root"):
            (self.root / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.root / "bin" / "busybox")
        for applet in ("sh", "cat", "echo", "sleep", "true", "false", "dd", "seq", "stty", "yes", "head", "tail", "kill", "ls", "wc", "id", "printf", "md5sum"):
            os.symlink("busybox", self.root / "bin" / applet)
        (self.root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")

    def spec(self, args: list[str], terminal: bool = False, **changes) -> dict:
        process = {
            "terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
            "env": ["PATH=/bin", "HOME=/root"],
        }
        if terminal:
            process["consoleSize"] = {"height": 24, "width": 80}
        spec = {
            "ociVersion": "1.2.0", "process": process, "root": {"path": "/"}, "hostname": "test",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
                "cgroupsPath": "",
            },
        }
        for path, value in changes.items():
            target = spec
            *parents, last = path.split("__")
            for parent in parents:
                target = target.setdefault(parent, {})
            target[last] = value
        return spec

    def request(self, args: list[str], driver: str = "json-file", log: dict | None = None, terminal: bool = False,
                container_id: str | None = None, spec: dict | None = None, **members) -> dict:
        container_id = container_id or f"wherry-shim-test-{os.getpid()}-{next(_numbers)}"
        folder = self.folder / container_id
        for name in ("upper", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        options = {"driver": driver, **(log or {})}
        if driver != "none":
            options["path"] = str(folder / "log")
        spec = spec or self.spec(args, terminal)
        spec["linux"]["cgroupsPath"] = spec["linux"]["cgroupsPath"] or f"/wherry-shim-tests/{container_id}"
        return {
            "container_id": container_id, "spec": spec, "bundle": str(folder),
            "root": {"lower_directories": [str(self.root)], "upper_directory": str(folder / "upper"),
                     "work_directory": str(folder / "work")},
            "exit_record_path": str(folder / "exit.json"), "log": options, **members,
        }

    def run(self, args: list[str], **keywords) -> str:
        request = self.request(args, **keywords)
        self.control.call("run", request)
        return request["container_id"]

    def exec(self, container_id: str, args: list[str], exec_id: str = "e1", terminal: bool = False, **members) -> dict:
        process = self.spec(args, terminal)["process"]
        return self.control.call("exec", {"container_id": container_id, "exec_id": exec_id, "process": process, **members})

    def stream(self, container_id: str, exec_id: str = "", stdin: bool = False, stdout: bool = True, stderr: bool = True,
               stdout_offset: int | None = 0, stderr_offset: int | None = 0, connection: Connection | None = None) -> Stream:
        params = {"container_id": container_id, "want_stdin": stdin, "want_stdout": stdout, "want_stderr": stderr}
        if exec_id:
            params["exec_id"] = exec_id
        if stdout_offset is not None:
            params["stdout_offset"] = stdout_offset
        if stderr_offset is not None:
            params["stderr_offset"] = stderr_offset
        if connection is not None:
            return Stream(connection, connection.call("stream", params))
        ours, theirs = socket.socketpair()
        reply = self.control.call("stream", params, [theirs.fileno()])
        theirs.close()
        return Stream(Connection(ours), reply)

    def wait(self, container_id: str, exec_id: str = "") -> dict:
        params = {"container_id": container_id}
        if exec_id:
            params["exec_id"] = exec_id
        return self.control.call("wait", params)

    def delete(self, container_id: str, force: bool = True) -> None:
        self.control.call("delete", {"container_id": container_id, "force": force})

    def connect(self) -> Connection:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.directory / "shim.sock"))
        connection = Connection(sock)
        connection.call("hello", {"version": 1})
        return connection

    def log_lines(self, container_id: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / container_id / "log").read_text().splitlines()]

    def exit_record(self, container_id: str) -> dict:
        return json.loads((self.folder / container_id / "exit.json").read_text())

    def memory_kib(self, kind: str) -> int:
        """A line of smaps_rollup: Pss, Pss_Anon, Pss_File ..."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                return int(line.split()[1])
        raise AssertionError(f"no {kind}")

    def ended(self, timeout: float = 5) -> bool:
        try:
            self.process.wait(timeout)
            return True
        except subprocess.TimeoutExpired:
            return False

    def close(self) -> None:
        if self.process.poll() is None:
            try:
                connection = self.connect()
                connection.call("shutdown")
                connection.close()
            except OSError:
                pass
            except EOFError:
                pass
        self.control.close()
        if not self.ended():
            self.process.kill()
            self.process.wait()
        self.messages.close()
        shutil.rmtree(self.folder)
        if self.process.returncode == -signal.SIGKILL:  # what it could not clear away any more
            for path in pathlib.Path("/sys/fs/cgroup").glob(f"*/wherry-shim-tests/wherry-shim-test-{os.getpid()}-*"):
                wait_until(lambda: not (path / "cgroup.procs").read_text(), what="the killed shim's processes are gone")  # noqa: B023
                path.rmdir()


def wait_until(condition, timeout: float = 5, what: str = "condition") -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"timeout: {what}"
        time.sleep(0.01)


def cgroup_folders(container_id: str) -> list[pathlib.Path]:
    return [path for path in pathlib.Path("/sys/fs/cgroup").glob(f"*/wherry-shim-tests/{container_id}") if path.exists()]
