"""containerd and shims killed with -9: what runs goes on, and nothing is lost or left."""

import os
import signal
import subprocess
import time

import pytest

from support import leaks
from support.ttrpc import decode


def test_containers_survive_containerd(own_containerd):
    name = own_containerd.run_detached("sh", "-c", "trap 'exit 6' TERM; while :; do sleep 0.05; done")
    pid = own_containerd.task(name)[0]
    shims = own_containerd.shims()
    own_containerd.kill()
    os.kill(pid, 0)
    own_containerd.start()
    assert own_containerd.shims() == shims
    assert own_containerd.task(name) == (pid, "RUNNING")
    assert own_containerd.ctr("tasks", "exec", "--exec-id", "after", name, "echo", "still here").stdout == "still here\n"
    own_containerd.ctr("tasks", "kill", "-s", "TERM", name)
    assert own_containerd.exit_code(name) == 6


def test_an_exit_while_containerd_is_away_is_not_lost(own_containerd):
    name = own_containerd.run_detached("sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; exit 8")
    pid = own_containerd.task(name)[0]
    own_containerd.kill()
    open(f"/proc/{pid}/root/go", "w").close()
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    own_containerd.start()
    assert own_containerd.exit_code(name) == 8


def test_a_killed_shim_takes_its_container_along(own_containerd):
    log = own_containerd.events()
    name = own_containerd.run_detached("sleep", "1000")
    pid = own_containerd.task(name)[0]
    shim = next(pid for pid, owner in own_containerd.shims().items() if owner == name)
    socket = own_containerd.socket(name)
    os.kill(shim, signal.SIGKILL)
    # containerd finds out by the connection, and cleans up by the delete command.
    events = log.wait_for(name, "/tasks/delete")
    log.close()
    assert ("/tasks/exit", 137) in [(topic, body.get("exit_status")) for topic, body in events]
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}") or leaks.control_groups("", [name]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not os.path.exists(socket)


def test_a_shim_that_died_after_its_container_tells_the_exit(own_containerd):
    name = own_containerd.run_detached("sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; exit 21")
    pid = own_containerd.task(name)[0]
    shim = next(pid for pid, owner in own_containerd.shims().items() if owner == name)
    own_containerd.kill()
    open(f"/proc/{pid}/root/go", "w").close()
    record = own_containerd.bundle(name) / "wherry-exit.json"
    deadline = time.monotonic() + 30
    while not record.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(shim, signal.SIGKILL)
    binary, bundle = own_containerd.bin / "containerd-shim-wherry-v2", own_containerd.bundle(name)
    done = subprocess.run([binary, "-namespace", "test", "-address", own_containerd.address, "-publish-binary", "/bin/true",
                           "-id", name, "-bundle", bundle, "delete"], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    response = decode(done.stdout)
    assert response[2] == [21] and response[1] == [pid]
    own_containerd.start()


@pytest.mark.parametrize("times", [3])
def test_containerd_killed_again_and_again(own_containerd, times):
    names = [own_containerd.run_detached("sleep", "1000") for _ in range(3)]
    for _ in range(times):
        own_containerd.kill()
        own_containerd.start()
    for name in names:
        assert own_containerd.task(name)[1] == "RUNNING"
        own_containerd.ctr("tasks", "kill", "-s", "KILL", name)
        assert own_containerd.exit_code(name) == 137
