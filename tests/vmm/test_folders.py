"""Shared folders through the API: what is refused and what is shown. Guests that mount them are in guests/test_shared_folders.py."""

import json
import os
import pathlib
import shutil
import subprocess
import threading
import time
import uuid

import pytest

from support import binaries
from support.microvm import Monitor, need_kvm, vmm_binary


@pytest.fixture
def monitor():
    need_kvm()
    with Monitor() as made:
        yield made


def test_what_is_refused(monitor):
    for body, text in (({"id": "a"}, "missing field `tag`"), ({"id": "a", "tag": "", "socket": "/s"}, "Invalid tag"), ({"id": "a", "tag": "x" * 37, "socket": "/s"}, "Invalid tag"),
                       ({"id": "b", "tag": "x", "socket": "/s"}, "does not match"), ({"id": "a", "tag": "x", "socket": "/s", "more": 1}, "unknown field")):
        answer = monitor.request("PUT", "/fs/a", body)
        assert answer.status == 400 and text in answer.fault, (body, answer)
    assert monitor.request("GET", "/fs/a").status == 400
    assert "fs" not in monitor.get("/vm/config")
    monitor.put("/fs/a", id="a", tag="one", socket="/one")
    assert monitor.request("PUT", "/fs/b", {"id": "b", "tag": "one", "socket": "/two"}).status == 400
    assert monitor.request("PUT", "/fs/b", {"id": "b", "tag": "two", "socket": "/one"}).status == 400
    monitor.put("/fs/a", id="a", tag="uno", socket="/absent")
    assert monitor.get("/vm/config")["fs"] == [{"id": "a", "tag": "uno", "socket": "/absent"}]
    monitor.put("/boot-source", kernel_image_path=str(monitor.write_payload("halt")), boot_args="console=off")
    answer = monitor.request("PUT", "/actions", {"action_type": "InstanceStart"})
    assert answer.status == 400 and "shared folder a" in answer.fault, answer
    monitor.put("/hotplug/memory", total_size_mib=1024)
    answer = monitor.request("PUT", "/actions", {"action_type": "InstanceStart"})
    assert answer.status == 400 and "memory hotplug" in answer.fault, answer


def test_a_machine_with_a_folder(monitor, tmp_path):
    (tmp_path / "shared").mkdir()
    server = subprocess.Popen([binaries.binary("wherry-fs"), "--shared-dir", str(tmp_path / "shared"), "--socket", str(tmp_path / "socket")])
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "socket").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        monitor.put("/metrics", metrics_path=str(tmp_path / "metrics"))
        monitor.put("/fs/a", id="a", tag="one", socket=str(tmp_path / "socket"))
        monitor.start_payload()
        assert monitor.request("PUT", "/fs/b", {"id": "b", "tag": "two", "socket": "/two"}).status == 400  # too late
        monitor.action("FlushMetrics")
        assert json.loads((tmp_path / "metrics").read_text().splitlines()[-1])["fs_a"]["backend_gone_count"] == 0
        monitor.patch("/vm", state="Paused")
        answer = monitor.request("PUT", "/snapshot/create", {"snapshot_path": str(tmp_path / "state"), "mem_file_path": str(tmp_path / "memory")})
        assert answer.status == 400 and "shared folders" in answer.fault, answer
        assert not (tmp_path / "state").exists()
        monitor.patch("/vm", state="Resumed")
        server.kill()
        server.wait()
        deadline = time.monotonic() + 30
        while True:
            monitor.action("FlushMetrics")
            if json.loads((tmp_path / "metrics").read_text().splitlines()[-1])["fs"]["backend_gone_count"] == 1:
                break
            assert time.monotonic() < deadline
        assert monitor.get("/")["state"] == "Running"
        server = subprocess.Popen([binaries.binary("wherry-fs"), "--shared-dir", str(tmp_path / "shared"), "--socket", str(tmp_path / "socket")])
        while True:
            monitor.action("FlushMetrics")
            told = json.loads((tmp_path / "metrics").read_text().splitlines()[-1])["fs"]
            if told["backend_back_count"] == 1:
                break
            assert time.monotonic() < deadline
        assert server.poll() is None and not (tmp_path / "socket").exists()
    finally:
        server.kill()
        server.wait()


def test_a_jailed_machine_finds_another_server(tmp_path):
    """The monitor reaches the new socket in its own root, once that is its user's; until then it tries again."""
    need_kvm()
    binaries.need_root()
    identifier = "folder-" + uuid.uuid4().hex[:8]
    binary = pathlib.Path(vmm_binary())
    root = tmp_path / binary.name / identifier / "root"
    root.mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    metrics = root / "metrics"
    metrics.touch()
    os.chown(metrics, 54321, 54321)
    servers = []

    def serve():
        servers.append(subprocess.Popen([binaries.binary("wherry-fs"), "--shared-dir", str(tmp_path / "shared"), "--socket", str(root / "fs.sock")]))
        deadline = time.monotonic() + 30
        while not (root / "fs.sock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def give():
        os.chown(root / "fs.sock", 54321, 54321)

    def counted(name: str) -> int:
        monitor.action("FlushMetrics")
        return sum(json.loads(line)["fs"][name] for line in metrics.read_text().splitlines()[-1:])

    monitor = Monitor(start=False)
    monitor.socket = root / "run/api.sock"
    try:
        serve()
        give()
        shutil.copy(monitor.write_payload("halt"), root / "kernel")
        (root / "kernel").chmod(0o644)
        monitor.errors = open(monitor.folder / "stderr", "w+b")
        monitor.process = subprocess.Popen([binaries.binary("wherry-jailer"), "--id", identifier, "--exec-file", str(binary), "--uid", "54321", "--gid", "54321",
                                            "--chroot-base-dir", str(tmp_path), "--", "--api-sock", "/run/api.sock"],
                                           stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=monitor.errors)
        threading.Thread(target=monitor._read, args=(monitor.process.stdout,), daemon=True).start()
        monitor.wait_for_socket()
        monitor.put("/metrics", metrics_path="/metrics")
        monitor.put("/fs/a", id="a", tag="one", socket="/fs.sock")
        monitor.put("/boot-source", kernel_image_path="/kernel", boot_args="console=off")
        monitor.action("InstanceStart")
        monitor.wait_for_line("payload")
        servers[0].kill()
        servers[0].wait()
        monitor.wait_for_line("fs.server_gone")
        serve()
        monitor.wait_for_line("fs.no_server.*[Pp]ermission denied")
        assert counted("backend_back_count") == 0
        give()
        monitor.wait_for_line("fs.server_back")
        assert servers[1].poll() is None
    finally:
        for server in servers:
            server.kill()
            server.wait()
        monitor.close()
