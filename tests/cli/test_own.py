"""What wherry has beyond Docker's CLI, and what depends on the daemon but not on everyday verbs."""

import os
import subprocess
import time

import pytest

from support.binaries import binary


def test_why_says_it_in_a_sentence(daemon, clean):
    daemon.wherry("run", "--name", "seven", "busybox", "sh", "-c", "exit 7", check=False)
    assert "7" in daemon.wherry("why", "seven").stdout
    daemon.wherry("run", "--name", "missing", "busybox", "no-such-program", check=False)
    assert "no-such-program" in daemon.wherry("why", "missing").stdout
    daemon.wherry("run", "--name", "greedy", "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", "head -c 64m /dev/zero | tail", check=False)
    sentence = daemon.wherry("why", "greedy").stdout
    assert "memory" in sentence and "16" in sentence
    result = daemon.wherry("why", "no-such-thing", check=False)
    assert result.returncode == 1 and "No such container: no-such-thing" in result.stderr


def test_timings_draw_the_start(daemon, clean):
    result = daemon.wherry("run", "--rm", "--timings", "busybox", "echo", "x")
    assert result.stdout == "x\n"
    for phase in ("prepare", "create", "attach", "start", "daemon: ", "removal"):
        assert phase in result.stderr
    assert "█" in result.stderr
    assert daemon.wherry("ps", "-aq").stdout == ""


def test_a_run_takes_few_milliseconds(daemon):
    """A loose bound that a busy machine keeps, too; the real measurement is in bench/."""
    times = []
    for _ in range(10):
        start = time.monotonic()
        daemon.wherry("run", "--rm", "busybox", "true")
        times.append(time.monotonic() - start)
    assert min(times) < 0.2


def test_nothing_is_left_of_refused_starts(daemon, clean):
    for flags in (["--memory", "1"], ["--cpuset-cpus", "9999"], ["--network", "no-such-network"], ["-v", "/nonexistent-dir-x:/y", "--mount", "type=bind,src=/nonexistent,dst=/z"],
                  ["--device", "/nonexistent"], ["--user", "nobody-known"], ["--workdir", "relative"], ["--security-opt", "nonsense=1"], ["--restart", "sometimes"], ["--name", "x"], ["--name", "-bad"]):
        result = daemon.wherry("run", "--rm", *flags, "busybox", "true", check=False)
        assert result.returncode in (125, 126, 127), (flags, result)
        assert result.stderr.startswith("wherry: ") or "invalid argument" in result.stderr, result.stderr
    daemon.remove_all()
    daemon.assert_clean()


def test_an_image_that_is_not_there(daemon):
    result = daemon.wherry("run", "--rm", "no/such-image", check=False)
    assert result.returncode == 125 and "Unable to find image 'no/such-image:latest' locally" in result.stderr
    result = daemon.wherry("run", "--rm", "--pull", "never", "no/such-image", check=False)
    assert result.returncode == 125 and "no/such-image" in result.stderr


def test_cidfile(daemon, clean, tmp_path):
    path = tmp_path / "cid"
    identifier = daemon.wherry("create", "--cidfile", str(path), "busybox").stdout.strip()
    assert path.read_text() == identifier
    assert daemon.wherry("create", "--cidfile", str(path), "busybox", check=False).returncode != 0


def test_a_closed_pipe_ends_quietly(daemon, clean):
    daemon.wherry("run", "-d", "--name", "chatty", "busybox", "yes")
    result = subprocess.run(f"{binary('wherry')} logs -f chatty | head -1", shell=True, env=daemon.client_environment(), capture_output=True, text=True, timeout=20)
    assert result.stdout == "y\n" and result.stderr == ""


def test_hosts_are_found_in_flags_and_environment(daemon):
    environment = {key: value for key, value in os.environ.items() if key not in ("DOCKER_HOST", "WHERRY_HOST")}
    for words, more in ((["-H", daemon.host], {}), ([f"--host={daemon.host}"], {}), ([], {"DOCKER_HOST": daemon.host}), ([], {"WHERRY_HOST": daemon.host, "DOCKER_HOST": "unix:///nonexistent"})):
        result = subprocess.run([binary("wherry"), *words, "ps", "-q"], env={**environment, **more}, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_commands_that_lose_their_daemon_say_so(own_daemon):
    with subprocess.Popen([binary("wherry"), "run", "--name", "orphan", "busybox", "sleep", "60"], env=own_daemon.client_environment(), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 10
        while not any(c["State"] == "running" for c in own_daemon.containers()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        own_daemon.kill()
        assert process.wait(20) != 0
    own_daemon.start()
    assert own_daemon.wherry("inspect", "-f", "{{.State.Running}}", "orphan").stdout == "true\n"
