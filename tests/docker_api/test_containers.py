"""Containers without their streams: life cycle, shapes, states, wrong input."""

import time

import pytest

SLEEP = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}, "StopSignal": "SIGKILL"}


def create(api, name="", **body):
    return api.post("/containers/create" + (f"?name={name}" if name else ""), {**SLEEP, **body})["Id"]


def test_a_life(clean):
    api = clean.api
    status, created = api.call("POST", "/containers/create?name=life", SLEEP)
    assert status == 201
    assert set(created) == {"Id", "Warnings"}
    assert created["Warnings"] == []
    container = created["Id"]
    assert len(container) == 64
    assert api.get(f"/containers/{container}/json")["State"]["Status"] == "created"
    assert api.call("POST", "/containers/life/start") == (204, None)
    assert api.call("POST", "/containers/life/start") == (304, None)
    state = api.get(f"/containers/{container[:12]}/json")["State"]
    assert state["Status"] == "running"
    assert state["Running"] is True
    assert state["Pid"] > 0
    assert state["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert api.call("POST", "/containers/life/pause") == (204, None)
    assert api.get("/containers/life/json")["State"]["Paused"] is True
    assert api.get("/containers/json")[0]["Status"].endswith("(Paused)")
    assert api.call("POST", "/containers/life/pause")[0] == 409
    assert api.call("POST", "/containers/life/unpause") == (204, None)
    assert api.call("POST", "/containers/life/unpause")[0] in (409, 500)
    assert api.call("POST", "/containers/life/rename?name=other") == (204, None)
    assert api.call("GET", "/containers/life/json")[0] == 404
    assert api.call("POST", "/containers/other/restart?t=0") == (204, None)
    assert api.call("DELETE", "/containers/other")[0] == 409
    assert api.call("POST", "/containers/other/stop?t=0") == (204, None)
    assert api.call("POST", "/containers/other/stop") == (304, None)
    state = api.get("/containers/other/json")["State"]
    assert state["Status"] == "exited"
    assert state["ExitCode"] == 137
    assert api.call("POST", "/containers/other/kill")[0] == 409
    assert api.call("DELETE", "/containers/other") == (204, None)
    status, body = api.call("DELETE", "/containers/other")
    assert (status, body) == (404, {"message": "No such container: other"})


def test_inspect_shape(clean):
    api = clean.api
    container = create(
        api, "shaped", Labels={"a": "b"}, Env=["X=1"], Hostname="hosty", ExposedPorts={"80/tcp": {}},
        HostConfig={"NetworkMode": "none", "Memory": 64 << 20, "PidsLimit": 50, "Binds": ["/tmp:/mnt:ro"], "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}},
    )
    view = api.get(f"/containers/{container}/json?size=1")
    for key, kind in {
        "Id": str, "Created": str, "Path": str, "Args": list, "State": dict, "Image": str, "ResolvConfPath": str, "HostnamePath": str, "HostsPath": str,
        "LogPath": str, "Name": str, "RestartCount": int, "Driver": str, "Platform": str, "MountLabel": str, "ProcessLabel": str, "AppArmorProfile": str,
        "HostConfig": dict, "GraphDriver": dict, "Mounts": list, "Config": dict, "NetworkSettings": dict, "SizeRw": int, "SizeRootFs": int,
    }.items():
        assert type(view[key]) is kind, key
    assert view["ExecIDs"] is None
    assert view["Name"] == "/shaped"
    assert (view["Path"], view["Args"]) == ("sleep", ["1000"])
    assert view["Image"].startswith("sha256:")
    assert set(view["State"]) >= {"Status", "Running", "Paused", "Restarting", "OOMKilled", "Dead", "Pid", "ExitCode", "Error", "StartedAt", "FinishedAt"}
    assert view["Config"]["Image"] == "busybox"
    assert view["Config"]["Labels"] == {"a": "b"}
    assert view["Config"]["Hostname"] == "hosty"
    assert "X=1" in view["Config"]["Env"]
    assert view["Config"]["ExposedPorts"] == {"80/tcp": {}}
    assert view["HostConfig"]["Memory"] == 64 << 20
    assert view["HostConfig"]["PidsLimit"] == 50
    assert view["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    mount = view["Mounts"][0]
    assert (mount["Type"], mount["Source"], mount["Destination"], mount["RW"]) == ("bind", "/tmp", "/mnt", False)
    networks = view["NetworkSettings"]["Networks"]
    assert list(networks) == ["none"]
    assert set(networks["none"]) >= {"IPAMConfig", "Links", "Aliases", "NetworkID", "EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "MacAddress"}


def test_list_shape_and_filters(clean):
    api = clean.api
    running = create(api, "running", Labels={"role": "web", "tier": "1"})
    api.post(f"/containers/{running}/start")
    stopped = create(api, "stopped", Labels={"role": "db"})
    assert [item["Id"] for item in api.get("/containers/json")] == [running]
    everything = api.get("/containers/json", all=1)
    assert {item["Id"] for item in everything} == {running, stopped}
    item = next(item for item in everything if item["Id"] == running)
    assert set(item) >= {"Id", "Names", "Image", "ImageID", "Command", "Created", "Ports", "Labels", "State", "Status", "HostConfig", "NetworkSettings", "Mounts"}
    assert item["Names"] == ["/running"]
    assert item["Command"] == "sleep 1000"
    assert item["State"] == "running"
    assert item["Status"].startswith(("Up ", "Up Less"))
    assert abs(item["Created"] - time.time()) < 60
    assert item["HostConfig"] == {"NetworkMode": "none"}
    assert next(item for item in everything if item["Id"] == stopped)["Status"] == "Created"

    def listed(**filters):
        both = []
        for shape in (lambda v: v, lambda v: {x: True for x in v}):
            both.append({c["Names"][0][1:] for c in api.get("/containers/json", all=1, filters={k: shape(v) for k, v in filters.items()})})
        assert both[0] == both[1], "the two shapes of filters differ"
        return both[0]

    assert listed(name=["run"]) == {"running"}
    assert listed(name=["^/stopped$"]) == {"stopped"}
    assert listed(label=["role=web"]) == {"running"}
    assert listed(label=["role"]) == {"running", "stopped"}
    assert listed(label=["role=web", "tier=1"]) == {"running"}
    assert listed(status=["created"]) == {"stopped"}
    assert listed(status=["running", "created"]) == {"running", "stopped"}
    assert listed(id=[running[:10]]) == {"running"}
    assert listed(ancestor=["busybox"]) == {"running", "stopped"}
    assert listed(before=["stopped"]) == {"running"}
    assert listed(since=["running"]) == {"stopped"}
    assert listed(network=["none"]) >= {"running"}
    assert len(api.get("/containers/json", limit=1)) == 1
    assert api.get("/containers/json", all=1, size=1)[0]["SizeRootFs"] > 0


@pytest.mark.parametrize(
    "filters", ['{"nonsense":{"x":true}}', '{"status":{"nonsense":true}}', "{", "[]", "3", '{"name":3}', '{"name":{"x":1}}', '{"name":[1]}', '{"exited":["x"]}']
)
def test_wrong_filters(daemon, filters):
    import urllib.parse

    status, body = daemon.api.call("GET", "/containers/json?all=1&filters=" + urllib.parse.quote(filters))
    assert status == 400, body
    assert body["message"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Content-Type": "text/plain"}, 400),
        (b"{}", {}, 400),
        (b"", {"Content-Type": "application/json"}, 400),
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"[]", {"Content-Type": "application/json"}, 400),
        (b"null", {"Content-Type": "application/json"}, 400),
        (b"{} {}", {"Content-Type": "application/json"}, 400),
        (b'{"Image":3}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","Cmd":"x","Env":{}}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","HostConfig":[]}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","HostConfig":{"Memory":"1g"}}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","HostConfig":{"Memory":1000}}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","HostConfig":{"NetworkMode":"nonsense"}}', {"Content-Type": "application/json"}, 400),  # 404 would make clients pull the image
        (b'{"Image":"busybox","HostConfig":{"CapAdd":["NONSENSE"]}}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","HostConfig":{"RestartPolicy":{"Name":"sometimes"}}}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","HostConfig":{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","HostConfig":{"Runtime":"nonsense"}}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","HostConfig":{"Binds":["./relative:/x"]}}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","HostConfig":{"PortBindings":{"99999/tcp":[]}}}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","StopSignal":"SIGNONSENSE"}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"absent:1"}', {"Content-Type": "application/json"}, 404),
        (b'{"Image":"UPPER"}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":""}', {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","Cmd":' + b"[" * 100 + b"]" * 100 + b"}", {"Content-Type": "application/json"}, 400),
        (b'{"Image":"busybox","Env":["' + b"x" * (9 << 20) + b'"]}', {"Content-Type": "application/json"}, 413),
    ],
    ids=lambda value: value[:60].decode() if isinstance(value, bytes) else None,
)
def test_wrong_create_bodies(clean, body, headers, status):
    got, answer = clean.api.call("POST", "/containers/create", body, headers)
    assert got == status, answer
    assert answer["message"]
    assert clean.containers() == []


@pytest.mark.parametrize("name", ["x", "-ab", "a/b", "a%20b", "%C3%A4b", "a" * 10 + "%00", ".ab"])
def test_wrong_names(clean, name):
    status, answer = clean.api.call("POST", f"/containers/create?name={name}", SLEEP)
    assert status == 400, answer
    assert clean.containers() == []


def test_a_name_is_taken_once(clean):
    container = create(clean.api, "mine")
    status, body = clean.api.call("POST", "/containers/create?name=mine", SLEEP)
    assert status == 409
    assert "mine" in body["message"]
    assert container in body["message"]
    create(clean.api, "yours")
    assert clean.api.call("POST", "/containers/yours/rename?name=mine")[0] == 409
    assert clean.api.call("POST", "/containers/yours/rename?name=")[0] == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "json"), ("POST", "start"), ("POST", "stop"), ("POST", "restart"), ("POST", "kill"), ("POST", "pause"), ("POST", "unpause"),
        ("POST", "rename?name=abc"), ("GET", "top"), ("GET", "logs?stdout=1"), ("POST", "wait"), ("POST", "attach?stream=1&stdout=1"), ("POST", "resize?h=1&w=1"),
        ("GET", "stats?stream=0"),
    ],
)
def test_unknown_containers(daemon, method, path):
    status, body = daemon.api.call(method, f"/containers/absent/{path}")
    assert status == 404
    text = body["message"] if isinstance(body, dict) else body.decode()
    assert "No such container: absent" in text


def test_unknown_execs(daemon):
    assert daemon.api.call("GET", "/exec/absent/json")[0] == 404
    assert daemon.api.call("POST", "/exec/absent/start", {"Detach": False})[0] == 404
    assert daemon.api.call("POST", "/exec/absent/resize?h=1&w=1")[0] == 404


def test_wrong_parameters_of_a_running_one(clean):
    api = clean.api
    container = create(api)
    api.post(f"/containers/{container}/start")
    for path in ("kill?signal=NONSENSE", "kill?signal=99999", "kill?signal=-1", "stop?t=x", "stop?signal=NONSENSE", "resize", "resize?h=a&w=1", "resize?h=-1&w=1",
                 "resize?h=99999&w=1", "wait?condition=nonsense"):
        assert api.call("POST", f"/containers/{container}/{path}")[0] == 400, path
    for path in ("logs", "logs?stdout=0", "logs?stdout=1&since=x", "stats?stream=1&one-shot=1"):
        assert api.call("GET", f"/containers/{container}/{path}")[0] == 400, path
    assert api.call("POST", f"/containers/{container}/start", b'{"HostConfig":{}}', {"Content-Type": "application/json"})[0] in (304, 400)
    assert api.call("DELETE", f"/containers/{container}?link=1")[0] == 400
    assert api.call("POST", f"/containers/{container}/exec", {"Cmd": []})[0] == 400
    assert api.call("POST", f"/containers/{container}/exec", {"Cmd": "x"})[0] == 400
    assert api.call("POST", f"/containers/{container}/exec", {"Cmd": ["true"], "ConsoleSize": [1]})[0] == 400
    assert api.get(f"/containers/{container}/json")["State"]["Running"] is True


def test_a_missing_binary_is_400_and_127(clean):
    container = create(clean.api, Cmd=["nonsense"])
    status, body = clean.api.call("POST", f"/containers/{container}/start")
    assert status == 400
    assert "nonsense" in body["message"]
    state = clean.api.get(f"/containers/{container}/json")["State"]
    assert state["ExitCode"] == 127
    assert state["Status"] == "created"
    assert "nonsense" in clean.api.get(f"/wherry/containers/{container}/why")["Why"]


def test_top(clean):
    container = create(clean.api)
    assert clean.api.call("GET", f"/containers/{container}/top")[0] == 409
    clean.api.post(f"/containers/{container}/start")
    result = clean.api.get(f"/containers/{container}/top")
    assert result["Titles"][:2] == ["UID", "PID"]
    assert any("sleep 1000" in " ".join(process) for process in result["Processes"])
    assert all(len(process) == len(result["Titles"]) for process in result["Processes"])


def test_stats(clean):
    container = create(clean.api, "counted")
    clean.api.post(f"/containers/{container}/start")
    stats = clean.api.get(f"/containers/{container}/stats", stream=0, **{"one-shot": 1})
    assert stats["name"] == "/counted"
    assert stats["id"] == container
    assert stats["preread"] == "0001-01-01T00:00:00Z"
    assert stats["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert stats["cpu_stats"]["system_cpu_usage"] > 0
    assert stats["memory_stats"]["usage"] > 0
    assert stats["memory_stats"]["limit"] > 0
    assert stats["pids_stats"]["current"] >= 1
    stats = clean.api.get(f"/containers/{container}/stats", stream=0)
    assert stats["precpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert stats["preread"] < stats["read"]


def test_timings_of_a_start(clean):
    container = create(clean.api)
    clean.api.post(f"/containers/{container}/start")
    phases = clean.api.get(f"/wherry/containers/{container}/timings")["Timings"]
    assert phases
    assert all(phase["DurationNs"] >= 0 and phase["StartNs"] >= 0 and phase["Phase"] for phase in phases)


def test_prune(clean):
    api = clean.api
    gone = create(api, "gone")
    stays = create(api, "stays")
    api.post(f"/containers/{stays}/start")
    result = api.post("/containers/prune")
    assert result["ContainersDeleted"] == [gone]
    assert [item["Id"] for item in api.get("/containers/json", all=1)] == [stays]
    assert api.call("POST", '/containers/prune?filters={"nonsense":{"x":true}}'.replace('"', "%22"))[0] == 400


def test_update(clean):
    api = clean.api
    container = create(api)
    assert api.post(f"/containers/{container}/update", {"Memory": 128 << 20, "RestartPolicy": {"Name": "no"}})["Warnings"] in ([], None)
    assert api.get(f"/containers/{container}/json")["HostConfig"]["Memory"] == 128 << 20
    assert api.call("POST", f"/containers/{container}/update", {"Memory": "x"})[0] == 400
