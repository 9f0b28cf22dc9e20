"""Debian's dockerd and its containerd with our runtime (--add-runtime)."""

import time

import pytest

from support.engines import Dockerd, inspected


@pytest.fixture(scope="module")
def docker():
    engine = Dockerd()
    yield engine
    engine.close()


def test_run(docker):
    done = docker.run("--rm", "busybox", "sh", "-c", "echo out; echo err >&2; id -u; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n0\n", "err\n")


def test_run_with_everything(docker):
    done = docker.run("--rm", "-u", "bob", "-e", "A=b", "-w", "/tmp", "--hostname", "named", "--read-only", "--cap-drop", "all",
                      "--memory", "64m", "--pids-limit", "40", "--tmpfs", "/scratch:mode=1777", "--ulimit", "nofile=100", "busybox", "sh", "-c",
                      "id -un; echo $A; test $PWD = /tmp && hostname; touch /scratch/x && touch /no 2>/dev/null || echo read-only; "
                      "grep CapEff /proc/self/status")
    assert done.returncode == 0, done
    assert done.stdout.split() == ["bob", "b", "named", "read-only", "CapEff:", "0" * 16]


def test_exit_codes_of_what_cannot_run(docker):
    done = docker.run("--rm", "busybox", "nosuchprogram")
    assert done.returncode == 127 and "executable file not found in $PATH" in done.stderr
    assert docker.run("--rm", "busybox", "/etc").returncode == 126


def test_terminal(docker):
    done = docker.run("--rm", "-t", "busybox", "tty")
    assert done.returncode == 0 and "/dev/pts/0" in done.stdout, done


def test_privileged_with_init(docker):
    done = docker.run("--rm", "--privileged", "--init", "busybox", "sh", "-c", "cat /proc/1/comm; ls /dev | grep -c .")
    assert done.returncode == 0 and "init" in done.stdout.splitlines()[0] and int(done.stdout.splitlines()[1]) > 15, done


def test_life_cycle(docker):
    identifier = docker.ok("create", "--runtime", "wherry", "--network", "none", "busybox", "sleep", "1000").strip()
    docker.ok("start", identifier)
    assert inspected(docker, identifier)["State"]["Status"] == "running"
    assert inspected(docker, identifier)["HostConfig"]["Runtime"] == "wherry"
    done = docker.command("exec", "-e", "X=1", identifier, "sh", "-c", "echo $X; exit 5")
    assert (done.returncode, done.stdout) == (5, "1\n")
    done = docker.command("exec", identifier, "nosuchprogram")
    # 126 is what this dockerd makes of it with runc, too.
    assert done.returncode in (126, 127) and "executable file not found in $PATH" in done.stdout + done.stderr
    done = docker.command("exec", "-i", identifier, "cat", stdin=None, input="typed\n")
    assert done.stdout == "typed\n"
    docker.ok("pause", identifier)
    assert inspected(docker, identifier)["State"]["Status"] == "paused"
    docker.ok("unpause", identifier)
    docker.ok("update", "--memory", "100m", "--memory-swap", "200m", identifier)
    assert "100MiB" in docker.ok("stats", "--no-stream", identifier)
    assert "sleep 1000" in docker.ok("top", identifier)
    docker.ok("restart", "-t", "0", identifier)
    docker.ok("kill", identifier)
    assert docker.ok("wait", identifier).strip() == "137"
    docker.ok("rm", identifier)


def test_out_of_memory_is_told(docker):
    identifier = docker.run("-d", "--memory", "32m", "--memory-swap", "32m", "busybox", "sh", "-c",
                            "head -c 200m /dev/zero | tail -c 200m > /dev/null; exec sleep 1000").stdout.strip()
    # containerd's shim tells of it beside everything else it does: an end that is told first is not one for want of memory.
    deadline = time.monotonic() + 30
    told = ("--since", "0", "--filter", "event=oom", "--filter", f"container={identifier}")
    while "oom" not in docker.ok("events", *told, "--until", str(int(time.time()) + 1)):
        assert time.monotonic() < deadline
    docker.ok("kill", identifier)
    docker.ok("wait", identifier)
    assert inspected(docker, identifier)["State"]["OOMKilled"] is True
    docker.ok("rm", identifier)
