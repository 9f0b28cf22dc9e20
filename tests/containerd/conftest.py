import pytest

from support.containerd import Containerd
from support.shim_host import Host


@pytest.fixture(scope="module")
def containerd():
    """One containerd for a test file, with busybox; what the shims left is counted when the file is through."""
    running = Containerd()
    running.import_busybox()
    yield running
    running.close()


@pytest.fixture
def own_containerd():
    """One for a test alone: it may be killed."""
    running = Containerd()
    running.import_busybox()
    yield running
    running.close()


@pytest.fixture
def host():
    running = Host()
    yield running
    running.close()
