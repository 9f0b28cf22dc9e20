"""Start, exit, signals, execs, terminals: the life of processes under a shim."""

import os
import pathlib
import signal
import time

import pytest

from shim_client import Failure, cgroup_folders, shim_binary, wait_until


def test_hello_says_who_it_is(shim):
    assert shim.hello["software"].startswith("wherry-shim/")
    assert shim.hello["version"] == 1
    assert shim.hello["pid"] == shim.process.pid
    assert os.stat(shim.directory / "shim.sock").st_mode & 0o777 == 0o600


def test_run_and_exit_code(shim):
    container = shim.run(["sh", "-c", "exit 42"])
    status = shim.wait(container)
    assert status["code"] == 42 and status.get("signal", 0) == 0
    record = shim.exit_record(container)
    assert record["container_id"] == container and record["status"] == status
    state = shim.control.call("state", {"container_id": container})
    assert state["status"] == "stopped" and state["exit"] == status
    wait_until(lambda: not cgroup_folders(container), what="cgroup removed")


def test_create_then_start(shim):
    request = shim.request(["echo", "hi"])
    state = shim.control.call("create", request)
    assert state["status"] == "created" and state["pid"] > 0
    container = request["container_id"]
    stream = shim.stream(container)  # before the start
    shim.control.call("start", {"container_id": container})
    assert stream.read_to_end().stdout == b"hi\n"
    assert shim.wait(container)["code"] == 0


def test_a_container_that_never_started_can_be_deleted(shim):
    request = shim.request(["true"])
    state = shim.control.call("create", request)
    shim.delete(request["container_id"])
    assert not os.path.exists(f"/proc/{state['pid']}")
    assert not cgroup_folders(request["container_id"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_signals(shim, number):
    # PID 1 of a namespace ignores what it does not handle, so a shell with a handler for the second.
    container = shim.run(["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"])
    shim.stream(container).read_until(b"ready\n")
    shim.control.call("kill", {"container_id": container, "signal": int(number)})
    status = shim.wait(container)
    if number == signal.SIGKILL:
        assert status["code"] == 137 and status["signal"] == 9
    else:
        assert status["code"] == 5
    with pytest.raises(Failure) as failure:
        shim.control.call("kill", {"container_id": container, "signal": 9})
    assert failure.value.code == "conflict"


def test_missing_program(shim):
    request = shim.request(["/nonexistent"])
    with pytest.raises(Failure) as failure:
        shim.control.call("run", request)
    assert "nonexistent" in str(failure.value) and failure.value.errno == 2
    assert shim.control.call("list")["containers"] == [] if "containers" in shim.control.call("list") else True
    assert not cgroup_folders(request["container_id"])
    # The same id again, and the shim is none the worse.
    request["spec"]["process"]["args"] = ["true"]
    shim.control.call("run", request)
    assert shim.wait(request["container_id"])["code"] == 0


def test_same_id_twice(shim):
    request = shim.request(["sleep", "60"])
    shim.control.call("run", request)
    with pytest.raises(Failure) as failure:
        shim.control.call("run", request)
    assert failure.value.code == "already_exists"


def test_exec(shim):
    container = shim.run(["sleep", "60"])
    shim.exec(container, ["sh", "-c", "echo out; echo err >&2; id -u; exit 7"])
    stream = shim.stream(container, "e1").read_to_end()
    assert stream.stdout == b"out\n0\n" and stream.stderr == b"err\n"
    assert shim.wait(container, "e1")["code"] == 7
    state = shim.control.call("state", {"container_id": container})
    assert state["status"] == "running" and state["execs"][0]["exit"]["code"] == 7
    shim.control.call("delete_exec", {"container_id": container, "exec_id": "e1"})
    assert not shim.control.call("state", {"container_id": container}).get("execs")
    with pytest.raises(Failure) as failure:
        shim.exec(container, ["/nonexistent"], exec_id="e2")
    assert failure.value.errno == 2


def test_exec_signal_and_input(shim):
    container = shim.run(["sleep", "60"])
    shim.exec(container, ["cat"], stdin_open=True)
    stream = shim.stream(container, "e1", stdin=True)
    stream.write(b"round trip\n")
    stream.read_until(b"round trip\n")
    stream.close_input()
    assert stream.read_to_end().stdout == b"round trip\n"
    assert shim.wait(container, "e1")["code"] == 0
    shim.exec(container, ["sleep", "60"], exec_id="e2")
    shim.control.call("kill", {"container_id": container, "exec_id": "e2", "signal": 15})
    assert shim.wait(container, "e2")["code"] == 143


def test_terminal(shim):
    container = shim.run(["sh"], terminal=True, stdin_open=True)
    stream = shim.stream(container, stdin=True)
    assert stream.reply["terminal"] is True
    stream.write(b"stty size\n")
    stream.read_until(b"24 80")
    shim.control.call("resize", {"container_id": container, "width": 132, "height": 50})
    stream.write(b"stty size\n")
    stream.read_until(b"50 132")
    stream.write(b"exit 9\n")
    stream.read_to_end()
    assert shim.wait(container)["code"] == 9


def test_terminal_exec(shim):
    container = shim.run(["sleep", "60"])
    shim.exec(container, ["sh", "-c", "stty size; cat"], terminal=True, stdin_open=True)
    stream = shim.stream(container, "e1", stdin=True)
    stream.read_until(b"24 80")
    shim.control.call("resize", {"container_id": container, "exec_id": "e1", "width": 100, "height": 30})
    stream.write(b"\x04")
    stream.read_to_end()
    assert shim.wait(container, "e1")["code"] == 0


def test_pause_and_resume(shim):
    container = shim.run(["sh", "-c", "while :; do echo x; sleep 0.02; done"])
    shim.stream(container).read_until(b"x\n")
    shim.control.call("pause", {"container_id": container})
    assert shim.control.call("state", {"container_id": container})["status"] == "paused"
    with pytest.raises(Failure):
        shim.control.call("pause", {"container_id": container})
    before = shim.control.call("state", {"container_id": container})["stdout_bytes"]
    time.sleep(0.3)
    assert shim.control.call("state", {"container_id": container})["stdout_bytes"] - before <= 2
    shim.control.call("resume", {"container_id": container})
    wait_until(lambda: shim.control.call("state", {"container_id": container})["stdout_bytes"] > before + 4)
    shim.control.call("pause", {"container_id": container})
    shim.control.call("kill", {"container_id": container, "signal": 9})
    assert shim.wait(container)["code"] == 137


def test_stats_and_update(shim):
    container = shim.run(["sleep", "60"])
    stats = shim.control.call("stats", {"container_id": container})
    assert stats["cpu_total_ns"] > 0 and stats["pids_current"] == 1 and stats["memory_usage_bytes"] > 0
    shim.control.call("update", {"container_id": container, "resources": {"memory": {"limit": 64 << 20}, "pids": {"limit": 17}}})
    stats = shim.control.call("stats", {"container_id": container})
    assert stats["memory_limit_bytes"] == 64 << 20 and stats["pids_limit"] == 17


def test_out_of_memory(shim):
    shim.control.call("subscribe")
    request = shim.request(["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1"])
    request["spec"]["linux"]["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    shim.control.call("run", request)
    status = shim.wait(request["container_id"])
    assert status["code"] == 137 and status["oom_killed"] is True
    assert shim.exit_record(request["container_id"])["status"]["oom_killed"] is True


def test_out_of_memory_event_of_a_child(shim):
    shim.control.call("subscribe")
    request = shim.request(["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 60"])
    request["spec"]["linux"]["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    shim.control.call("run", request)
    event = shim.control.next_event()
    assert event["event"] == "oom" and event["params"]["container_id"] == request["container_id"]
    assert event["params"]["oom_kills"] >= 1


def test_exit_event_follows_the_record(shim):
    watcher = shim.connect()
    watcher.call("subscribe")
    container = shim.run(["sh", "-c", "exit 4"])
    event = watcher.next_event()
    assert event["event"] == "exit" and event["params"]["status"]["code"] == 4
    assert shim.exit_record(container)["status"]["code"] == 4


def test_shared_pid_namespace_leaves_no_process(shim):
    request = shim.request(["sh", "-c", "sleep 300 & echo $!; sleep 0.1"])
    spec = request["spec"]
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
    shim.control.call("run", request)
    container = request["container_id"]
    started = time.monotonic()
    shim.wait(container)
    assert time.monotonic() - started < 1.5  # the sleeper is killed, so the output ends
    pid = int(shim.stream(container).read_to_end().stdout)
    wait_until(lambda: not pathlib.Path(f"/proc/{pid}").exists(), what="leaked process gone")
    wait_until(lambda: not cgroup_folders(container), what="cgroup removed")


def test_leaked_pipe_of_an_exec_does_not_hold_its_exit(shim):
    container = shim.run(["sleep", "60"])
    started = time.monotonic()  # before the exec, which may end before its answer is here
    shim.exec(container, ["sh", "-c", "sleep 30 & echo done; exit 3"])
    assert shim.wait(container, "e1")["code"] == 3
    assert 1 < time.monotonic() - started < 15
    assert shim.stream(container, "e1").read_to_end().stdout == b"done\n"


def test_init(shim):
    container = shim.run(["sh", "-c", "echo $$; exit 6"], init=True)
    assert shim.stream(container).read_to_end().stdout != b"1\n"
    assert shim.wait(container)["code"] == 6


def test_several_containers_of_a_sandbox(shim):
    first = shim.run(["sleep", "60"])
    second = shim.run(["sleep", "60"])
    assert {c["container_id"] for c in shim.control.call("list")["containers"]} == {first, second}
    shim.delete(first)
    assert shim.process.poll() is None
    shim.delete(second)
    assert shim.ended()
    assert not (shim.directory / "shim.sock").exists()


def test_shim_ends_after_its_last_container(shim):
    container = shim.run(["true"])
    shim.wait(container)
    with pytest.raises(Failure) as failure:
        shim.control.call("delete", {"container_id": "other"})
    assert failure.value.code == "not_found"
    shim.delete(container, force=False)
    assert shim.ended()


def test_shutdown_kills_everything(shim):
    pids = [shim.control.call("run", shim.request(["sleep", "60"]))["pid"] for _ in range(3)]
    shim.control.call("shutdown")
    assert shim.ended()
    for pid in pids:
        assert not pathlib.Path(f"/proc/{pid}").exists()


def test_shim_without_containers_ends_with_its_spawner(shim):
    shim.control.close()
    assert shim.ended()


def test_termination_signals_do_not_end_a_shim(shim):
    container = shim.run(["sleep", "60"])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        os.kill(shim.process.pid, number)
    assert shim.control.call("state", {"container_id": container})["status"] == "running"
    assert os.getsid(shim.process.pid) == shim.process.pid


def test_timings_cover_the_start(shim):
    container = shim.run(["sleep", "60"])
    timings = shim.control.call("state", {"container_id": container})["timings"]
    assert len(timings) >= 5
    assert [t["at_ns"] for t in timings] == sorted(t["at_ns"] for t in timings)


def test_an_idle_shim_is_small(shim):
    container = shim.run(["sh", "-c", "seq 20000; sleep 60"])
    stream = shim.stream(container)
    stream.read_until(b"20000\n")
    stream.close()
    if "/asan/" not in shim_binary() and "/tsan/" not in shim_binary():
        # Once it has been idle for half a second it gives its memory back: 100 KiB are left. Beside them are pages of the binary, which
        # other shims share; how many of them are mapped around each fault is the kernel's choice (220 to 360 KiB seen).
        wait_until(lambda: shim.memory_kib("Pss_Anon") < 160, timeout=20, what="an idle shim below 160 KiB of its own")
        assert shim.memory_kib("Pss") < 600
    print(f"PSS of an idle shim: {shim.memory_kib('Pss')} KiB")
