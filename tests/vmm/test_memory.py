"""The API of memory that devices bring: /pmem, /hotplug/memory, their sections of a configuration file."""

import json
import os
import pathlib
import subprocess

import pytest

from support.microvm import Monitor, need_kvm, vmm_binary

MIB = 1 << 20


@pytest.fixture
def vm():
    need_kvm()
    with Monitor() as monitor:
        yield monitor


@pytest.fixture
def file(vm):
    path = vm.folder / "file"
    path.write_bytes(b"memory" * 1000)
    return str(path)


def refused(vm, method: str, path: str, body=None, *, text: str = "") -> None:
    answer = vm.request(method, path, body)
    assert answer.status == 400, f"{method} {path} {body}: {answer}"
    assert text.lower() in answer.fault.lower(), answer.fault


def mapped(vm) -> set[str]:
    """Files of the test's folder that the monitor has mapped, with the rights of the mapping."""
    found = set()
    for line in pathlib.Path(f"/proc/{vm.process.pid}/maps").read_text().splitlines():
        words = line.split()
        if len(words) > 5 and words[5].startswith(str(vm.folder)):
            found.add(f"{words[1]} {os.path.basename(words[5])}")
    return found


def test_pmem_before_and_after_the_start(vm, file):
    limiter = {"bandwidth": {"size": 100, "one_time_burst": 7, "refill_time": 10}, "ops": None}
    vm.put("/pmem/a", id="a", path_on_host=file, rate_limiter=limiter)
    vm.put("/pmem/b", id="b", path_on_host=file, read_only=True)
    vm.put("/pmem/c", id="c", path_on_host=file)
    assert vm.request("DELETE", "/pmem/c").status == 204
    refused(vm, "DELETE", "/pmem/c")
    assert vm.get("/vm/config")["pmem"] == [
        {"id": "a", "path_on_host": file, "root_device": False, "read_only": False, "rate_limiter": limiter},
        {"id": "b", "path_on_host": file, "root_device": False, "read_only": True, "rate_limiter": {"bandwidth": None, "ops": None}}]
    refused(vm, "PATCH", "/pmem/a", {"id": "a", "rate_limiter": {}}, text="not supported before starting")
    vm.start_payload("halt")
    assert mapped(vm) == {"rw-s file", "r--s file"}
    vm.patch("/pmem/a", id="a", rate_limiter={"ops": {"size": 5, "refill_time": 100}, "bandwidth": {"size": 0, "refill_time": 0}})
    told = vm.get("/vm/config")["pmem"][0]["rate_limiter"]
    assert told == {"bandwidth": None, "ops": {"size": 5, "one_time_burst": None, "refill_time": 100}}
    refused(vm, "PATCH", "/pmem/x", {"id": "x", "rate_limiter": {}})
    assert vm.process.poll() is None


def test_wrong_pmems(vm, file):
    body = {"id": "a", "path_on_host": file}
    for wrong in ({"id": "a"}, {"id": "b", "path_on_host": file}, body | {"surplus": 1}, body | {"read_only": "yes"}, body | {"path_on_host": "/nowhere"},
                  body | {"path_on_host": "/dev/null"}, body | {"path_on_host": str(vm.folder)}, body | {"files": [file]},
                  {"id": "a", "files": [], "read_only": True}, {"id": "a", "files": [file]}, {"id": "a", "files": [file] * 256, "read_only": True},
                  {"id": "a", "files": [1], "read_only": True}, {"id": "a", "files": [file, "/nowhere"], "read_only": True}):
        refused(vm, "PUT", "/pmem/a", wrong)
    empty = vm.folder / "empty"
    empty.touch()
    refused(vm, "PUT", "/pmem/a", body | {"path_on_host": str(empty)})
    refused(vm, "PUT", "/pmem", body)
    refused(vm, "GET", "/pmem/a")
    assert vm.get("/vm/config")["pmem"] == []


def test_only_one_root(vm, file):
    vm.put("/pmem/a", id="a", path_on_host=file, root_device=True)
    vm.put("/pmem/a", id="a", path_on_host=file, root_device=True, read_only=True)
    refused(vm, "PUT", "/pmem/b", {"id": "b", "path_on_host": file, "root_device": True}, text="already exists")
    refused(vm, "PUT", "/drives/d", {"drive_id": "d", "path_on_host": file, "is_root_device": True}, text="already exists")
    vm.put("/pmem/a", id="a", path_on_host=file)
    vm.put("/drives/d", drive_id="d", path_on_host=file, is_root_device=True)
    refused(vm, "PUT", "/pmem/b", {"id": "b", "path_on_host": file, "root_device": True}, text="already exists")


def test_a_window_of_many_files(vm):
    files = []
    for number in range(100):
        path = vm.folder / f"layer{number}"
        path.write_bytes(b"x" * (number * 100 + 1))
        files.append(str(path))
    vm.put("/pmem/layers", id="layers", files=files, read_only=True)
    assert vm.get("/vm/config")["pmem"][0]["files"] == files
    vm.start_payload("halt")
    assert mapped(vm) == {f"r--s layer{number}" for number in range(100)}


def test_a_file_that_is_gone_at_the_start(vm, file):
    vm.put("/pmem/a", id="a", path_on_host=file)
    os.unlink(file)
    vm.put("/boot-source", kernel_image_path=str(vm.write_payload("halt")))
    refused(vm, "PUT", "/actions", {"action_type": "InstanceStart"}, text="pmem a")
    assert vm.get("/")["state"] == "Not started"
    pathlib.Path(file).write_bytes(b"back")
    vm.action("InstanceStart")


def test_hotplug_before_and_after_the_start(vm):
    refused(vm, "GET", "/hotplug/memory", text="no memory hotplug device")
    refused(vm, "PATCH", "/hotplug/memory", {"requested_size_mib": 2}, text="before starting")
    vm.put("/hotplug/memory", total_size_mib=1024, block_size_mib=4, slot_size_mib=256)
    expected = {"total_size_mib": 1024, "block_size_mib": 4, "slot_size_mib": 256}
    assert vm.get("/hotplug/memory") == expected | {"plugged_size_mib": 0, "requested_size_mib": 0}
    assert vm.get("/vm/config")["memory-hotplug"] == expected
    vm.start_payload("halt")
    assert vm.get("/hotplug/memory")["plugged_size_mib"] == 0
    # The payload has no driver.
    refused(vm, "PATCH", "/hotplug/memory", {"requested_size_mib": 4}, text="inactive")
    refused(vm, "PUT", "/hotplug/memory", {"total_size_mib": 1024}, text="after starting")
    refused(vm, "PATCH", "/hotplug/memory", {})
    refused(vm, "PATCH", "/hotplug/memory", {"requested_size_mib": 4, "surplus": 1})
    refused(vm, "DELETE", "/hotplug/memory")
    refused(vm, "GET", "/hotplug")


def test_wrong_hotplugs(vm):
    for wrong, text in (({}, "total_size_mib"), ({"total_size_mib": 64}, "lower than slot"), ({"total_size_mib": 200}, "multiple of slot"),
                        ({"total_size_mib": 0}, "lower than slot"), ({"total_size_mib": 1024, "block_size_mib": 1}, "lower than 2"),
                        ({"total_size_mib": 1024, "block_size_mib": 3}, "power of 2"), ({"total_size_mib": 1024, "slot_size_mib": 64}, "lower than 128"),
                        ({"total_size_mib": 1024, "block_size_mib": 256, "slot_size_mib": 128}, "multiple of block"),
                        ({"total_size_mib": 2 ** 64 - 1}, ""), ({"total_size_mib": -128}, ""), ({"total_size_mib": 1024, "surplus": 1}, "surplus")):
        refused(vm, "PUT", "/hotplug/memory", wrong, text=text)
    refused(vm, "GET", "/hotplug/memory")


def test_more_memory_than_there_are_addresses(vm):
    vm.put("/hotplug/memory", total_size_mib=1 << 26)
    vm.put("/boot-source", kernel_image_path=str(vm.write_payload("halt")))
    refused(vm, "PUT", "/actions", {"action_type": "InstanceStart"}, text="no room")


def test_memory_that_is_not_plugged_costs_nothing(vm):
    vm.put("/hotplug/memory", total_size_mib=64 * 1024)
    vm.start_payload("halt")
    for line in pathlib.Path(f"/proc/{vm.process.pid}/smaps").read_text().splitlines():
        if line.endswith("pluggable guest memory (deleted)"):
            rights = line.split()[1]
        if line.startswith("Rss:") and "rights" in locals():
            assert line.split()[1] == "0"
            assert rights in ("rw-s", "---s")
            del rights


def test_a_configuration_file(tmp_path):
    need_kvm()
    with Monitor(start=False, folder=tmp_path / "vm", api=False) as monitor:
        monitor.folder.mkdir()
        file = tmp_path / "file"
        file.write_bytes(b"x")
        (tmp_path / "vm.json").write_text(json.dumps({
            "boot-source": {"kernel_image_path": str(monitor.write_payload("reset")), "boot_args": "x"},
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 64}, "drives": [],
            "pmem": [{"id": "a", "path_on_host": str(file)}, {"id": "b", "files": [str(file), str(file)], "read_only": True}],
            "memory-hotplug": {"total_size_mib": 128}}))
        monitor.start("--no-api", "--config-file", str(tmp_path / "vm.json"))
        assert monitor.wait() == 0
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"boot-source": {"kernel_image_path": "/dev/null"}, "drives": [], "memory-hotplug": {"total_size_mib": 5}}))
    done = subprocess.run([vmm_binary(), "--no-api", "--config-file", str(bad)], capture_output=True, text=True)
    assert done.returncode == 152 and "memory-hotplug" in done.stderr
