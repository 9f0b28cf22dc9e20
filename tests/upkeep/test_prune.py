"""prune of everything with its filters, and what system df says before and after."""

import json
import time

import pytest

from support.api import ApiError
from support.docker_clis import cli

BUSYBOX = "busybox:latest"


def created(daemon, name, **more):
    return daemon.api.post(f"/containers/create?name={name}", {"Image": BUSYBOX, "Cmd": ["sleep", "1000"], **more})["Id"]


def names(daemon):
    return sorted(one["Names"][0][1:] for one in daemon.containers())


def test_containers(clean):
    for name, labels in (("plain", {}), ("one", {"a": "1"}), ("two", {"a": "2"})):
        created(clean, name, Labels=labels)
    clean.api.post("/containers/" + created(clean, "runs") + "/start")
    assert clean.api.post("/containers/prune", filters={"until": {"10m": True}})["ContainersDeleted"] is None
    assert clean.api.post("/containers/prune", filters={"until": ["2001-02-03"]})["ContainersDeleted"] is None
    assert len(clean.api.post("/containers/prune", filters={"label": {"a=1": True}})["ContainersDeleted"]) == 1
    assert len(clean.api.post("/containers/prune", filters={"label!": ["a"]})["ContainersDeleted"]) == 1
    assert names(clean) == ["runs", "two"]
    for filters in ({"name": ["x"]}, {"until": ["yesterday"]}, {"until": ["99999999999999999h"]}, "[", {"until": "10m"}):
        with pytest.raises(ApiError) as refused:
            clean.api.post("/containers/prune", filters=filters)
        assert refused.value.status == 400
    assert clean.wherry("container", "prune", "-f").stdout.startswith("Deleted Containers:\n")
    assert names(clean) == ["runs"]


def test_images_count_only_what_goes(clean):
    clean.import_busybox("base:latest")
    size = clean.api.get("/images/base/json")["Size"]
    # Two images of one layer: what the first shares with the second does not come back.
    clean.import_busybox("again:latest", changes=['CMD ["true"]', "LABEL kind=copy"])
    before = clean.api.get("/system/df")
    shared = {tag: image["SharedSize"] for image in before["Images"] for tag in image["RepoTags"] or []}
    assert shared["base:latest"] == shared["again:latest"] == size
    assert before["LayersSize"] < 2 * size, "a layer is counted once"
    assert sum(image["Containers"] for image in before["Images"]) == len(before["Containers"])
    assert not clean.api.post("/images/prune")["ImagesDeleted"]
    assert not clean.api.post("/images/prune", filters={"dangling": ["false"], "label": ["kind=other"]})["ImagesDeleted"]
    answer = clean.api.post("/images/prune", filters={"dangling": ["false"], "label": ["kind=copy"]})
    assert {"Untagged": "again:latest"} in answer["ImagesDeleted"] and any("Deleted" in one for one in answer["ImagesDeleted"])
    assert answer["SpaceReclaimed"] == 0
    with pytest.raises(ApiError):
        clean.api.post("/images/prune", filters={"dangling": ["perhaps"]})
    clean.api.delete("/images/base:latest")


def test_dangling_images(clean):
    clean.import_busybox("moves:latest", changes=["LABEL v=1"])
    clean.import_busybox("moves:latest", changes=["LABEL v=2"])
    assert len(clean.api.get("/images/json", filters={"dangling": ["true"]})) == 1
    answer = clean.api.post("/images/prune", filters={"dangling": {"true": True}})
    assert [one for one in answer["ImagesDeleted"] if "Deleted" in one]
    assert clean.api.get("/images/json", filters={"dangling": ["true"]}) == []
    clean.api.delete("/images/moves:latest")


def test_volumes(clean):
    for name, labels in (("named", {}), ("labelled", {"keep": "yes"})):
        clean.api.post("/volumes/create", {"Name": name, "Labels": labels})
    anonymous = clean.api.post("/volumes/create", {})["Name"]
    created(clean, "user", HostConfig={"Binds": ["used:/data"]})
    assert clean.api.post("/volumes/prune")["VolumesDeleted"] == [anonymous]
    assert clean.api.post("/volumes/prune", filters={"all": ["true"], "label!": ["keep"]})["VolumesDeleted"] == ["named"]
    assert clean.api.post("/volumes/prune", filters={"all": ["true"], "label": ["keep=no"]})["VolumesDeleted"] == []
    assert clean.api.post("/volumes/prune", filters={"all": ["true"]})["VolumesDeleted"] == ["labelled"]
    assert [one["Name"] for one in clean.api.get("/volumes")["Volumes"]] == ["used"]
    clean.remove_all()
    clean.api.delete("/volumes/used")


def test_system(clean):
    clean.api.post("/containers/" + created(clean, "writes", Cmd=["sh", "-c", "head -c 1000000 /dev/zero > /a; sleep 1000"], Volumes={"/v": {}}) + "/start")
    clean.wherry("exec", "writes", "sh", "-c", "until [ $(stat -c %s /a 2>/dev/null || echo 0) -ge 1000000 ]; do :; done; head -c 2000 /dev/zero > /v/b")
    df = clean.api.get("/system/df")
    assert 1_000_000 <= df["Containers"][0]["SizeRw"] < 1_010_000
    assert df["Volumes"][0]["UsageData"] == {"RefCount": 1, "Size": 2000}
    assert clean.api.get("/system/df", type="volume")["Containers"] is None
    verbose = clean.wherry("system", "df", "-v").stdout
    for heading in ("SHARED SIZE", "UNIQUE SIZE", "LOCAL VOLUMES", "Local Volumes space usage:", "Build cache usage: 0B"):
        assert heading in verbose
    rows = {row["Type"]: row for row in map(json.loads, clean.wherry("system", "df", "--format", "json").stdout.splitlines())}
    assert rows["Containers"]["Active"] == "1" and rows["Containers"]["Reclaimable"].startswith("0B")
    clean.api.post("/containers/writes/kill")
    output = clean.wherry("system", "prune", "-f", "--volumes").stdout
    assert "Deleted Containers:" in output and "Deleted Volumes:" in output and "Total reclaimed space: 1." in output
    assert names(clean) == [] and not clean.api.get("/volumes")["Volumes"]
    assert clean.wherry("network", "prune", "-f").returncode == 0


@pytest.mark.parametrize("which", ["installed", "debian"])
def test_stock_cli(clean, which):
    program = cli(which)
    created(clean, "stopped")
    assert "Deleted Containers" in clean.docker("container", "prune", "-f", program=program).stdout
    created(clean, "another", Volumes={"/v": {}})
    table = clean.docker("system", "df", "--format", "{{.Type}} {{.TotalCount}}", program=program).stdout.splitlines()
    assert table[:3] == ["Images 1", "Containers 1", "Local Volumes 1"]
    assert "Local Volumes space usage" in clean.docker("system", "df", "-v", program=program).stdout
    output = clean.docker("system", "prune", "-f", "--volumes", program=program).stdout
    assert "Deleted Containers" in output and "Deleted Volumes" in output and "Total reclaimed space: 0B" in output
    assert names(clean) == []


def test_events_by_every_filter(clean):
    since = time.time()
    identifier = created(clean, "noted", Labels={"team": "red"}, HostConfig={"Binds": ["noted-volume:/v"]})
    clean.api.post(f"/containers/{identifier}/start")
    clean.wherry("exec", "noted", "true")
    clean.api.post(f"/containers/{identifier}/kill")
    clean.api.post(f"/containers/{identifier}/wait")
    clean.api.delete(f"/containers/{identifier}")
    clean.api.delete("/volumes/noted-volume")
    until = time.time() + 0.3

    def seen(**filters):
        raw = clean.api.ok("GET", "/events", since=f"{since:.6f}", until=f"{until:.6f}", filters={key: value if isinstance(value, list) else [value] for key, value in filters.items()})
        text = raw.decode() if isinstance(raw, bytes) else json.dumps(raw) if raw else ""
        return [f"{event['Type']} {event['Action']}" for event in map(json.loads, filter(None, text.splitlines()))]

    everything = seen()
    for wanted in ("container create", "container start", "container exec_start: true", "container die", "container destroy", "volume create", "volume destroy",
                   "network connect", "network disconnect"):
        assert wanted in everything
    assert seen(type="volume") == ["volume create", "volume destroy"]
    assert seen(event=["start", "die"]) == ["container start", "container die"]
    assert seen(event="exec_start") == ["container exec_start: true"]
    assert "container die" in seen(container="noted") and "container die" in seen(container=identifier[:12])
    assert set(one.split()[0] for one in seen(label="team=red")) == {"container"} and seen(label="team=blue") == []
    assert "container start" in seen(image="busybox") and "container start" in seen(image=BUSYBOX) and seen(image="other") == []
    assert "volume create" in seen(volume="noted-volume")
    assert seen(network="bridge", type="network") == ["network connect", "network disconnect"]
    assert seen(scope="local") == everything and seen(scope="swarm") == []
    with pytest.raises(ApiError):
        seen(colour="red")
    assert clean.api.ok("GET", "/events", since=f"{since - 100:.3f}", until=f"{since - 50:.3f}") is None
