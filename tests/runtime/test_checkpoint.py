"""checkpoint and restore through CRIU, where it is installed and works (the testbed's profile systemd)."""

import os
import pathlib
import time

import pytest

from support import criu


pytestmark = pytest.mark.skipif(not criu.works(), reason="criu is not installed or does not work on this kernel")


def counting(runtime, bundle) -> tuple[str, pathlib.Path]:
    bundle.script("exec < /dev/null > /dev/null 2>&1; i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done")
    return runtime.create(bundle), bundle.rootfs / "tmp/count"


def value(path: pathlib.Path) -> int:
    deadline = time.monotonic() + 60
    while True:
        try:
            return int(path.read_text())
        except (OSError, ValueError):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def wait_above(path: pathlib.Path, number: int):
    deadline = time.monotonic() + 60
    while value(path) <= number:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_checkpoint_and_restore(runtime, bundle):
    identifier, count = counting(runtime, bundle)
    runtime.command("start", identifier, check=True)
    wait_above(count, 3)
    image = bundle.path / "image"
    done = runtime.command("checkpoint", "--image-path", image, identifier, timeout=120)
    assert done.returncode == 0, done.stderr + (image / "dump.log").read_text()[-3000:]
    assert runtime.command("state", identifier).returncode != 0
    before = value(count)
    assert (image / "descriptors.json").exists()
    again = runtime.new_id()
    with open(runtime.folder / f"{again}.out", "w") as out:
        done = runtime.command("restore", "-d", "-b", bundle.path, "--image-path", image, "--pid-file", bundle.path / "pid", again,
                               stdout=out, stderr=out, timeout=120)
    assert done.returncode == 0, runtime.log(again) + (image / "restore.log").read_text()[-3000:]
    assert runtime.state(again)["status"] == "running"
    assert int((bundle.path / "pid").read_text()) == runtime.state(again)["pid"]
    # It goes on where it was, not from the beginning.
    wait_above(count, before + 3)
    assert runtime.exec(again, "true").returncode == 0
    runtime.delete(again)


def test_leave_running(runtime, bundle):
    identifier, count = counting(runtime, bundle)
    runtime.command("start", identifier, check=True)
    wait_above(count, 3)
    done = runtime.command("checkpoint", "--leave-running", "--image-path", bundle.path / "image", identifier, timeout=120)
    assert done.returncode == 0, done.stderr
    assert runtime.state(identifier)["status"] == "running"
    wait_above(count, value(count) + 3)


def test_restore_of_nothing(runtime, bundle):
    bundle.write()
    (bundle.path / "image").mkdir()
    identifier = runtime.new_id()
    done = runtime.command("restore", "-d", "-b", bundle.path, "--image-path", bundle.path / "image", identifier, timeout=120)
    assert done.returncode != 0 and "criu" in done.stderr
    assert runtime.command("state", identifier).returncode != 0
    assert not os.path.exists(runtime.root / identifier)
