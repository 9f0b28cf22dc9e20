"""The shim without containerd: its command line, its Task API call by call, and hostile peers."""

import json
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import time

import pytest

from support import leaks, ttrpc
from support.shim_host import CREATED, RUNNING, STOPPED, create, status
from support.ttrpc import Client, EventServer, RpcError


def test_a_whole_life(host):
    bundle = host.bundle("/bin/sh", "-c", "exit 4")
    client = host.client(bundle)
    output = bundle.path / "out"
    pid = create(client, bundle, stdout=f"file://{output}")
    assert status(client, bundle) == CREATED
    waiting = client.send("Wait", {1: bundle.name})
    assert client.call("Start", {1: bundle.name})[1] == [pid]
    assert client.receive(waiting)[1] == [4]
    assert client.call("Wait", {1: bundle.name})[1] == [4]
    assert status(client, bundle) == STOPPED
    with pytest.raises(RpcError) as error:
        client.call("Kill", {1: bundle.name, 3: 9})
    assert error.value.code == ttrpc.NOT_FOUND and "already finished" in error.value.message
    deleted = client.call("Delete", {1: bundle.name})
    assert deleted[1] == [pid] and deleted[2] == [4] and 3 in deleted
    with pytest.raises(RpcError) as error:
        client.call("State", {1: bundle.name})
    assert error.value.code == ttrpc.NOT_FOUND
    client.call("Shutdown", {1: bundle.name})
    assert host.events.wait_for("/tasks/delete") == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    deadline = time.monotonic() + 20
    while host.shims():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_events_by_the_publish_command(host):
    publisher, said = host.folder / "publisher", host.folder / "said"
    publisher.write_text(f'#!/bin/sh\necho "$@ $(wc -c)" >> {said}\n')
    publisher.chmod(0o755)
    bundle = host.bundle("/bin/true")
    client = host.client(bundle, publish=str(publisher), env={**os.environ})
    create(client, bundle)
    waiting = client.send("Wait", {1: bundle.name})
    client.call("Start", {1: bundle.name})
    client.receive(waiting)
    client.call("Delete", {1: bundle.name})
    deadline = time.monotonic() + 30
    while not said.exists() or said.read_text().count("\n") < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lines = [line.split() for line in said.read_text().splitlines()]
    assert [line[4] for line in lines] == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert all(line[:2] == ["--address", str(host.folder / "containerd.sock")] and line[5:7] == ["--namespace", "ns"] and int(line[7]) > 20
               for line in lines)


def test_events_wait_for_containerd(host):
    host.events.listener.close()
    os.unlink(host.folder / "ttrpc.sock")
    bundle = host.bundle("/bin/true")
    client = host.client(bundle)
    create(client, bundle)
    waiting = client.send("Wait", {1: bundle.name})
    client.call("Start", {1: bundle.name})
    client.receive(waiting)
    host.events = EventServer(str(host.folder / "ttrpc.sock"))
    assert host.events.wait_for("/tasks/exit") == ["/tasks/create", "/tasks/start", "/tasks/exit"]


def test_a_group_gives_one_address(host):
    sandbox, other, alone = host.bundle("/bin/sleep", "1000"), host.bundle("/bin/sleep", "1000"), host.bundle("/bin/sleep", "1000")
    for bundle in (sandbox, other):
        bundle.config["annotations"] = {"io.kubernetes.cri.sandbox-id": sandbox.name}
    address = host.start(sandbox)
    assert host.start(other) == address != host.start(alone)
    client = Client(address)
    for bundle in (sandbox, other):
        create(client, bundle)
        client.call("Start", {1: bundle.name})
    client.call("Kill", {1: other.name, 3: 9})
    client.call("Wait", {1: other.name})
    client.call("Delete", {1: other.name})
    client.call("Shutdown", {1: other.name})  # not the last one: it stays
    assert status(client, sandbox) == RUNNING
    assert client.call("Connect", {1: sandbox.name})[2] == [client.call("State", {1: sandbox.name})[3][0]]


def test_starts_at_once_meet_in_one_shim(host):
    bundles = [host.bundle("/bin/true") for _ in range(6)]
    for bundle in bundles:
        bundle.config["annotations"] = {"io.containerd.runc.v2.group": "together"}
        bundle.write()
    running = [subprocess.Popen([host.binary, "-namespace", "ns", "-address", str(host.folder / "containerd.sock"), "-id", bundle.name, "start"],
                                cwd=bundle.path, env=host.environment, stdout=subprocess.PIPE) for bundle in bundles]
    addresses = {process.communicate(timeout=60)[0].decode() for process in running}
    host.sockets |= {address.removeprefix("unix://") for address in addresses}
    assert len(addresses) == 1 and len(host.shims()) == 1


def test_exec_waits_before_it_starts(host):
    bundle = host.bundle("/bin/sleep", "1000")
    client = host.client(bundle)
    create(client, bundle)
    client.call("Start", {1: bundle.name})
    process = {"args": ["/bin/sh", "-c", "exit 12"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
    client.call("Exec", {1: bundle.name, 2: "e", 7: {1: "process", 2: json.dumps(process)}})
    with pytest.raises(RpcError) as error:
        client.call("Exec", {1: bundle.name, 2: "e", 7: {1: "process", 2: json.dumps(process)}})
    assert error.value.code == ttrpc.ALREADY_EXISTS
    assert status(client, bundle, "e") == CREATED
    waiting = client.send("Wait", {1: bundle.name, 2: "e"})
    client.call("Start", {1: bundle.name, 2: "e"})
    assert client.receive(waiting)[1] == [12]
    assert client.call("Delete", {1: bundle.name, 2: "e"})[2] == [12]
    with pytest.raises(RpcError) as error:
        client.call("Delete", {1: bundle.name})
    assert error.value.code == ttrpc.FAILED_PRECONDITION


def end_of(fifo: pathlib.Path) -> int:
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(end, True)
    return end


def read_all(end: int) -> bytes:
    with os.fdopen(end, "rb") as file:
        return file.read()


def test_what_writes_waits_for_its_readers(host):
    """containerd's clients open their ends of the fifos beside the call, and give up those that are not open at the exit."""
    bundle = host.bundle("/bin/sh", "-c", "echo out; echo err >&2; exec sleep 1000")
    client = host.client(bundle)
    fifos = [bundle.path / name for name in ("out", "err", "exec-out")]
    for fifo in fifos:
        os.mkfifo(fifo)
    making = client.send("Create", {1: bundle.name, 2: str(bundle.path), 6: str(fifos[0]), 7: str(fifos[1])})
    ends = []
    for fifo in fifos[:2]:
        with pytest.raises(RpcError) as error:
            client.call("State", {1: bundle.name})
        assert error.value.code == ttrpc.NOT_FOUND
        ends.append(end_of(fifo))
    assert client.receive(making)[1][0] > 0
    client.call("Start", {1: bundle.name})
    process = {"args": ["/bin/sh", "-c", "echo exec"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
    client.call("Exec", {1: bundle.name, 2: "e", 5: str(fifos[2]), 7: {1: "process", 2: json.dumps(process)}})
    starting = client.send("Start", {1: bundle.name, 2: "e"})
    assert status(client, bundle, "e") == CREATED
    ends.append(end_of(fifos[2]))
    assert client.receive(starting)[1][0] > 0
    assert client.call("Wait", {1: bundle.name, 2: "e"}).get(1, [0]) == [0]
    client.call("Delete", {1: bundle.name, 2: "e"})
    assert [os.read(end, 100) for end in ends[:2]] == [b"out\n", b"err\n"]
    client.call("Kill", {1: bundle.name, 3: signal.SIGKILL})
    client.call("Wait", {1: bundle.name})
    client.call("Delete", {1: bundle.name})
    assert [read_all(end) for end in ends] == [b"", b"", b"exec\n"]


def test_a_reader_that_does_not_come_is_not_waited_for_for_ever(host):
    bundle = host.bundle("/bin/true")
    client = host.client(bundle)
    os.mkfifo(bundle.path / "out")
    assert create(client, bundle, stdout=str(bundle.path / "out")) > 0
    client.call("Start", {1: bundle.name})
    client.call("Wait", {1: bundle.name})
    client.call("Delete", {1: bundle.name})


def test_the_first_exit_comes_after_those_of_its_execs(host):
    bundle = host.bundle("/bin/sleep", "1000")
    client = host.client(bundle)
    create(client, bundle)
    client.call("Start", {1: bundle.name})
    for i in range(5):
        process = {"args": ["/bin/sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
        client.call("Exec", {1: bundle.name, 2: f"e{i}", 7: {1: "process", 2: json.dumps(process)}})
        client.call("Start", {1: bundle.name, 2: f"e{i}"})
    client.call("Kill", {1: bundle.name, 3: 9})
    assert client.call("Wait", {1: bundle.name})[1] == [137]
    deadline = time.monotonic() + 30
    while len(exits := [fields[2][0].decode() for topic, _, fields in host.events.events if topic == "/tasks/exit"]) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert exits[-1] == bundle.name and sorted(exits[:-1]) == [f"e{i}" for i in range(5)]


def test_update_changes_the_limit(host):
    bundle = host.bundle("/bin/sleep", "1000")
    client = host.client(bundle)
    create(client, bundle)
    client.call("Start", {1: bundle.name})
    client.call("Update", {1: bundle.name, 2: {1: "resources", 2: json.dumps({"memory": {"limit": 48 << 20}, "pids": {"limit": 77}})}})
    stats = ttrpc.decode(client.call("Stats", {1: bundle.name})[1][0])
    metrics = ttrpc.decode(stats[2][0])
    if stats[1][0] == b"io.containerd.cgroups.v1.Metrics":
        assert ttrpc.decode(ttrpc.decode(metrics[4][0])[33][0])[1] == [48 << 20]
        assert ttrpc.decode(metrics[2][0])[2] == [77]
    else:
        assert ttrpc.decode(metrics[4][0])[33] == [48 << 20]
        assert ttrpc.decode(metrics[1][0])[2] == [77]
    with pytest.raises(RpcError) as error:
        client.call("Update", {1: bundle.name, 2: {1: "resources", 2: "not JSON"}})
    assert error.value.code == ttrpc.INVALID_ARGUMENT


def test_root_mounts_for_hooks_are_on_the_host(host):
    bundle = host.bundle("/bin/cat", "/from-lower")
    lower = bundle.path / "lower"
    bundle.rootfs.rename(lower)
    bundle.rootfs.mkdir()
    (lower / "from-lower").write_text("seen\n")
    for name in ("upper", "work"):
        (bundle.path / name).mkdir()
    seen = bundle.path / "seen"
    hook = bundle.path / "hook"
    hook.write_text(f"#!/bin/sh\ncat {bundle.rootfs}/from-lower > {seen}\n")
    hook.chmod(0o755)
    bundle.config["hooks"] = {"createRuntime": [{"path": str(hook)}]}
    client = host.client(bundle)
    mount = {1: "overlay", 2: "overlay", 4: [f"lowerdir={lower}", f"upperdir={bundle.path}/upper", f"workdir={bundle.path}/work"]}
    output = bundle.path / "out"
    create(client, bundle, rootfs=mount, stdout=f"file://{output}")
    assert seen.read_text() == "seen\n" and leaks.mounts(str(bundle.rootfs))
    waiting = client.send("Wait", {1: bundle.name})
    client.call("Start", {1: bundle.name})
    client.receive(waiting)
    client.call("Delete", {1: bundle.name})
    assert output.read_text() == "seen\n" and not leaks.mounts(str(bundle.rootfs))


def test_delete_takes_everything_away(host):
    bundle = host.bundle("/bin/sleep", "1000")
    lower = bundle.path / "lower"
    bundle.rootfs.rename(lower)
    bundle.rootfs.mkdir()
    client = host.client(bundle)
    pid = create(client, bundle, rootfs={1: "bind", 2: str(lower), 4: ["rbind", "nosuid"]})  # nosuid: mounted on the host
    client.call("Start", {1: bundle.name})
    assert leaks.mounts(str(bundle.rootfs))
    shim = host.shims()[0]
    os.kill(shim, signal.SIGKILL)
    done = host.command(bundle, "-bundle", str(bundle.path), "delete")
    response = ttrpc.decode(done.stdout)
    assert done.returncode == 0 and response[1] == [pid] and response[2] == [137]
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not leaks.mounts(str(bundle.rootfs)) and not leaks.control_groups("", [bundle.name])
    assert host.command(bundle, "-bundle", str(bundle.path), "delete").returncode == 0  # once more: nothing to do


def test_delete_takes_the_resctrl_group_away(host, tmp_path):
    """Of a shim that was killed. As if the container had linux.intelRdt: few machines have resctrl."""
    bundle = host.bundle("/bin/sleep", "1000")
    client = host.client(bundle)
    create(client, bundle)
    os.kill(host.shims()[0], signal.SIGKILL)
    group = tmp_path / bundle.name
    group.mkdir()
    path = bundle.path / "wherry-state.json"
    state = json.loads(path.read_text())
    assert "intelRdt" not in state["container"]
    state["container"]["intelRdt"] = {"mount": str(tmp_path), "group": str(group), "made": True}
    path.write_text(json.dumps(state))
    assert host.command(bundle, "-bundle", str(bundle.path), "delete").returncode == 0
    assert not group.exists()


def test_systemd_cgroup_names_become_paths(host):
    bundle = host.bundle("/bin/sleep", "1000")
    bundle.linux["cgroupsPath"] = f"wherrytest-a.slice:pre:{bundle.name}"
    host.names.append(f"pre-{bundle.name}.scope")
    client = host.client(bundle)
    pid = create(client, bundle)
    groups = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
    client.call("Delete", {1: bundle.name})
    assert f"/wherrytest.slice/wherrytest-a.slice/pre-{bundle.name}.scope" in groups
    for base, folders, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if "wherrytest" in os.path.basename(base):
            os.rmdir(base)


@pytest.mark.parametrize("change, words", [
    (lambda bundle, fields: fields.update(checkpoint="/somewhere"), "/somewhere"),
    (lambda bundle, fields: fields.update(stdout="ftp://x"), "unknown scheme"),
    (lambda bundle, fields: fields.update(stdin="/etc/passwd"), "not a fifo"),
    (lambda bundle, fields: fields.update(rootfs={1: "overlay", 2: "overlay", 4: ["lowerdir=/nonexistent-wherry"]}), "overlay"),
    (lambda bundle, fields: bundle.config.update(process={"args": 5}), "process"),
    (lambda bundle, fields: bundle.linux.update(cgroupsPath="a:b:c"), "not a slice"),
    (lambda bundle, fields: bundle.linux.update(cgroupsPath="/../x"), "cgroup"),
])
def test_a_bad_create_is_refused_and_leaves_nothing(host, change, words):
    bundle = host.bundle("/bin/true")
    fields: dict = {}
    change(bundle, fields)
    client = host.client(bundle)
    with pytest.raises(RpcError) as error:
        create(client, bundle, **fields)
    assert words in error.value.message
    with pytest.raises(RpcError) as error:
        client.call("State", {1: bundle.name})
    assert error.value.code == ttrpc.NOT_FOUND
    assert not leaks.control_groups("", [bundle.name]) and not leaks.mounts(str(bundle.path))


def test_ids_cannot_leave_their_place(host):
    bundle = host.bundle("/bin/true")
    client = host.client(bundle)
    for bad in ("", "../x", "a/b", "a\0b", "x" * 200, ".hidden"):
        with pytest.raises(RpcError) as error:
            client.call("Create", {1: bad, 2: str(bundle.path)})
        assert error.value.code == ttrpc.INVALID_ARGUMENT


def test_unknown_names_are_answered(host):
    bundle = host.bundle("/bin/true")
    client = host.client(bundle)
    for method in ("State", "Start", "Delete", "Pids", "Pause", "Resume", "Kill", "Exec", "ResizePty", "CloseIO", "Update", "Wait",
                   "Stats", "Checkpoint"):
        with pytest.raises(RpcError) as error:
            client.call(method, {1: "nobody"} if method == "Update" else {1: "nobody", 2: "x"})
        assert error.value.code == ttrpc.NOT_FOUND, method
    with pytest.raises(RpcError) as error:
        client.call("Fly", {})
    assert error.value.code == ttrpc.UNIMPLEMENTED
    with pytest.raises(RpcError) as error:
        client.call("State", {}, service="containerd.task.v9.Task")
    assert error.value.code == ttrpc.UNIMPLEMENTED
    assert client.call("Connect", {1: "nobody"})[1] == host.shims()


def test_hostile_bytes_end_the_connection_alone(host):
    bundle = host.bundle("/bin/sleep", "1000")
    address = host.start(bundle)
    client = Client(address)
    create(client, bundle)
    client.call("Start", {1: bundle.name})
    random.seed(7)
    valid = ttrpc.frame(1, 1, ttrpc.encode({1: ttrpc.TASK, 2: "State", 3: ttrpc.encode({1: bundle.name})}))
    pieces = [b"", b"\xff" * 64, struct.pack(">IIBB", 0xFFFFFFFF, 1, 1, 0), struct.pack(">IIBB", 4 << 20, 1, 1, 0) + b"x" * 100,
              struct.pack(">IIBB", 5, 2, 1, 0) + b"hello", struct.pack(">IIBB", 0, 1, 9, 0), valid[:-3], b"GET / HTTP/1.1\r\n\r\n",
              ttrpc.frame(1, 1, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), ttrpc.frame(1, 1, b"\x0b\x0c"), ttrpc.frame(3, 1, b"x")]
    for _ in range(60):
        damaged = bytearray(valid)
        for _ in range(random.randint(1, 6)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        pieces.append(bytes(damaged))
    for _ in range(20):
        pieces.append(random.randbytes(random.randint(1, 3000)))
    for method in ("Create", "Exec", "Kill", "Update", "Wait", "ResizePty", "Delete"):
        for _ in range(10):
            pieces.append(ttrpc.frame(1, 1, ttrpc.encode({1: ttrpc.TASK, 2: method, 3: random.randbytes(random.randint(0, 40))})))
    for piece in pieces:
        hostile = socket.socket(socket.AF_UNIX)
        hostile.settimeout(10)
        hostile.connect(address)
        try:
            hostile.sendall(piece)
            hostile.shutdown(socket.SHUT_WR)
            while hostile.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        hostile.close()
    assert status(client, bundle) == RUNNING and len(host.shims()) == 1


def test_too_many_connections_are_turned_away(host):
    bundle = host.bundle("/bin/true")
    address = host.start(bundle)
    sockets = []
    for _ in range(100):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
        sockets.append(connection)
    client = Client(address)
    with pytest.raises((ConnectionError, BrokenPipeError)):
        client.call("Connect", {1: bundle.name})
    for connection in sockets:
        connection.close()
    deadline = time.monotonic() + 20
    while True:
        try:
            assert Client(address).call("Connect", {1: bundle.name})[1] == host.shims()
            return
        except (ConnectionError, BrokenPipeError):
            assert time.monotonic() < deadline


def test_other_users_are_not_listened_to(host):
    bundle = host.bundle("/bin/true")
    address = host.start(bundle)
    # Even if somebody opened the way to the socket.
    script = (f"import os, socket; s = socket.socket(socket.AF_UNIX); os.chdir('/'); s.connect('/proc/self/fd/9'); "
              f"print(s.recv(1))")
    folder = os.open(address, os.O_PATH)
    os.chmod(address, 0o666)
    done = subprocess.run(["/usr/bin/python3", "-c", f"import os; os.dup2({folder}, 9); os.setgid(65534); os.setuid(65534); {script}"],
                          capture_output=True, text=True, pass_fds=(folder,), timeout=60)
    os.close(folder)
    assert done.stdout.strip() == "b''" or "PermissionError" in done.stderr or "ConnectionReset" in done.stderr, done


def test_the_command_line(host):
    bundle = host.bundle("/bin/true")
    assert b"containerd-shim-wherry-v2/" in host.command(bundle, "-v").stdout
    assert b"io.containerd.wherry.v2" in host.command(bundle, "-info").stdout
    assert host.command(bundle, "--help").stdout.startswith(b"containerd-shim-wherry-v2 [flags]")
    for words in (("fly",), ("start", "twice"), ("-nonsense", "start")):
        done = host.command(bundle, *words)
        assert done.returncode == 1 and done.stderr.startswith(b"containerd-shim-wherry-v2: ")
    bundle.path.joinpath("config.json").write_text("not JSON")
    done = host.command(bundle, "start")
    assert done.returncode == 1 and b"config.json" in done.stderr and not host.shims()
