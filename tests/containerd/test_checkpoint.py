"""Checkpoint and restore through a CRIU that works (the testbed's suite containerd-checkpoint)."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from support import criu, leaks, ttrpc
from support.shim_host import CREATED, PAUSED, RUNNING, STOPPED, create, status
from support.ttrpc import Client, RpcError

pytestmark = pytest.mark.skipif(not criu.works(), reason="criu is not installed or does not work on this kernel")
PATIENCE = 120  # seconds; processors are emulated where criu works
COUNTING = "trap 'exit 5' TERM; i=0; while :; do i=$((i+1)); echo $i; echo $i > /count; sleep 0.1; done"


def wait_for(what, message=""):
    deadline = time.monotonic() + PATIENCE
    while not (value := what()):
        assert time.monotonic() < deadline, message() if callable(message) else message
        time.sleep(0.05)
    return value


def count(containerd, name: str) -> int:
    pid, _ = containerd.task(name)
    try:
        return int(pathlib.Path(f"/proc/{pid}/root/count").read_text() or 0)
    except (OSError, ValueError):
        return 0


def options(**fields) -> dict:
    names = {"exit": 1, "open_tcp": 2, "external_unix_sockets": 3, "terminal": 4, "file_locks": 5, "empty_namespaces": 6, "cgroups_mode": 7,
             "image_path": 8, "work_path": 9}
    return {1: "containerd.runc.v1.CheckpointOptions", 2: ttrpc.encode({names[name]: value for name, value in fields.items()})}


def test_ctr_restores_a_container_with_its_memory_and_files(containerd):
    log = containerd.events()
    name = containerd.run_detached("sh", "-c", COUNTING)
    wait_for(lambda: count(containerd, name) > 3)
    reference = f"checkpoint/{name}:one"
    containerd.ctr("containers", "checkpoint", "--rw", "--image", "--task", name, reference, timeout=PATIENCE)
    assert containerd.task(name)[1] == "RUNNING"
    log.wait_for(name, "/tasks/checkpointed")
    before = count(containerd, name)
    wait_for(lambda: count(containerd, name) > before)
    containerd.ctr("tasks", "kill", "-s", "TERM", name)
    assert containerd.exit_code(name) == 5
    containerd.ctr("containers", "rm", name)

    again = containerd.name()
    # This ctr does not stay with what it has restored.
    containerd.ctr("containers", "restore", "--rw", "--live", again, reference, timeout=PATIENCE)
    running = containerd.popen("tasks", "attach", again, stdout=subprocess.PIPE)
    try:
        # It goes on where it was, not from the beginning, and says so on the streams of the new task.
        first = int(running.stdout.readline())
        assert first > 3 and int(running.stdout.readline()) == first + 1
        pid, state = containerd.task(again)
        assert state == "RUNNING" and pid > 0
        shim = next(pid for pid, owner in containerd.shims().items() if owner == again)
        assert int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) == shim
        assert str(pid) in [line.split()[0] for line in containerd.ctr("tasks", "ps", again).stdout.splitlines()[1:]]
        assert "pids.current" in containerd.ctr("tasks", "metrics", again).stdout
        done = containerd.ctr("tasks", "exec", "--exec-id", "look", again, "sh", "-c", "cat /count; echo in; sleep 0.5")
        assert done.stdout.endswith("in\n")
        containerd.ctr("tasks", "pause", again)
        assert containerd.task(again)[1] == "PAUSED"
        containerd.ctr("tasks", "resume", again)
        containerd.ctr("tasks", "kill", "-s", "TERM", again)
        assert running.wait(timeout=PATIENCE) == 5
    finally:
        running.kill()
        running.communicate()
    topics = [topic for topic, _ in log.wait_for(again, "/tasks/exit", process=again)]
    log.close()
    assert topics[:2] == ["/tasks/create", "/tasks/start"]
    containerd.ctr("tasks", "rm", "-f", again, check=False)
    containerd.ctr("containers", "rm", again, check=False)
    assert not leaks.mounts(str(containerd.bundle(again)))


def test_ctr_checkpoint_leaves_a_paused_container_paused(containerd):
    name = containerd.run_detached("sh", "-c", COUNTING)
    wait_for(lambda: count(containerd, name) > 3)
    containerd.ctr("tasks", "pause", name)
    containerd.ctr("tasks", "checkpoint", name, timeout=PATIENCE)
    assert containerd.task(name)[1] == "PAUSED"
    stood = count(containerd, name)
    time.sleep(1)
    assert count(containerd, name) == stood
    containerd.ctr("tasks", "resume", name)
    wait_for(lambda: count(containerd, name) > stood)
    containerd.ctr("tasks", "rm", "-f", name, check=False)


def test_ctr_checkpoint_exit_under_the_name_of_runcs_shim(own_containerd):
    """ctr hands its flags on for runtimes of that name only."""
    os.symlink(own_containerd.shim_binary, own_containerd.bin / "containerd-shim-runc-v2")
    name = own_containerd.run_detached("sh", "-c", COUNTING, runtime="io.containerd.runc.v2")
    wait_for(lambda: count(own_containerd, name) > 3)
    images, work = own_containerd.folder / "images", own_containerd.folder / "work"
    own_containerd.ctr("tasks", "checkpoint", "--exit", "--image-path", str(images), "--work-path", str(work), name, timeout=PATIENCE)
    assert (images / "inventory.img").exists() and (work / "dump.log").exists()
    assert own_containerd.exit_code(name) == 137


def test_a_killed_shim_takes_a_restored_container_along(containerd):
    name = containerd.run_detached("sleep", "1000")
    reference = f"checkpoint/{name}:one"
    containerd.ctr("containers", "checkpoint", "--rw", "--image", "--task", name, reference, timeout=PATIENCE)
    containerd.ctr("tasks", "rm", "-f", name, check=False)
    again = containerd.name()
    containerd.ctr("containers", "restore", "--rw", "--live", again, reference, timeout=PATIENCE)
    pid, state = containerd.task(again)
    assert state == "RUNNING" and leaks.mounts(str(containerd.bundle(again)))  # CRIU wants a path of the root
    os.kill(next(pid for pid, owner in containerd.shims().items() if owner == again), signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    wait_for(lambda: not leaks.mounts(str(containerd.bundle(again))))
    wait_for(lambda: not leaks.control_groups("", [again]))
    containerd.ctr("tasks", "rm", "-f", again, check=False)
    containerd.ctr("containers", "rm", again, check=False)


def connect(host, bundle) -> Client:
    return Client(host.start(bundle), timeout=PATIENCE)


def end_shim(host, client, bundle):
    client.call("Shutdown", {1: bundle.name})
    wait_for(lambda: not host.shims())


def counting(host):
    """A container that counts in /tmp/count without a word, started."""
    bundle = host.bundle().script("i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done")
    client = connect(host, bundle)
    create(client, bundle)
    client.call("Start", {1: bundle.name})
    wait_for(lambda: counted(bundle) > 3)
    return bundle, client


def counted(bundle) -> int:
    try:
        return int((bundle.rootfs / "tmp/count").read_text() or 0)
    except (OSError, ValueError):
        return 0


def test_exit_and_restore_call_by_call(host):
    bundle, client = counting(host)
    images = bundle.path / "images"
    waiting = client.send("Wait", {1: bundle.name})
    client.call("Checkpoint", {1: bundle.name, 2: str(images), 3: options(exit=True)})
    assert client.receive(waiting)[1] == [137] and status(client, bundle) == STOPPED
    assert host.events.wait_for("/tasks/checkpointed")
    assert not (bundle.path / "criu-work").exists()
    client.call("Delete", {1: bundle.name})
    stood = counted(bundle)

    end_shim(host, client, bundle)
    client = connect(host, bundle)
    create(client, bundle, checkpoint=str(images))
    assert status(client, bundle) == CREATED and client.call("State", {1: bundle.name}).get(3, [0]) == [0]
    waiting = client.send("Wait", {1: bundle.name})
    pid = client.call("Start", {1: bundle.name})[1][0]
    assert status(client, bundle) == RUNNING
    wait_for(lambda: counted(bundle) > stood)
    assert pid in [ttrpc.decode(process)[1][0] for process in client.call("Pids", {1: bundle.name})[1]]
    client.call("Pause", {1: bundle.name})
    assert status(client, bundle) == PAUSED
    client.call("Resume", {1: bundle.name})
    client.call("Kill", {1: bundle.name, 3: 9})
    assert client.receive(waiting)[1] == [137]
    assert client.call("Delete", {1: bundle.name})[1] == [pid]
    assert not leaks.mounts(str(bundle.path)) and not leaks.control_groups("", [bundle.name])


def test_streams_are_those_of_the_new_task(host):
    bundle = host.bundle("/bin/cat")
    client = connect(host, bundle)
    images = bundle.path / "images"
    fifos = [bundle.path / f"{name}{number}" for number in (1, 2) for name in ("in", "out")]
    for fifo in fifos:
        os.mkfifo(fifo)
    in1, out1, in2, out2 = fifos

    def talk(stdin, stdout, text: bytes):
        os.write(stdin, text)
        said = b""
        while len(said) < len(text):
            said += os.read(stdout, len(text) - len(said))
        assert said == text

    reader, writer = os.open(out1, os.O_RDWR), None
    create(client, bundle, stdin=str(in1), stdout=str(out1))
    writer = os.open(in1, os.O_WRONLY)
    client.call("Start", {1: bundle.name})
    talk(writer, reader, b"before\n")
    client.call("Checkpoint", {1: bundle.name, 2: str(images), 3: options(exit=True)})
    client.call("Wait", {1: bundle.name})
    os.close(writer)
    os.close(reader)
    client.call("Delete", {1: bundle.name})
    client = connect(host, bundle)
    reader = os.open(out2, os.O_RDWR)
    create(client, bundle, stdin=str(in2), stdout=str(out2), checkpoint=str(images))
    writer = os.open(in2, os.O_WRONLY)
    client.call("Start", {1: bundle.name})
    talk(writer, reader, b"after\n")
    waiting = client.send("Wait", {1: bundle.name})
    os.close(writer)
    assert client.receive(waiting).get(1, [0]) == [0]  # the end of its input
    os.close(reader)
    client.call("Delete", {1: bundle.name})


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_dump_that_fails_leaves_the_container_running(host):
    """CRIU cannot trace what somebody else traces."""
    bundle, client = counting(host)
    images = bundle.path / "images"
    pid = client.call("State", {1: bundle.name})[3][0]
    tracer = subprocess.Popen(["strace", "-o", "/dev/null", "-p", str(pid)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: "TracerPid:\t0\n" not in pathlib.Path(f"/proc/{pid}/status").read_text())
        with pytest.raises(RpcError) as error:
            client.call("Checkpoint", {1: bundle.name, 2: str(images)})
    finally:
        tracer.terminate()
        tracer.wait(timeout=PATIENCE)
    assert error.value.code == ttrpc.FAILED_PRECONDITION and "criu failed (its log: " in error.value.message
    assert "Error" in error.value.message and "dump.log" in error.value.message
    assert not images.exists() and (bundle.path / "criu-work/dump.log").exists()
    assert status(client, bundle) == RUNNING
    stood = counted(bundle)
    wait_for(lambda: counted(bundle) > stood)
    assert "/tasks/checkpointed" not in [topic for topic, _, _ in host.events.events]
    client.call("Checkpoint", {1: bundle.name, 2: str(images), 3: options(file_locks=True, work_path=str(bundle.path / "work"))})
    assert (images / "inventory.img").exists() and (bundle.path / "work/dump.log").exists()
    host.events.wait_for("/tasks/checkpointed")


def test_images_that_are_damaged_leave_a_created_container(host):
    bundle, client = counting(host)
    images, damaged = bundle.path / "images", bundle.path / "damaged"
    client.call("Checkpoint", {1: bundle.name, 2: str(images)})
    assert status(client, bundle) == RUNNING
    client.call("Kill", {1: bundle.name, 3: 9})
    client.call("Wait", {1: bundle.name})
    client.call("Delete", {1: bundle.name})
    client = connect(host, bundle)
    shutil.copytree(images, damaged)
    for path in damaged.glob("core-*.img"):
        path.write_bytes(path.read_bytes()[:40])
    create(client, bundle, checkpoint=str(damaged))
    with pytest.raises(RpcError) as error:
        client.call("Start", {1: bundle.name})
    assert "criu failed" in error.value.message and "restore.log" in error.value.message
    assert status(client, bundle) == CREATED and not client.call("Pids", {1: bundle.name}).get(1)
    # Mended, it starts after all.
    for path in images.glob("core-*.img"):
        shutil.copy(path, damaged / path.name)
    client.call("Start", {1: bundle.name})
    assert status(client, bundle) == RUNNING
    client.call("Kill", {1: bundle.name, 3: 9})
    client.call("Wait", {1: bundle.name})
    client.call("Delete", {1: bundle.name})
