"""Debian's dockerd 20.10 and its own containerd with our shim below its containers.

dockerd before 23.0 knows no shims but runc's: ours stands in under that name, first in the PATH of its containerd."""

import json
import os
import signal
import subprocess
import time
import uuid

import pytest

from support import binaries, leaks
from support.containerd import SHIM
from support.dockerd import Dockerd
from support.images import busybox_rootfs
from support.terminal import Terminal


@pytest.fixture(scope="module")
def dockerd():
    running = Dockerd(binaries.binary(SHIM))
    try:
        running.docker("import", "-", "busybox:latest", input=busybox_rootfs())
        yield running
    finally:
        running.close()


def name() -> str:
    return f"d{uuid.uuid4().hex[:10]}"


def test_run(dockerd):
    done = dockerd.run("--rm", "busybox", "/bin/sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


def test_it_is_our_shim(dockerd):
    container = name()
    dockerd.run("-d", "--name", container, "busybox", "/bin/sleep", "1000")
    pid = dockerd.inspect(container, ".State.Pid")
    parent = next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("PPid:"))
    # Its program is reached by a mount of its own, so only the file itself tells.
    assert os.stat(f"/proc/{parent}/exe").st_ino == os.stat(binaries.binary(SHIM)).st_ino
    dockerd.docker("rm", "-f", container)


def test_stdin_and_tty(dockerd):
    assert dockerd.run("-i", "--rm", "busybox", "/bin/cat", input="one\ntwo\n").stdout == "one\ntwo\n"
    terminal = Terminal(dockerd.command("run", "-it", "--rm", "busybox", "/bin/sh"), rows=33, columns=99)
    terminal.expect(b"# ", 60)
    # docker tells the size some time after the start.
    terminal.send(b"while [ \"$(stty size)\" != '33 99' ]; do sleep 0.05; done; echo resi''zed; exit 6\n")
    terminal.expect(b"resized", 60)
    assert terminal.wait(60) == 6
    terminal.close()


def test_exec_stop_attach_logs(dockerd):
    container = name()
    dockerd.run("-d", "--name", container, "busybox", "/bin/sh", "-c", "trap 'echo bye; exit 7' TERM; echo hello; while :; do sleep 0.05; done")
    done = dockerd.docker("exec", container, "/bin/sh", "-c", "echo inside; exit 5", check=False, text=True)
    assert (done.stdout, done.returncode) == ("inside\n", 5)
    assert dockerd.docker("exec", "-i", container, "/bin/cat", input=b"data").stdout == b"data"
    attached = subprocess.Popen(dockerd.command("attach", "--no-stdin", container), stdout=subprocess.PIPE, text=True)
    dockerd.docker("exec", container, "/bin/true")  # attached by now, or the end is seen all the same
    dockerd.docker("stop", container)
    assert attached.wait(timeout=60) == 7
    assert dockerd.inspect(container, ".State.ExitCode") == 7
    assert dockerd.docker("logs", container, text=True).stdout == "hello\nbye\n"
    dockerd.docker("start", container)
    assert dockerd.inspect(container, ".State.Running") is True
    dockerd.docker("rm", "-f", container)


def test_network_by_the_hook(dockerd):
    done = dockerd.run("--rm", "busybox", "/bin/sh", "-c", "ip -o -4 addr show eth0; ping -c 1 -W 5 10.213.91.1")
    assert "10.213.91." in done.stdout and " 0% packet loss" in done.stdout


def test_pause_top_stats_update(dockerd):
    container = name()
    dockerd.run("-d", "--name", container, "-m", "64m", "busybox", "/bin/sleep", "1000")
    dockerd.docker("pause", container)
    assert dockerd.inspect(container, ".State.Status") == "paused"
    dockerd.docker("unpause", container)
    assert "sleep 1000" in dockerd.docker("top", container, text=True).stdout
    stats = json.loads(dockerd.docker("stats", "--no-stream", "--format", "{{json .}}", container).stdout)
    assert stats["MemUsage"].endswith("/ 64MiB") and stats["PIDs"] == "1"
    dockerd.docker("update", "-m", "80m", "--memory-swap", "80m", container)
    stats = json.loads(dockerd.docker("stats", "--no-stream", "--format", "{{json .}}", container).stdout)
    assert stats["MemUsage"].endswith("/ 80MiB")
    dockerd.docker("rm", "-f", container)


def test_out_of_memory(dockerd):
    container = name()
    dockerd.run("--name", container, "-m", "16m", "--memory-swap", "16m", "busybox", "/bin/sh", "-c", "x=a; while :; do x=$x$x; done", check=False)
    deadline = time.monotonic() + 20
    while dockerd.inspect(container, ".State.OOMKilled") is not True:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert dockerd.inspect(container, ".State.ExitCode") == 137
    dockerd.docker("rm", container)


@pytest.mark.parametrize("program, code", [("nosuchprogram", 127), ("/etc/passwd", 126)])
def test_what_cannot_run(dockerd, program, code):
    done = dockerd.run("--rm", "busybox", program, check=False)
    assert done.returncode == code, done.stderr


def test_containers_survive_dockerd_and_its_containerd(dockerd):
    container = name()
    dockerd.run("-d", "--name", container, "busybox", "/bin/sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done")
    pid = dockerd.inspect(container, ".State.Pid")
    dockerd.process.kill()
    dockerd.process.wait()
    for line in leaks.processes(f"{dockerd.folder}/exec/containerd/containerd.toml"):
        os.kill(int(line.split()[0]), signal.SIGKILL)
    os.kill(pid, 0)
    # Not reaped yet, they would pass for running ones.
    for path in ("pid", "exec/containerd/containerd.pid"):
        (dockerd.folder / path).unlink(missing_ok=True)
    dockerd.start()
    assert dockerd.inspect(container, ".State.Pid") == pid and dockerd.inspect(container, ".State.Running") is True
    assert dockerd.docker("exec", container, "/bin/echo", "still here", text=True).stdout == "still here\n"
    dockerd.docker("stop", container)
    assert dockerd.inspect(container, ".State.ExitCode") == 9
    dockerd.docker("rm", container)
