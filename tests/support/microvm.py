"""A microVM monitor of Firecracker's surface under test: $VMM names another one (a firecracker binary)."""

import http.client
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

import pytest

from support import binaries

GUEST_ARGUMENTS = "console=ttyS0 reboot=k panic=-1 quiet random.trust_cpu=on"


def vmm_binary() -> str:
    return os.environ.get("VMM") or binaries.binary("wherry-vmm")


def need_kvm() -> None:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        pytest.skip(f"/dev/kvm does not open: {error.strerror}")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float = 60):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        # A path longer than sockaddr_un holds goes through a descriptor of its folder.
        folder = os.open(os.path.dirname(self.path), os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(self.path)}")
        finally:
            os.close(folder)


class Answer:
    def __init__(self, status: int, headers, body: bytes):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def fault(self) -> str:
        return self.json["fault_message"]

    def __repr__(self):
        return f"{self.status} {self.body!r}"


# Machine code for the 64-bit boot protocol: prints what follows it on the serial port, then ends as asked.
_PRINT = bytes.fromhex("488d3500000000" "66baf803" "ac" "84c0" "7403" "ee" "ebf8")
_ENDS = {
    "reset": bytes.fromhex("b0fe" "e664" "f4" "ebfd"),  # the keyboard controller's reset line
    "halt": bytes.fromhex("fa" "f4" "ebfd"),  # for ever
    "spin": bytes.fromhex("ebfe"),
    "triple": bytes.fromhex("0f011d02000000" "0f0b") + bytes(10),  # an empty interrupt table, then an exception
}


def payload(end: str, text: str = "payload\n") -> bytes:
    """A kernel of a hundred bytes as an ELF file: for a /dev/kvm that interprets instructions one by one. It prints the text four
    times: a line of the monitor's log may come between two of its bytes."""
    code = bytearray(_PRINT)
    code += _ENDS[end]
    # lea's operand counts from the next instruction, byte 7
    code[3:7] = struct.pack("<i", len(code) - 7)
    code += text.encode() * 4 + b"\0"
    base, offset = 0x100000, 0x1000
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01" + bytes(9), 2, 62, 1, base, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, offset, base, base, len(code), len(code), 0x1000)
    return (header + segment).ljust(offset, b"\0") + bytes(code)


class Monitor:
    """One process of the monitor with its own folder; close() ends it and removes everything."""

    def __init__(self, *arguments: str, api: bool = True, start: bool = True, folder: pathlib.Path | None = None):
        self.folder = folder or pathlib.Path(tempfile.mkdtemp(prefix="wherry-vmm-test-"))
        self.socket = self.folder / "api.sock"
        self.process: subprocess.Popen | None = None
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.output: list[str] = []
        self.api = api
        self.booted_at = 0.0
        if start:
            self.start(*arguments)

    def start(self, *arguments: str) -> "Monitor":
        command = [vmm_binary(), *(["--api-sock", str(self.socket)] if self.api else []), *arguments]
        self.errors = open(self.folder / "stderr", "w+b")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        if self.api:
            self.wait_for_socket()
        return self

    def wait_for_socket(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                # The file is there a moment before anybody listens.
                connection = UnixConnection(str(self.socket))
                connection.connect()
                connection.close()
                return
            except (FileNotFoundError, ConnectionRefusedError):
                pass
            assert self.process.poll() is None, f"the monitor ended with {self.process.returncode}: {self.stderr()}"
            assert time.monotonic() < deadline, "no API socket"
            time.sleep(0.002)

    def _read(self, stream) -> None:
        for raw in iter(stream.readline, b""):
            self.lines.put(raw.decode(errors="replace").rstrip("\r\n"))
        self.lines.put(None)

    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    # The API.

    def request(self, method: str, path: str, body=None, *, raw: bytes | None = None, timeout: float = 60) -> Answer:
        connection = UnixConnection(str(self.socket), timeout)
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"} if data is not None else {"Accept": "application/json"}
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str):
        answer = self.request("GET", path)
        assert answer.status == 200, answer
        return answer.json

    def put(self, path: str, **body) -> Answer:
        answer = self.request("PUT", path, body)
        assert answer.status == 204, f"PUT {path} {body}: {answer}"
        return answer

    def patch(self, path: str, **body) -> Answer:
        answer = self.request("PATCH", path, body)
        assert answer.status == 204, f"PATCH {path} {body}: {answer}"
        return answer

    def action(self, kind: str) -> Answer:
        if kind == "InstanceStart":
            self.booted_at = time.monotonic()
        return self.put("/actions", action_type=kind)

    # The serial console.

    def line(self, seconds: float = 60) -> str | None:
        try:
            text = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"nothing from the guest for {seconds} s; so far:\n" + "\n".join(self.output[-40:]) + self.stderr()[-2000:]) from None
        if text is not None:
            self.output.append(text)
        return text

    def wait_for_line(self, pattern: str, seconds: float = 60) -> re.Match:
        deadline = time.monotonic() + seconds
        while True:
            text = self.line(max(deadline - time.monotonic(), 0.01))
            if text is None:
                raise AssertionError(f"the monitor closed the console; it printed:\n" + "\n".join(self.output[-40:]) + self.stderr()[-2000:])
            found = re.search(pattern, text)
            if found:
                return found

    def wait_for_end(self, seconds: float = 60) -> None:
        """Until the console is closed: all of its output is there then."""
        while self.line(seconds) is not None:
            pass

    def wait(self, seconds: float = 60) -> int:
        return self.process.wait(timeout=seconds)

    def write_payload(self, end: str, text: str = "payload\n") -> pathlib.Path:
        path = self.folder / f"payload-{end}"
        path.write_bytes(payload(end, text))
        return path

    def start_payload(self, end: str = "halt", text: str = "payload\n") -> None:
        """Boots a payload and waits for its text."""
        self.put("/boot-source", kernel_image_path=str(self.write_payload(end, text)), boot_args="console=off")
        self.action("InstanceStart")
        self.wait_for_line(text.strip())

    def threads(self) -> list[str]:
        return sorted(pathlib.Path(task, "comm").read_text().strip() for task in
                      (f"/proc/{self.process.pid}/task/{number}" for number in os.listdir(f"/proc/{self.process.pid}/task")))

    def descriptors(self) -> list[str]:
        """What the monitor has open, but for sockets: clients of the API come and go."""
        folder, kinds = f"/proc/{self.process.pid}/fd", []
        for number in os.listdir(folder):
            try:
                kinds.append(os.readlink(f"{folder}/{number}"))
            except FileNotFoundError:
                pass
        return sorted(kind for kind in kinds if not kind.startswith("socket:"))

    def close(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process.stdin.close()
            self.errors.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def mappings(pid: int) -> list[dict[str, int]]:
    """What smaps says, in KiB; adjoining mappings that are kept out of core dumps are one: guest memory, split by advice about huge pages."""
    found: list[dict[str, int]] = []
    end = -1
    for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", pathlib.Path(f"/proc/{pid}/smaps").read_text()):
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", block) if re.search(r"^VmFlags:.* dd", block, re.MULTILINE) else None
        fields = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", block, re.MULTILINE)}
        if head and int(head[1], 16) == end:
            whole = found[-1]
            for name in fields:
                whole[name] = fields[name] if name.endswith("PageSize") else whole.get(name, 0) + fields[name]
        elif fields:
            found.append(fields)
        end = int(head[2], 16) if head else -1
    return found


def is_guest_memory(mapping: dict[str, int], guest_mib: int) -> bool:
    return mapping["Size"] >= guest_mib * 1024 * 0.9


def guests() -> pathlib.Path:
    folder = os.environ.get("WHERRY_GUESTS")
    if not folder or not os.path.exists(os.path.join(folder, "initrd-debian")):
        pytest.skip("guests that boot run in the testbed (tests/testbed/run)")
    return pathlib.Path(folder)


class Guest(Monitor):
    """A monitor whose guest runs tests/vmm/guest/init.cpp: commands go over the serial console. Without a kernel named it is
    the small one, or Debian's where the small one is not built."""

    def __init__(self, kernel: str = "any", *arguments: str, vcpus: int = 1, memory: int = 128, boot_arguments: str = "", **keywords):
        folder = guests()
        if kernel == "any":
            kernel = "small" if (folder / "vmlinux-small").exists() else "debian"
        image, initrd = {"small": ("vmlinux-small", "initrd-small"), "small-bzimage": ("bzImage-small", "initrd-small"),
                         "debian": ("vmlinuz-debian", "initrd-debian")}[kernel]
        if not (folder / image).exists():
            pytest.skip(f"{image} is not built (guest/build-kernel)")
        self.kernel, self.initrd = folder / image, folder / initrd
        super().__init__(*arguments, **keywords)
        self.memory = max(memory, 256) if kernel == "debian" else memory  # MiB; Debian's initial file system is bigger
        self.put("/machine-config", vcpu_count=vcpus, mem_size_mib=self.memory)
        self.put("/boot-source", kernel_image_path=str(self.kernel), initrd_path=str(self.initrd),
                 boot_args=f"{GUEST_ARGUMENTS} {boot_arguments}".strip())
        self.boot_us = 0

    def boot(self, seconds: float = 180) -> "Guest":
        self.action("InstanceStart")
        return self.ready(seconds)

    def ready(self, seconds: float = 180) -> "Guest":
        self.boot_us = int(self.wait_for_line(r"@@ready (\d+)", seconds)[1])
        return self

    def send(self, command: str) -> None:
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def finish(self, seconds: float = 120) -> tuple[int, str]:
        """What the command sent last printed, and its status."""
        self.wait_for_line(r"^@@begin$", seconds)
        text = []
        while True:
            line = self.line(seconds)
            assert line is not None, "the console closed"
            end = re.match(r"^(.*)@@end (\d+)$", line)
            if end:
                if end[1]:
                    text.append(end[1])
                return int(end[2]), "\n".join(text)
            text.append(line)

    def try_run(self, command: str, seconds: float = 120) -> tuple[int, str]:
        self.send(command)
        return self.finish(seconds)

    def run(self, command: str, seconds: float = 120) -> str:
        status, text = self.try_run(command, seconds)
        assert status == 0, f"{command}: status {status}\n{text}"
        return text
