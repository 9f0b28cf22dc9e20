"""Suites of the microVM monitor and its jailer. $VMM and $JAILER name other binaries of Firecracker's surface."""

import os
import pathlib
import shutil
import subprocess

import pytest

# Guests that boot are started in the testbed (tests/testbed/run), which sets the variable and counts those suites.
if not os.environ.get("WHERRY_GUESTS"):
    collect_ignore = ["guests"]

GUEST = pathlib.Path(__file__).resolve().parent / "guest"


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> pathlib.Path:
    """The folder with guest/build's programs: made on the spot, or brought along into the testbed."""
    ready = os.environ.get("WHERRY_GUESTS")
    if ready and (pathlib.Path(ready) / "payload.elf").exists():
        return pathlib.Path(ready)
    if shutil.which("clang++-19") is None:
        pytest.skip("clang-19 is not installed")
    folder = tmp_path_factory.mktemp("programs")
    subprocess.run([str(GUEST / "build"), str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def probe(programs) -> pathlib.Path:
    """A static program with a monitor's name that waits to be looked at."""
    return programs / "firecracker-probe"
