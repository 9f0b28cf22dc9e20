"""Health checks: states, events, log, timing, and a daemon that is killed in between."""

import json
import threading
import time

import pytest

from support.api import ApiError

BUSYBOX = "busybox:latest"
SECOND = 1_000_000_000


def create(daemon, name, test, *, command=("sleep", "1000"), start=True, **check):
    health = {"Test": test, "Interval": SECOND // 10, "Timeout": 5 * SECOND, "Retries": 2, **check}
    identifier = daemon.api.post(f"/containers/create?name={name}", {"Image": BUSYBOX, "Cmd": list(command), "Healthcheck": health})["Id"]
    if start:
        daemon.api.post(f"/containers/{identifier}/start")
    return identifier


def health(daemon, name):
    return daemon.api.get(f"/containers/{name}/json")["State"].get("Health")


def wait_for(what, timeout=15):
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_becomes_healthy_and_unhealthy(clean):
    daemon = clean
    since = time.time()
    identifier = create(daemon, "moody", ["CMD-SHELL", "echo state; test ! -e /tmp/broken || { echo broken >&2; exit 7; }"])
    assert health(daemon, "moody")["Status"] in ("starting", "healthy")
    wait_for(lambda: health(daemon, "moody")["Status"] == "healthy")
    assert "(healthy)" in daemon.wherry("ps").stdout
    assert daemon.wherry("ps", "-q", "-f", "health=healthy").stdout.strip() == identifier[:12]
    daemon.wherry("exec", "moody", "touch", "/tmp/broken")
    wait_for(lambda: health(daemon, "moody")["Status"] == "unhealthy")
    now = health(daemon, "moody")
    assert now["FailingStreak"] >= 2 and 1 <= len(now["Log"]) <= 5
    assert now["Log"][-1]["ExitCode"] == 7 and now["Log"][-1]["Output"] == "state\nbroken\n"
    assert now["Log"][-1]["Start"] <= now["Log"][-1]["End"]
    assert "health check fails (exit code 7: state)" in daemon.wherry("why", "moody").stdout
    wait_for(lambda: len(health(daemon, "moody")["Log"]) == 5)
    daemon.wherry("exec", "moody", "rm", "/tmp/broken")
    wait_for(lambda: health(daemon, "moody")["Status"] == "healthy")
    assert health(daemon, "moody")["FailingStreak"] == 0
    events = [json.loads(line)["Action"] for line in daemon.wherry(
        "events", "--since", str(since - 1), "--until", str(time.time() + 0.1), "--filter", "event=health_status", "--format", "json").stdout.splitlines()]
    assert events == ["health_status: healthy", "health_status: unhealthy", "health_status: healthy"]
    daemon.api.post("/containers/moody/kill")
    assert health(daemon, "moody")["Status"] == "unhealthy"
    daemon.api.post("/containers/moody/start")
    wait_for(lambda: health(daemon, "moody")["Status"] == "healthy")


def test_start_period(clean):
    create(clean, "slow", ["CMD", "false"], StartPeriod=4 * SECOND, StartInterval=SECOND // 20, Interval=SECOND // 20, Retries=1)
    wait_for(lambda: len(health(clean, "slow")["Log"]) >= 3)
    now = health(clean, "slow")
    assert (now["Status"], now["FailingStreak"]) == ("starting", 0)
    assert "(health: starting)" in clean.wherry("ps").stdout
    wait_for(lambda: health(clean, "slow")["Status"] == "unhealthy")


def test_timeout(clean):
    create(clean, "hangs", ["CMD-SHELL", "echo waiting; sleep 60"], Timeout=SECOND // 4, Retries=1)
    wait_for(lambda: health(clean, "hangs")["Status"] == "unhealthy")
    first = health(clean, "hangs")["Log"][0]
    assert first["ExitCode"] == -1 and first["Output"].startswith("Health check exceeded timeout (250ms)")
    # What it said is kept; a probe may have had no turn to say it within the time.
    wait_for(lambda: any("waiting" in one["Output"] for one in health(clean, "hangs")["Log"]))
    wait_for(lambda: health(clean, "hangs")["FailingStreak"] >= 3)
    assert clean.wherry("exec", "hangs", "ps").stdout.count("sleep 60") <= 4  # children of killed shells aside


def test_odd_probes(clean):
    create(clean, "missing", ["CMD", "/no/such/program"], Retries=1)
    create(clean, "loud", ["CMD-SHELL", "printf '\\377\\376'; yes | head -c 100000"])
    create(clean, "none", ["NONE"])
    create(clean, "many", ["CMD-SHELL", "for i in 1 2 3; do (sleep 0.2 &) ; done"])
    wait_for(lambda: health(clean, "missing")["Status"] == "unhealthy")
    assert health(clean, "missing")["Log"][-1]["ExitCode"] != 0
    wait_for(lambda: health(clean, "loud")["Status"] == "healthy")
    output = health(clean, "loud")["Log"][-1]["Output"]
    assert output.startswith("\ufffd\ufffdy\ny\n") and len(output) <= 4096
    assert health(clean, "none") is None and "health" not in clean.wherry("ps", "-f", "name=none").stdout
    wait_for(lambda: health(clean, "many")["Status"] == "healthy")


def test_from_the_image_and_switched_off(clean):
    with pytest.raises(ApiError) as refused:
        create(clean, "fast", ["CMD", "true"], Interval=5)
    assert refused.value.message == "Interval in Healthcheck cannot be less than 1ms"
    clean.import_busybox("checked:latest", changes=["HEALTHCHECK --interval=100ms --retries=1 CMD test -e /bin/busybox"])
    clean.wherry("run", "-d", "--name", "image", "checked", "sleep", "1000")
    wait_for(lambda: health(clean, "image")["Status"] == "healthy")
    clean.wherry("run", "-d", "--name", "own", "--health-cmd", "false", "checked", "sleep", "1000")
    wait_for(lambda: health(clean, "own")["Status"] == "unhealthy")
    clean.wherry("run", "-d", "--name", "off", "--no-healthcheck", "checked", "sleep", "1000")
    assert health(clean, "off") is None
    clean.remove_all()
    clean.api.delete("/images/checked:latest")


def test_paused_containers_are_not_probed(clean):
    create(clean, "still", ["CMD", "true"])
    wait_for(lambda: health(clean, "still")["Status"] == "healthy")
    clean.api.post("/containers/still/pause")
    time.sleep(0.3)
    before = health(clean, "still")["Log"][-1]["End"]
    time.sleep(0.5)
    assert health(clean, "still")["Log"][-1]["End"] == before
    clean.api.post("/containers/still/unpause")
    wait_for(lambda: health(clean, "still")["Log"][-1]["End"] > before)


def test_a_killed_daemon_goes_on(own_daemon):
    daemon = own_daemon
    create(daemon, "good", ["CMD", "true"])
    create(daemon, "bad", ["CMD-SHELL", "echo no; exit 1"])
    create(daemon, "during", ["CMD-SHELL", "sleep 3"], Interval=SECOND // 50)
    wait_for(lambda: health(daemon, "bad")["Status"] == "unhealthy" and health(daemon, "good")["Status"] == "healthy")
    before = health(daemon, "bad")
    daemon.kill()
    daemon.start()
    after = health(daemon, "bad")
    assert after["Status"] == "unhealthy" and after["FailingStreak"] >= before["FailingStreak"] - 1 and after["Log"]
    assert health(daemon, "good")["Status"] == "healthy"
    last = health(daemon, "good")["Log"][-1]["End"]
    wait_for(lambda: health(daemon, "good")["Log"][-1]["End"] > last)
    # What the last daemon's probe left running is ended; it is nobody's exec.
    assert not daemon.api.get("/containers/during/json")["ExecIDs"]
    wait_for(lambda: daemon.wherry("exec", "during", "ps").stdout.count("sleep 3") <= 2)


def test_restarting_containers_start_over(clean):
    identifier = clean.api.post("/containers/create?name=again", {
        "Image": BUSYBOX, "Cmd": ["sleep", "0.6"], "HostConfig": {"RestartPolicy": {"Name": "always"}},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": SECOND // 10}})["Id"]
    seen = set()
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            seen.add(clean.api.get(f"/containers/{identifier}/json")["State"]["Health"]["Status"])
            time.sleep(0.01)

    clean.api.post(f"/containers/{identifier}/start")
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        wait_for(lambda: clean.api.get(f"/containers/{identifier}/json")["RestartCount"] >= 2 and {"starting", "healthy"} <= seen)
    finally:
        stop.set()
        watcher.join()
