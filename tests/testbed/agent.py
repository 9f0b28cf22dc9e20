"""Inside the machine: runs the suites of /wherry/plan.json one after the other and writes what they leave as a tar onto
the third disk after each, so that a machine that dies keeps what it had found out."""

import json
import os
import pathlib
import signal
import subprocess
import tarfile
import time

RESULTS = pathlib.Path("/results")
DISK = "/dev/vdc"
LIMIT = 4 << 20  # bytes kept of one suite's output


def say(text: str) -> None:
    print(f"testbed: {text}", flush=True)


def run(suite: dict, environment: dict[str, str]) -> dict:
    folder = RESULTS / suite["name"]
    folder.mkdir(parents=True)
    started = time.monotonic()
    with open(folder / "output", "wb") as output:
        follower = subprocess.Popen(["tail", "-f", str(folder / "output")], stdin=subprocess.DEVNULL) if suite["verbose"] else None
        process = subprocess.Popen(["/bin/bash", "-c", suite["command"]], cwd="/wherry", stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, env=environment | {"RESULTS": str(folder)}, start_new_session=True)
        try:
            status = process.wait(timeout=suite["timeout"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = "timeout"
        if follower is not None:
            follower.kill()
            follower.wait()
    output = folder / "output"
    if output.stat().st_size > LIMIT:
        with open(output, "rb+") as file:
            file.truncate(LIMIT)
    return {"name": suite["name"], "status": status, "seconds": round(time.monotonic() - started, 1)}


def keep() -> None:
    with open(DISK, "r+b", buffering=1 << 20) as disk:
        with tarfile.open(fileobj=disk, mode="w") as archive:
            archive.add(RESULTS, arcname=".")
        disk.flush()
        os.fsync(disk.fileno())


def main() -> None:
    plan = json.loads(pathlib.Path("/wherry/plan.json").read_text())
    environment = dict(os.environ) | plan["environment"]
    source = pathlib.Path(plan["source"])
    if not source.exists():
        # Test programs were built with paths of files beside their sources.
        source.parent.mkdir(parents=True, exist_ok=True)
        source.symlink_to("/wherry")
    uptime = pathlib.Path("/proc/uptime").read_text().split()[0]
    say(f"up after {uptime} s, {os.uname().release}")
    states = []
    for suite in plan["suites"]:
        say(f"start {suite['name']}")
        states.append(run(suite, environment))
        say(f"end {suite['name']} status={states[-1]['status']} seconds={states[-1]['seconds']}")
        (RESULTS / "states.json").write_text(json.dumps(states))
        keep()
    say("done")


main()
