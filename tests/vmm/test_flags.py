"""The command line: flags, exit codes, configuration files."""

import http.client
import json
import os
import re
import signal as signals
import subprocess

import pytest

from support.microvm import Monitor, need_kvm, payload, vmm_binary

ARGUMENTS, CONFIGURATION = 153, 152


def run(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess:
    return subprocess.run([vmm_binary(), *arguments], capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)


def test_version_and_help():
    done = run("--version")
    assert done.returncode == 0 and re.search(r"v?\d+\.\d+\.\d+", done.stdout)
    done = run("--help")
    assert done.returncode == 0
    for flag in ("--api-sock", "--id", "--config-file", "--no-api", "--metadata", "--seccomp-filter", "--no-seccomp", "--start-time-us",
                 "--start-time-cpu-us", "--parent-cpu-time-us", "--log-path", "--level", "--module", "--show-level", "--show-log-origin",
                 "--metrics-path", "--boot-timer", "--version", "--http-api-max-payload-size", "--mmds-size-limit"):
        assert flag.removeprefix("--") in done.stdout, flag


@pytest.mark.parametrize("arguments", [("--nothing",), ("--id",), ("word",), ("--api-sock", "/a", "--api-sock", "/b"), ("--no-api",)])
def test_bad_arguments(arguments):
    done = run(*arguments)
    assert done.returncode == ARGUMENTS, (done.returncode, done.stderr)
    assert done.stderr or done.stdout


@pytest.mark.parametrize("identifier", ["a_b", "a/b", "x" * 65])
def test_bad_ids(tmp_path, identifier):
    done = run("--id", identifier, "--api-sock", str(tmp_path / "a.sock"))
    assert done.returncode != 0 and done.returncode > 0


def test_the_id_is_told(tmp_path):
    need_kvm()
    with Monitor("--id", "my-vm-1") as vm:
        assert vm.get("/")["id"] == "my-vm-1"


def test_a_socket_in_use():
    need_kvm()
    with Monitor() as vm:
        done = run("--api-sock", str(vm.socket))
        assert done.returncode == 1
        assert vm.get("/version")


def test_payload_limit_by_flag():
    need_kvm()
    with Monitor("--http-api-max-payload-size", "300") as vm:
        vm.put("/mmds", a="x" * 100)
        try:
            assert vm.request("PUT", "/mmds", {"a": "x" * 400}).status in (400, 413)
        except ConnectionError:
            pass  # refused by its length before the body had been sent
        assert vm.get("/mmds") == {"a": "x" * 100}


def test_log_by_flags(tmp_path):
    need_kvm()
    log = tmp_path / "log"
    log.touch()
    with Monitor("--id", "logged", "--log-path", str(log), "--level", "Debug", "--show-level", "--show-log-origin") as vm:
        vm.get("/version")
        text = log.read_text()
    assert "logged" in text and "Running" in text
    assert "API server started." in text


def test_metrics_by_flag(tmp_path):
    need_kvm()
    path = tmp_path / "metrics"
    path.touch()
    with Monitor("--metrics-path", str(path)) as vm:
        vm.action("FlushMetrics")
        assert json.loads(path.read_text().splitlines()[-1])["utc_timestamp_ms"]


def test_start_times_reach_the_metrics(tmp_path):
    need_kvm()
    with Monitor("--start-time-us", "1", "--start-time-cpu-us", "0", "--parent-cpu-time-us", "1000") as vm:
        vm.put("/metrics", metrics_path=str(tmp_path / "m"))
        vm.action("FlushMetrics")
        told = json.loads((tmp_path / "m").read_text().splitlines()[-1])["api_server"]
        assert told["process_startup_time_us"] > 0
        assert told["process_startup_time_cpu_us"] >= 1000


def configuration(folder, end: str = "reset", **more) -> str:
    (folder / "kernel").write_bytes(payload(end, "from a file\n"))
    body = {"boot-source": {"kernel_image_path": str(folder / "kernel"), "boot_args": "console=off"}, "drives": [],
            "machine-config": {"vcpu_count": 2, "mem_size_mib": 64}} | more
    path = folder / "vm.json"
    path.write_text(json.dumps(body))
    return str(path)


def test_configuration_file_without_api(tmp_path):
    need_kvm()
    done = run("--no-api", "--level", "Error", "--config-file", configuration(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "from a file" in done.stdout


def test_configuration_file_with_api(tmp_path):
    need_kvm()
    with Monitor("--config-file", configuration(tmp_path, "halt")) as vm:
        vm.wait_for_line("from a file")
        assert vm.get("/")["state"] == "Running"
        assert vm.get("/machine-config")["vcpu_count"] == 2
        assert vm.get("/vm/config")["boot-source"]["boot_args"] == "console=off"


@pytest.mark.parametrize("more", [
    {"machine-config": {"vcpu_count": 0, "mem_size_mib": 64}}, {"surplus": {}}, {"drives": [{"drive_id": "a", "path_on_host": "/nowhere",
                                                                                         "is_root_device": True}]},
    {"boot-source": {"kernel_image_path": "/nowhere"}}, {"drives": {}}, {"boot-source": {}}])
def test_bad_configuration_files(tmp_path, more):
    need_kvm()
    done = run("--no-api", "--config-file", configuration(tmp_path, **more))
    assert done.returncode == CONFIGURATION, (done.returncode, done.stderr)


def test_configuration_file_that_is_missing_or_no_json(tmp_path):
    assert run("--no-api", "--config-file", str(tmp_path / "missing")).returncode not in (0, -6, -11)
    (tmp_path / "noise").write_text("{")
    assert run("--no-api", "--config-file", str(tmp_path / "noise")).returncode not in (0, -6, -11)


def test_metadata_by_flag(tmp_path):
    need_kvm()
    (tmp_path / "metadata").write_text('{"latest":{"a":"b"}}')
    with Monitor("--metadata", str(tmp_path / "metadata")) as vm:
        assert vm.get("/mmds") == {"latest": {"a": "b"}}
    (tmp_path / "metadata").write_text("{")
    assert run("--metadata", str(tmp_path / "metadata"), "--api-sock", str(tmp_path / "s")).returncode not in (0, -6, -11)


def test_no_seccomp():
    need_kvm()
    with Monitor("--no-seccomp") as vm:
        vm.start_payload("halt")
        for task in os.listdir(f"/proc/{vm.process.pid}/task"):
            assert "Seccomp:\t0" in open(f"/proc/{vm.process.pid}/task/{task}/status").read()


@pytest.mark.parametrize("signal,status", [("SIGBUS", 149), ("SIGSEGV", 150), ("SIGXFSZ", 151), ("SIGXCPU", 154), ("SIGHUP", 156), ("SIGILL", 157)])
def test_fatal_signals(signal, status, tmp_path):
    """The exit code, a line in the log, and one more line of metrics, which counts the signal and what came before it."""
    need_kvm()
    with Monitor("--log-path", str(tmp_path / "log")) as vm:
        vm.put("/metrics", metrics_path=str(tmp_path / "metrics"))
        disk = tmp_path / "disk"
        disk.write_bytes(bytes(1 << 20))
        vm.put("/drives/some_disk", drive_id="some_disk", path_on_host=str(disk), is_root_device=False)
        vm.start_payload("halt")
        vm.action("FlushMetrics")
        vm.get("/version")
        number = getattr(signals, signal)
        vm.process.send_signal(number)
        assert vm.wait() == status
        text = f"Shutting down VM after intercepting signal {int(number)}, code 0."
        assert text in vm.stderr()
        assert text in (tmp_path / "log").read_text()
    before, last = map(json.loads, (tmp_path / "metrics").read_text().splitlines())
    assert before["signals"][signal.lower()] == 0
    assert last["signals"] == {name: int(name == signal.lower()) for name in before["signals"]}
    assert last["get_api_requests"]["vmm_version_count"] == 1
    assert last["put_api_requests"]["actions_count"] == 0  # told by the line before
    assert "block_some_disk" in last and last.keys() == before.keys()
    assert last["utc_timestamp_ms"] >= before["utc_timestamp_ms"]


def test_a_broken_pipe_is_counted(tmp_path):
    need_kvm()
    with Monitor("--metrics-path", str(tmp_path / "metrics")) as vm:
        vm.start_payload("halt")
        vm.process.send_signal(signals.SIGPIPE)
        vm.action("FlushMetrics")
        assert json.loads((tmp_path / "metrics").read_text())["signals"]["sigpipe"] == 1


def test_exit_code_of_a_system_call_outside_of_the_filter(tmp_path):
    """A filter of one's own, under which the API's thread may read requests but not answer them."""
    need_kvm()
    anything = {"default_action": "allow", "filter_action": "allow", "filter": []}
    names = ("accept4", "clock_gettime", "close", "exit", "exit_group", "futex", "getpid", "gettid", "madvise", "mmap", "mprotect", "munmap", "poll", "ppoll",
             "prctl", "read", "recvfrom", "rt_sigprocmask", "write")
    filters = {"vmm": anything, "vcpu": anything,
               "api": {"default_action": "trap", "filter_action": "allow", "filter": [{"syscall": name} for name in names]}}
    path = tmp_path / "filters.json"
    path.write_text(json.dumps(filters))
    with Monitor("--seccomp-filter", str(path), "--metrics-path", str(tmp_path / "metrics"), "--log-path", str(tmp_path / "log")) as vm:
        with pytest.raises((OSError, http.client.HTTPException)):
            vm.request("GET", "/")
        assert vm.wait() == 148
        assert "bad syscall (44)" in vm.stderr()  # sendto
    assert "bad syscall (44)" in (tmp_path / "log").read_text()
    last = json.loads((tmp_path / "metrics").read_text())
    assert last["seccomp"] == {"num_faults": 1}
    assert last["get_api_requests"]["instance_info_count"] == 1


def test_nothing_is_left_behind(tmp_path):
    need_kvm()
    before = set(os.listdir("/dev/shm")) | set(os.listdir("/tmp"))
    folder = tmp_path / "own"
    folder.mkdir()
    with Monitor(folder=folder) as vm:
        vm.start_payload("reset")
        assert vm.wait() == 0
    left = (set(os.listdir("/dev/shm")) | set(os.listdir("/tmp"))) - before
    assert not [name for name in left if "vmm" in name and not name.startswith("wherry-vmm-test-")], left
