"""Every endpoint of the API before and after the start, on the plain /dev/kvm of this host: no guest kernel is needed."""

import json
import os
import pathlib
import socket
import subprocess
import uuid

import pytest

from support.microvm import Monitor, need_kvm

AFTER = "not supported after starting"
BEFORE = "not supported before starting"


@pytest.fixture
def vm():
    need_kvm()
    with Monitor() as monitor:
        yield monitor


@pytest.fixture
def running():
    """A guest of a hundred bytes that has halted."""
    need_kvm()
    with Monitor() as monitor:
        monitor.start_payload("halt")
        yield monitor


@pytest.fixture
def disk(vm):
    path = vm.folder / "disk"
    path.write_bytes(bytes(1 << 20))
    return str(path)


@pytest.fixture
def tap():
    name = "wt" + uuid.uuid4().hex[:8]
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


def refused(vm, method: str, path: str, body=None, *, text: str = "", status: int = 400) -> str:
    answer = vm.request(method, path, body)
    assert answer.status == status, f"{method} {path} {body}: {answer}"
    assert text.lower() in answer.fault.lower(), answer.fault
    return answer.fault


# What is there from the start.

def test_instance_information(vm):
    told = vm.get("/")
    assert told["state"] == "Not started"
    assert told["id"] == "anonymous-instance"
    assert told["app_name"] and told["vmm_version"]


def test_version(vm):
    assert list(vm.get("/version")) == ["firecracker_version"]
    assert vm.get("/version")["firecracker_version"].split(".")[0].isdigit()


def machine_config(vm) -> dict:
    told = vm.get("/machine-config")
    assert told.pop("cpu_template", "None") == "None"  # Firecracker leaves out what is none
    return told


def test_default_machine_config(vm):
    assert machine_config(vm) == {"vcpu_count": 1, "mem_size_mib": 128, "smt": False, "track_dirty_pages": False, "huge_pages": "None"}


def test_answers_are_http(vm):
    answer = vm.request("GET", "/")
    assert answer.headers["Content-Type"] == "application/json"
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert vm.request("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 64}).body == b""


def test_one_connection_many_requests(vm):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(30)
    connection.connect(str(vm.socket))
    for _ in range(20):
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"\r\n\r\n" not in received or not received.endswith(b"}"):
            data = connection.recv(4096)
            assert data
            received += data
        assert received.startswith(b"HTTP/1.1 200")
    connection.close()


def test_a_request_in_pieces(vm):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(30)
    connection.connect(str(vm.socket))
    body = json.dumps({"vcpu_count": 2, "mem_size_mib": 64}).encode()
    request = b"PUT /machine-config HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for at in range(0, len(request), 7):
        connection.sendall(request[at:at + 7])
    assert connection.recv(4096).startswith(b"HTTP/1.1 204")
    connection.close()
    assert vm.get("/machine-config")["vcpu_count"] == 2


# What is refused whatever the state.

@pytest.mark.parametrize("method,path", [
    ("GET", "/nothing"), ("PUT", "/"), ("PUT", "/version"), ("GET", "/actions"), ("GET", "/boot-source"), ("PATCH", "/actions"),
    ("PUT", "/vm"), ("GET", "/vm"), ("GET", "/logger"), ("GET", "/metrics"), ("GET", "/vsock"), ("GET", "/entropy"), ("PATCH", "/vsock"),
    ("GET", "/mmds/config"), ("PUT", "/machine-config/x"), ("GET", "/snapshot/create"), ("PUT", "/snapshot/nothing")])
def test_unknown_paths_and_methods(vm, method, path):
    refused(vm, method, path, {} if method != "GET" else None)


def test_methods_that_http_has_and_the_api_has_not(vm):
    assert vm.request("POST", "/machine-config", {"vcpu_count": 1}).status == 400


@pytest.mark.parametrize("path", ["/boot-source", "/machine-config", "/drives/a", "/actions", "/vsock", "/logger", "/mmds", "/balloon"])
def test_bodies_that_are_no_json(vm, path):
    for raw in (b"{", b"[]", b'"x"', b"\xff\xfe", b"nul", b"{}x", b'{"a":1,}'):
        if path == "/mmds" and raw in (b"[]", b'"x"'):
            continue
        answer = vm.request("PUT", path, raw=raw)
        assert answer.status == 400 and answer.fault, (path, raw)


@pytest.mark.parametrize("path,body", [
    ("/boot-source", {"kernel_image_path": "/k"}), ("/machine-config", {"vcpu_count": 1, "mem_size_mib": 128}),
    ("/drives/a", {"drive_id": "a", "is_root_device": False, "path_on_host": "/d"}),
    ("/network-interfaces/a", {"iface_id": "a", "host_dev_name": "t"}), ("/vsock", {"guest_cid": 3, "uds_path": "/u"}),
    ("/logger", {"level": "Info"}), ("/metrics", {"metrics_path": "/m"}), ("/actions", {"action_type": "FlushMetrics"}),
    ("/balloon", {"amount_mib": 1, "deflate_on_oom": False}), ("/entropy", {}), ("/mmds/config", {"network_interfaces": ["a"]}),
    ("/serial", {})])
def test_unknown_fields(vm, path, body):
    assert "surplus" in refused(vm, "PUT", path, body | {"surplus": 1})


def test_deep_json_is_refused_not_fatal(vm):
    assert vm.request("PUT", "/mmds", raw=b"[" * 20000 + b"]" * 20000).status == 400
    assert vm.request("PUT", "/mmds", raw=b'{"a":' * 5000 + b"1" + b"}" * 5000).status in (204, 400)
    assert vm.get("/version")


def test_empty_put_and_get_with_body(vm):
    refused(vm, "PUT", "/machine-config")
    assert vm.request("GET", "/", {"a": 1}).status == 400


def test_a_body_over_the_limit(vm):
    try:
        answer = vm.request("PUT", "/mmds", {"a": "x" * 51200})
        assert answer.status in (400, 413), answer
    except ConnectionError:
        pass  # refused by its length before the body had been sent
    assert vm.get("/version")


def test_garbage_on_the_socket(vm):
    for data in (b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                 b"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", b"x" * 70000):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(30)
        connection.connect(str(vm.socket))
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
        except (ConnectionError, BrokenPipeError):
            pass
        connection.close()
    assert vm.get("/version")


def test_clients_that_leave(vm):
    for _ in range(50):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(vm.socket))
        connection.sendall(b"PUT /machine-config HTTP/1.1\r\nContent-Length: 500\r\n\r\n{")
        connection.close()
    assert vm.get("/version")


# Machine configuration.

def test_machine_config_put_and_patch(vm):
    vm.put("/machine-config", vcpu_count=4, mem_size_mib=256, smt=False, track_dirty_pages=True)
    assert machine_config(vm) == {"vcpu_count": 4, "mem_size_mib": 256, "smt": False, "track_dirty_pages": True, "huge_pages": "None"}
    vm.patch("/machine-config", mem_size_mib=512)
    assert vm.get("/machine-config")["mem_size_mib"] == 512
    assert vm.get("/machine-config")["vcpu_count"] == 4
    vm.put("/machine-config", vcpu_count=1, mem_size_mib=128)
    assert vm.get("/machine-config")["track_dirty_pages"] is False


@pytest.mark.parametrize("body", [
    {"vcpu_count": 0, "mem_size_mib": 128}, {"vcpu_count": 33, "mem_size_mib": 128}, {"vcpu_count": 1, "mem_size_mib": 0},
    {"vcpu_count": 3, "mem_size_mib": 128, "smt": True}, {"vcpu_count": "1", "mem_size_mib": 128}, {"vcpu_count": 1}, {"mem_size_mib": 1},
    {"vcpu_count": -1, "mem_size_mib": 128}, {"vcpu_count": 1.5, "mem_size_mib": 128}, {"vcpu_count": 256, "mem_size_mib": 128},
    {"vcpu_count": 1, "mem_size_mib": 128, "huge_pages": "7M"}, {"vcpu_count": 1, "mem_size_mib": 129, "huge_pages": "2M"},
    {"vcpu_count": 1, "mem_size_mib": 128, "cpu_template": "T9"}, {"vcpu_count": 1, "mem_size_mib": 128, "smt": "no"}])
def test_machine_config_refused(vm, body):
    refused(vm, "PUT", "/machine-config", body)
    assert vm.get("/machine-config")["vcpu_count"] == 1


def test_machine_config_patch_with_nothing(vm):
    refused(vm, "PATCH", "/machine-config", {})


# Boot source.

def test_boot_source(vm):
    kernel = vm.write_payload("halt")
    vm.put("/boot-source", kernel_image_path=str(kernel))
    vm.put("/boot-source", kernel_image_path=str(kernel), boot_args="quiet", initrd_path=str(kernel))
    assert vm.get("/vm/config")["boot-source"] == {"kernel_image_path": str(kernel), "boot_args": "quiet", "initrd_path": str(kernel)}
    refused(vm, "PUT", "/boot-source", {"kernel_image_path": str(vm.folder / "missing")})
    refused(vm, "PUT", "/boot-source", {"kernel_image_path": str(kernel), "initrd_path": str(vm.folder / "missing")})
    refused(vm, "PUT", "/boot-source", {})
    refused(vm, "PUT", "/boot-source", {"kernel_image_path": str(kernel), "boot_args": "x" * 5000})
    assert vm.get("/vm/config")["boot-source"]["boot_args"] == "quiet"


def test_start_without_a_kernel(vm):
    refused(vm, "PUT", "/actions", {"action_type": "InstanceStart"}, text="kernel")
    assert vm.get("/")["state"] == "Not started"


def test_a_kernel_that_is_none(vm):
    path = vm.folder / "noise"
    path.write_bytes(os.urandom(10000))
    vm.put("/boot-source", kernel_image_path=str(path))
    refused(vm, "PUT", "/actions", {"action_type": "InstanceStart"})


@pytest.mark.parametrize("body", [{"action_type": "Nothing"}, {"action_type": 1}, {}])
def test_bad_actions(vm, body):
    refused(vm, "PUT", "/actions", body)


# Drives.

def test_drives(vm, disk):
    vm.put("/drives/root", drive_id="root", path_on_host=disk, is_root_device=True, is_read_only=True)
    vm.put("/drives/data", drive_id="data", path_on_host=disk, is_root_device=False, cache_type="Writeback", io_engine="Sync",
           rate_limiter={"bandwidth": {"size": 1000000, "refill_time": 100}, "ops": {"size": 100, "one_time_burst": 10, "refill_time": 100}})
    drives = {drive["drive_id"]: drive for drive in vm.get("/vm/config")["drives"]}
    assert drives["root"]["is_root_device"] and drives["root"]["is_read_only"] and drives["root"]["path_on_host"] == disk
    assert drives["data"]["cache_type"] == "Writeback"
    assert drives["data"]["rate_limiter"]["ops"]["one_time_burst"] == 10
    # The same id again replaces it.
    vm.put("/drives/root", drive_id="root", path_on_host=disk, is_root_device=True, is_read_only=False)
    drives = [drive for drive in vm.get("/vm/config")["drives"] if drive["drive_id"] == "root"]
    assert len(drives) == 1 and not drives[0]["is_read_only"]


def test_one_root_device(vm, disk):
    vm.put("/drives/a", drive_id="a", path_on_host=disk, is_root_device=True)
    refused(vm, "PUT", "/drives/b", {"drive_id": "b", "path_on_host": disk, "is_root_device": True}, text="root")
    vm.put("/drives/b", drive_id="b", path_on_host=disk, is_root_device=False)


@pytest.mark.parametrize("change", [
    {"path_on_host": "/nowhere/disk"}, {"drive_id": "other"}, {"cache_type": "None"}, {"io_engine": "Magic"}, {"is_root_device": 1},
    {"path_on_host": None}, {"rate_limiter": {"ops": {"size": -1, "refill_time": 1}}}, {"rate_limiter": {"surplus": {}}},
    {"is_root_device": None}])
def test_drives_refused(vm, disk, change):
    body = {"drive_id": "a", "path_on_host": disk, "is_root_device": False} | change
    refused(vm, "PUT", "/drives/a", {name: value for name, value in body.items() if value is not None})
    assert vm.get("/vm/config")["drives"] == []


def test_drive_ids(vm, disk):
    for identifier in ("a b", "a.b", "ä", "%41"):
        answer = vm.request("PUT", "/drives/" + identifier.encode("ascii", "replace").decode().replace(" ", "%20"),
                            {"drive_id": identifier, "path_on_host": disk, "is_root_device": False})
        assert answer.status == 400, (identifier, answer)
    refused(vm, "PUT", "/drives", {"drive_id": "a", "path_on_host": disk, "is_root_device": False})


def test_drive_patch_before_the_start(vm, disk):
    vm.put("/drives/a", drive_id="a", path_on_host=disk, is_root_device=False)
    refused(vm, "PATCH", "/drives/a", {"drive_id": "a", "path_on_host": disk}, text=BEFORE)


# Network interfaces, vsock, balloon, entropy, serial.

def test_network_interface(vm, tap):
    vm.put("/network-interfaces/eth0", iface_id="eth0", host_dev_name=tap, guest_mac="06:00:00:00:00:01",
           rx_rate_limiter={"bandwidth": {"size": 1000000, "refill_time": 100}})
    told = vm.get("/vm/config")["network-interfaces"][0]
    assert told["host_dev_name"] == tap and told["guest_mac"] == "06:00:00:00:00:01" and told["iface_id"] == "eth0"
    assert told["rx_rate_limiter"]["bandwidth"]["size"] == 1000000


def test_network_interface_refused(vm, tap):
    for change in ({"guest_mac": "06:00:00:00:00"}, {"guest_mac": "nothing"}, {"iface_id": "other"}, {"host_dev_name": "x" * 40},
                   {"host_dev_name": None}, {"tx_rate_limiter": 5}):
        body = {"iface_id": "eth0", "host_dev_name": tap, "guest_mac": "06:00:00:00:00:01"} | change
        refused(vm, "PUT", "/network-interfaces/eth0", {name: value for name, value in body.items() if value is not None})
    vm.put("/network-interfaces/a", iface_id="a", host_dev_name=tap, guest_mac="06:00:00:00:00:01")
    other = "wt" + uuid.uuid4().hex[:8]
    subprocess.run(["ip", "tuntap", "add", other, "mode", "tap"], check=True)
    try:
        refused(vm, "PUT", "/network-interfaces/b", {"iface_id": "b", "host_dev_name": other, "guest_mac": "06:00:00:00:00:01"}, text="mac")
    finally:
        subprocess.run(["ip", "link", "del", other], check=True)


def test_vsock(vm):
    vm.put("/vsock", guest_cid=3, uds_path=str(vm.folder / "v.sock"))
    assert vm.get("/vm/config")["vsock"] == {"guest_cid": 3, "uds_path": str(vm.folder / "v.sock")}
    for change in ({"guest_cid": 2}, {"guest_cid": -1}, {"guest_cid": "x"}, {"uds_path": None}, {"guest_cid": 1 << 33}):
        body = {"guest_cid": 3, "uds_path": str(vm.folder / "w.sock")} | change
        refused(vm, "PUT", "/vsock", {name: value for name, value in body.items() if value is not None})


def test_balloon(vm):
    assert vm.request("GET", "/balloon").status == 400
    vm.put("/balloon", amount_mib=16, deflate_on_oom=True, stats_polling_interval_s=1)
    told = vm.get("/balloon")
    assert (told["amount_mib"], told["deflate_on_oom"], told["stats_polling_interval_s"]) == (16, True, 1)
    refused(vm, "PUT", "/balloon", {"amount_mib": 1000, "deflate_on_oom": True})
    refused(vm, "PUT", "/balloon", {"amount_mib": -1, "deflate_on_oom": True})
    refused(vm, "PUT", "/balloon", {"amount_mib": 1})
    refused(vm, "PATCH", "/balloon", {"amount_mib": 1}, text=BEFORE)


def test_entropy_and_serial(vm):
    vm.put("/entropy")
    vm.put("/entropy", rate_limiter={"bandwidth": {"size": 1000, "refill_time": 100}})
    assert vm.get("/vm/config")["entropy"]["rate_limiter"]["bandwidth"]["size"] == 1000
    refused(vm, "PUT", "/entropy", {"rate_limiter": {"bandwidth": {"size": "x"}}})
    vm.put("/serial", serial_out_path=str(vm.folder / "serial.log"))


# MMDS.

def test_mmds_store(vm):
    refused(vm, "GET", "/mmds")
    refused(vm, "PATCH", "/mmds", {"a": 1})
    vm.put("/mmds", latest={"meta-data": {"ami-id": "ami-1", "gone": 1}, "list": [1, "2", None, 1.5]})
    assert vm.get("/mmds") == {"latest": {"meta-data": {"ami-id": "ami-1", "gone": 1}, "list": [1, "2", None, 1.5]}}
    vm.patch("/mmds", latest={"meta-data": {"gone": None, "new": "ü\n\"\\"}})
    assert vm.get("/mmds")["latest"]["meta-data"] == {"ami-id": "ami-1", "new": "ü\n\"\\"}
    refused(vm, "PUT", "/mmds", [1])
    refused(vm, "PATCH", "/mmds", 1)


def test_mmds_size_limit():
    need_kvm()
    with Monitor("--mmds-size-limit", "100") as vm:
        vm.put("/mmds", a="x" * 50)
        assert vm.request("PUT", "/mmds", {"a": "x" * 200}).status == 413
        assert vm.request("PATCH", "/mmds", {"b": "x" * 80}).status == 413
        assert vm.get("/mmds") == {"a": "x" * 50}


def test_mmds_config(vm, tap):
    refused(vm, "PUT", "/mmds/config", {"network_interfaces": []})
    refused(vm, "PUT", "/mmds/config", {"network_interfaces": ["eth0"]})
    vm.put("/network-interfaces/eth0", iface_id="eth0", host_dev_name=tap)
    for change in ({"ipv4_address": "10.0.0.1"}, {"ipv4_address": "x"}, {"version": "V3"}, {"network_interfaces": ["eth1"]}):
        refused(vm, "PUT", "/mmds/config", {"network_interfaces": ["eth0"]} | change)
    vm.put("/mmds/config", network_interfaces=["eth0"], version="V2", ipv4_address="169.254.10.10")
    told = vm.get("/vm/config")["mmds-config"]
    assert told["network_interfaces"] == ["eth0"] and told["version"] == "V2" and told["ipv4_address"] == "169.254.10.10"


# Logger and metrics.

def test_logger(vm):
    log = vm.folder / "log"
    vm.put("/logger", log_path=str(log), level="Debug", show_level=True, show_log_origin=True)
    vm.get("/version")
    text = log.read_text()
    assert "The API server received a Get request on \"/version\"" in text
    assert "anonymous-instance" in text
    refused(vm, "PUT", "/logger", {"level": "Chatty"})
    refused(vm, "PUT", "/logger", {"log_path": "/nowhere/log"})


def test_log_level_is_respected(vm):
    log = vm.folder / "log"
    vm.put("/logger", log_path=str(log), level="Error")
    vm.get("/version")
    assert "The API server received" not in log.read_text()


def test_metrics(vm):
    path = vm.folder / "metrics"
    vm.put("/metrics", metrics_path=str(path))
    refused(vm, "PUT", "/metrics", {"metrics_path": str(path)})
    vm.put("/machine-config", vcpu_count=1, mem_size_mib=128)
    refused(vm, "PUT", "/machine-config", {"vcpu_count": 0, "mem_size_mib": 128})
    vm.action("FlushMetrics")
    vm.action("FlushMetrics")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) >= 2
    first = lines[-2]
    assert first["utc_timestamp_ms"] > 1_600_000_000_000
    assert first["put_api_requests"]["machine_cfg_count"] == 2
    assert first["put_api_requests"]["machine_cfg_fails"] == 1
    for group in ("api_server", "vcpu", "vmm", "logger", "get_api_requests", "patch_api_requests", "uart", "i8042", "block", "net"):
        assert group in first, group
    # Counters tell what has been since the line before.
    assert lines[-1]["put_api_requests"]["machine_cfg_count"] == 0


def test_metrics_into_a_pipe_nobody_reads(vm):
    path = vm.folder / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    vm.put("/metrics", metrics_path=str(path))
    for _ in range(200):
        assert vm.request("PUT", "/actions", {"action_type": "FlushMetrics"}).status in (204, 400)
    os.close(reader)
    vm.request("PUT", "/actions", {"action_type": "FlushMetrics"})
    assert vm.get("/version")


# What is there only while a guest runs, and what is not any more.

@pytest.mark.parametrize("method,path,body", [
    ("PATCH", "/vm", {"state": "Paused"}), ("PATCH", "/drives/a", {"drive_id": "a", "path_on_host": "/x"}),
    ("PATCH", "/network-interfaces/a", {"iface_id": "a"}), ("PUT", "/actions", {"action_type": "SendCtrlAltDel"})])
def test_not_before_the_start(vm, method, path, body):
    refused(vm, method, path, body, text=BEFORE)


@pytest.mark.parametrize("method,path,body", [
    ("PUT", "/boot-source", {"kernel_image_path": "/dev/null"}), ("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 128}),
    ("PATCH", "/machine-config", {"vcpu_count": 2}), ("PUT", "/vsock", {"guest_cid": 3, "uds_path": "/tmp/never"}),
    ("PUT", "/balloon", {"amount_mib": 1, "deflate_on_oom": False}), ("PUT", "/entropy", {}), ("PUT", "/actions", {"action_type": "InstanceStart"}),
    ("PUT", "/cpu-config", {}), ("PUT", "/mmds/config", {"network_interfaces": ["a"]})])
def test_not_after_the_start(running, method, path, body):
    refused(running, method, path, body, text=AFTER)


def test_a_running_guest(running):
    assert running.get("/")["state"] == "Running"
    assert "fc_api" in running.threads()
    assert "fc_vcpu 0" in running.threads()
    running.patch("/vm", state="Paused")
    assert running.get("/")["state"] == "Paused"
    running.patch("/vm", state="Paused")
    running.patch("/vm", state="Resumed")
    assert running.get("/")["state"] == "Running"
    refused(running, "PATCH", "/vm", {"state": "Sleeping"})
    assert running.process.poll() is None
    running.put("/mmds", a=1)
    assert running.get("/mmds") == {"a": 1}


def test_patch_of_what_is_not_there(running):
    refused(running, "PATCH", "/drives/a", {"drive_id": "a", "path_on_host": "/dev/null"})
    refused(running, "PATCH", "/network-interfaces/a", {"iface_id": "a", "rx_rate_limiter": {"ops": {"size": 1, "refill_time": 1}}})
    refused(running, "PATCH", "/balloon", {"amount_mib": 1})
    refused(running, "GET", "/balloon/statistics")


def test_the_guests_reset_ends_the_monitor(vm):
    vm.start_payload("reset")
    assert vm.wait() == 0
    assert not vm.folder.joinpath("core").exists()


def test_a_triple_fault_ends_the_monitor(vm):
    vm.start_payload("triple")
    assert vm.wait() == 0


def test_many_processors(vm):
    vm.put("/machine-config", vcpu_count=4, mem_size_mib=64)
    vm.start_payload("halt")
    assert [name for name in vm.threads() if name.startswith("fc_vcpu")] == [f"fc_vcpu {number}" for number in range(4)]


def test_each_thread_has_a_filter(running):
    modes = [pathlib.Path(f"/proc/{running.process.pid}/task/{task}/status").read_text() for task in os.listdir(f"/proc/{running.process.pid}/task")]
    assert len(modes) >= 3
    for text in modes:
        name = text.splitlines()[0].split(None, 1)[1]
        assert "Seccomp:\t2" in text, name
        assert "NoNewPrivs:\t1" in text, name


def test_termination_by_signal(running):
    running.process.terminate()
    assert running.wait() in (0, -15)


# What the surface names and this monitor may not have yet: a clear fault, not silence.

@pytest.mark.parametrize("method,path,body", [
    ("PUT", "/snapshot/load", {"snapshot_path": "/nowhere", "mem_backend": {"backend_type": "File", "backend_path": "/nowhere"}}),
    ("PUT", "/snapshot/create", {"snapshot_path": "/nowhere/s", "mem_file_path": "/nowhere/m"}),
    ("PUT", "/pmem/a", {"id": "a", "path_on_host": "/nowhere"}), ("PUT", "/hotplug/memory", {"total_size_mib": 0}),
    ("PATCH", "/hotplug/memory", {"requested_size_mib": 128})])
def test_a_clear_fault(vm, method, path, body):
    answer = vm.request(method, path, body)
    assert answer.status == 400 and len(answer.fault) > 10
