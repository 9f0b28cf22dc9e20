"""podman's containers and pods with our runtime."""

import pytest

from support.engines import Podman, inspected


@pytest.fixture(scope="module")
def podman():
    engine = Podman()
    yield engine
    engine.close()


def test_run(podman):
    done = podman.run("--rm", "busybox", "sh", "-c", "echo out; echo err >&2; id -u; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n0\n", "err\n")


def test_run_with_everything(podman):
    done = podman.run("--rm", "-u", "bob", "-e", "A=b", "-w", "/tmp", "--hostname", "named", "--read-only", "--cap-drop", "all",
                      "--memory", "64m", "--pids-limit", "40", "--tmpfs", "/scratch", "busybox", "sh", "-c",
                      "id -un; echo $A; test $PWD = /tmp && hostname; touch /scratch/x && touch /no 2>/dev/null || echo read-only; "
                      "grep CapEff /proc/self/status")
    assert done.returncode == 0, done
    assert done.stdout.split() == ["bob", "b", "named", "read-only", "CapEff:", "0" * 16]


def test_exit_codes_of_what_cannot_run(podman):
    done = podman.run("--rm", "busybox", "nosuchprogram")
    assert done.returncode == 127 and "executable file not found in $PATH" in done.stderr
    assert podman.run("--rm", "busybox", "/etc").returncode == 126


def test_terminal(podman):
    done = podman.run("--rm", "-t", "busybox", "sh", "-c", "tty; stty size")
    assert done.returncode == 0 and "/dev/pts/0" in done.stdout, done


def test_life_cycle(podman):
    identifier = podman.ok("create", "--network", "none", "--cgroup-parent", "/" + podman.parent, "busybox", "sleep", "1000").strip()
    podman.ok("start", identifier)
    assert inspected(podman, identifier)["State"]["Status"] == "running"
    done = podman.command("exec", "-e", "X=1", identifier, "sh", "-c", "echo $X; exit 5")
    assert (done.returncode, done.stdout) == (5, "1\n")
    assert podman.command("exec", identifier, "nosuchprogram").returncode == 127
    done = podman.command("exec", "-t", identifier, "tty")
    assert done.returncode == 0 and "/dev/pts/0" in done.stdout
    done = podman.command("exec", "-i", identifier, "cat", stdin=None, input="typed\n")
    assert done.stdout == "typed\n"
    podman.ok("pause", identifier)
    assert inspected(podman, identifier)["State"]["Status"] == "paused"
    podman.ok("unpause", identifier)
    podman.ok("update", "--memory", "100m", identifier)
    assert "sleep 1000" in podman.ok("top", identifier)
    podman.ok("kill", "-s", "KILL", identifier)
    assert podman.ok("wait", identifier).strip() == "137"
    podman.ok("rm", identifier)


def test_logs_and_detached(podman):
    identifier = podman.run("-d", "busybox", "sh", "-c", "echo one; echo two").stdout.strip()
    podman.ok("wait", identifier)
    assert podman.ok("logs", identifier) == "one\ntwo\n"
    podman.ok("rm", identifier)


def test_pod(podman):
    podman.ok("pod", "create", "--name", "group", "--network", "none", "--cgroup-parent", "/" + podman.parent, "--infra-image", "busybox",
              "--infra-command", "sleep 1000", "--share", "net,ipc,uts")
    podman.ok("run", "-d", "--pod", "group", "--name", "member", "busybox", "sleep", "1000")
    done = podman.command("run", "--rm", "--pod", "group", "busybox", "sh", "-c", "hostname; ls -l /proc/self/ns/net")
    assert done.returncode == 0 and done.stdout.splitlines()[0] == "group", done
    member = podman.ok("exec", "member", "sh", "-c", "ls -l /proc/self/ns/net")
    assert member.split("->")[1].strip() in done.stdout
    podman.ok("pod", "rm", "-f", "-t", "0", "group")
