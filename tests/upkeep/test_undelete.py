"""rm keeps a container for a while: listing, restoring, accounting, expiry, prune, and a daemon killed in between."""

import json
import os
import time

import pytest

from support.api import ApiError
from support.crashes import LATE, start_to_crash

BUSYBOX = "busybox:latest"


def make(daemon, name, *command, **more):
    identifier = daemon.api.post(f"/containers/create?name={name}", {"Image": BUSYBOX, "Cmd": list(command) or ["true"], **more})["Id"]
    daemon.api.post(f"/containers/{identifier}/start")
    assert daemon.api.post(f"/containers/{identifier}/wait")["StatusCode"] == 0
    return identifier


def removed(daemon):
    return daemon.api.get("/wherry/removed")


def wait_for(what, timeout=15):
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def emptied(clean):
    clean.api.post("/containers/prune")
    yield clean
    clean.remove_all()
    clean.api.post("/containers/prune")


def test_comes_back_whole(emptied):
    daemon = emptied
    identifier = make(daemon, "precious", "sh", "-c", "echo work > /result; echo said", Env=["A=b"], Labels={"keep": "me"}, Volumes={"/data": {}})
    volume = daemon.api.get("/containers/precious/json")["Mounts"][0]["Name"]
    daemon.wherry("rm", "precious")
    assert daemon.containers() == [] and [one["Name"] for one in removed(daemon)] == ["precious"]
    listing = daemon.wherry("undelete").stdout
    assert identifier[:12] in listing and "precious" in listing and "in 9 minutes" in listing or "in 10 minutes" in listing
    assert daemon.wherry("undelete", "precious").stdout == "precious\n"
    back = daemon.api.get("/containers/precious/json")
    assert back["Id"] == identifier and back["State"]["Status"] == "exited" and back["Config"]["Labels"] == {"keep": "me"}
    assert back["Mounts"][0]["Name"] == volume and removed(daemon) == []
    assert daemon.wherry("logs", "precious").stdout == "said\n"
    daemon.api.post("/containers/precious/start")
    assert daemon.api.post("/containers/precious/wait")["StatusCode"] == 0
    assert daemon.wherry("cp", "precious:/result", "-").stdout.count("work") == 1
    daemon.wherry("rm", "-v", "precious")
    assert volume not in str(daemon.api.get("/volumes")["Volumes"])
    daemon.wherry("undelete", identifier[:10])  # the volume's content is gone, the container is not
    daemon.api.post("/containers/precious/start")


def test_names(emptied):
    daemon = emptied
    first = make(daemon, "same")
    daemon.api.delete("/containers/same")
    second = make(daemon, "same")
    daemon.api.delete("/containers/same")
    assert [one["Id"] for one in removed(daemon)] == [second, first]
    make(daemon, "same")
    with pytest.raises(ApiError) as taken:
        daemon.api.post("/wherry/removed/same/restore")
    assert taken.value.status == 409 and "already in use" in taken.value.message and len(removed(daemon)) == 2
    assert daemon.api.post("/wherry/removed/same/restore?name=other")["Id"] == second
    assert daemon.api.post(f"/wherry/removed/{first}/restore?name=third")["Id"] == first
    result = daemon.wherry("undelete", "nobody", check=False)
    assert result.returncode == 1 and "No such removed container: nobody" in result.stderr


def test_what_is_not_kept(emptied):
    daemon = emptied
    daemon.wherry("run", "--rm", BUSYBOX, "true")
    make(daemon, "gone")
    daemon.api.delete("/containers/gone", discard=1)
    make(daemon, "pruned")
    daemon.wherry("container", "prune", "-f")
    wait_for(lambda: removed(daemon) == [])
    assert not os.listdir(daemon.data_root / "removed")


def test_forced_removal_of_a_running_one(emptied):
    daemon = emptied
    daemon.wherry("run", "-d", "--name", "alive", BUSYBOX, "sh", "-c", "echo here > /file; sleep 1000")
    wait_for(lambda: "file" in daemon.wherry("exec", "alive", "ls", "/").stdout)
    daemon.wherry("rm", "-f", "alive")
    daemon.wherry("undelete", "alive")
    assert daemon.api.get("/containers/alive/json")["State"]["ExitCode"] == 137
    daemon.wherry("start", "alive")
    assert daemon.wherry("exec", "alive", "cat", "/file").stdout == "here\n"


def test_accounting_and_prune(emptied):
    daemon = emptied
    make(daemon, "big", "sh", "-c", "head -c 3000000 /dev/urandom > /big", Labels={"size": "big"})
    make(daemon, "small", "true")
    for name in ("big", "small"):
        daemon.api.delete(f"/containers/{name}")
    sizes = {one["Name"]: one["SizeRw"] for one in daemon.api.get("/system/df")["Removed"]}
    assert 3_000_000 <= sizes["big"] < 3_100_000 and sizes["small"] < 10_000
    table = daemon.wherry("system", "df").stdout
    assert "Removed Containers" in table and "3MB" in table
    assert "big" in daemon.wherry("system", "df", "-v").stdout
    answer = daemon.api.post("/containers/prune", filters={"label!": ["size"]})
    assert not answer["ContainersDeleted"] and [one["Name"] for one in removed(daemon)] == ["big"]
    assert 3_000_000 <= daemon.api.post("/containers/prune")["SpaceReclaimed"] < 3_100_000
    assert removed(daemon) == [] and "Removed Containers" not in daemon.wherry("system", "df").stdout


def test_layers_outlive_their_image(emptied):
    daemon = emptied
    daemon.import_busybox("short:latest")
    make(daemon, "orphan")
    identifier = daemon.api.post("/containers/create?name=lonely", {"Image": "short", "Cmd": ["echo", "still"]})["Id"]
    daemon.api.delete("/containers/lonely")
    daemon.api.delete("/images/short", force=1)
    daemon.wherry("undelete", "lonely")
    assert daemon.wherry("start", "-a", "lonely").stdout == "still\n"
    assert daemon.api.get("/containers/lonely/json")["Id"] == identifier


def test_expiry_and_reload(make_daemon, tmp_path):
    configuration = tmp_path / "daemon.json"
    configuration.write_text('{"undelete-period": "1h", "labels": ["a=b"]}')
    daemon = make_daemon("--config-file", str(configuration))
    daemon.import_busybox()
    make(daemon, "one")
    daemon.api.delete("/containers/one")
    assert len(removed(daemon)) == 1
    configuration.write_text('{"undelete-period": "1s"}')
    os.kill(daemon.pid, 1)
    wait_for(lambda: removed(daemon) == [])
    wait_for(lambda: not os.listdir(daemon.data_root / "removed"))
    make(daemon, "two")
    daemon.api.delete("/containers/two")
    assert len(removed(daemon)) == 1
    wait_for(lambda: removed(daemon) == [], 5)
    reloads = daemon.log_path.read_text().count("daemon.reloaded")
    configuration.write_text('{"undelete-period": "0"}')
    os.kill(daemon.pid, 1)
    wait_for(lambda: daemon.log_path.read_text().count("daemon.reloaded") > reloads)
    make(daemon, "three")
    daemon.api.delete("/containers/three")
    assert removed(daemon) == []


def test_reload(make_daemon, tmp_path):
    configuration = tmp_path / "daemon.json"
    configuration.write_text('{"labels": ["a=b"], "debug": false}')
    daemon = make_daemon("--config-file", str(configuration))
    info = daemon.api.get("/info")
    assert info["Labels"] == ["a=b"] and not info["Debug"]
    since = time.time()
    configuration.write_text('{"labels": ["c=d", "e=f"], "debug": true}')
    os.kill(daemon.pid, 1)
    wait_for(lambda: daemon.api.get("/info")["Labels"] == ["c=d", "e=f"])
    assert daemon.api.get("/info")["Debug"]
    event = json.loads(daemon.wherry("events", "--since", str(since - 1), "--until", str(time.time() + 0.2), "-f", "type=daemon", "--format", "json").stdout)
    assert event["Action"] == "reload" and event["Actor"]["Attributes"]["labels"] == '["c=d","e=f"]'
    # A file that is wrong changes nothing and ends nothing.
    configuration.write_text('{"labels": 5}')
    os.kill(daemon.pid, 1)
    wait_for(lambda: "daemon.reload_failed" in daemon.log())
    assert daemon.api.get("/info")["Labels"] == ["c=d", "e=f"]


@LATE
@pytest.mark.parametrize("point", ["remove.begin", "remove.written", "remove.keep", "undelete.moved", "undelete.written"])
def test_killed_at(own_daemon, point, late):
    daemon = own_daemon
    make(daemon, "target", "sh", "-c", "echo work > /result")
    daemon.stop()
    start_to_crash(daemon, point + late)
    with pytest.raises(Exception):  # noqa: B017 - the connection breaks
        daemon.api.delete("/containers/target")
        daemon.api.post("/wherry/removed/target/restore")
        time.sleep(5)
    daemon.process.wait(10)
    daemon.process = None
    daemon.start()
    there = [one["Names"][0] for one in daemon.containers()]
    kept = [one["Name"] for one in removed(daemon)]
    assert (there, kept) in (((["/target"], [])), ([], ["target"])), point
    if kept:
        daemon.wherry("undelete", "target")
    daemon.api.post("/containers/target/start")
    daemon.api.post("/containers/target/wait")
    assert "work" in daemon.wherry("cp", "target:/result", "-").stdout
    daemon.remove_all()
    daemon.api.post("/containers/prune")
    daemon.assert_clean()
    wait_for(lambda: not os.listdir(daemon.data_root / "removed"))
