"""The everyday verbs, written once and run with every command that speaks to the daemon: wherry, docker 28, docker 20.10.

A test module makes fixtures `use` (a function: words -> CompletedProcess) and `command` (the words before the verb, and the
environment) and imports these tests."""

import io
import json
import os
import re
import signal
import subprocess
import tarfile
import time

import pytest

from support.images import tar_of
from support.terminal import Terminal

ID = re.compile(r"^[0-9a-f]{64}$")


def wait_for(check, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not (value := check()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return value


# run

def test_run_prints_and_passes_the_exit_code(use):
    assert use("run", "--rm", "busybox", "echo", "hello").stdout == "hello\n"
    assert use("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False).returncode == 7
    result = use("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


def test_run_reads_stdin_to_its_end(use):
    assert use("run", "--rm", "-i", "busybox", "cat", input="one\ntwo\n").stdout == "one\ntwo\n"
    big = "x" * 1_000_000
    assert use("run", "--rm", "-i", "busybox", "wc", "-c", input=big).stdout.strip() == "1000000"
    assert use("run", "--rm", "-i", "busybox", "cat", input=big).stdout == big
    # Without -i nothing is read.
    assert use("run", "--rm", "busybox", "cat", input="unseen").stdout == ""


def test_exit_codes_of_what_can_not_run(use):
    assert use("run", "--rm", "busybox", "nonexistent-program", check=False).returncode == 127
    assert use("run", "--rm", "busybox", "/etc/passwd", check=False).returncode == 126
    assert use("run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?", check=False).returncode == 137
    assert use("run", "--rm", "--no-such-flag", "busybox", check=False).returncode == 125
    result = use("run", "--rm", "UPPER", check=False)
    assert result.returncode == 125 and "invalid reference format" in result.stderr


def test_run_detached_and_ps(use, clean):
    identifier = use("run", "-d", "--name", "sleeper", "-l", "role=test", "busybox", "sleep", "60").stdout.strip()
    assert ID.match(identifier)
    lines = use("ps").stdout.splitlines()
    assert lines[0].split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert lines[1].startswith(identifier[:12] + "   busybox   \"sleep 60\"") and lines[1].endswith("   sleeper")
    assert use("ps", "-q", "--no-trunc").stdout.strip() == identifier
    assert use("ps", "--filter", "label=role=test", "--format", "{{.Names}} {{.State}} {{.Label \"role\"}}").stdout == "sleeper running test\n"
    assert use("ps", "-aq", "--filter", "status=exited").stdout == ""
    assert use("rm", "-f", "sleeper").stdout == "sleeper\n"
    assert use("ps", "-aq").stdout == ""


def test_environment_user_workdir_hostname(use, tmp_path):
    file = tmp_path / "env"
    file.write_text("# comment\nFROM_FILE=1\n")
    result = use("run", "--rm", "-e", "A=b c", "--env-file", str(file), "busybox", "sh", "-c", 'echo "$A,$FROM_FILE"')
    assert result.stdout == "b c,1\n"
    assert use("run", "--rm", "-u", "worker", "-w", "/tmp", "--hostname", "box", "busybox", "sh", "-c", "id -u; pwd; hostname").stdout == "1000\n/tmp\nbox\n"
    assert use("run", "--rm", "-u", "1:2", "busybox", "sh", "-c", "id -u; id -g").stdout == "1\n2\n"


def test_entrypoint_and_read_only_and_tmpfs(use):
    assert use("run", "--rm", "--entrypoint", "echo", "busybox", "x").stdout == "x\n"
    assert use("run", "--rm", "--read-only", "busybox", "touch", "/x", check=False).returncode == 1
    assert use("run", "--rm", "--read-only", "--tmpfs", "/x:size=1m", "busybox", "sh", "-c", "touch /x/y && df /x | tail -1").stdout.split()[0] == "tmpfs"


def test_volumes(use, tmp_path):
    (tmp_path / "file").write_text("from the host")
    assert use("run", "--rm", "-v", f"{tmp_path}:/host:ro", "busybox", "cat", "/host/file").stdout == "from the host"
    assert use("run", "--rm", "-v", f"{tmp_path}:/host:ro", "busybox", "touch", "/host/x", check=False).returncode == 1
    assert use("volume", "create", "data").stdout == "data\n"
    use("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/f")
    assert use("run", "--rm", "--mount", "type=volume,src=data,dst=/d", "busybox", "cat", "/d/f").stdout == "kept\n"
    assert "data" in use("volume", "ls", "-q").stdout.split()
    assert json.loads(use("volume", "inspect", "data").stdout)[0]["Name"] == "data"
    assert use("volume", "rm", "data").stdout == "data\n"


def test_limits_are_applied_and_shown(use, clean):
    use("create", "--name", "limited", "-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "--ulimit", "nofile=100:200", "--cap-drop", "ALL", "busybox", "sh", "-c", "ulimit -n")
    shape = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{json .HostConfig.CapDrop}}"
    assert use("inspect", "-f", shape, "limited").stdout == '67108864 500000000 50 ["ALL"]\n'
    assert use("start", "-a", "limited").stdout == "100\n"


def test_out_of_memory_is_told(use, clean):
    use("run", "--name", "greedy", "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", "head -c 64m /dev/zero | tail", check=False)
    state = json.loads(use("inspect", "greedy").stdout)[0]["State"]
    assert state["OOMKilled"] is True


def test_labels_restart_and_logging_options(use, clean):
    use("create", "--name", "labelled", "--label", "a=b", "--restart", "on-failure:2", "--log-opt", "max-size=1m", "--stop-signal", "INT", "--stop-timeout", "3", "busybox")
    document = json.loads(use("inspect", "labelled").stdout)[0]
    assert document["Config"]["Labels"]["a"] == "b" and document["Config"]["StopSignal"] == "INT"
    assert document["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    assert document["HostConfig"]["LogConfig"]["Config"] == {"max-size": "1m"}


# Life cycle

def test_create_start_wait_logs(use, clean):
    identifier = use("create", "--name", "job", "busybox", "sh", "-c", "echo done; exit 3").stdout.strip()
    assert ID.match(identifier)
    assert use("start", "job").stdout == "job\n"
    assert use("wait", "job").stdout == "3\n"
    assert use("logs", "job").stdout == "done\n"
    assert re.match(r"^\d{4}-\d\d-\d\dT[\d:.]+Z done\n$", use("logs", "-t", "job").stdout)
    assert use("start", "-a", "job", check=False).returncode == 3
    assert use("logs", "--tail", "1", "job").stdout == "done\n"


def test_stop_kill_restart_pause(use, clean):
    use("run", "-d", "--name", "trapper", "busybox", "sh", "-c", "trap 'exit 5' TERM; echo trapped; while :; do sleep 0.05; done")
    wait_for(lambda: use("logs", "trapper").stdout == "trapped\n")
    assert use("pause", "trapper").stdout == "trapper\n"
    assert "(Paused)" in use("ps", "--format", "{{.Status}}").stdout
    assert use("unpause", "trapper").stdout == "trapper\n"
    assert use("stop", "-t", "10", "trapper").stdout == "trapper\n"
    assert use("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "trapper").stdout == "exited 5\n"
    assert use("restart", "trapper").stdout == "trapper\n"
    assert use("inspect", "-f", "{{.State.Running}}", "trapper").stdout == "true\n"
    assert use("kill", "-s", "KILL", "trapper").stdout == "trapper\n"
    assert use("wait", "trapper").stdout == "137\n"
    assert use("rename", "trapper", "renamed").returncode == 0
    assert use("rm", "renamed").stdout == "renamed\n"


def test_exec(use, clean):
    use("run", "-d", "--name", "box", "busybox", "sleep", "60")
    assert use("exec", "box", "echo", "inside").stdout == "inside\n"
    assert use("exec", "box", "sh", "-c", "exit 9", check=False).returncode == 9
    assert use("exec", "-i", "box", "cat", input="through").stdout == "through"
    assert use("exec", "-e", "X=1", "-w", "/tmp", "-u", "worker", "box", "sh", "-c", "echo $X; pwd; id -u").stdout == "1\n/tmp\n1000\n"
    assert use("exec", "box", "nonexistent-program", check=False).returncode in (126, 127)
    use("exec", "-d", "box", "touch", "/made")
    wait_for(lambda: use("exec", "box", "ls", "/made", check=False).returncode == 0)
    assert "sleep 60" in use("top", "box").stdout


def test_logs_follow(use, clean):
    use("run", "-d", "--name", "talker", "busybox", "sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.1; done")
    assert use("logs", "-f", "talker").stdout == "line 1\nline 2\nline 3\n"


def test_attach_gets_output_and_exit_code(use, command, clean):
    use("run", "-d", "-i", "--name", "reader", "busybox", "sh", "-c", "read x; echo got $x; exit 4")
    result = use("attach", "reader", input="word\n", check=False)
    assert (result.stdout, result.returncode) == ("got word\n", 4)


def test_signals_are_passed_on(use, command, clean):
    words, environment = command
    process = subprocess.Popen([*words, "run", "--name", "signalled", "busybox", "sh", "-c", "trap 'echo caught; exit 6' TERM; echo ready; while :; do sleep 0.05; done"],
                               stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == "caught\n"
    assert process.wait(20) == 6


def test_ports(use, clean):
    use("run", "-d", "--name", "web", "-p", "127.0.0.1:0:80", "busybox", "sh", "-c", "while :; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\nhi' | nc -l -p 80; done")
    lines = use("port", "web").stdout.splitlines()
    assert len(lines) == 1 and lines[0].startswith("80/tcp -> 127.0.0.1:")
    assert use("port", "web", "80").stdout.strip() == lines[0].split(" -> ")[1]


# Images

def test_images_tag_rmi_history(use, daemon):
    assert "busybox" in use("images").stdout
    assert use("tag", "busybox", "copy:2").returncode == 0
    rows = use("images", "--format", "{{.Repository}}:{{.Tag}}", "copy").stdout.split()
    assert rows == ["copy:2"]
    assert use("images", "-q", "--no-trunc", "copy:2").stdout.strip() == json.loads(use("inspect", "--type", "image", "copy:2").stdout)[0]["Id"]
    assert use("rmi", "copy:2").stdout == "Untagged: copy:2\n"
    assert use("history", "busybox").stdout.startswith("IMAGE ")
    result = use("rmi", "no-such-image", check=False)
    assert result.returncode == 1 and "No such image" in result.stderr


def test_import_save_load(use, daemon, tmp_path):
    archive = tmp_path / "root.tar"
    archive.write_bytes(tar_of({"etc/": None, "etc/motd": b"imported"}))
    identifier = use("import", "-c", "ENV X=1", "-m", "a note", str(archive), "made:1").stdout.strip()
    assert re.match(r"^sha256:[0-9a-f]{64}$", identifier)
    saved = tmp_path / "saved.tar"
    use("save", "-o", str(saved), "made:1")
    with tarfile.open(saved) as tar:
        assert "manifest.json" in tar.getnames()
    use("rmi", "made:1")
    assert "Loaded image: made:1" in use("load", "-i", str(saved)).stdout
    assert json.loads(use("inspect", "made:1").stdout)[0]["Id"] == identifier
    assert "X=1" in json.loads(use("image", "inspect", "made:1").stdout)[0]["Config"]["Env"]
    use("rmi", "made:1")


def test_version_info_events(use, clean):
    assert "Server:" in use("version").stdout and use("version", "--format", "{{.Server.Os}}").stdout == "linux\n"
    assert "Server Version:" in use("info").stdout
    since = str(time.time())
    use("run", "--rm", "--name", "seen", "busybox", "true")
    until = str(time.time() + 0.2)
    lines = use("events", "--since", since, "--until", until, "--filter", "container=seen", "--format", "{{.Action}}").stdout.split()
    assert [line for line in lines if line in ("create", "attach", "start", "die", "destroy")] == ["create", "attach", "start", "die", "destroy"]


def test_stats(use, clean):
    use("run", "-d", "--name", "measured", "busybox", "sleep", "60")
    lines = use("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "measured").stdout.split()
    assert lines == ["measured", "1"]


def test_networks(use):
    names = use("network", "ls", "--format", "{{.Name}}").stdout.split()
    assert {"bridge", "host", "none"} <= set(names)
    assert use("run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net").stdout == "lo\n"
    assert json.loads(use("network", "inspect", "bridge").stdout)[0]["Driver"] == "bridge"


def test_inspect_of_nothing(use):
    result = use("inspect", "no-such-thing", check=False)
    assert result.returncode == 1 and "No such object: no-such-thing" in result.stderr and result.stdout.strip() == "[]"
    for verb in ("start", "stop", "kill", "rm", "logs", "pause", "wait", "top", "port", "restart"):
        result = use(verb, "no-such-thing", check=False)
        assert result.returncode == 1 and "No such container: no-such-thing" in result.stderr, verb


# Terminals

def test_a_terminal_is_interactive(command, clean):
    words, environment = command
    with Terminal([*words, "run", "--rm", "-it", "busybox", "sh"], environment, rows=30, columns=100) as terminal:
        terminal.expect(b"# ")
        # Docker's client before 23 tells the size after the start.
        terminal.ask_until(b"stty size", b"30 100")
        terminal.send(b"tty\n")
        terminal.expect(b"/dev/")
        terminal.resize(40, 120)
        terminal.ask_until(b"stty size", b"40 120")
        terminal.send(b"exit 5\n")
        assert terminal.wait() == 5
        assert terminal.restored()


def test_control_c_goes_to_the_container(command, clean):
    words, environment = command
    with Terminal([*words, "run", "--rm", "-it", "busybox", "sh", "-c", "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.05; done"], environment) as terminal:
        terminal.expect(b"ready")
        terminal.send(b"\x03")
        terminal.expect(b"interrupted")
        assert terminal.wait() == 3 and terminal.restored()


def test_detaching_leaves_it_running(use, command, clean):
    words, environment = command
    with Terminal([*words, "run", "-it", "--name", "left", "busybox", "sh"], environment) as terminal:
        terminal.expect(b"# ")
        terminal.send(b"\x10\x11")
        assert terminal.wait() == 0
        assert terminal.restored()
    assert use("inspect", "-f", "{{.State.Running}}", "left").stdout == "true\n"
    with Terminal([*words, "attach", "left"], environment) as terminal:
        terminal.expect_raw()
        terminal.send(b"echo $((40+2))\n")
        terminal.expect(b"42")
        terminal.send(b"exit 8\n")
        assert terminal.wait() == 8


def test_exec_with_a_terminal(use, command, clean):
    words, environment = command
    use("run", "-d", "--name", "host", "busybox", "sleep", "60")
    with Terminal([*words, "exec", "-it", "host", "sh"], environment, rows=33, columns=99) as terminal:
        terminal.expect(b"# ")
        terminal.ask_until(b"stty size", b"33 99")
        terminal.send(b"exit 2\n")
        assert terminal.wait() == 2 and terminal.restored()


def test_a_terminal_is_demanded(use):
    result = use("run", "--rm", "-it", "busybox", "true", input="", check=False)
    assert result.returncode == 1 and "the input device is not a TTY" in result.stderr
