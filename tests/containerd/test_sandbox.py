"""containerd's sandbox API (1.7): a pod's process, by a bundle or by CRI's configuration, and the containers beside it."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

from support import leaks, ttrpc
from support.shim_host import RUNNING, create, status
from support.ttrpc import Client, RpcError

SANDBOX = "containerd.runtime.sandbox.v1.Sandbox"
POD_CONFIG = "runtime.v1.PodSandboxConfig"
POD, CONTAINER, NODE = 0, 1, 2


class Pod:
    def __init__(self, host, bundle, client):
        self.host, self.bundle, self.client, self.name = host, bundle, client, bundle.name

    def call(self, method: str, **fields) -> dict:
        return self.client.call(method, {1: self.name, **{int(key[1:]): value for key, value in fields.items()}}, SANDBOX)

    def send(self, method: str) -> int:
        return self.client.send(method, {1: self.name}, SANDBOX)

    def create(self, **fields):
        return self.call("CreateSandbox", f2=str(self.bundle.path), **fields)

    def refused(self, method: str, **fields) -> RpcError:
        with pytest.raises(RpcError) as error:
            self.call(method, **fields)
        return error.value


def pod_config(hostname: str = "pod", network: int = POD, ipc: int = POD, sysctls: dict | None = None, users: bool = False) -> dict:
    namespaces = {1: network, 2: CONTAINER, 3: ipc}
    if users:
        namespaces[5] = {2: {1: 100000, 2: 0, 3: 65536}}
    return {1: POD_CONFIG, 2: ttrpc.encode({2: hostname, 8: {2: {1: namespaces}, 3: [{1: key, 2: value} for key, value in (sysctls or {}).items()]}})}


@pytest.fixture
def pod(host):
    """A pod whose bundle has no configuration, as CRI's sandboxes have none."""
    bundle = host.bundle()
    done = host.command(bundle, "start")
    assert done.returncode == 0, done
    address = done.stdout.decode().removeprefix("unix://")
    host.sockets.add(address)
    return Pod(host, bundle, Client(address))


@pytest.fixture
def pause_pod(host):
    """One whose bundle says what its process is."""
    bundle = host.bundle("/bin/sleep", "1000")
    return Pod(host, bundle, host.client(bundle))


@pytest.fixture
def network():
    """A network namespace by path, with something in it to be known by."""
    holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo 7 > /proc/sys/net/ipv4/ip_default_ttl; echo ready; exec sleep 1000"],
                              stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "ready\n"
    yield f"/proc/{holder.pid}/ns/net"
    holder.kill()
    holder.wait()
    holder.stdout.close()


def link(pid, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_pod_by_its_configuration(host, pod, network):
    before = time.time()
    pod.create(f4=pod_config("web-0", sysctls={"net.ipv4.ip_default_ttl": "33", "kernel.shmmax": "12345678"}), f5=network)
    assert pod.call("SandboxStatus")[3] == [b"SANDBOX_NOTREADY"]
    started = pod.call("StartSandbox")
    pid = started[1][0]
    assert before - 1 < ttrpc.decode(started[2][0])[1][0] < time.time() + 1
    assert pod.call("PingSandbox") == {}
    platform = ttrpc.decode(pod.call("Platform")[1][0])
    assert platform[1] == [b"linux"] and platform[2][0] in (b"amd64", b"arm64")
    assert link(pid, "net") == os.readlink(network)
    assert all(link(pid, kind) != link("self", kind) for kind in ("ipc", "uts", "pid", "mnt"))
    told = pod.call("SandboxStatus", f2=True)
    assert told[1] == [pod.name.encode()] and told[2] == [pid] and told[3] == [b"SANDBOX_READY"] and ttrpc.decode(told[5][0])[1][0] > 0
    assert {ttrpc.decode(entry)[1][0] for entry in told[4]} == {b"bundle", b"containers"}

    # A container of the pod, as CRI describes it: by the paths of the sandbox's process.
    bundle = host.bundle("/bin/sh", "-c", "hostname; cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shmmax; exit 3")
    for name, kind in (("network", "net"), ("ipc", "ipc"), ("uts", "uts")):
        bundle.set_namespace(name, f"/proc/{pid}/ns/{kind}")
    del bundle.config["hostname"]
    bundle.write()
    output = bundle.path / "out"
    create(pod.client, bundle, stdout=f"file://{output}")
    waiting = pod.client.send("Wait", {1: bundle.name})
    pod.client.call("Start", {1: bundle.name})
    assert pod.client.receive(waiting)[1] == [3]
    pod.client.call("Delete", {1: bundle.name})
    assert output.read_text().split() == ["web-0", "33", "12345678"]
    pod.client.call("Shutdown", {1: bundle.name})  # containerd asks after every container: the sandbox stays
    assert pod.call("PingSandbox") == {}

    waiting = pod.send("WaitSandbox")
    pod.call("StopSandbox")
    exited = pod.client.receive(waiting)
    assert exited.get(1, [0]) == [0] and ttrpc.decode(exited[2][0])[1][0] >= int(before)
    assert pod.call("WaitSandbox") == exited
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert pod.call("SandboxStatus")[3] == [b"SANDBOX_NOTREADY"]
    assert pod.refused("StartSandbox").code == ttrpc.FAILED_PRECONDITION
    pod.call("StopSandbox")  # again: nothing to do
    pod.call("ShutdownSandbox")
    wait_until(lambda: not host.shims())
    assert [event[0] for event in host.events.events if event[0] != "/tasks/exit"] == ["/tasks/create", "/tasks/start", "/tasks/delete"]


def test_the_process_holds_nothing_and_can_do_nothing(pod):
    pod.create(f4=pod_config())
    pid = pod.call("StartSandbox")[1][0]
    lines = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert int(lines["CapEff"], 16) == 0 and int(lines["CapPrm"], 16) == 0 and lines["Seccomp"] == "1"
    assert len(os.listdir(f"/proc/{pid}/fd")) == 1 and os.listdir(f"/proc/{pid}/root") == []
    pod.call("ShutdownSandbox")
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


def test_a_pod_on_the_hosts_network(pod):
    pod.create(f4=pod_config(network=NODE))
    pid = pod.call("StartSandbox")[1][0]
    assert link(pid, "net") == link("self", "net") and link(pid, "uts") == link("self", "uts") and link(pid, "ipc") != link("self", "ipc")


def test_a_pod_that_is_killed_is_told(pod):
    pod.create(f4=pod_config())
    pid = pod.call("StartSandbox")[1][0]
    waiting = pod.send("WaitSandbox")
    os.kill(pid, signal.SIGKILL)
    assert pod.client.receive(waiting)[1] == [137]
    assert pod.call("SandboxStatus")[3] == [b"SANDBOX_NOTREADY"]
    pod.call("StopSandbox")


def test_a_pod_by_its_bundle(host, pause_pod, network):
    pod = pause_pod
    pod.create(f5=network)
    assert pod.refused("CreateSandbox", f2=str(pod.bundle.path)).code == ttrpc.ALREADY_EXISTS
    pid = pod.call("StartSandbox")[1][0]
    assert pathlib.Path(f"/proc/{pid}/comm").read_text() == "sleep\n" and link(pid, "net") == os.readlink(network)
    assert pod.refused("StartSandbox").code == ttrpc.FAILED_PRECONDITION
    metric = ttrpc.decode(pod.call("SandboxMetrics")[1][0])
    assert metric[2] == [pod.name.encode()] and b"io.containerd.cgroups" in ttrpc.decode(metric[3][0])[1][0]
    # The Task API does not know it, and its name is taken.
    with pytest.raises(RpcError) as error:
        pod.client.call("Delete", {1: pod.name})
    assert error.value.code == ttrpc.NOT_FOUND
    with pytest.raises(RpcError) as error:
        create(pod.client, pod.bundle)
    assert error.value.code == ttrpc.ALREADY_EXISTS
    other = host.bundle("/bin/sleep", "1000")
    other.write()
    create(pod.client, other)
    pod.client.call("Start", {1: other.name})
    assert status(pod.client, other) == RUNNING
    waiting = pod.send("WaitSandbox")
    ended = pod.client.send("Wait", {1: other.name})
    pod.call("StopSandbox")  # takes the containers along
    assert pod.client.receive(waiting)[1] == [137] and pod.client.receive(ended)[1] == [137]
    pod.call("ShutdownSandbox")
    wait_until(lambda: not host.shims())
    wait_until(lambda: ("/tasks/delete", other.name) in [(event[0], event[2][1][0].decode()) for event in list(host.events.events)])
    told = [(event[0], event[2][1][0].decode()) for event in host.events.events]
    assert ("/tasks/exit", other.name) in told and ("/tasks/delete", other.name) in told and pod.name not in [name for _, name in told]
    assert not leaks.control_groups("", [pod.name, other.name])


def test_stop_waits_for_its_end(host):
    bundle = host.bundle("/bin/sh", "-c", "trap 'exit 5' TERM; while true; do sleep 0.05; done")
    pod = Pod(host, bundle, host.client(bundle))
    pod.create()
    pid = pod.call("StartSandbox")[1][0]
    wait_until(lambda: int(dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
                               if ":\t" in line)["SigCgt"], 16) & 1 << signal.SIGTERM - 1)
    waiting = pod.send("WaitSandbox")
    pod.call("StopSandbox", f2=60)
    assert not os.path.exists(f"/proc/{pid}") and pod.client.receive(waiting)[1] == [5]


def test_stop_kills_what_does_not_listen(host):
    bundle = host.bundle("/bin/sh", "-c", "trap '' TERM; while true; do sleep 1; done")
    pod = Pod(host, bundle, host.client(bundle))
    pod.create()
    pod.call("StartSandbox")
    waiting = pod.send("WaitSandbox")
    pod.call("StopSandbox", f2=1)
    assert pod.client.receive(waiting)[1] == [137]


def test_a_created_pod_can_be_taken_back(host, pause_pod):
    pause_pod.create()
    pid = pause_pod.call("SandboxStatus")[2][0]
    pause_pod.call("StopSandbox")
    assert not os.path.exists(f"/proc/{pid}")
    pause_pod.call("ShutdownSandbox")
    wait_until(lambda: not host.shims())


def test_shutdown_takes_everything_along(host, pause_pod):
    pause_pod.create()
    pids = [pause_pod.call("StartSandbox")[1][0]]
    for _ in range(2):
        other = host.bundle("/bin/sleep", "1000")
        other.write()
        pids.append(create(pause_pod.client, other))
        pause_pod.client.call("Start", {1: other.name})
    waiting = pause_pod.send("WaitSandbox")
    pause_pod.call("ShutdownSandbox")
    assert pause_pod.client.receive(waiting)[1] == [137]
    wait_until(lambda: not host.shims() and not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    assert not leaks.control_groups("", host.names)


def test_a_killed_shim_is_cleaned_up_after(host, pause_pod):
    pause_pod.create()
    pid = pause_pod.call("StartSandbox")[1][0]
    os.kill(host.shims()[0], signal.SIGKILL)
    done = host.command(pause_pod.bundle, "-bundle", str(pause_pod.bundle.path), "delete")
    assert done.returncode == 0 and ttrpc.decode(done.stdout)[1] == [pid]
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert not leaks.control_groups("", [pause_pod.name])


def test_a_killed_shim_takes_its_own_process_along(host, pod):
    pod.create(f4=pod_config())
    pid = pod.call("StartSandbox")[1][0]
    os.kill(host.shims()[0], signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert host.command(pod.bundle, "-bundle", str(pod.bundle.path), "delete").returncode == 0


@pytest.mark.parametrize("fields, code, words", [
    ({"f4": pod_config(sysctls={"kernel.panic": "1"})}, ttrpc.INVALID_ARGUMENT, "kernel.panic"),
    ({"f4": pod_config(sysctls={"net/../kernel/panic": "1"})}, ttrpc.INVALID_ARGUMENT, "panic"),
    ({"f4": pod_config(network=NODE, sysctls={"net.ipv4.ip_forward": "1"})}, ttrpc.INVALID_ARGUMENT, "ip_forward"),
    ({"f4": pod_config(ipc=NODE, sysctls={"kernel.shmmax": "1"})}, ttrpc.INVALID_ARGUMENT, "shmmax"),
    ({"f4": pod_config(sysctls={"net.no.such": "1"})}, None, "namespaces"),
    ({"f4": pod_config(hostname="x" * 65)}, ttrpc.INVALID_ARGUMENT, "hostname"),
    ({"f4": pod_config(users=True)}, ttrpc.UNIMPLEMENTED, "user namespaces"),
    ({"f5": "/proc/self/ns/ipc"}, None, "netns_path"),
    ({"f5": "relative"}, ttrpc.INVALID_ARGUMENT, "netns_path"),
    ({"f4": {1: POD_CONFIG, 2: b"\xff\xff"}}, ttrpc.INVALID_ARGUMENT, "options"),
])
def test_what_cannot_be_had_is_refused(host, pod, fields, code, words):
    error = pod.refused("CreateSandbox", f2=str(pod.bundle.path), **fields)
    assert words in error.message and code in (None, error.code), error
    assert pod.refused("PingSandbox").code == ttrpc.NOT_FOUND
    pod.call("ShutdownSandbox")  # what containerd does then
    wait_until(lambda: not host.shims())


def test_unknown_sandboxes_and_methods(pod):
    for method in ("StartSandbox", "Platform", "StopSandbox", "WaitSandbox", "SandboxStatus", "PingSandbox", "SandboxMetrics"):
        assert pod.refused(method).code == ttrpc.NOT_FOUND, method
    pod.create(f4=pod_config())
    other = Pod(pod.host, pod.bundle, pod.client)
    other.name = "somebody"
    for method in ("StartSandbox", "StopSandbox", "WaitSandbox", "SandboxStatus", "PingSandbox", "SandboxMetrics", "ShutdownSandbox"):
        assert other.refused(method).code == ttrpc.NOT_FOUND, method
    other.name = "../x"
    assert other.refused("CreateSandbox", f2="/").code == ttrpc.INVALID_ARGUMENT
    assert pod.refused("Fly").code == ttrpc.UNIMPLEMENTED
