"""Checkpoint, and Create and Start with a checkpoint, call by call: what is refused, and what goes on while CRIU runs. A
program of the tests stands in for CRIU, in a mount namespace of the shim's; the real one has test_checkpoint.py."""

import json
import os
import pathlib
import signal
import time

import pytest

from support import criu, leaks, ttrpc
from support.shim_host import CREATED, PAUSED, RUNNING, STOPPED, Host, create, status
from support.ttrpc import Client, RpcError

NEEDED = "checkpoint and restore need CRIU, which is not installed"

# Does what CRIU would: says how it was called, waits while `hold` is there, fails when `fail` is, ends or makes a process.
STAND_IN = """#!/usr/bin/python3
import glob, json, os, pathlib, subprocess, sys, time
home = pathlib.Path({home!r})
words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
with open(home / "calls", "a") as file:
    file.write(json.dumps(words) + "\\n")
(home / "running").write_text(str(os.getpid()))
log = pathlib.Path(value("--work-dir")) / value("--log-file")
images = pathlib.Path(value("--images-dir"))

def make():
    streams = {{}}
    for at, word in enumerate(words):
        if word == "--inherit-fd":
            number, key = words[at + 1][3:].split("]:", 1)
            streams[int(number) - 10] = int(number)
    program = (home / "program").read_text()
    child = subprocess.Popen(["/bin/sh", "-c", program], start_new_session=True, **{{name: streams.get(i, subprocess.DEVNULL)
                             for i, name in enumerate(("stdin", "stdout", "stderr"))}})
    for folder in glob.glob("/sys/fs/cgroup" + value("--cgroup-root")) + glob.glob("/sys/fs/cgroup/*" + value("--cgroup-root")):
        pathlib.Path(folder, "cgroup.procs").write_text(str(child.pid))
    return child.pid

while (home / "hold").exists():
    time.sleep(0.02)
if (home / "fail").exists():
    if words[0] == "restore":
        make()
    log.write_text("(00.01) all is well\\n(00.02) Error (criu/x.c:7): no luck today\\n")
    sys.exit(1)
if words[0] == "dump":
    (images / "inventory.img").write_text("images")
    if "--leave-running" not in words:
        os.kill(int(value("--tree")), 9)
else:
    pathlib.Path(value("--pidfile")).write_text(str(make()))
    if (home / "late").exists():
        time.sleep(1)
"""


class StandInHost(Host):
    """The shim sees the stand-in as CRIU; nobody else does."""

    def __init__(self):
        super().__init__()
        self.criu = self.folder / "criu"
        self.criu.mkdir()
        program = self.folder / "criu-program"
        program.write_text(STAND_IN.format(home=str(self.criu)))
        program.chmod(0o755)
        self.binary = criu.command_with(self.folder, "start-shim", self.binary, program)

    def calls(self) -> list[list[str]]:
        path = self.criu / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_call(self, number: int):
        deadline = time.monotonic() + 30
        while len(self.calls()) < number or not (self.criu / "running").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def standin():
    running = StandInHost()
    yield running
    running.close()


@pytest.fixture
def without_criu():
    running = Host()
    running.binary = criu.command_with(running.folder, "start-shim", running.binary, None)
    yield running
    running.close()


def options(kind: str = "containerd.runc.v1.CheckpointOptions", **fields) -> dict:
    names = {"exit": 1, "open_tcp": 2, "external_unix_sockets": 3, "terminal": 4, "file_locks": 5, "empty_namespaces": 6, "cgroups_mode": 7,
             "image_path": 8, "work_path": 9}
    return {1: kind, 2: ttrpc.encode({names[name]: value for name, value in fields.items()})}


def sleeping(host):
    bundle = host.bundle("/bin/sleep", "1000")
    client = host.client(bundle)
    create(client, bundle)
    client.call("Start", {1: bundle.name})
    return bundle, client


def refused(client: Client, method: str, fields: dict, code: int, words: str):
    with pytest.raises(RpcError) as error:
        client.call(method, fields)
    assert error.value.code == code and words in error.value.message, error.value


def images_in(bundle) -> pathlib.Path:
    images = bundle.path / "images"
    images.mkdir()
    (images / "inventory.img").write_text("images")
    (images / "descriptors.json").write_text('["pipe:[101]","pipe:[102]","pipe:[103]"]')
    return images


def remove(client: Client, bundle):
    client.call("Kill", {1: bundle.name, 3: 9})
    client.call("Wait", {1: bundle.name})
    client.call("Delete", {1: bundle.name})


# ---- refusals


def test_checkpoint_needs_criu(without_criu):
    bundle, client = sleeping(without_criu)
    before = sorted(os.listdir(bundle.path))
    refused(client, "Checkpoint", {1: bundle.name, 2: str(bundle.path / "images")}, ttrpc.UNAVAILABLE, NEEDED)
    assert status(client, bundle) == RUNNING and sorted(os.listdir(bundle.path)) == before
    client.call("Pause", {1: bundle.name})
    client.call("Resume", {1: bundle.name})
    remove(client, bundle)


def test_restore_needs_criu(without_criu):
    bundle = without_criu.bundle("/bin/true")
    images = images_in(bundle)
    client = without_criu.client(bundle)
    before = sorted(os.listdir(bundle.path))
    with pytest.raises(RpcError) as error:
        create(client, bundle, checkpoint=str(images))
    assert error.value.code == ttrpc.UNAVAILABLE and NEEDED in error.value.message
    assert sorted(os.listdir(bundle.path)) == before
    refused(client, "State", {1: bundle.name}, ttrpc.NOT_FOUND, "not created")
    assert not leaks.control_groups("", [bundle.name]) and not leaks.mounts(str(bundle.path))


@pytest.mark.parametrize("path, asked, code, words", [
    ("", None, ttrpc.INVALID_ARGUMENT, "path: expected an absolute path"),
    ("images", None, ttrpc.INVALID_ARGUMENT, "path: expected an absolute path"),
    ("/a\0b", None, ttrpc.INVALID_ARGUMENT, "path: expected an absolute path"),
    ("", {"image_path": "images"}, ttrpc.INVALID_ARGUMENT, "path: expected an absolute path"),
    ("/images", {"work_path": "work"}, ttrpc.INVALID_ARGUMENT, "work path: expected an absolute path"),
    ("/images", {"cgroups_mode": "loose"}, ttrpc.INVALID_ARGUMENT, "invalid manage cgroups mode"),
    ("/images", {"empty_namespaces": ["network", "pid"]}, ttrpc.INVALID_ARGUMENT, "only network is supported"),
    ("/images", {"kind": "containerd.runc.v1.Options"}, ttrpc.INVALID_ARGUMENT, "unknown options containerd.runc.v1.Options"),
])
def test_bad_options_are_refused(host, path, asked, code, words):
    bundle, client = sleeping(host)
    fields = {1: bundle.name, 2: path, **({3: options(**asked)} if asked else {})}
    refused(client, "Checkpoint", fields, code, words)
    refused(client, "Checkpoint", {1: bundle.name, 2: "/images", 3: {1: "containerd.runc.v1.CheckpointOptions", 2: b"\x0b"}},
            ttrpc.INVALID_ARGUMENT, "checkpoint options")
    assert status(client, bundle) == RUNNING and not os.path.exists("/images")
    remove(client, bundle)


def test_only_what_runs_is_checkpointed(host):
    bundle = host.bundle("/bin/sleep", "1000")
    client = host.client(bundle)
    wish = {1: bundle.name, 2: str(bundle.path / "images")}
    refused(client, "Checkpoint", wish, ttrpc.NOT_FOUND, "not created")
    create(client, bundle)
    refused(client, "Checkpoint", wish, ttrpc.FAILED_PRECONDITION, "Container cannot be checkpointed in created state")
    client.call("Start", {1: bundle.name})
    process = {"args": ["/bin/sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
    client.call("Exec", {1: bundle.name, 2: "e", 7: {1: "process", 2: json.dumps(process)}})
    client.call("Start", {1: bundle.name, 2: "e"})
    refused(client, "Checkpoint", wish, ttrpc.FAILED_PRECONDITION, "processes of exec")
    client.call("Kill", {1: bundle.name, 3: 9})
    client.call("Wait", {1: bundle.name})
    refused(client, "Checkpoint", wish, ttrpc.FAILED_PRECONDITION, "Container cannot be checkpointed in stopped state")
    assert not (bundle.path / "images").exists()
    client.call("Delete", {1: bundle.name})


def test_a_container_with_a_terminal_is_not_checkpointed(host):
    bundle = host.bundle("/bin/sleep", "1000")
    client = host.client(bundle)
    create(client, bundle, terminal=True)
    client.call("Start", {1: bundle.name})
    refused(client, "Checkpoint", {1: bundle.name, 2: str(bundle.path / "images"), 3: options(terminal=True)}, ttrpc.UNIMPLEMENTED,
            "a container with a terminal cannot be checkpointed")
    assert status(client, bundle) == RUNNING and not (bundle.path / "images").exists()
    remove(client, bundle)


@pytest.mark.parametrize("change, code, words", [
    (lambda bundle, fields: fields.update(checkpoint="images"), ttrpc.INVALID_ARGUMENT, "checkpoint: expected an absolute path"),
    (lambda bundle, fields: fields.update(checkpoint=str(bundle.path / "nowhere")), ttrpc.NOT_FOUND, "nowhere"),
    (lambda bundle, fields: fields.update(checkpoint="/etc/passwd"), ttrpc.INVALID_ARGUMENT, "not a directory"),
    (lambda bundle, fields: fields.update(checkpoint=str(bundle.rootfs)), ttrpc.NOT_FOUND, "no checkpoint (criu's inventory.img is missing)"),
    (lambda bundle, fields: fields.update(checkpoint=str(images_in(bundle)), terminal=True), ttrpc.UNIMPLEMENTED,
     "a container with a terminal cannot be restored"),
    (lambda bundle, fields: (bundle.process.update(terminal=True), fields.update(checkpoint=str(images_in(bundle)))), ttrpc.UNIMPLEMENTED,
     "a container with a terminal cannot be restored"),
    (lambda bundle, fields: fields.update(checkpoint=str(images_in(bundle)), options={1: "containerd.runc.v1.Options", 2: {11: "work"}}),
     ttrpc.INVALID_ARGUMENT, "work path: expected an absolute path"),
])
def test_what_is_no_checkpoint_is_refused(host, change, code, words):
    bundle = host.bundle("/bin/true")
    fields: dict = {}
    change(bundle, fields)
    client = host.client(bundle)
    before = sorted(os.listdir(bundle.path))
    with pytest.raises(RpcError) as error:
        create(client, bundle, **fields)
    assert error.value.code == code and words in error.value.message, error.value
    refused(client, "State", {1: bundle.name}, ttrpc.NOT_FOUND, "not created")
    assert sorted(os.listdir(bundle.path)) == before
    assert not leaks.control_groups("", [bundle.name]) and not leaks.mounts(str(bundle.path))


# ---- while CRIU runs


def test_checkpoint_does_not_hold_up_the_shim(standin):
    bundle, client = sleeping(standin)
    pid = client.call("State", {1: bundle.name})[3][0]
    images = bundle.path / "images"
    (standin.criu / "hold").touch()
    asked = options(open_tcp=True, external_unix_sockets=True, terminal=True, file_locks=True, empty_namespaces=["network"], cgroups_mode="full")
    waiting = client.send("Checkpoint", {1: bundle.name, 2: str(images), 3: asked})
    standin.wait_for_call(1)
    assert status(client, bundle) == RUNNING
    for method in ("Checkpoint", "Pause", "Resume"):
        fields = {1: bundle.name, 2: str(images)} if method == "Checkpoint" else {1: bundle.name}
        refused(client, method, fields, ttrpc.FAILED_PRECONDITION, "is being checkpointed")
    process = {"args": ["/bin/true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
    client.call("Exec", {1: bundle.name, 2: "e", 7: {1: "process", 2: json.dumps(process)}})
    refused(client, "Start", {1: bundle.name, 2: "e"}, ttrpc.FAILED_PRECONDITION, "is being checkpointed")
    assert client.call("Stats", {1: bundle.name})[1]
    (standin.criu / "hold").unlink()
    assert client.receive(waiting) == {}
    call = standin.calls()[0]
    assert call[:3] == ["dump", "--tree", str(pid)] and "--leave-running" in call and "--freeze-cgroup" not in call
    for flag in ("--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks", "--manage-cgroups=full"):
        assert flag in call
    assert call[call.index("--empty-ns") + 1] == "net" and call[call.index("--images-dir") + 1] == str(images)
    streams = json.loads((images / "descriptors.json").read_text())
    # Nobody wanted its input: /dev/null of the host, which CRIU has to be told of.
    assert streams[0].startswith("file[") and call[call.index("--external", call.index(streams[0]) - 1) + 1] == streams[0]
    assert streams[1].startswith("pipe:[") and streams[2].startswith("pipe:[") and streams[1] != streams[2]
    assert not (bundle.path / "criu-work").exists()
    standin.events.wait_for("/tasks/checkpointed")
    event = next(event for event in standin.events.events if event[0] == "/tasks/checkpointed")
    assert event[1:] == ("containerd.events.TaskCheckpointed", {1: [bundle.name.encode()]})
    assert status(client, bundle) == RUNNING
    remove(client, bundle)


def test_a_paused_container_is_thawed_by_criu(standin):
    bundle, client = sleeping(standin)
    client.call("Pause", {1: bundle.name})
    client.call("Checkpoint", {1: bundle.name, 2: str(bundle.path / "images")})
    call = standin.calls()[0]
    freezer = pathlib.Path(call[call.index("--freeze-cgroup") + 1])
    assert freezer.name == bundle.name and ((freezer / "cgroup.freeze").exists() or (freezer / "freezer.state").exists())
    assert status(client, bundle) == PAUSED
    client.call("Resume", {1: bundle.name})
    remove(client, bundle)


def test_exit_ends_the_container(standin):
    bundle, client = sleeping(standin)
    work = bundle.path / "work"
    waiting = client.send("Wait", {1: bundle.name})
    client.call("Checkpoint", {1: bundle.name, 3: options(exit=True, image_path=str(bundle.path / "images"), work_path=str(work))})
    assert client.receive(waiting)[1] == [137] and status(client, bundle) == STOPPED
    assert "--leave-running" not in standin.calls()[0]
    assert (bundle.path / "images/inventory.img").exists() and work.exists()
    client.call("Delete", {1: bundle.name})


def test_a_checkpoint_that_fails_says_why_and_leaves_no_images(standin):
    bundle, client = sleeping(standin)
    images = bundle.path / "images"
    (standin.criu / "fail").touch()
    wish = {1: bundle.name, 2: str(images)}
    refused(client, "Checkpoint", wish, ttrpc.FAILED_PRECONDITION,
            f"wherry checkpoint failed: criu failed (its log: {bundle.path}/criu-work/dump.log): (00.02) Error (criu/x.c:7): no luck today")
    assert not images.exists() and status(client, bundle) == RUNNING
    images.mkdir()
    (images / "mine").touch()
    refused(client, "Checkpoint", wish, ttrpc.FAILED_PRECONDITION, "criu failed")
    assert (images / "mine").exists()
    refused(client, "Checkpoint", {1: bundle.name, 2: str(images / "mine")}, ttrpc.INVALID_ARGUMENT, "not a directory")
    refused(client, "Checkpoint", {1: bundle.name, 2: str(images / "no/where")}, ttrpc.NOT_FOUND, "no/where")
    (standin.criu / "fail").unlink()
    client.call("Checkpoint", wish)
    assert not (bundle.path / "criu-work").exists()
    remove(client, bundle)
    assert [topic for topic, _, _ in standin.events.events].count("/tasks/checkpointed") == 1


def test_a_container_killed_meanwhile_ends_both(standin):
    bundle, client = sleeping(standin)
    (standin.criu / "hold").touch()
    waiting = client.send("Checkpoint", {1: bundle.name, 2: str(bundle.path / "images")})
    standin.wait_for_call(1)
    client.call("Kill", {1: bundle.name, 3: 9})
    assert client.call("Wait", {1: bundle.name})[1] == [137]
    refused(client, "Delete", {1: bundle.name}, ttrpc.FAILED_PRECONDITION, "is being checkpointed")
    (standin.criu / "fail").touch()
    (standin.criu / "hold").unlink()
    with pytest.raises(RpcError):
        client.receive(waiting)
    client.call("Delete", {1: bundle.name})


def test_restore_gives_the_shim_a_process_like_any_other(standin):
    bundle = standin.bundle("/bin/sleep", "1000")
    images, output, errors = images_in(bundle), bundle.path / "out", bundle.path / "err"
    (standin.criu / "program").write_text("trap 'exit 6' TERM; echo here; echo there >&2; read line; echo got $line; while :; do sleep 0.05; done")
    fifo = bundle.path / "in"
    os.mkfifo(fifo)
    client = standin.client(bundle)
    assert create(client, bundle, checkpoint=str(images), stdin=str(fifo), stdout=f"file://{output}", stderr=f"file://{errors}") == 0
    assert status(client, bundle) == CREATED and not client.call("Pids", {1: bundle.name}).get(1)
    created = next(event for event in standin.events.events if event[0] == "/tasks/create") if standin.events.wait_for("/tasks/create") else None
    assert created[2][5] == [str(images).encode()] and 6 not in created[2]
    waiting = client.send("Wait", {1: bundle.name})
    refused(client, "Kill", {1: bundle.name, 3: 9}, ttrpc.FAILED_PRECONDITION, "no process yet")
    refused(client, "Pause", {1: bundle.name}, ttrpc.FAILED_PRECONDITION, "not running")
    refused(client, "Checkpoint", {1: bundle.name, 2: "/images"}, ttrpc.FAILED_PRECONDITION, "in created state")

    (standin.criu / "hold").touch()
    starting = client.send("Start", {1: bundle.name})
    standin.wait_for_call(1)
    assert status(client, bundle) == CREATED
    for method in ("Start", "Delete", "Pause"):
        refused(client, method, {1: bundle.name}, ttrpc.FAILED_PRECONDITION, "is being restored")
    (standin.criu / "hold").unlink()
    pid = client.receive(starting)[1][0]
    call = standin.calls()[0]
    assert call[0] == "restore" and "--restore-detached" in call and call[call.index("--root") + 1] == str(bundle.rootfs)
    assert call[call.index("--cgroup-root") + 1] == bundle.linux["cgroupsPath"]
    inherited = [call[at + 1] for at, word in enumerate(call) if word == "--inherit-fd"]
    assert inherited == ["fd[10]:pipe:[101]", "fd[11]:pipe:[102]", "fd[12]:pipe:[103]"]

    assert status(client, bundle) == RUNNING and client.call("Connect", {1: bundle.name})[2] == [pid]
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    assert int(stat[1]) in standin.shims()
    with open(fifo, "w") as file:
        file.write("words\n")
    deadline = time.monotonic() + 30
    while not output.read_text().endswith("got words\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert output.read_text() == "here\ngot words\n" and errors.read_text() == "there\n"
    assert pid in [ttrpc.decode(process)[1][0] for process in client.call("Pids", {1: bundle.name})[1]]
    assert client.call("Stats", {1: bundle.name})[1]
    client.call("Pause", {1: bundle.name})
    client.call("Resume", {1: bundle.name})
    assert json.loads((bundle.path / "wherry-state.json").read_text())["container"]["pid"] == pid
    client.call("Kill", {1: bundle.name, 3: signal.SIGTERM})
    assert client.receive(waiting)[1] == [6] and status(client, bundle) == STOPPED
    deleted = client.call("Delete", {1: bundle.name})
    assert deleted[1] == [pid] and deleted[2] == [6]
    assert standin.events.wait_for("/tasks/delete") == ["/tasks/create", "/tasks/start", "/tasks/paused", "/tasks/resumed", "/tasks/exit",
                                                        "/tasks/delete"]
    assert not (bundle.path / "criu-work").exists() and not (bundle.path / "criu.pid").exists()


def test_streams_that_nobody_gives_are_the_null_device(standin):
    bundle = standin.bundle("/bin/sleep", "1000")
    images = images_in(bundle)
    (images / "descriptors.json").write_text('["file[1f:4]","pipe:[102]","pipe:[103] --exec-cmd"]')
    (standin.criu / "program").write_text("readlink /proc/self/fd/0; exit 4")
    (standin.criu / "late").touch()
    client = standin.client(bundle)
    create(client, bundle, checkpoint=str(images), stdout=f"file://{bundle.path}/out")
    with pytest.raises(RpcError) as error:  # it has ended when CRIU has
        client.call("Start", {1: bundle.name})
    assert "has ended already" in error.value.message
    assert (bundle.path / "out").read_text() == "/dev/null\n"
    call = standin.calls()[0]
    assert "fd[10]:file[1f:4]" in call and "fd[11]:pipe:[102]" in call and not [word for word in call if "103" in word]
    assert client.call("Delete", {1: bundle.name})[2] == [137]


def test_a_restore_that_fails_can_be_tried_again(standin):
    bundle = standin.bundle("/bin/sleep", "1000")
    client = standin.client(bundle)
    (standin.criu / "program").write_text("exec sleep 1000")
    (standin.criu / "fail").touch()
    create(client, bundle, checkpoint=str(images_in(bundle)))
    refused(client, "Start", {1: bundle.name}, ttrpc.FAILED_PRECONDITION,
            f"wherry restore failed: criu failed (its log: {bundle.path}/criu-work/restore.log): (00.02) Error (criu/x.c:7): no luck today")
    # What CRIU had made by then is gone.
    deadline = time.monotonic() + 10
    while client.call("Pids", {1: bundle.name}).get(1):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert status(client, bundle) == CREATED
    (standin.criu / "fail").unlink()
    (standin.criu / "hold").touch()
    starting = client.send("Start", {1: bundle.name})
    standin.wait_for_call(2)
    client.call("Kill", {1: bundle.name, 3: 9})  # of what is being restored: CRIU ends
    with pytest.raises(RpcError) as error:
        client.receive(starting)
    assert "criu failed" in error.value.message
    (standin.criu / "hold").unlink()
    client.call("Start", {1: bundle.name})
    assert status(client, bundle) == RUNNING and not (bundle.path / "criu-work").exists()
    remove(client, bundle)


def test_a_created_one_is_deleted_without_a_trace(standin):
    bundle = standin.bundle("/bin/sleep", "1000")
    client = standin.client(bundle)
    create(client, bundle, checkpoint=str(images_in(bundle)))
    waiting = client.send("Wait", {1: bundle.name})
    client.call("Delete", {1: bundle.name})
    assert client.receive(waiting)[1] == [137]
    assert not leaks.control_groups("", [bundle.name]) and not standin.calls()


@pytest.mark.parametrize("method", ["Checkpoint", "Start"])
def test_criu_ends_with_the_shim(standin, method):
    bundle = standin.bundle("/bin/sleep", "1000")
    client = standin.client(bundle)
    (standin.criu / "hold").touch()
    (standin.criu / "program").write_text("exec sleep 1000")
    if method == "Checkpoint":
        create(client, bundle)
        client.call("Start", {1: bundle.name})
        client.send("Checkpoint", {1: bundle.name, 2: str(bundle.path / "images")})
    else:
        create(client, bundle, checkpoint=str(images_in(bundle)))
        client.send("Start", {1: bundle.name})
    standin.wait_for_call(1)
    pid = int((standin.criu / "running").read_text())
    os.kill(standin.shims()[0], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert standin.command(bundle, "-bundle", str(bundle.path), "delete").returncode == 0
    assert not leaks.control_groups("", [bundle.name])
