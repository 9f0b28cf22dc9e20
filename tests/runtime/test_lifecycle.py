"""create, start, state, kill, delete, run, exec: the operations and their errors."""

import json
import os
import subprocess
import time

import pytest

from support.runtime import is_ours


def test_run_gives_output_and_exit_code(runtime, bundle):
    done = runtime.run(bundle.script("echo out; echo err >&2; exit 7"))
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_killed_by_signal_is_128_plus(runtime, bundle):
    done = runtime.run(bundle.script("sh -c 'kill -KILL $$'; exit $?"))
    assert done.returncode == 137


def test_states(runtime, bundle):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.create(bundle)
    state = runtime.state(identifier)
    assert state["status"] == "created" and state["id"] == identifier and state["pid"] > 0
    assert os.path.samefile(state["bundle"], bundle.path)
    # The program has not been started: the process is still the runtime's.
    assert b"sleep" not in open(f"/proc/{state['pid']}/cmdline", "rb").read()
    runtime.command("start", identifier, check=True)
    assert runtime.state(identifier)["status"] == "running"
    assert open(f"/proc/{state['pid']}/cmdline", "rb").read() == b"/bin/sleep\x001000\x00"
    assert runtime.command("start", identifier).returncode != 0
    assert runtime.command("delete", identifier).returncode != 0
    runtime.command("kill", identifier, "KILL", check=True)
    runtime.wait_for(identifier, "stopped")
    assert runtime.command("kill", identifier, "TERM").returncode != 0
    runtime.command("delete", identifier, check=True)
    assert runtime.command("state", identifier).returncode != 0


def test_long_paths(runtime, bundle):
    """Engines keep the state in deep folders, under names of 64 characters: longer than a socket's name may be."""
    runtime.root = runtime.root / ("deep-" * 12) / ("folder-" * 8)
    runtime.root.mkdir(parents=True)
    bundle.process["args"] = ["/bin/sleep", "1000"]
    bundle.write()
    identifier = "f" * 64
    runtime.identifiers.append(identifier)
    runtime.command("create", "-b", bundle.path, identifier, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    runtime.command("start", identifier, check=True)
    assert runtime.state(identifier)["status"] == "running"


def test_id_is_taken(runtime, bundle):
    identifier = runtime.create(bundle)
    bundle.write()
    done = runtime.command("create", "-b", bundle.path, identifier)
    assert done.returncode != 0 and "exist" in done.stderr


@pytest.mark.parametrize("identifier", ["", "../escape", "a/b", ".", "..", "a b", "x" * 2000])
def test_bad_ids(runtime, bundle, identifier):
    bundle.write()
    assert runtime.command("create", "-b", bundle.path, identifier).returncode != 0
    assert runtime.command("state", identifier).returncode != 0


def test_delete_of_a_created_container(runtime, bundle):
    identifier = runtime.create(bundle)
    pid = runtime.state(identifier)["pid"]
    runtime.command("delete", "-f", identifier, check=True)
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().split(") ")[1][0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_force_delete_of_nothing(runtime):
    assert runtime.command("delete", "-f", "nobody").returncode == 0
    assert runtime.command("delete", "nobody").returncode != 0


def test_pid_file_and_signal_names(runtime, bundle):
    bundle.script("trap 'echo got-usr1; exit 3' USR1; echo ready; while :; do sleep 0.05; done")
    pid_file = bundle.path / "pid"
    identifier = runtime.create(bundle, "--pid-file", pid_file)
    assert int(pid_file.read_text()) == runtime.state(identifier)["pid"]
    runtime.command("start", identifier, check=True)
    deadline = time.monotonic() + 10
    while "ready" not in runtime.log(identifier):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    runtime.command("kill", identifier, "SIGUSR1", check=True)
    runtime.wait_for(identifier, "stopped")
    assert "got-usr1" in runtime.log(identifier)
    assert runtime.command("kill", identifier, "NOSUCH").returncode != 0


def test_missing_program(runtime, bundle):
    bundle.process["args"] = ["nosuchprogram"]
    done = runtime.run(bundle)
    assert done.returncode != 0
    if is_ours():
        assert 'exec: "nosuchprogram": executable file not found in $PATH' in done.stderr
    assert "executable file" in done.stderr and "not found in $PATH" in done.stderr
    bundle.process["args"] = ["/nosuchprogram"]
    assert "no such file or directory" in runtime.run(bundle).stderr


def test_program_that_may_not_run(runtime, bundle):
    (bundle.rootfs / "plain").write_text("no program\n")
    bundle.process["args"] = ["/plain"]
    assert "permission denied" in runtime.run(bundle).stderr
    bundle.process["args"] = ["/etc"]
    assert runtime.run(bundle).returncode != 0
    (bundle.rootfs / "garbage").write_bytes(b"\x7fELF but not really")
    (bundle.rootfs / "garbage").chmod(0o755)
    bundle.process["args"] = ["/garbage"]
    assert "exec format error" in runtime.run(bundle).stderr


def test_script_without_its_interpreter(runtime, bundle):
    (bundle.rootfs / "script").write_text("#!/bin/nothere\n")
    (bundle.rootfs / "script").chmod(0o755)
    bundle.process["args"] = ["/script"]
    assert "no such file or directory" in runtime.run(bundle).stderr


def test_failure_leaves_nothing(runtime, bundle):
    bundle.process["args"] = ["nosuchprogram"]
    bundle.write()
    identifier = runtime.new_id()
    assert runtime.command("create", "-b", bundle.path, identifier).returncode != 0
    assert runtime.command("state", identifier).returncode != 0
    assert not (runtime.root / identifier).exists()


def test_exec(runtime, bundle):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    bundle.process["env"].append("FROM=config")
    identifier = runtime.start(bundle)
    done = runtime.exec(identifier, "sh", "-c", "echo $FROM; cat /proc/1/cmdline; hostname; exit 9")
    assert done.returncode == 9
    assert done.stdout.startswith("config\n/bin/sleep") and done.stdout.endswith("box\n")
    # In the same namespaces and the same cgroup.
    for kind in ("pid", "net", "ipc", "uts", "mnt"):
        first = runtime.exec(identifier, "readlink", f"/proc/1/ns/{kind}").stdout
        assert first == runtime.exec(identifier, "readlink", f"/proc/self/ns/{kind}").stdout and first
    pid = runtime.state(identifier)["pid"]
    child = subprocess.Popen([runtime.binary, "--root", runtime.root, "exec", identifier, "cat"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    child.stdin.write(b"x\n")
    child.stdin.flush()
    assert child.stdout.readline() == b"x\n"
    inside = [line for line in open(f"/proc/{pid}/cgroup")]
    members = {int(p) for line in inside if ":pids:" in line or line.startswith("0::")
               for p in procs_of(line)}
    assert len(members) >= 2
    child.stdin.close()
    assert child.wait(10) == 0


def procs_of(line: str) -> list[int]:
    _, controller, path = line.strip().split(":", 2)
    for base in (f"/sys/fs/cgroup/{controller}", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        file = f"{base}{path}/cgroup.procs"
        if os.path.exists(file) and (controller in base or not controller):
            return [int(word) for word in open(file).read().split()]
    return []


def test_exec_errors(runtime, bundle):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.start(bundle)
    done = runtime.exec(identifier, "nosuchprogram")
    assert done.returncode != 0 and "executable file not found in $PATH" in done.stderr
    runtime.command("kill", identifier, "KILL", check=True)
    runtime.wait_for(identifier, "stopped")
    assert runtime.exec(identifier, "true").returncode != 0
    assert runtime.exec("nobody", "true").returncode != 0


def test_exec_user_environment_and_directory(runtime, bundle):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.start(bundle)
    done = runtime.command("exec", "-u", "1000:1000", "-e", "NEW=1", "--cwd", "/tmp", identifier, "sh", "-c",
                           "id -u; id -g; echo $NEW; pwd")
    assert done.stdout == "1000\n1000\n1\n/tmp\n", done.stderr


@pytest.mark.skipif(not is_ours(), reason="names of users are resolved by ours only")
def test_exec_user_by_name(runtime, bundle):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.start(bundle)
    done = runtime.command("exec", "-u", "bob", identifier, "sh", "-c", "id; echo $HOME")
    assert "uid=1000(bob) gid=1000(bob) groups=10(wheel),29(audio)" in done.stdout and "/home/bob" in done.stdout
    done = runtime.command("exec", "-u", "nobody-here", identifier, "true")
    assert "unable to find user nobody-here: no matching entries in passwd file" in done.stderr


def test_detached_run(runtime, bundle):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    bundle.write()
    identifier = runtime.new_id()
    runtime.command("run", "-d", "-b", bundle.path, identifier, check=True, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL)
    assert runtime.state(identifier)["status"] == "running"


@pytest.mark.skipif(not is_ours(), reason="--init is ours")
def test_init_reaps_and_forwards(runtime, bundle):
    bundle.script("trap 'exit 42' TERM; cat /proc/1/comm; (sleep 0.1 &) ; sleep 0.3; ls /proc | grep -c '^[0-9]'; "
                  "kill -TERM 1; while :; do sleep 0.05; done")
    done = runtime.run(bundle, "--init")
    assert done.returncode == 42, done
    lines = done.stdout.split()
    # init, sh, ls, grep: the orphaned sleep has been reaped.
    assert lines[0] == "docker-init" and int(lines[1]) <= 4, lines


def test_bad_configurations(runtime, bundle):
    cases = {
        "not json": "{",
        "no version": json.dumps({**bundle.config, "ociVersion": None}),
        "no process": json.dumps({key: value for key, value in bundle.config.items() if key != "process"}),
        "no arguments": json.dumps({**bundle.config, "process": {**bundle.process, "args": []}}),
        "relative cwd": json.dumps({**bundle.config, "process": {**bundle.process, "cwd": "tmp"}}),
        "missing root": json.dumps({**bundle.config, "root": {"path": "nowhere"}}),
    }
    for name, text in cases.items():
        (bundle.path / "config.json").write_text(text)
        identifier = runtime.new_id()
        said = runtime.folder / f"{identifier}.out"
        with open(said, "w") as out:  # not a pipe: a runtime that takes it leaves a container with an open end
            done = runtime.command("create", "-b", bundle.path, identifier, stdout=out, stderr=out)
        assert done.returncode != 0 and said.read_text(), name
        assert not (runtime.root / identifier).exists() or not is_ours(), name


def test_log_in_json(runtime, bundle):
    bundle.process["args"] = ["nosuchprogram"]
    bundle.write()
    log = bundle.path / "log"
    subprocess.run([runtime.binary, "--root", runtime.root, "--log", log, "--log-format", "json", "run", "-b", bundle.path,
                    runtime.new_id()], capture_output=True)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(entry["level"] == "error" and "nosuchprogram" in entry["msg"] for entry in entries)


def test_concurrent_starts(runtime):
    bundles = [runtime.bundle("/bin/true") for _ in range(8)]
    running = []
    for item in bundles:
        item.write()
        running.append(subprocess.Popen([runtime.binary, "--root", runtime.root, "run", "-b", item.path, runtime.new_id()],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE))
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
