"""Sandboxes of several containers: what they share, how long they live, and kill -9 of whatever there is."""

import contextlib
import json
import os
import time
import urllib.request

import pytest

from support.api import ApiError
from support.crashes import LATE, start_to_crash
from support.daemon import Daemon

BUSYBOX = "busybox:latest"


@pytest.fixture
def sandbox(clean):
    """daemon, with nothing in it afterwards."""
    yield clean
    clean.remove_all()
    for one in clean.api.get("/wherry/sandboxes"):
        clean.api.delete(f"/wherry/sandboxes/{one['Id']}", force=1)


def create(daemon, name, sandbox, *command, **host) -> str:
    return daemon.api.post(f"/containers/create?name={name}", {
        "Image": BUSYBOX, "Cmd": list(command) or ["sleep", "1000"], "HostConfig": {"NetworkMode": f"sandbox:{sandbox}", **host}})["Id"]


def start(daemon, name, sandbox, *command, **host) -> str:
    identifier = create(daemon, name, sandbox, *command, **host)
    daemon.api.post(f"/containers/{identifier}/start")
    return identifier


def state(daemon, sandbox) -> str:
    return daemon.api.get(f"/wherry/sandboxes/{sandbox}")["State"]


def wait_for(what, timeout=10):
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pid(daemon, container) -> int:
    return daemon.api.get(f"/containers/{container}/json")["State"]["Pid"]


def shim_of(process: int) -> int:
    with open(f"/proc/{process}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


def namespace(process: int, kind: str) -> str:
    return os.readlink(f"/proc/{process}/ns/{kind}")


def test_what_is_shared(sandbox):
    daemon = sandbox
    daemon.wherry("sandbox", "create", "shop")
    start(daemon, "one", "shop", "sh", "-c", "echo shared > /dev/shm/note; exec httpd -f -p 80 -h /bin")
    start(daemon, "two", "shop")
    first, second = pid(daemon, "one"), pid(daemon, "two")
    for kind in ("net", "ipc", "uts"):
        assert namespace(first, kind) == namespace(second, kind) != namespace(os.getpid(), kind), kind
    for kind in ("pid", "mnt"):
        assert namespace(first, kind) != namespace(second, kind), kind
    assert shim_of(first) == shim_of(second), "one shim"
    assert daemon.wherry("exec", "two", "hostname").stdout == "shop\n"
    wait_for(lambda: daemon.wherry("exec", "two", "cat", "/dev/shm/note", check=False).stdout == "shared\n")
    assert "ID=" in daemon.wherry("exec", "two", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://localhost/busybox | head -c 4 | grep -q ELF && echo ID=; sleep 0.1; done").stdout
    address = daemon.api.get("/wherry/sandboxes/shop")["Network"]["IPAddress"]
    assert address in daemon.wherry("exec", "two", "cat", "/etc/hosts").stdout
    assert daemon.wherry("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}} {{.Sandbox.Name}}", "two").stdout == f"{address} shop\n"
    # The process numbers are each one's own.
    assert daemon.wherry("exec", "two", "cat", "/proc/1/comm").stdout == "sleep\n"


def test_shared_processes(sandbox):
    daemon = sandbox
    daemon.wherry("sandbox", "create", "--share-pid", "-h", "together", "open")
    start(daemon, "one", "open", "sleep", "1111")
    start(daemon, "two", "open", "sleep", "2222")
    assert namespace(pid(daemon, "one"), "pid") == namespace(pid(daemon, "two"), "pid")
    seen = daemon.wherry("exec", "two", "ps").stdout
    assert "sleep 1111" in seen and "sleep 2222" in seen
    # Their first process is the sandbox's own, and it gives nothing away.
    assert daemon.wherry("exec", "two", "cat", "/proc/1/comm").stdout == "sandbox\n"
    assert daemon.wherry("exec", "--privileged", "two", "ls", "-A", "/proc/1/root/", check=False).stdout == ""
    holder = daemon.wherry("exec", "two", "cat", "/proc/1/status").stdout
    assert "CapEff:\t0000000000000000" in holder and "Seccomp:\t1" in holder
    # An orphan is reaped, and the end of one container is not the end of the other.
    daemon.wherry("exec", "two", "sh", "-c", "(sleep 0.1 &) ; exit 0")
    daemon.api.post("/containers/one/kill")
    assert daemon.wherry("exec", "two", "hostname").stdout == "together\n"
    wait_for(lambda: "[sleep]" not in daemon.wherry("exec", "two", "ps").stdout)


def test_life_cycle(sandbox):
    daemon = sandbox
    daemon.wherry("sandbox", "create", "life")
    assert state(daemon, "life") == "created"
    start(daemon, "one", "life")
    assert state(daemon, "life") == "up"
    address = daemon.api.get("/wherry/sandboxes/life")["Network"]["IPAddress"]
    start(daemon, "two", "life")
    daemon.api.post("/containers/one/stop?t=0")
    assert state(daemon, "life") == "up"
    daemon.api.post("/containers/one/start")
    assert daemon.api.get("/containers/one/json")["NetworkSettings"]["IPAddress"] == address
    with pytest.raises(ApiError) as refused:
        daemon.api.delete("/wherry/sandboxes/life")
    assert refused.value.status == 409 and "one, two" in refused.value.message
    daemon.api.post("/containers/one/kill")
    daemon.api.post("/containers/two/kill")
    wait_for(lambda: state(daemon, "life") == "down")
    daemon.api.delete("/containers/one")
    daemon.api.delete("/containers/two")
    daemon.assert_clean()
    daemon.api.delete("/wherry/sandboxes/life")
    assert daemon.api.get("/wherry/sandboxes") == []
    assert not os.listdir(daemon.data_root / "sandboxes")


def test_ports_belong_to_the_sandbox(sandbox):
    daemon = sandbox
    daemon.wherry("sandbox", "create", "-p", "127.0.0.1::80", "ports")
    start(daemon, "side", "ports")
    start(daemon, "web", "ports", "sh", "-c", "echo hello > /tmp/index.html; exec httpd -f -p 80 -h /tmp")
    port = daemon.api.get("/wherry/sandboxes/ports")["Ports"][0]["PublicPort"]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers():
        with contextlib.suppress(OSError):
            return opener.open(f"http://127.0.0.1:{port}/", timeout=2).read() == b"hello\n"
        return False

    wait_for(answers)
    daemon.api.post("/containers/web/restart?t=0")
    wait_for(answers)
    assert f":{port}->80/tcp" in daemon.wherry("ps").stdout


def test_restart_policy_keeps_it_up(sandbox):
    daemon = sandbox
    daemon.wherry("sandbox", "create", "again")
    start(daemon, "phoenix", "again", "sleep", "0.1", RestartPolicy={"Name": "always"})
    address = daemon.api.get("/wherry/sandboxes/again")["Network"]["IPAddress"]
    wait_for(lambda: daemon.api.get("/containers/phoenix/json")["RestartCount"] >= 2)
    now = daemon.api.get("/wherry/sandboxes/again")
    assert now["State"] == "up" and now["Network"]["IPAddress"] == address
    daemon.api.post("/containers/phoenix/stop")
    wait_for(lambda: state(daemon, "again") == "down")


def test_shown_by_ps_inspect_and_why(sandbox):
    daemon = sandbox
    daemon.wherry("sandbox", "create", "seen")
    daemon.wherry("run", "-d", "--sandbox", "seen", "--name", "inside", BUSYBOX, "sleep", "1000")
    daemon.wherry("run", "-d", "--name", "outside", BUSYBOX, "sleep", "1000")
    header, *rows = daemon.wherry("ps").stdout.splitlines()
    assert header.endswith("SANDBOX") and any(row.rstrip().endswith("seen") for row in rows)
    assert daemon.wherry("ps", "-f", "sandbox=seen", "--format", "{{.Names}}").stdout == "inside\n"
    assert "in the sandbox seen" in daemon.wherry("why", "inside").stdout
    assert "sandbox" not in daemon.wherry("why", "outside").stdout
    shown = json.loads(daemon.wherry("sandbox", "inspect", "seen").stdout)[0]
    assert [one["Name"] for one in shown["Containers"]] == ["inside"]
    assert json.loads(daemon.wherry("inspect", "seen").stdout)[0]["Id"] == shown["Id"]
    assert "seen" in daemon.wherry("sandbox", "ls").stdout


def test_stock_clients_join_by_the_network(sandbox):
    daemon = sandbox
    daemon.wherry("sandbox", "create", "stock")
    for number in (1, 2):
        daemon.api.post(f"/containers/create?name=c{number}", {
            "Image": BUSYBOX, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "sandbox:stock"},
            "NetworkingConfig": {"EndpointsConfig": {"sandbox:stock": {}}}})
        daemon.api.post(f"/containers/c{number}/start")
    assert namespace(pid(daemon, "c1"), "net") == namespace(pid(daemon, "c2"), "net")
    # Joining a member by container: gives the same network and the same files.
    daemon.api.post("/containers/create?name=guest", {"Image": BUSYBOX, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "container:c1"}})
    daemon.api.post("/containers/guest/start")
    assert namespace(pid(daemon, "guest"), "net") == namespace(pid(daemon, "c1"), "net")
    assert daemon.wherry("exec", "guest", "cat", "/etc/hosts").stdout == daemon.wherry("exec", "c1", "cat", "/etc/hosts").stdout


@pytest.mark.parametrize("body, status, words", [
    ({"HostConfig": {"NetworkMode": "sandbox:absent"}}, 400, "No such sandbox: absent"),
    ({"HostConfig": {"NetworkMode": "sandbox:"}}, 400, "invalid sandbox format"),
    ({"Hostname": "h", "HostConfig": {"NetworkMode": "sandbox:bad"}}, 400, "conflicting options: hostname"),
    ({"HostConfig": {"NetworkMode": "sandbox:bad", "Dns": ["1.1.1.1"]}}, 400, "conflicting options: dns"),
    ({"HostConfig": {"NetworkMode": "sandbox:bad", "PortBindings": {"80/tcp": [{}]}}}, 400, "conflicting options: port publishing"),
])
def test_bad_containers(sandbox, body, status, words):
    sandbox.wherry("sandbox", "create", "bad")
    with pytest.raises(ApiError) as refused:
        sandbox.api.post("/containers/create", {"Image": BUSYBOX, "Cmd": ["true"], **body})
    assert refused.value.status == status and words in refused.value.message
    assert sandbox.containers() == []


@pytest.mark.parametrize("body, words", [
    ({"Name": "-x"}, "Invalid sandbox name"), ({"Name": "taken"}, "already in use"), ({"NetworkMode": "moon"}, "invalid network"),
    ({"Hostname": "a b"}, "hostname"), ({"NetworkMode": "none", "PortBindings": {"80/tcp": [{}]}}, "port publishing"),
    ({"PortBindings": {"x": []}}, ""), ({"Labels": 1}, "Labels"), ({"Dns": ["nowhere"]}, ""), ({"SharePid": "yes"}, "SharePid"),
])
def test_bad_sandboxes(sandbox, body, words):
    sandbox.api.post("/wherry/sandboxes/create", {"Name": "taken"})
    with pytest.raises(ApiError) as refused:
        sandbox.api.post("/wherry/sandboxes/create", body)
    assert refused.value.status in (400, 409) and words in refused.value.message
    assert len(sandbox.api.get("/wherry/sandboxes")) == 1


def test_networks_none_and_host(sandbox):
    daemon = sandbox
    daemon.wherry("sandbox", "create", "--network", "none", "quiet")
    start(daemon, "n1", "quiet")
    start(daemon, "n2", "quiet")
    assert namespace(pid(daemon, "n1"), "net") == namespace(pid(daemon, "n2"), "net") != namespace(os.getpid(), "net")
    daemon.wherry("sandbox", "create", "--network", "host", "wide")
    start(daemon, "h1", "wide")
    start(daemon, "h2", "wide")
    assert namespace(pid(daemon, "h1"), "net") == namespace(os.getpid(), "net")
    assert namespace(pid(daemon, "h1"), "ipc") == namespace(pid(daemon, "h2"), "ipc") != namespace(os.getpid(), "ipc")


def test_failed_start_leaves_nothing(sandbox):
    daemon = sandbox
    daemon.wherry("sandbox", "create", "fails")
    identifier = create(daemon, "broken", "fails", "/no/such/program")
    with pytest.raises(ApiError):
        daemon.api.post(f"/containers/{identifier}/start")
    wait_for(lambda: state(daemon, "fails") == "down")
    daemon.api.delete("/containers/broken")
    daemon.assert_clean()
    # Beside one that runs, the failure takes nothing along.
    start(daemon, "sound", "fails")
    create(daemon, "broken", "fails", "/no/such/program")
    with pytest.raises(ApiError):
        daemon.api.post("/containers/broken/start")
    assert state(daemon, "fails") == "up" and daemon.api.get("/containers/sound/json")["State"]["Running"]


def test_daemon_killed_with_several_containers(sandbox, tmp_path):
    """kill -9 while three containers run: one goes on, one ends meanwhile, one comes back."""
    daemon = sandbox
    daemon.wherry("sandbox", "create", "-p", "127.0.0.1::80", "crash")
    start(daemon, "stays", "crash", "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done")
    # They end when the daemon is away, however slow the machine is.
    wait = "while ! test -e /gate/go; do sleep 0.02; done"
    start(daemon, "ends", "crash", "sh", "-c", f"{wait}; exit 42", Binds=[f"{tmp_path}:/gate"])
    start(daemon, "returns", "crash", "sh", "-c", f"test -e /gate/go && exec sleep 1000; {wait}", RestartPolicy={"Name": "always"}, Binds=[f"{tmp_path}:/gate"])
    before = daemon.api.get("/wherry/sandboxes/crash")
    stays, others = pid(daemon, "stays"), [pid(daemon, "ends"), pid(daemon, "returns")]
    wait_for(lambda: daemon.wherry("logs", "stays").stdout.count("\n") > 10)
    daemon.kill()
    (tmp_path / "go").touch()
    wait_for(lambda: not any(os.path.exists(f"/proc/{one}") for one in others))
    daemon.start()
    after = daemon.api.get("/wherry/sandboxes/crash")
    assert after["State"] == "up" and after["Network"] == before["Network"] and after["Ports"] == before["Ports"]
    assert pid(daemon, "stays") == stays
    assert daemon.api.get("/containers/ends/json")["State"]["ExitCode"] == 42
    wait_for(lambda: pid(daemon, "returns") not in (0, others[1]))
    assert namespace(pid(daemon, "returns"), "net") == namespace(stays, "net")
    daemon.wherry("run", "--rm", "--sandbox", "crash", BUSYBOX, "true")
    numbers = [int(line) for line in daemon.wherry("logs", "stays").stdout.split()]
    assert numbers == list(range(len(numbers))) and len(numbers) > 10


def test_shim_killed(sandbox):
    daemon = sandbox
    daemon.wherry("sandbox", "create", "--share-pid", "lost")
    start(daemon, "one", "lost")
    start(daemon, "two", "lost", RestartPolicy={"Name": "always"})
    first, second = pid(daemon, "one"), pid(daemon, "two")
    os.kill(shim_of(first), 9)
    wait_for(lambda: not daemon.api.get("/containers/one/json")["State"]["Running"])
    wait_for(lambda: pid(daemon, "two") not in (0, second))
    assert state(daemon, "lost") == "up"
    wait_for(lambda: not os.path.exists(f"/proc/{first}") and not os.path.exists(f"/proc/{second}"))
    daemon.remove_all()
    daemon.assert_clean()


POINTS = ["sandbox.created", "sandbox.prepared", "sandbox.made", "sandbox.up", "start.written", "start.running", "start.saved",
          "start.saved:2", "start.running:2", "stop.signalled", "exit.begin", "exit.saved", "exit.cleaned", "exit.begin:2",
          "sandbox.down", "exit.cleaned:2", "remove.written", "sandbox.remove", "sandbox.removed"]


@LATE
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(sandbox, point, late):
    daemon = sandbox
    daemon.stop()
    start_to_crash(daemon, point + late)
    done = []

    def step(name, action):
        action()
        done.append(name)

    try:
        step("created", lambda: daemon.api.post("/wherry/sandboxes/create", {"Name": "box"}))
        for name in ("one", "two"):
            create(daemon, name, "box", "sh", "-c", "trap 'exit 3' TERM; echo trapped; while :; do sleep 0.05; done")
            step(f"{name} started", lambda name=name: daemon.api.post(f"/containers/{name}/start"))
        for name in ("one", "two"):
            wait_for(lambda name=name: b"trapped" in daemon.api.request("GET", f"/containers/{name}/logs?stdout=1")[2])
        for name in ("one", "two"):
            step(f"{name} stopped", lambda name=name: daemon.api.post(f"/containers/{name}/stop?t=5"))
        wait_for(lambda: state(daemon, "box") == "down", 5)
        for name in ("one", "two"):
            daemon.api.delete(f"/containers/{name}")
        step("removed", lambda: daemon.api.delete("/wherry/sandboxes/box"))
    except AssertionError:
        raise
    except Exception:  # noqa: BLE001 - the connection breaks in many ways
        pass
    daemon.process.wait(10)
    daemon.process = None
    daemon.start()
    names = [one["Name"] for one in daemon.api.get("/wherry/sandboxes")]
    assert names == (["box"] if "created" in done and "removed" not in done and point != "sandbox.removed" else names)
    if point == "stop.signalled":  # the first has the signal and ends by itself
        wait_for(lambda: daemon.api.get("/containers/one/json")["State"]["Status"] == "exited")
        assert daemon.api.get("/containers/one/json")["State"]["ExitCode"] == 3
    containers = {one["Names"][0][1:]: one for one in daemon.containers()}
    for name in ("one", "two"):
        if f"{name} started" in done and f"{name} stopped" not in done and not point.startswith(("stop", "exit")):
            assert containers[name]["State"] == "running", (point, done)
        if f"{name} stopped" in done and name in containers:
            assert daemon.api.get(f"/containers/{name}/json")["State"]["ExitCode"] == 3
    if names:
        alive = any(one["State"] == "running" for one in containers.values())
        wait_for(lambda: state(daemon, "box") in (("up",) if alive else ("down", "created")))
        # What is there works.
        for name, container in containers.items():
            if container["State"] != "running":
                daemon.api.post(f"/containers/{name}/start")
        if len(containers) == 2:
            assert namespace(pid(daemon, "one"), "net") == namespace(pid(daemon, "two"), "net")
        daemon.api.delete("/wherry/sandboxes/box", force=1)
    daemon.remove_all()
    daemon.assert_clean()
    folder = daemon.data_root / "sandboxes"
    assert not folder.exists() or not os.listdir(folder)
