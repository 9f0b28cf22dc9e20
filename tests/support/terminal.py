"""A program on a terminal of its own, as a person would drive it."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time


class Terminal:
    """with Terminal(["wherry", "run", "-it", ...], env) as terminal: terminal.expect(b"# "); terminal.send(b"exit\\n")"""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None, rows: int = 24, columns: int = 80):
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(slave)
        self.slave = slave

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, preexec_fn=own_terminal)
        self.output = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if hasattr(self, "process"):
            os.kill(self.process.pid, signal.SIGWINCH)

    def send(self, data: bytes) -> None:
        os.write(self.master, data)

    def read(self, timeout: float) -> bytes:
        ready, _, _ = select.select([self.master], [], [], timeout)
        if not ready:
            return b""
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return b""
        self.output += data
        return data

    def expect(self, wanted: bytes, timeout: float = 15) -> bytes:
        """Everything up to and with `wanted`, taken off the front; AssertionError after the timeout."""
        deadline = time.monotonic() + timeout
        while wanted not in self.output:
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"expected {wanted!r}, have {self.output!r}")
            self.read(min(left, 0.2))
        at = self.output.index(wanted) + len(wanted)
        seen, self.output = self.output[:at], self.output[at:]
        return seen

    def wait(self, timeout: float = 15) -> int:
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"still running; have {self.output!r}")
            self.read(0.05)
        while self.read(0.05):
            pass
        return self.process.returncode

    def ask_until(self, command: bytes, wanted: bytes, timeout: float = 30) -> bytes:
        """Types a shell's command again and again until `wanted` is in its output: what a client tells by itself comes some time after."""
        deadline = time.monotonic() + timeout
        while True:
            self.send(command + b"; echo do''ne\n")
            seen = self.expect(b"done", timeout)
            if wanted in seen:
                return seen
            assert time.monotonic() < deadline, f"no {wanted!r} by {command!r}, have {seen!r}"

    def expect_raw(self, timeout: float = 15) -> None:
        """The program has taken the terminal over. What is typed before may be thrown away by that."""
        deadline = time.monotonic() + timeout
        while self.restored():
            assert self.process.poll() is None and time.monotonic() < deadline, f"not raw; have {self.output!r}"
            self.read(0.02)

    def restored(self) -> bool:
        """The terminal's attributes are what they were before the program ran."""
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
