"""systemd as the maker of cgroups (--systemd-cgroup). Needs systemd as process 1: the testbed's profile of that name."""

import json
import os
import pathlib
import subprocess
import time

import pytest

pytestmark = pytest.mark.skipif(not os.path.isdir("/run/systemd/system"), reason="systemd is not process 1 here")


def properties(unit: str, *names: str) -> dict[str, str]:
    text = subprocess.run(["systemctl", "show", unit, *(f"-p{name}" for name in names)], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.fixture
def scoped(runtime, bundle):
    name = f"t{os.getpid()}x{time.monotonic_ns() % 10 ** 9}"
    bundle.linux["cgroupsPath"] = f"system.slice:wt:{name}"
    bundle.unit = f"wt-{name}.scope"
    yield bundle
    subprocess.run(["systemctl", "stop", bundle.unit], check=False, capture_output=True)


def start(runtime, bundle) -> str:
    bundle.write()
    identifier = runtime.new_id()
    with open(runtime.folder / f"{identifier}.out", "w") as out:
        done = runtime.command("--systemd-cgroup", "create", "-b", bundle.path, identifier, stdout=out, stderr=out)
    assert done.returncode == 0, runtime.log(identifier)
    runtime.command("start", identifier, check=True)
    return identifier


def test_scope(runtime, scoped):
    scoped.linux["resources"]["memory"] = {"limit": 64 << 20}
    scoped.linux["resources"]["pids"] = {"limit": 50}
    scoped.linux["resources"]["cpu"] = {"quota": 50000, "period": 100000}
    scoped.process["args"] = ["/bin/sleep", "1000"]
    identifier = start(runtime, scoped)
    pid = runtime.state(identifier)["pid"]
    shown = properties(scoped.unit, "ActiveState", "Slice", "Delegate", "TasksMax", "MemoryMax", "CPUQuotaPerSecUSec", "ControlGroup")
    assert shown["ActiveState"] == "active" and shown["Slice"] == "system.slice" and shown["Delegate"] == "yes"
    assert shown["TasksMax"] == "50" and shown["MemoryMax"] == str(64 << 20) and shown["CPUQuotaPerSecUSec"] == "500ms"
    assert shown["ControlGroup"] == f"/system.slice/{scoped.unit}"
    assert f"/system.slice/{scoped.unit}" in pathlib.Path(f"/proc/{pid}/cgroup").read_text()
    # The process that held the scope meanwhile has left it.
    assert json.loads(runtime.command("ps", "-f", "json", identifier, check=True).stdout) == [pid]
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        folder = pathlib.Path("/sys/fs/cgroup" + shown["ControlGroup"])
        assert (folder / "pids.max").read_text().strip() == "50" and (folder / "cpu.max").read_text().split() == ["50000", "100000"]
    runtime.command("update", "--pids-limit", "60", "--memory", "80M", identifier, check=True)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    shown = properties(scoped.unit, "TasksMax", "MemoryMax")
    assert shown == {"TasksMax": "60", "MemoryMax": str(80 << 20)}
    assert runtime.exec(identifier, "true").returncode == 0
    runtime.command("pause", identifier, check=True)
    assert runtime.state(identifier)["status"] == "paused"
    runtime.command("resume", identifier, check=True)
    runtime.command("delete", "-f", identifier, check=True)
    assert properties(scoped.unit, "ActiveState", "LoadState") == {"ActiveState": "inactive", "LoadState": "not-found"}
    assert not os.path.exists("/sys/fs/cgroup" + f"/system.slice/{scoped.unit}")


def test_run_and_failures(runtime, scoped):
    scoped.script("cat /proc/self/cgroup; exit 3").write()
    done = runtime.command("--systemd-cgroup", "run", "-b", scoped.path, runtime.new_id())
    assert done.returncode == 3, done
    assert properties(scoped.unit, "LoadState")["LoadState"] == "not-found"
    scoped.process["args"] = ["nosuchprogram"]
    scoped.write()
    assert runtime.command("--systemd-cgroup", "run", "-b", scoped.path, runtime.new_id()).returncode == 1
    assert properties(scoped.unit, "LoadState")["LoadState"] == "not-found"
    scoped.linux["cgroupsPath"] = "/not/for/systemd"
    scoped.write()
    done = runtime.command("--systemd-cgroup", "run", "-b", scoped.path, runtime.new_id())
    assert done.returncode == 1 and "slice:prefix:name" in done.stderr


def test_containers_survive_a_reload(runtime, scoped):
    scoped.linux["resources"]["pids"] = {"limit": 44}
    scoped.process["args"] = ["/bin/sleep", "1000"]
    identifier = start(runtime, scoped)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    done = runtime.exec(identifier, "sh", "-c", "cat /sys/fs/cgroup/pids.max; head -c 1 /dev/zero | wc -c; head -c 1 /dev/null | wc -c")
    assert done.returncode == 0 and done.stdout.split() == ["44", "1", "0"], done
