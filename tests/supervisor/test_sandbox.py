"""A sandbox that several containers share: the shim keeps its namespaces, and itself while somebody is connected."""

import os
import signal

import pytest

from shim_client import Failure, wait_until


def namespace(shim, container, kind):
    pid = next(one["pid"] for one in shim.control.call("list")["containers"] if one["container_id"] == container)
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def make_network():
    """A network namespace as wherryd makes it, by a child that goes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.unshare(os.CLONE_NEWNET) if hasattr(os, "unshare") else __import__("ctypes").CDLL(None).unshare(0x40000000)
        os.write(writer, b"x")
        signal.pause()  # not a read of the pipe: that could take the byte which is the parent's
        os._exit(0)
    ready = os.read(reader, 1)
    assert ready
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    return fd


def test_namespaces_are_shared_and_outlive_containers(shim):
    network = make_network()
    shim.control.call("sandbox", {"namespaces": ["ipc", "uts"], "hostname": "pod"}, [network])
    wanted = f"net:[{os.fstat(network).st_ino}]"
    os.close(network)
    spec = shim.spec(["sleep", "100"])
    del spec["hostname"]
    first = shim.run([], spec=spec)
    ipc = namespace(shim, first, "ipc")
    assert namespace(shim, first, "net") == wanted
    shim.delete(first)
    assert not shim.control.call("list").get("containers")
    assert not children(shim.process.pid), "nothing is needed to hold them"
    spec = shim.spec(["sh", "-c", "cat /proc/sys/kernel/hostname; exec sleep 100"])
    del spec["hostname"]
    second = shim.run([], spec=spec)
    third = shim.run([], spec={**shim.spec(["sleep", "100"]), "hostname": ""})
    assert namespace(shim, second, "ipc") == namespace(shim, third, "ipc") == ipc and namespace(shim, third, "net") == wanted
    assert namespace(shim, second, "pid") != namespace(shim, third, "pid")
    wait_until(lambda: [line["log"] for line in shim.log_lines(second)] == ["pod\n"], what="the host name")


def test_a_container_can_have_its_own(shim):
    shim.control.call("sandbox", {"namespaces": ["ipc"]})
    spec = shim.spec(["sleep", "100"])
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "ipc"]
    assert namespace(shim, shim.run([], spec=spec), "ipc") == os.readlink("/proc/self/ns/ipc")


def test_shared_pid_namespace(shim):
    shim.control.call("sandbox", {"namespaces": ["pid"]})
    (holder,) = children(shim.process.pid)
    first = shim.run(["sleep", "100"])
    second = shim.run(["sh", "-c", "ls /proc; exec sleep 100"])
    assert namespace(shim, first, "pid") == namespace(shim, second, "pid") == os.readlink(f"/proc/{holder}/ns/pid")
    with open(f"/proc/{holder}/status") as file:
        status = file.read()
    assert "CapEff:\t0000000000000000" in status and "CapPrm:\t0000000000000000" in status and "Seccomp:\t1" in status
    assert os.listdir(f"/proc/{holder}/root/") == [] and os.listdir(f"/proc/{holder}/fd") == ["0"]
    # It goes with its shim, and takes everything along.
    os.kill(shim.process.pid, 9)
    shim.process.wait()
    wait_until(lambda: not os.path.exists(f"/proc/{holder}"), what="the end of the first process")


def test_it_stays_while_somebody_is_connected(shim):
    shim.control.call("sandbox", {"namespaces": ["ipc"]})
    shim.delete(shim.run(["sleep", "100"]))
    assert not shim.ended(0.3)
    shim.control.close()
    assert shim.ended()


@pytest.mark.parametrize("params", [
    {"namespaces": ["user"]}, {"namespaces": ["mount"]}, {"namespaces": "ipc"}, {"namespaces": ["uts"], "hostname": "x" * 65},
    {"namespaces": ["uts"], "domainname": 5},
])
def test_bad_requests(shim, params):
    with pytest.raises(Failure) as failure:
        shim.control.call("sandbox", params)
    assert failure.value.code == "invalid_argument"
    shim.control.call("sandbox", {})


def test_only_once_and_only_first(shim):
    shim.control.call("sandbox", {"namespaces": ["ipc"]})
    with pytest.raises(Failure) as failure:
        shim.control.call("sandbox", {"namespaces": ["ipc"]})
    assert failure.value.code == "conflict"


def test_not_beside_a_container(shim):
    shim.run(["sleep", "100"])
    with pytest.raises(Failure) as failure:
        shim.control.call("sandbox", {"namespaces": ["ipc"]})
    assert failure.value.code == "conflict"
