"""Images, volumes, networks."""

import io
import json
import tarfile

import pytest
from support.images import busybox_rootfs, import_busybox, tar_of


def test_list_and_inspect(daemon):
    images = daemon.api.get("/images/json")
    image = next(image for image in images if "busybox:latest" in image["RepoTags"])
    assert set(image) >= {"Containers", "Created", "Id", "Labels", "ParentId", "RepoDigests", "RepoTags", "SharedSize", "Size"}
    assert image["Size"] > 100_000
    assert "VirtualSize" not in image
    assert daemon.api.get("/v1.41/images/json")[0]["VirtualSize"] > 100_000
    for reference in ("busybox", "busybox:latest", "docker.io/library/busybox:latest", image["Id"], image["Id"][7:19]):
        view = daemon.api.get(f"/images/{reference}/json")
        assert view["Id"] == image["Id"], reference
    assert view["Os"] == "linux"
    assert view["Architecture"] == "amd64"
    assert view["RootFS"]["Type"] == "layers"
    assert len(view["RootFS"]["Layers"]) == 1
    assert view["Config"]["Cmd"] == ["sh"]
    assert "PATH=/bin:/sbin:/usr/bin" in view["Config"]["Env"]
    assert set(view) >= {"Id", "RepoTags", "RepoDigests", "Parent", "Comment", "Created", "DockerVersion", "Author", "Config", "Architecture", "Os", "Size", "GraphDriver", "RootFS", "Metadata"}
    history = daemon.api.get("/images/busybox/history")
    assert set(history[0]) == {"Comment", "Created", "CreatedBy", "Id", "Size", "Tags"}
    assert history[0]["Tags"] == ["busybox:latest"]


def test_tag_and_remove(daemon):
    api = daemon.api
    assert api.call("POST", "/images/busybox/tag?repo=quay.io/some/where&tag=1.0") == (201, None)
    assert api.get("/images/quay.io/some/where:1.0/json")["Id"] == api.get("/images/busybox/json")["Id"]
    assert api.delete("/images/quay.io/some/where:1.0") == [{"Untagged": "quay.io/some/where:1.0"}]
    assert api.call("POST", "/images/busybox/tag?repo=UPPER")[0] == 400
    assert api.call("POST", "/images/busybox/tag?repo=")[0] == 400
    assert api.call("POST", "/images/absent/tag?repo=x")[0] == 404
    assert api.call("DELETE", "/images/absent")[0] == 404
    status, body = api.call("GET", "/images/absent:1/json")
    assert status == 404
    assert body["message"] == "No such image: absent:1"


def test_remove_of_a_used_image_is_a_conflict(own_daemon):
    api = own_daemon.api
    container = api.post("/containers/create", {"Image": "busybox"})["Id"]
    assert api.call("DELETE", "/images/busybox")[0] == 409
    api.delete(f"/containers/{container}")
    removed = api.delete("/images/busybox")
    assert {"Untagged": "busybox:latest"} in removed
    assert any("Deleted" in item for item in removed)
    assert api.get("/images/json") == []


def test_filters(daemon):
    api = daemon.api
    assert api.get("/images/json", filters={"reference": ["busy*"]})
    assert api.get("/images/json", filters={"reference": {"nothing": True}}) == []
    assert api.get("/images/json", filters={"dangling": ["true"]}) == []
    assert api.call("GET", "/images/json?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D")[0] == 400
    assert api.call("GET", "/images/json?filters=%7B%22dangling%22%3A%5B%22perhaps%22%5D%7D")[0] == 400


def test_import_answers_the_id(daemon):
    status, headers, body = daemon.api.request("POST", "/images/create?fromSrc=-&repo=imported&tag=1&message=hello", busybox_rootfs())
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    identifier = json.loads(body.splitlines()[-1])["status"]
    view = daemon.api.get("/images/imported:1/json")
    assert view["Id"] == identifier
    daemon.api.delete("/images/imported:1")


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ("fromSrc=-&repo=UPPER", tar_of({"a": b"x"}), 400),
        ("fromSrc=-&repo=x&changes=NONSENSE%20x", tar_of({"a": b"x"}), 400),
        ("fromSrc=-&repo=x", b"this is no tar, is it? " * 100, 400),
        ("fromSrc=http://127.0.0.1:1/x.tar", b"", 501),
        ("fromImage=127.0.0.1:1/busybox&tag=1", b"", 503),
        ("fromImage=UPPER", b"", 400),
        ("", b"", 400),
    ],
)
def test_wrong_imports(daemon, query, body, status):
    before = daemon.api.get("/images/json")
    got, answer = daemon.api.call("POST", "/images/create?" + query, body)
    assert got == status, answer
    assert answer["message"]
    assert daemon.api.get("/images/json") == before


def test_save_and_load_again(own_daemon):
    api = own_daemon.api
    identifier = api.get("/images/busybox/json")["Id"]
    status, headers, archive = api.request("GET", "/images/busybox/get")
    assert status == 200
    assert headers["Content-Type"] == "application/x-tar"
    names = tarfile.open(fileobj=io.BytesIO(archive)).getnames()
    assert "manifest.json" in names
    assert api.request("GET", "/images/get?names=busybox&names=busybox:latest")[0] == 200
    api.delete("/images/busybox?force=1")
    status, headers, body = api.request("POST", "/images/load?quiet=1", archive, headers={"Content-Type": "application/x-tar"})
    assert status == 200
    lines = [json.loads(line) for line in body.splitlines()]
    assert {"stream": "Loaded image: busybox:latest\n"} in lines
    assert api.get("/images/busybox/json")["Id"] == identifier


def test_wrong_archives(daemon):
    api = daemon.api
    assert api.call("GET", "/images/absent/get")[0] == 404
    assert api.call("GET", "/images/get")[0] == 400
    assert api.call("POST", "/images/load")[0] == 400
    before = api.get("/images/json")
    for archive in (b"nonsense" * 1000, tar_of({"a": b"x"}), tar_of({"manifest.json": b"{"}), tar_of({"manifest.json": b'[{"Config":"../../etc/passwd","Layers":[]}]'})):
        status, body = api.call("POST", "/images/load", archive)
        text = body if isinstance(body, dict) else {}
        assert status == 400 or "error" in text, body
    assert api.get("/images/json") == before


def test_an_upload_that_breaks_off_leaves_nothing(daemon):
    import socket

    before = daemon.api.get("/images/json")
    for _ in range(3):
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(str(daemon.socket))
        stream.sendall(b"POST /images/create?fromSrc=-&repo=broken HTTP/1.1\r\nHost: d\r\nContent-Length: 1000000\r\n\r\n" + busybox_rootfs()[:200_000])
        stream.close()
    import time

    time.sleep(0.5)
    assert daemon.api.get("/images/json") == before


def test_volumes(clean):
    api = clean.api
    status, volume = api.call("POST", "/volumes/create", {"Name": "data", "Labels": {"a": "b"}})
    assert status == 201
    assert set(volume) >= {"CreatedAt", "Driver", "Labels", "Mountpoint", "Name", "Options", "Scope"}
    assert volume["Name"] == "data"
    assert volume["Labels"] == {"a": "b"}
    assert api.call("POST", "/volumes/create", {"Name": "data"})[0] == 201
    assert api.get("/volumes/data")["Mountpoint"] == volume["Mountpoint"]
    listed = api.get("/volumes")
    assert [item["Name"] for item in listed["Volumes"]] == ["data"]
    assert listed["Warnings"] is None
    container = api.post("/containers/create", {"Image": "busybox", "HostConfig": {"Binds": ["data:/data"]}})["Id"]
    assert api.call("DELETE", "/volumes/data")[0] == 409
    api.delete(f"/containers/{container}")
    anonymous = api.post("/volumes/create", {})["Name"]
    assert len(anonymous) == 64
    assert anonymous in api.post("/volumes/prune")["VolumesDeleted"]
    assert api.call("DELETE", "/volumes/data") == (204, None)
    assert api.call("DELETE", "/volumes/data")[0] == 404
    assert api.call("GET", "/volumes/data")[0] == 404
    for body in ({"Name": "../x"}, {"Name": "a/b"}, {"Name": 3}, {"Name": "okay", "Driver": "nonsense"}):
        assert api.call("POST", "/volumes/create", body)[0] in (400, 404), body
    assert api.get("/volumes")["Volumes"] == []


def test_networks(daemon):
    api = daemon.api
    networks = {network["Name"]: network for network in api.get("/networks")}
    assert set(networks) == {"bridge", "host", "none"}
    assert networks["none"]["Driver"] == "null"
    bridge = api.get("/networks/bridge")
    assert set(bridge) >= {"Name", "Id", "Created", "Scope", "Driver", "EnableIPv6", "IPAM", "Internal", "Attachable", "Ingress", "ConfigFrom", "ConfigOnly", "Containers", "Options", "Labels"}
    assert bridge["IPAM"]["Config"][0]["Subnet"] == daemon.subnet.cidr.replace(".1/", ".0/")
    assert api.get(f"/networks/{bridge['Id'][:12]}")["Name"] == "bridge"
    assert api.call("GET", "/networks/absent")[0] == 404
    assert api.call("DELETE", "/networks/bridge")[0] == 403
    assert api.call("POST", "/networks/create", {"Name": ""})[0] == 400
    assert [n["Name"] for n in api.get("/networks", filters={"name": ["host"]})] == ["host"]


def test_ports_and_addresses_of_a_bridged_one(clean):
    api = clean.api
    container = api.post(
        "/containers/create",
        {"Image": "busybox", "Cmd": ["sleep", "1000"], "ExposedPorts": {"80/tcp": {}, "81/udp": {}}, "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}},
    )["Id"]
    api.post(f"/containers/{container}/start")
    view = api.get(f"/containers/{container}/json")["NetworkSettings"]
    binding = view["Ports"]["80/tcp"][0]
    assert binding["HostIp"] == "127.0.0.1"
    assert int(binding["HostPort"]) > 0
    assert view["Ports"]["81/udp"] is None
    assert view["IPAddress"] == view["Networks"]["bridge"]["IPAddress"] != ""
    assert view["Gateway"] == daemon_gateway(clean)
    item = api.get("/containers/json")[0]
    assert {"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": int(binding["HostPort"]), "Type": "tcp"} in item["Ports"]
    assert {"PrivatePort": 81, "Type": "udp"} in item["Ports"]
    attached = api.get("/networks/bridge")["Containers"]
    assert container in attached
    assert attached[container]["IPv4Address"].startswith(view["IPAddress"] + "/")


def daemon_gateway(daemon) -> str:
    return daemon.subnet.cidr.split("/")[0]


def test_reference_of_a_digest_and_odd_paths(daemon):
    import_busybox(daemon.api, "quay.io/deep/er/name:tag.1")
    assert daemon.api.get("/images/quay.io/deep/er/name:tag.1/json")["RepoTags"].count("quay.io/deep/er/name:tag.1") == 1
    assert daemon.api.get("/images/quay.io%2Fdeep%2Fer%2Fname%3Atag.1/json")
    daemon.api.delete("/images/quay.io/deep/er/name:tag.1")
