"""wherryd killed at any point of create, start, stop, rm: the next start is clean, and nothing acknowledged is lost.

WHERRY_CRASH_AT=<point> makes the daemon kill -9 itself at a named point (src/engine/crash_point.hpp)."""

import os
import pathlib
import random
import threading
import time

import pytest

from support.api import Api, ApiError
from support.crashes import LATE, start_to_crash
from support.daemon import Daemon

BUSYBOX = "busybox:latest"


class Acknowledged:
    """What the daemon has promised: id -> the last state it answered with success."""

    def __init__(self):
        self.created, self.started, self.stopped, self.removed = set(), set(), set(), set()


def scenario(api, acknowledged: Acknowledged, auto_remove=False):
    """One container's whole life, with a volume and a port; each success is written down."""
    identifier = api.post("/containers/create", {
        "Image": BUSYBOX, "Cmd": ["sh", "-c", "trap 'exit 3' TERM; echo trapped; while :; do sleep 0.05; done"], "Volumes": {"/data": {}},
        "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}, "AutoRemove": auto_remove}})["Id"]
    acknowledged.created.add(identifier)
    api.post(f"/containers/{identifier}/start")
    acknowledged.started.add(identifier)
    # Before its shell has the trap, a first process of a namespace does not even notice the signal.
    deadline = time.monotonic() + 20
    while b"trapped" not in api.request("GET", f"/containers/{identifier}/logs?stdout=1")[2]:
        assert time.monotonic() < deadline, "the container said nothing"
        time.sleep(0.01)
    api.post(f"/containers/{identifier}/stop?t=5")
    acknowledged.stopped.add(identifier)
    if not auto_remove:
        api.delete(f"/containers/{identifier}", v=1)
    acknowledged.removed.add(identifier)


def check(daemon: Daemon, acknowledged: Acknowledged, point: str):
    present = {container["Id"]: container for container in daemon.containers()}
    for identifier in acknowledged.removed:
        assert identifier not in present, f"{point}: an acknowledged removal came back"
    # A crash in the middle of a removal may have gone either way; before one was asked for, nothing may be missing.
    for identifier in acknowledged.created - acknowledged.removed - acknowledged.stopped:
        assert identifier in present or "remove" in point or "exit" in point, f"{point}: an acknowledged container is lost"
    for identifier in acknowledged.started - acknowledged.stopped - acknowledged.removed:
        if identifier in present and not point.startswith(("stop", "exit", "remove")):
            assert present[identifier]["State"] == "running", f"{point}: {present[identifier]}"
    for identifier in acknowledged.stopped & present.keys():
        assert present[identifier]["State"] == "exited"
        assert daemon.api.get(f"/containers/{identifier}/json")["State"]["ExitCode"] == 3
    # What is there works.
    for identifier, container in present.items():
        if container["State"] in ("created", "exited"):
            daemon.api.post(f"/containers/{identifier}/start")
        elif container["State"] == "running":
            try:
                assert daemon.api.get(f"/containers/{identifier}/top")["Processes"]
            except ApiError as error:
                # A signal that was sent before the crash may take effect right now.
                assert error.status == 409 and point.startswith("stop"), error
                assert daemon.api.get(f"/containers/{identifier}/json")["State"]["Status"] == "exited"
    for identifier in present:
        daemon.api.delete(f"/containers/{identifier}", force=1, v=1)
    daemon.assert_clean()
    assert not daemon.api.get("/volumes")["Volumes"], f"{point}: a volume was left"


def crash(daemon: Daemon, point: str, work, meanwhile=lambda: None):
    """Runs `work` against a daemon that kills itself at the point; then, after `meanwhile`, starts a sound one."""
    start_to_crash(daemon, point)
    try:
        work()
    except (OSError, ApiError, ValueError, EOFError, Exception) as error:  # noqa: BLE001 - the connection breaks in many ways
        if isinstance(error, AssertionError):
            raise
    deadline = time.monotonic() + 10
    while daemon.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert daemon.process.poll() is not None, f"the daemon never came to {point}"
    daemon.process = None
    meanwhile()
    daemon.start()


@pytest.fixture(scope="module")
def daemon():
    with Daemon() as running:
        running.import_busybox()
        yield running


POINTS = ["create.prepared", "create.mounts", "create.written", "start.begin", "start.prepared", "start.written",
          "start.running", "start.saved", "stop.written", "stop.signalled", "exit.begin", "exit.saved", "exit.cleaned",
          "remove.begin", "remove.written", "remove.files"]


@LATE
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(daemon, point, late):
    daemon.stop()
    acknowledged = Acknowledged()
    crash(daemon, point + late, lambda: scenario(daemon.api, acknowledged))
    check(daemon, acknowledged, point)


@LATE
@pytest.mark.parametrize("point", ["start.written", "start.running", "exit.begin", "exit.saved", "remove.begin", "remove.written"])
def test_killed_at_with_auto_remove(daemon, point, late):
    daemon.stop()
    acknowledged = Acknowledged()
    crash(daemon, point + late, lambda: scenario(daemon.api, acknowledged, auto_remove=True))
    present = {container["Id"]: container for container in daemon.containers()}
    for identifier in present.keys() & acknowledged.started:
        # Either it still runs, or it was to remove itself and is about to.
        deadline = time.monotonic() + 5
        while any(one["Id"] == identifier and one["State"] != "running" for one in daemon.containers()):
            assert time.monotonic() < deadline, f"{point}: --rm left an ended container"
            time.sleep(0.05)
    daemon.remove_all()
    daemon.assert_clean()
    assert not daemon.api.get("/volumes")["Volumes"]


@LATE
@pytest.mark.parametrize("point", ["import.stored", "image.untagged", "volume.made", "volume.written", "volume.removed"])
def test_killed_with_images_and_volumes(daemon, point, late):
    daemon.stop()

    def work():
        daemon.api.post("/volumes/create", {"Name": "crash-volume"})
        daemon.api.delete("/volumes/crash-volume")
        daemon.import_busybox("crash:latest")
        daemon.api.delete("/images/crash:latest")

    crash(daemon, point + late, work)
    assert all(image["RepoTags"] for image in daemon.api.get("/images/json")), "an image that nobody was told of"
    assert BUSYBOX in [tag for image in daemon.api.get("/images/json") for tag in image["RepoTags"] or []]
    names = [volume["Name"] for volume in daemon.api.get("/volumes")["Volumes"] or []]
    assert "crash-volume" not in names or point != "volume.removed"
    folder = daemon.data_root / "volumes"
    assert sorted(os.listdir(folder)) == sorted(names)
    if "crash-volume" in names:
        daemon.api.delete("/volumes/crash-volume")
    daemon.import_busybox("crash:latest")
    daemon.api.delete("/images/crash:latest")


def wait_until(condition, what: str, timeout: float = 20):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def ended(pid: int) -> bool:
    """Gone, or dead and not reaped yet."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def test_containers_outlive_the_daemon(daemon, tmp_path):
    """kill -9, and for a while nobody there: not a log line and not an exit code is lost."""
    # They end when the daemon is away, however slow the machine is.
    gate, wait = [f"{tmp_path}:/gate"], "while ! test -e /gate/go; do sleep 0.02; done"
    running = daemon.api.post("/containers/create", {"Image": BUSYBOX, "Cmd": ["sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done"]})["Id"]
    ending = daemon.api.post("/containers/create", {"Image": BUSYBOX, "Cmd": ["sh", "-c", f"{wait}; echo last words; exit 42"], "HostConfig": {"Binds": gate}})["Id"]
    passing = daemon.api.post("/containers/create", {"Image": BUSYBOX, "Cmd": ["sh", "-c", wait], "HostConfig": {"AutoRemove": True, "Binds": gate}})["Id"]
    returning = daemon.api.post("/containers/create", {
        "Image": BUSYBOX, "Cmd": ["sh", "-c", f"test -e /gate/go && exec sleep 1000; {wait}"],
        "HostConfig": {"RestartPolicy": {"Name": "always"}, "Binds": gate}})["Id"]
    for identifier in (running, ending, passing, returning):
        daemon.api.post(f"/containers/{identifier}/start")
    pid = daemon.api.get(f"/containers/{running}/json")["State"]["Pid"]
    others = [daemon.api.get(f"/containers/{one}/json")["State"]["Pid"] for one in (ending, passing, returning)]
    log = daemon.api.get(f"/containers/{running}/json")["LogPath"]
    daemon.kill()
    (tmp_path / "go").touch()
    wait_until(lambda: all(map(ended, others)), "the containers go on")
    written = pathlib.Path(log).stat().st_size
    wait_until(lambda: pathlib.Path(log).stat().st_size > written + 2000, "nothing is logged without the daemon")
    daemon.start()
    state = daemon.api.get(f"/containers/{running}/json")["State"]
    assert state["Running"] and state["Pid"] == pid
    state = daemon.api.get(f"/containers/{ending}/json")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 42)
    with pytest.raises(ApiError) as gone:
        daemon.api.get(f"/containers/{passing}/json")
    assert gone.value.status == 404
    deadline = time.monotonic() + 5
    while daemon.api.get(f"/containers/{returning}/json")["State"]["Pid"] in (0, others[2]):
        assert time.monotonic() < deadline, "the restart policy was forgotten"
        time.sleep(0.05)
    lines = daemon.run(["docker", "logs", running]).stdout.split() if os.path.exists("/usr/local/bin/docker") else None
    if lines is not None:
        numbers = [int(word) for word in lines if word != "line"]
        assert numbers == list(range(len(numbers))) and len(numbers) > 20
    daemon.remove_all()
    daemon.assert_clean()


def test_shim_and_daemon_killed(daemon):
    """The power cut of one sandbox: its shim dies together with the daemon; what it parented is cleared away."""
    identifier = daemon.api.post("/containers/create", {"Image": BUSYBOX, "Cmd": ["sleep", "1000"]})["Id"]
    daemon.api.post(f"/containers/{identifier}/start")
    pid = daemon.api.get(f"/containers/{identifier}/json")["State"]["Pid"]
    with open(f"/proc/{pid}/stat") as file:
        shim = int(file.read().rsplit(")", 1)[1].split()[1])
    daemon.kill()
    os.kill(shim, 9)
    wait_until(lambda: ended(shim), "the shim is there")
    daemon.start()
    state = daemon.api.get(f"/containers/{identifier}/json")["State"]
    assert state["Status"] == "exited" and not state["Running"]
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")
    daemon.api.post(f"/containers/{identifier}/start")
    daemon.remove_all()
    daemon.assert_clean()


@pytest.mark.parametrize("point, status", [("start.running", "created"), ("start.saved", "exited")])
def test_shim_killed_before_the_record_is_written(daemon, point, status):
    """Whoever may have been told of a start is not told later that there was none."""
    daemon.stop()
    identifiers = []

    def work():
        identifiers.append(daemon.api.post("/containers/create", {"Image": BUSYBOX, "Cmd": ["sleep", "1000"]})["Id"])
        daemon.api.post(f"/containers/{identifiers[0]}/start")

    def kill_shim():
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if b"wherry-shim" in command and str(daemon.exec_root).encode() in command:
                os.kill(int(folder.name), 9)
                wait_until(lambda: ended(int(folder.name)), "the shim is there")  # noqa: B023 - called at once

    crash(daemon, point, work, kill_shim)
    assert daemon.api.get(f"/containers/{identifiers[0]}/json")["State"]["Status"] == status
    daemon.api.post(f"/containers/{identifiers[0]}/start")
    daemon.remove_all()
    daemon.assert_clean()


def test_shim_killed_alone(daemon):
    identifier = daemon.api.post("/containers/create", {"Image": BUSYBOX, "Cmd": ["sleep", "1000"]})["Id"]
    daemon.api.post(f"/containers/{identifier}/start")
    pid = daemon.api.get(f"/containers/{identifier}/json")["State"]["Pid"]
    with open(f"/proc/{pid}/stat") as file:
        shim = int(file.read().rsplit(")", 1)[1].split()[1])
    os.kill(shim, 9)
    deadline = time.monotonic() + 5
    while daemon.api.get(f"/containers/{identifier}/json")["State"]["Running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    daemon.remove_all()
    daemon.assert_clean()


def test_killed_at_random(daemon):
    """Several clients at work while the daemon dies again and again."""
    rounds = 8
    chance = random.Random(1)
    finished = threading.Event()
    acknowledged = Acknowledged()

    def client():
        while not finished.is_set():
            try:
                scenario(daemon.api, acknowledged)
            except Exception:  # noqa: BLE001 - it was killed under us
                time.sleep(0.02)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for one in clients:
        one.start()
    for _ in range(rounds):
        time.sleep(chance.uniform(0.2, 0.8))
        daemon.note_identifiers()
        daemon.kill()
        daemon.start()
    finished.set()
    for one in clients:
        one.join()
    assert acknowledged.removed, "the clients got nothing done"
    present = {container["Id"] for container in daemon.containers()}
    assert not present & acknowledged.removed
    lost = acknowledged.created - acknowledged.stopped - acknowledged.removed - present
    assert not lost
    daemon.remove_all()
    daemon.assert_clean()


def test_a_second_daemon_is_refused(daemon):
    other = Daemon(root=str(daemon.root))
    other.socket = daemon.root / "other.sock"
    other.pidfile = daemon.root / "other.pid"
    other.log_path = daemon.root / "other.log"
    other.api = Api(str(other.socket))
    try:
        with pytest.raises(RuntimeError, match="another daemon uses the data root"):
            other.start()
    finally:
        other.subnet.release()
    assert daemon.api.get("/version")
