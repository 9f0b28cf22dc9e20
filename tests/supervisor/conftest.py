import os
import pathlib

import pytest

from shim_client import Shim


@pytest.fixture(scope="session", autouse=True)
def cgroup_parents():
    """The folders above the containers' cgroups go when the last test is through."""
    yield
    for folder in pathlib.Path("/sys/fs/cgroup").glob("*/wherry-shim-tests"):
        try:
            folder.rmdir()
        except OSError:
            pass  # another run is using it


@pytest.fixture
def shim():
    if os.geteuid() != 0:
        pytest.skip("needs root")
    running = Shim()
    try:
        yield running
    finally:
        running.close()
