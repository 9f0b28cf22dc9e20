"""stats, as a stream and once: counters that grow, and what stock clients make of them."""

import json
import os
import re
import stat
import subprocess
import time

import pytest

from support.docker_clis import cli

BUSYBOX = "busybox:latest"
BUSY = ["sh", "-c", "while :; do :; done"]


def run(daemon, name, *command, **more):
    identifier = daemon.api.post(f"/containers/create?name={name}", {"Image": BUSYBOX, "Cmd": list(command), **more})["Id"]
    daemon.api.post(f"/containers/{identifier}/start")
    return identifier


def test_shape_and_growth(clean):
    run(clean, "busy", *BUSY, HostConfig={"Memory": 64 << 20, "PidsLimit": 50})
    once = clean.api.get("/containers/busy/stats", stream=0)
    assert once["name"] == "/busy" and once["pids_stats"] == {"current": 1, "limit": 50}
    assert once["memory_stats"]["limit"] == 64 << 20 and 0 < once["memory_stats"]["usage"] < 64 << 20
    assert once["cpu_stats"]["online_cpus"] > 0 and once["precpu_stats"]["system_cpu_usage"] > 0
    assert once["preread"] < once["read"]
    used = once["cpu_stats"]["cpu_usage"]["total_usage"] - once["precpu_stats"]["cpu_usage"]["total_usage"]
    host = once["cpu_stats"]["system_cpu_usage"] - once["precpu_stats"]["system_cpu_usage"]
    assert 0 < used < 1.3 * host
    shot = clean.api.get("/containers/busy/stats", **{"stream": 0, "one-shot": 1})
    assert shot["precpu_stats"]["cpu_usage"]["total_usage"] == 0 and shot["preread"].startswith("0001-01-01")


def test_network_counters(clean):
    run(clean, "target", "httpd", "-f", "-h", "/bin")
    address = clean.api.get("/containers/target/json")["NetworkSettings"]["IPAddress"]
    run(clean, "client", "sleep", "1000")
    before = clean.api.get("/containers/client/stats", **{"stream": 0, "one-shot": 1})["networks"]["eth0"]
    clean.wherry("exec", "client", "sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9; do wget -qO /dev/null http://{address}/busybox && exit 0; sleep 0.2; done; exit 1")
    after = clean.api.get("/containers/client/stats", **{"stream": 0, "one-shot": 1})["networks"]["eth0"]
    size = int(clean.wherry("exec", "client", "stat", "-Lc", "%s", "/bin/busybox").stdout)
    assert size < after["rx_bytes"] - before["rx_bytes"] < 1.2 * size + 4096
    assert after["tx_packets"] > before["tx_packets"] and set(after) == {
        f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "dropped")}
    run(clean, "host", "sleep", "1000", HostConfig={"NetworkMode": "host"})
    run(clean, "none", "sleep", "1000", HostConfig={"NetworkMode": "none"})
    for name in ("host", "none"):
        assert clean.api.get(f"/containers/{name}/stats", **{"stream": 0, "one-shot": 1})["networks"] == {}


def test_block_counters(clean):
    # On cgroup v1 newer kernels count only where there is a limit, and nothing that goes through the page cache.
    device = os.stat(clean.data_root).st_dev
    disk = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if os.path.exists(f"{disk}/partition"):
        disk = os.path.dirname(disk)  # limits are for whole disks
    path = f"/dev/{os.path.basename(disk)}"
    if not os.path.exists(path) or not stat.S_ISBLK(os.stat(path).st_mode):
        pytest.skip("the data root is not on a block device")
    run(clean, "writer", "sh", "-c", "dd if=/dev/zero of=/data bs=1M count=8 oflag=direct && touch /done && sleep 1000",
        HostConfig={"BlkioDeviceWriteBps": [{"Path": path, "Rate": 10 << 30}]})
    clean.wherry("exec", "writer", "sh", "-c", "while ! test -e /done; do sleep 0.05; done")
    stats = clean.api.get("/containers/writer/stats", **{"stream": 0, "one-shot": 1})["blkio_stats"]
    entries = stats["io_service_bytes_recursive"]
    assert sum(entry["value"] for entry in entries if entry["op"].lower() == "write") >= 8 << 20
    assert {"major", "minor", "op", "value"} == set(entries[0]) and stats["io_serviced_recursive"]
    assert re.search(r"/ 8\.\d+MB$|/ 9\.\d+MB$", clean.wherry("stats", "--no-stream", "--format", "{{.BlockIO}}", "writer").stdout.strip())


def test_stream_and_end(clean):
    run(clean, "streamed", *BUSY)
    process = subprocess.Popen(["curl", "-sN", "--unix-socket", str(clean.socket), "http://d/containers/streamed/stats"], stdout=subprocess.PIPE, text=True)
    try:
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert second["preread"] == first["read"] and second["precpu_stats"]["cpu_usage"] == first["cpu_stats"]["cpu_usage"]
        clean.api.delete("/containers/streamed", force=1)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()


@pytest.mark.parametrize("which", ["installed", "debian"])
def test_stock_cli_shows_the_same(clean, which):
    program = cli(which)
    run(clean, "busy", *BUSY, HostConfig={"NanoCpus": 500_000_000, "Memory": 64 << 20})
    time.sleep(1)
    format_ = "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}"
    theirs = clean.docker("stats", "--no-stream", "--format", format_, program=program).stdout
    ours = clean.wherry("stats", "--no-stream", "--format", format_).stdout
    for text in (theirs, ours):
        name, percent, used, _, limit, pids = text.split()
        assert name == "busy" and limit == "64MiB" and pids == "1" and re.fullmatch(r"[\d.]+[KM]iB", used)
        assert 0.5 < float(percent.rstrip("%")) < 75, text  # of half a processor, as much as a loaded machine gives it
