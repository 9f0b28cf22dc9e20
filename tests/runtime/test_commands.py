"""The commands beside the life cycle, and runc's flags: what engines call a runtime with."""

import array
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from support.runtime import is_ours


def sleeping(runtime, bundle, *options) -> str:
    bundle.process["args"] = ["/bin/sleep", "1000"]
    return runtime.start(bundle, *options)


def test_list(runtime, bundle):
    first = sleeping(runtime, bundle)
    second = runtime.create(bundle)
    entries = {entry["id"]: entry for entry in json.loads(runtime.command("list", "--format", "json", check=True).stdout)}
    assert set(entries) == {first, second}
    assert entries[first]["status"] == "running" and entries[second]["status"] == "created"
    assert entries[first]["pid"] == runtime.state(first)["pid"] and entries[first]["bundle"] == str(bundle.path)
    assert sorted(runtime.command("list", "-q", check=True).stdout.split()) == sorted([first, second])
    table = runtime.command("list", check=True).stdout.splitlines()
    assert table[0].split()[:4] == ["ID", "PID", "STATUS", "BUNDLE"] and len(table) == 3
    assert runtime.command("list", "--format", "nonsense").returncode != 0


def test_list_of_nothing(runtime):
    assert runtime.command("list", "-q", check=True).stdout.split() == []
    assert json.loads(runtime.command("list", "--format", "json", check=True).stdout) in (None, [])


def test_ps(runtime, bundle):
    identifier = sleeping(runtime, bundle)
    pid = runtime.state(identifier)["pid"]
    assert json.loads(runtime.command("ps", "--format", "json", identifier, check=True).stdout) == [pid]
    other = subprocess.Popen([runtime.binary, "--root", runtime.root, "exec", identifier, "cat"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    other.stdin.write(b"x\n")
    other.stdin.flush()
    assert other.stdout.readline() == b"x\n"
    assert len(json.loads(runtime.command("ps", "-f", "json", identifier, check=True).stdout)) == 2
    lines = runtime.command("ps", identifier, check=True).stdout.splitlines()
    assert lines[0].split()[:3] == ["UID", "PID", "PPID"] and any(str(pid) in line.split() and "sleep 1000" in line for line in lines)
    other.stdin.close()
    assert other.wait(10) == 0
    assert runtime.command("ps", "nobody").returncode != 0


def test_pause_and_resume(runtime, bundle):
    bundle.script("i=0; while :; do echo $i > /tmp/count; i=$((i+1)); done")
    identifier = runtime.start(bundle)
    count = bundle.rootfs / "tmp/count"
    deadline = time.monotonic() + 20
    while not count.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    runtime.command("pause", identifier, check=True)
    assert runtime.state(identifier)["status"] == "paused"
    assert runtime.command("pause", identifier).returncode != 0
    stopped_at = count.read_text()
    time.sleep(0.2)
    assert count.read_text() == stopped_at
    done = runtime.exec(identifier, "true")
    assert done.returncode != 0 and "paused" in done.stderr
    assert runtime.command("delete", identifier).returncode != 0
    runtime.command("resume", identifier, check=True)
    assert runtime.state(identifier)["status"] == "running"
    deadline = time.monotonic() + 20
    while count.read_text() == stopped_at:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert runtime.command("resume", identifier).returncode != 0


def test_delete_of_a_paused_container(runtime, bundle):
    identifier = sleeping(runtime, bundle)
    runtime.command("pause", identifier, check=True)
    runtime.command("delete", "-f", identifier, check=True)
    assert runtime.command("state", identifier).returncode != 0


def limits_of(runtime, identifier: str, v1: str, v2: str) -> str:
    pid = runtime.state(identifier)["pid"]
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for base, name in ((f"/sys/fs/cgroup/{controllers}", v1), ("/sys/fs/cgroup", v2), ("/sys/fs/cgroup/unified", v2)):
            file = pathlib.Path(base + path) / name
            if file.exists() and (controllers.split(",")[0] == name.split(".")[0] or not controllers):
                return file.read_text().strip()
    raise AssertionError(f"no {v1}")


def test_update_by_flags(runtime, bundle):
    identifier = sleeping(runtime, bundle)
    runtime.command("update", "--memory", "64M", "--memory-swap", "128M", "--pids-limit", "50", "--cpu-share", "512", identifier, check=True)
    assert limits_of(runtime, identifier, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert limits_of(runtime, identifier, "pids.max", "pids.max") == "50"
    assert limits_of(runtime, identifier, "cpu.shares", "cpu.weight") in ("512", "59", "20", "50")
    assert runtime.command("update", "--memory", "lots", identifier).returncode != 0


def test_update_by_document(runtime, bundle):
    identifier = sleeping(runtime, bundle)
    resources = {"memory": {"limit": 100 << 20}, "pids": {"limit": 33}, "cpu": {"quota": 20000, "period": 100000}}
    runtime.command("update", "--resources", "-", identifier, check=True, stdin=None, input=json.dumps(resources))
    assert limits_of(runtime, identifier, "memory.limit_in_bytes", "memory.max") == str(100 << 20)
    assert limits_of(runtime, identifier, "pids.max", "pids.max") == "33"
    file = bundle.path / "resources.json"
    file.write_text(json.dumps({"pids": {"limit": 34}}))
    runtime.command("update", "-r", file, identifier, check=True)
    assert limits_of(runtime, identifier, "pids.max", "pids.max") == "34"
    file.write_text("{")
    assert runtime.command("update", "-r", file, identifier).returncode != 0


def test_events(runtime, bundle):
    identifier = sleeping(runtime, bundle)
    event = json.loads(runtime.command("events", "--stats", identifier, check=True).stdout)
    assert event["type"] == "stats" and event["id"] == identifier
    assert event["data"]["pids"]["current"] >= 1 and event["data"]["memory"]["usage"]["usage"] > 0
    assert event["data"]["cpu"]["usage"]["total"] > 0
    stream = subprocess.Popen([runtime.binary, "--root", runtime.root, "events", "--interval", "50ms", identifier],
                              stdout=subprocess.PIPE, text=True)
    assert json.loads(stream.stdout.readline())["type"] == "stats" and json.loads(stream.stdout.readline())["type"] == "stats"
    # It ends with the container.
    runtime.command("kill", identifier, "KILL", check=True)
    if is_ours():
        assert stream.wait(20) == 0
    else:
        stream.terminate()
        stream.wait(20)
    stream.stdout.close()
    assert runtime.command("events", "--interval", "0s", identifier).returncode != 0


def test_events_tell_of_lack_of_memory(runtime, bundle):
    bundle.linux["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    bundle.script("while [ ! -e /tmp/go ]; do sleep 0.05; done; dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 1000")
    identifier = runtime.start(bundle)
    stream = subprocess.Popen([runtime.binary, "--root", runtime.root, "events", "--interval", "100ms", identifier],
                              stdout=subprocess.PIPE, text=True)
    assert json.loads(stream.stdout.readline())["type"] == "stats"
    (bundle.rootfs / "tmp/go").touch()
    deadline = time.monotonic() + 30
    while json.loads(stream.stdout.readline())["type"] != "oom":
        assert time.monotonic() < deadline
    runtime.command("kill", identifier, "KILL", check=True)
    stream.terminate()
    stream.wait(20)
    stream.stdout.close()


def test_features(runtime):
    done = runtime.command("features")
    if done.returncode != 0 and not is_ours():
        pytest.skip("this runtime has no features command")
    features = json.loads(done.stdout)
    assert features["ociVersionMin"].startswith("1.0") and features["ociVersionMax"].startswith("1.")
    assert {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"} == set(features["hooks"])
    assert {"mount", "network", "pid", "user", "uts", "ipc"} <= set(features["linux"]["namespaces"])
    assert {"CAP_SYS_ADMIN", "CAP_BPF"} <= set(features["linux"]["capabilities"])
    assert {"ro", "rbind", "rprivate"} <= set(features["mountOptions"])
    assert features["linux"]["seccomp"]["enabled"] and "SCMP_ACT_ERRNO" in features["linux"]["seccomp"]["actions"]
    if is_ours():
        assert features["linux"]["intelRdt"] == {"enabled": True}


def test_spec(runtime):
    folder = runtime.folder / "spec"
    folder.mkdir()
    runtime.command("spec", "-b", folder, check=True)
    config = json.loads((folder / "config.json").read_text())
    assert config["ociVersion"].startswith("1.") and config["root"]["path"] == "rootfs" and config["process"]["args"] == ["sh"]
    assert runtime.command("spec", "-b", folder).returncode != 0  # never over one that is there
    (folder / "config.json").unlink()
    runtime.command("spec", "--rootless", "-b", folder, check=True)
    config = json.loads((folder / "config.json").read_text())
    assert "user" in [entry["type"] for entry in config["linux"]["namespaces"]]
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 0, "size": 1}]


def test_kill_all(runtime, bundle):
    # Without a pid namespace of its own a container's other processes outlive the first.
    bundle.drop_namespace("pid")
    bundle.script("sleep 1000 & sleep 1000 & echo up; wait")
    identifier = runtime.start(bundle)
    deadline = time.monotonic() + 20
    while "up" not in runtime.log(identifier):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pids = json.loads(runtime.command("ps", "--format", "json", identifier, check=True).stdout)
    assert len(pids) == 3
    runtime.command("kill", "--all", identifier, "KILL", check=True)
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().rsplit(") ")[1][0] != "Z" for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_kill_without_a_signal_is_term(runtime, bundle):
    bundle.script("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    identifier = runtime.start(bundle)
    deadline = time.monotonic() + 20
    while "ready" not in runtime.log(identifier):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    runtime.command("kill", identifier, check=True)
    runtime.wait_for(identifier, "stopped")
    assert "not running" in runtime.command("kill", identifier).stderr


def test_exec_of_a_process_document(runtime, bundle):
    identifier = sleeping(runtime, bundle)
    process = {**bundle.process, "args": ["/bin/sh", "-c", "id -u; pwd; echo $A; exit 4"], "cwd": "/tmp", "env": ["PATH=/bin", "A=b"],
               "user": {"uid": 1000, "gid": 1000}, "terminal": False}
    file = bundle.path / "process.json"
    file.write_text(json.dumps(process))
    pid_file = bundle.path / "exec.pid"
    done = runtime.command("exec", "--process", file, "--pid-file", pid_file, identifier)
    assert (done.stdout, done.returncode) == ("1000\n/tmp\nb\n", 4), done.stderr
    assert int(pid_file.read_text()) > 0
    process["args"] = ["/bin/sleep", "1000"]
    file.write_text(json.dumps(process))
    runtime.command("exec", "-d", "--process", file, "--pid-file", pid_file, identifier, check=True, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL)
    pid = int(pid_file.read_text())
    assert open(f"/proc/{pid}/cmdline", "rb").read() == b"/bin/sleep\x001000\x00"
    os.kill(pid, signal.SIGKILL)


def test_exec_flags(runtime, bundle):
    identifier = sleeping(runtime, bundle)
    status = runtime.command("exec", "--cap", "CAP_NET_ADMIN", "--no-new-privs", "-g", "4242", identifier, "cat", "/proc/self/status", check=True).stdout
    assert "NoNewPrivs:\t1" in status and "4242" in next(line for line in status.splitlines() if line.startswith("Groups"))
    bounding = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd")), 16)
    assert bounding >> 12 & 1
    # The options end with the container's name: what follows belongs to the program.
    assert runtime.exec(identifier, "echo", "--help", "-t").stdout == "--help -t\n"


def test_preserved_descriptors(runtime, bundle):
    bundle.script("cat <&3; ls /proc/self/fd | wc -l")
    read, write = os.pipe()
    os.write(write, b"from outside\n")
    os.close(write)
    done = runtime.run(bundle, "--preserve-fds", "1", pass_fds=(3,), preexec_fn=lambda: os.dup2(read, 3))
    os.close(read)
    assert done.stdout.startswith("from outside\n"), done


def test_socket_activation(runtime, bundle):
    bundle.script("echo $LISTEN_FDS $LISTEN_PID; cat <&3")
    read, write = os.pipe()
    os.write(write, b"listening\n")
    os.close(write)
    bundle.write()
    command = f"LISTEN_FDS=1 LISTEN_PID=$$ exec {runtime.binary} --root {runtime.root} run -b {bundle.path} {runtime.new_id()}"
    done = subprocess.run(["/bin/sh", "-c", command], pass_fds=(3,), preexec_fn=lambda: os.dup2(read, 3), capture_output=True,
                          text=True, timeout=60)
    os.close(read)
    assert done.stdout == "1 1\nlistening\n", done


@pytest.mark.parametrize("kind", ["text", "json"])
def test_log_file(runtime, bundle, kind):
    bundle.process["args"] = ["/no such \"program\""]
    bundle.write()
    log = bundle.path / "log"
    done = subprocess.run([runtime.binary, "--root", runtime.root, "--log", log, "--log-format", kind, "run", "-b", bundle.path,
                           runtime.new_id()], capture_output=True, text=True)
    assert done.returncode == 1 and "no such file or directory" in done.stderr
    last = log.read_text().splitlines()[-1]
    if kind == "json":
        entry = json.loads(last)
        assert entry["level"] == "error" and "no such file or directory" in entry["msg"] and entry["time"]
    else:
        assert last.startswith("time=") and "level=error" in last and "no such file or directory" in last


def test_unknown_options_and_commands(runtime):
    assert runtime.command("create", "--no-such-option", "x").returncode != 0
    assert runtime.command("nosuchcommand").returncode != 0
    assert subprocess.run([runtime.binary, "--log-format", "xml", "list"], capture_output=True).returncode != 0
    assert runtime.command("--version").stdout


def test_checkpoint_needs_criu(runtime, bundle):
    if any(os.path.exists(f"{folder}/criu") for folder in ("/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin")):
        pytest.skip("CRIU is installed: the testbed's suite checkpoints for real")
    identifier = sleeping(runtime, bundle)
    done = runtime.command("checkpoint", "--image-path", bundle.path / "image", identifier)
    assert done.returncode != 0
    if is_ours():
        assert "CRIU" in done.stderr
    assert runtime.state(identifier)["status"] == "running"
    assert runtime.command("restore", "-b", bundle.path, "--image-path", bundle.path / "image", runtime.new_id()).returncode != 0


def test_run_keep(runtime, bundle):
    bundle.process["args"] = ["/bin/true"]
    bundle.write()
    identifier = runtime.new_id()
    done = runtime.command("run", "--keep", "-b", bundle.path, identifier)
    if done.returncode != 0 and not is_ours():
        pytest.skip("this runtime has no run --keep")
    assert runtime.state(identifier)["status"] == "stopped"
    runtime.command("delete", identifier, check=True)


def test_state_while_it_runs_in_the_foreground(runtime, bundle):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    bundle.write()
    identifier = runtime.new_id()
    foreground = subprocess.Popen([runtime.binary, "--root", runtime.root, "run", "-b", bundle.path, identifier],
                                  stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while runtime.command("state", identifier).returncode != 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    runtime.wait_for(identifier, "running")
    assert runtime.exec(identifier, "echo", "hi").stdout == "hi\n"
    runtime.command("kill", identifier, "KILL", check=True)
    assert foreground.wait(20) == 137


@pytest.mark.skipif(not is_ours(), reason="since runc 1.2")
def test_pidfd_socket(runtime, bundle):
    path = str(runtime.folder / "pidfd.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(4)
    listener.settimeout(30)

    def received() -> tuple[bytes, int]:
        connection, _ = listener.accept()
        data, control, _, _ = connection.recvmsg(64, socket.CMSG_LEN(4))
        connection.close()
        descriptor = array.array("i", control[0][2])[0]
        number = next(int(line.split(":")[1]) for line in open(f"/proc/self/fdinfo/{descriptor}") if line.startswith("Pid:"))
        os.close(descriptor)
        return data, number

    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.create(bundle, "--pidfd-socket", path)
    assert received() == (b"standard", runtime.state(identifier)["pid"])
    runtime.command("start", identifier, check=True)
    pid_file = runtime.folder / "exec.pid"
    runtime.command("exec", "-d", "--pidfd-socket", path, "--pid-file", pid_file, identifier, "sleep", "1000", check=True,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert received() == (b"setns", int(pid_file.read_text()))
    listener.close()
    other = runtime.new_id()
    done = runtime.command("create", "-b", bundle.path, "--pidfd-socket", path, other)
    assert done.returncode != 0 and "pidfd socket" in done.stderr and not (runtime.root / other).exists()
