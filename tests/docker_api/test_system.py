"""_ping, versions, info, df, events, what is not offered."""

import json
import threading
import time

import pytest
from support.api import Api


def test_ping_tells_version_and_kind(daemon):
    for method in ("GET", "HEAD"):
        status, headers, body = daemon.api.request(method, "/_ping")
        assert status == 200
        assert body == (b"OK" if method == "GET" else b"")
        assert headers["Api-Version"] == "1.47"
        assert headers["Docker-Experimental"] == "false"
        assert headers["Ostype"] == "linux"
        assert headers["Swarm"] == "inactive"
        assert headers["Builder-Version"] == "1"
        assert "no-cache" in headers["Cache-Control"]
        assert headers["Content-Length"] == "2"


@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.41", "/v1.47"])
def test_versions_that_are_spoken(daemon, prefix):
    assert daemon.api.get(prefix + "/version")["ApiVersion"] == "1.47"


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("1.48", "client version 1.48 is too new. Maximum supported API version is 1.47"),
        ("2.0", "is too new"),
        ("1.23", "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"),
        ("0.9", "is too old"),
        ("99999999999999999999.1", "is too new"),
    ],
)
def test_versions_that_are_not(daemon, version, text):
    status, body = daemon.api.call("GET", f"/v{version}/version")
    assert status == 400
    assert text in body["message"]


@pytest.mark.parametrize("path", ["/nothing", "/v1.41", "/v1.41/", "/v1.41/nothing", "/containers", "/containers//json", "/vx/version", "/", "/v1.41.x/y"])
def test_unknown_paths(daemon, path):
    assert daemon.api.call("GET", path) == (404, {"message": "page not found"})


def test_unknown_method_of_a_known_path(daemon):
    assert daemon.api.call("PATCH", "/containers/json") == (404, {"message": "page not found"})


def test_version_has_what_clients_print(daemon):
    version = daemon.api.get("/version")
    assert set(version) >= {"Platform", "Components", "Version", "ApiVersion", "MinAPIVersion", "GitCommit", "GoVersion", "Os", "Arch", "KernelVersion", "BuildTime"}
    assert version["MinAPIVersion"] == "1.24"
    assert version["Os"] == "linux"
    engine = version["Components"][0]
    assert engine["Name"] == "Engine"
    assert engine["Version"] == version["Version"]
    assert all(isinstance(value, str) for value in engine["Details"].values())


def test_info_has_what_clients_print(daemon):
    info = daemon.api.get("/info")
    for key, kind in {
        "ID": str, "Containers": int, "ContainersRunning": int, "ContainersPaused": int, "ContainersStopped": int, "Images": int, "Driver": str,
        "DriverStatus": list, "Plugins": dict, "MemoryLimit": bool, "SwapLimit": bool, "CpuCfsPeriod": bool, "CpuCfsQuota": bool, "CPUShares": bool,
        "CPUSet": bool, "PidsLimit": bool, "IPv4Forwarding": bool, "Debug": bool, "NFd": int, "OomKillDisable": bool, "NGoroutines": int, "SystemTime": str,
        "LoggingDriver": str, "CgroupDriver": str, "CgroupVersion": str, "NEventsListener": int, "KernelVersion": str, "OperatingSystem": str, "OSType": str,
        "Architecture": str, "IndexServerAddress": str, "RegistryConfig": dict, "NCPU": int, "MemTotal": int, "DockerRootDir": str, "Name": str,
        "Labels": list, "ExperimentalBuild": bool, "ServerVersion": str, "Runtimes": dict, "DefaultRuntime": str, "Swarm": dict, "LiveRestoreEnabled": bool,
        "SecurityOptions": list,
    }.items():
        assert type(info[key]) is kind, key
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert info["NCPU"] > 0
    assert info["MemTotal"] > 0


def test_disk_usage(daemon):
    usage = daemon.api.get("/system/df")
    assert {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"} <= set(usage)
    assert usage["Images"]
    assert daemon.api.get("/system/df?type=volume")["Images"] is None
    assert daemon.api.call("GET", "/system/df?type=nonsense")[0] == 400


def test_metrics(daemon):
    status, headers, body = daemon.api.request("GET", "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert b"wherry_engine_containers{state=\"running\"}" in body


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/swarm", 503), ("GET", "/services", 503), ("GET", "/nodes", 503), ("GET", "/tasks/x", 503), ("GET", "/secrets/x", 503),
        ("GET", "/plugins/x/json", 404), ("POST", "/build", 501),
        ("GET", "/containers/x/checkpoints", 501), ("POST", "/containers/x/checkpoints", 501), ("DELETE", "/containers/x/checkpoints/y", 501),
    ],
)
def test_what_is_not_offered(daemon, method, path, status):
    got, body = daemon.api.call(method, path)
    assert got == status
    assert body["message"]
    if status == 503:
        assert body["message"].startswith("This node is not a swarm manager.")


def test_plugins_are_none(daemon):
    assert daemon.api.get("/plugins") == []


def test_events_of_a_life(clean):
    api = clean.api
    since = f"{time.time():.9f}"
    container = api.post("/containers/create?name=eventful", {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}})["Id"]
    api.post(f"/containers/{container}/start")
    api.post(f"/containers/{container}/wait")
    api.delete(f"/containers/{container}")
    until = f"{time.time() + 0.2:.9f}"
    raw = api.request("GET", "/events", since=since, until=until, filters={"type": ["container"], "container": ["eventful"]})[2]
    events = [json.loads(line) for line in raw.splitlines()]
    actions = [event["Action"] for event in events]
    assert [a for a in actions if a in ("create", "start", "die", "destroy")] == ["create", "start", "die", "destroy"]
    die = next(event for event in events if event["Action"] == "die")
    assert die["Type"] == "container"
    assert die["status"] == "die"
    assert die["id"] == die["Actor"]["ID"] == container
    assert die["from"].startswith("busybox")
    assert die["Actor"]["Attributes"]["name"] == "eventful"
    assert die["Actor"]["Attributes"]["exitCode"] == "0"
    assert die["scope"] == "local"
    assert die["time"] == die["timeNano"] // 1_000_000_000


def test_events_come_while_they_happen_and_a_leaving_client_is_noticed(clean):
    seen = []
    subscribed = threading.Event()
    api = Api(str(clean.socket), timeout=10)

    def listen():
        import http.client

        from support.api import UnixConnection

        connection = UnixConnection(api.socket_path, 10)
        connection.request("GET", '/events?filters={"event":{"create":true}}')
        response: http.client.HTTPResponse = connection.getresponse()
        subscribed.set()
        seen.append(json.loads(response.readline()))
        connection.close()

    listener = threading.Thread(target=listen)
    listener.start()
    assert subscribed.wait(10)
    listeners = api.get("/info")["NEventsListener"]
    assert listeners >= 1
    api.post("/containers/create?name=seen", {"Image": "busybox", "Cmd": ["true"]})
    listener.join(10)
    assert seen[0]["Action"] == "create"
    deadline = time.monotonic() + 5
    while api.get("/info")["NEventsListener"] >= listeners:
        assert time.monotonic() < deadline, "the subscription outlived its client"
        time.sleep(0.05)


@pytest.mark.parametrize("query", ["since=x", "until=1.x", "filters={", "filters=[]", 'filters={"x":{"y":true}}', 'filters={"type":3}', "since=10&until=5"])
def test_events_with_wrong_parameters(daemon, query):
    status, body = daemon.api.call("GET", "/events?" + query.replace('"', "%22").replace("{", "%7B").replace("}", "%7D"))
    assert status == 400
    assert body["message"]
