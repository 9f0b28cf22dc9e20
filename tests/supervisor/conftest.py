import os

import pytest

from shim_client import Shim


@pytest.fixture
def shim():
    if os.geteuid() != 0:
        pytest.skip("needs root")
    running = Shim()
    try:
        yield running
    finally:
        running.close()
