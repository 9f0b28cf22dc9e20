"""wherryd and a real dockerd in one network namespace: each one's containers reach out, are reached and reach one another,
whichever started first and after dockerd wrote its firewall anew."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

from support.api import Api
from support.binaries import need_root
from support.daemon import Daemon
from support.images import import_busybox

OUTSIDE = "10.214.77.2"
INSIDE = "10.214.77.1"
PAGE = "a page from outside"


def inside(namespace: str, *command: str) -> list[str]:
    # Not `ip netns exec`: its own /sys has no control groups.
    return ["nsenter", f"--net=/run/netns/{namespace}", *command]


def wait_for(what: str, check, timeout: float = 60):
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if (value := check()):
                return value
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.05)


class Host:
    """Two namespaces joined by a link: `host` for the daemons, `outside` with a web server and clients."""

    def __init__(self):
        self.name, self.outside = f"wbh{os.getpid()}", f"wbo{os.getpid()}"
        for namespace in (self.name, self.outside):
            subprocess.run(["ip", "netns", "add", namespace], check=True)
        commands = [
            f"ip -n {self.name} link set lo up", f"ip -n {self.outside} link set lo up",
            f"ip -n {self.name} link add up0 type veth peer name up0 netns {self.outside}",
            f"ip -n {self.name} addr add {INSIDE}/24 dev up0", f"ip -n {self.outside} addr add {OUTSIDE}/24 dev up0",
            f"ip -n {self.name} link set up0 up", f"ip -n {self.outside} link set up0 up",
            f"ip -n {self.name} route add default via {OUTSIDE}",
        ]
        for command in commands:
            subprocess.run(command.split(), check=True)
        # A new namespace inherits what the machine has; dockerd closes FORWARD when it is the one to switch forwarding on.
        subprocess.run(inside(self.name, "sysctl", "-q", "net.ipv4.ip_forward=0"), check=True)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-beside-"))
        (self.folder / "index.html").write_text(PAGE)
        self.server = subprocess.Popen(
            inside(self.outside, "/usr/bin/python3", "-m", "http.server", "--bind", OUTSIDE, "--directory", str(self.folder), "8000"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def fetch(self, namespace: str, url: str) -> str:
        result = subprocess.run(inside(namespace, "curl", "-sS", "--max-time", "3", url), capture_output=True, text=True, timeout=20, check=False)
        return result.stdout + result.stderr

    def close(self):
        self.server.kill()
        self.server.wait()
        for namespace in (self.name, self.outside):
            subprocess.run(["ip", "netns", "delete", namespace], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class Dockerd:
    """Debian's dockerd in the host's namespace, with roots of its own and the firewall it writes by default."""

    def __init__(self, host: Host):
        self.host, self.folder = host, host.folder / "docker"
        self.folder.mkdir()
        self.socket = self.folder / "docker.sock"
        self.api = Api(str(self.socket), timeout=60)
        self.process: subprocess.Popen | None = None

    def start(self):
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                inside(self.host.name, "unshare", "-m", "/usr/sbin/dockerd", "--host", f"unix://{self.socket}", "--data-root", str(self.folder / "data"),
                       "--exec-root", str(self.folder / "run"), "--pidfile", str(self.folder / "pid")),
                stdout=log, stderr=log, start_new_session=True)

        def ready():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            return self.api.call("GET", "/_ping")[0] == 200

        wait_for("dockerd", ready)
        return self

    def stop(self):
        if self.process is None:
            return
        with contextlib.suppress(Exception):
            for container in self.api.get("/containers/json", all=1):
                self.api.delete(f"/containers/{container['Id']}", force=1)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None


class DaemonInside(Daemon):
    """A wherryd in the host's namespace."""

    def __init__(self, host: Host, *arguments: str):
        super().__init__(*arguments)
        self.namespace = host.name

    def command_line(self):
        return inside(self.namespace, *super().command_line())

    def run(self, command, *arguments, **keywords):
        return super().run(inside(self.namespace, *command), *arguments, **keywords)


def run_server(api: Api, port: int) -> str:
    """A container that serves its index on a published port; its address on the bridge."""
    created = api.post("/containers/create", {
        "Image": "busybox:latest",
        "Cmd": ["sh", "-c", f"mkdir -p /www && echo page of {port} > /www/index.html && exec httpd -f -p 80 -h /www"],
        "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": str(port)}]}}})
    api.post(f"/containers/{created['Id']}/start")
    return api.get(f"/containers/{created['Id']}/json")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]


def output_of(api: Api, *command: str) -> str:
    created = api.post("/containers/create", {"Image": "busybox:latest", "Cmd": list(command)})
    try:
        api.post(f"/containers/{created['Id']}/start")
        api.post(f"/containers/{created['Id']}/wait")
        return api.request("GET", f"/containers/{created['Id']}/logs", stdout=1, stderr=1)[2].decode(errors="replace")
    finally:
        api.delete(f"/containers/{created['Id']}", force=1)


def all_reach(host: Host, api: Api, address: str, port: int) -> dict[str, bool]:
    """Who reaches whom, of one daemon's containers."""
    def fetch(to: str, port: int) -> str:
        # Not wget: in a static busybox it needs glibc's shared resolver, and ends with a segmentation fault.
        return output_of(api, "sh", "-c", f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {to} {port}")

    page = f"page of {port}"
    return {
        "out": PAGE in fetch(OUTSIDE, 8000),
        "a neighbour on the bridge": page in fetch(address, 80),
        "its own published port by the host's address": page in fetch(INSIDE, port),
        "published, from outside": page in host.fetch(host.outside, f"http://{INSIDE}:{port}/"),
        "published, from the host": page in host.fetch(host.name, f"http://127.0.0.1:{port}/"),
    }


def everything(value: dict[str, bool]) -> bool:
    return all(value.values())


@pytest.fixture
def host():
    need_root()
    if not os.path.exists("/usr/sbin/dockerd"):
        pytest.skip("dockerd is not installed")
    if not shutil.which("iptables"):
        pytest.skip("iptables is not installed")
    made = Host()
    yield made
    made.close()


@pytest.mark.parametrize("first", ["wherryd", "dockerd"])
def test_both_daemons_serve_their_containers(host, first):
    dockerd = Dockerd(host)
    daemon = DaemonInside(host)
    try:
        if first == "dockerd":
            dockerd.start()
        daemon.start()
        daemon.import_busybox()
        address = run_server(daemon.api, 18080)
        if first == "wherryd":
            alone = all_reach(host, daemon.api, address, 18080)
            assert everything(alone), alone
            dockerd.start()
        import_busybox(dockerd.api)
        docker_address = run_server(dockerd.api, 18081)

        # dockerd closes FORWARD only when it switched forwarding on itself; who came first must not matter here.
        if first == "wherryd":
            subprocess.run(inside(host.name, "iptables", "-P", "FORWARD", "DROP"), check=True)
        policy = subprocess.run(inside(host.name, "iptables", "-S", "FORWARD"), capture_output=True, text=True, check=True).stdout
        assert "-P FORWARD DROP" in policy, "dockerd's firewall is not what this test is about"
        # The daemon looks again every few seconds.
        ours = {}

        def reached():
            nonlocal ours
            ours = all_reach(host, daemon.api, address, 18080)
            return everything(ours)

        with contextlib.suppress(AssertionError):
            wait_for("our containers beside dockerd", reached)
        assert everything(ours), ours
        theirs = all_reach(host, dockerd.api, docker_address, 18081)
        assert everything(theirs), theirs

        # Its chains are written anew at a restart.
        dockerd.stop()
        dockerd.start()
        docker_address = run_server(dockerd.api, 18082)
        with contextlib.suppress(AssertionError):
            wait_for("our containers after dockerd's restart", reached)
        assert everything(ours), ours
        theirs = all_reach(host, dockerd.api, docker_address, 18082)
        assert everything(theirs), theirs

    finally:
        try:
            dockerd.stop()
        finally:
            daemon.close(check_leaks=False)
