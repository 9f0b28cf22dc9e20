"""wherryd killed during cp, export and commit: nothing is left, nothing stands still, and the next start is clean."""

import contextlib
import io
import os
import pathlib
import socket
import tarfile
import time

import pytest

from support.api import ApiError
from support.crashes import LATE, start_to_crash
from support.daemon import Daemon


@pytest.fixture
def stopped():
    """A daemon that is not started yet, with busybox in its store."""
    daemon = Daemon()
    try:
        daemon.start()
        daemon.import_busybox()
        daemon.stop()
        yield daemon
    finally:
        daemon.close()


def image_with(size: int) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = size
        tar.addfile(info, io.BytesIO(b"x" * size))
    return raw.getvalue()


def start_container(daemon, name="box"):
    daemon.api.post("/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}, name=name)
    daemon.api.post(f"/containers/{name}/start")
    daemon.seen.update(container["Id"] for container in daemon.containers())


def copying_children(daemon_pid=None) -> list[int]:
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if words[0].endswith(b"wherry-unpack") and (daemon_pid is None or parent == daemon_pid):
                found.append(int(entry.name))
    return found


def wait_until(condition, timeout=20):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("direction", ["in", "out", "export"])
def test_killed_during_a_copy(stopped, direction, running):
    daemon = stopped
    daemon.start()
    start_container(daemon)
    raw = image_with(20_000_000)
    assert daemon.api.request("PUT", "/containers/box/archive", raw, path="/home")[0] == 200
    if not running:
        daemon.api.post("/containers/box/kill")
        daemon.api.post("/containers/box/wait")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        if direction == "in":
            connection.sendall(f"PUT /containers/box/archive?path=/tmp HTTP/1.1\r\nHost: d\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw[:3_000_000])
        else:
            path = "/containers/box/export" if direction == "export" else "/containers/box/archive?path=/home"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda: copying_children(daemon.pid))
        children = copying_children(daemon.pid)
        daemon.kill()
        wait_until(lambda: not [pid for pid in children if os.path.exists(f"/proc/{pid}")])
    daemon.start()
    state = daemon.api.get("/containers/box/json")["State"]
    assert state["Status"] == ("running" if running else "exited")
    # The root is as usable as ever.
    if not running:
        daemon.api.post("/containers/box/start")
    assert daemon.wherry("exec", "box", "wc", "-c", "/home/file").stdout.split()[0] == "20000000"
    assert daemon.api.request("PUT", "/containers/box/archive", image_with(10), path="/home")[0] == 200
    daemon.remove_all()
    daemon.assert_clean()


@LATE
@pytest.mark.parametrize("point", ["commit.paused", "commit.stored", "commit.written"])
def test_killed_during_a_commit(stopped, point, late):
    daemon = stopped
    start_to_crash(daemon, point + late)
    start_container(daemon)
    images = {image["Id"] for image in daemon.api.get("/images/json", all=1)}
    layers = set(os.listdir(daemon.data_root / "layers"))
    daemon.wherry("exec", "box", "sh", "-c", "echo committed >/home/mark")
    with contextlib.suppress(OSError, ApiError, Exception):
        daemon.api.post("/commit", container="box", repo="committed", tag="1")
    daemon.process.wait(20)
    daemon.process = None
    daemon.start()
    # What stood still for the commit goes on.
    assert daemon.api.get("/containers/box/json")["State"]["Status"] == "running"
    assert daemon.wherry("exec", "box", "cat", "/home/mark", timeout=20).stdout == "committed\n"
    now = {image["Id"] for image in daemon.api.get("/images/json", all=1)}
    if point == "commit.written":
        assert len(now - images) == 1 and daemon.api.get("/images/committed:1/json")
        daemon.api.delete("/images/committed:1")
    else:
        assert now == images
        wait_until(lambda: set(os.listdir(daemon.data_root / "layers")) == layers)
    daemon.api.post("/commit", container="box", repo="committed", tag="2")
    daemon.remove_all()
    daemon.api.delete("/images/committed:2")
    daemon.assert_clean()


def test_a_pause_that_was_told_stays(stopped):
    daemon = stopped
    daemon.start()
    start_container(daemon)
    daemon.api.post("/containers/box/pause")
    daemon.kill()
    daemon.start()
    assert daemon.api.get("/containers/box/json")["State"]["Status"] == "paused"
    daemon.api.post("/containers/box/unpause")


def test_a_pause_that_nobody_was_told_of_is_taken_back(stopped):
    daemon = stopped
    start_to_crash(daemon, "pause.paused")
    start_container(daemon)
    with contextlib.suppress(OSError, ApiError, Exception):
        daemon.api.post("/containers/box/pause")
    daemon.process.wait(20)
    daemon.process = None
    daemon.start()
    assert daemon.api.get("/containers/box/json")["State"]["Status"] == "running"
    assert daemon.wherry("exec", "box", "echo", "alive", timeout=20).stdout == "alive\n"
