"""Guests that boot: Debian's stock kernel and the small one, with tests/vmm/guest/init.cpp as process 1."""

import os
import pathlib
import subprocess
import uuid

import pytest

from support.microvm import Guest, need_kvm

NETWORK = "172.30"


def pytest_collection_modifyitems(items):
    """Each guest costs seconds of emulation: what is no everyday test is a counted skip."""
    if os.environ.get("WHERRY_TEST_LONG") == "1":
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="a long test: only with --all"))


def pytest_configure(config):
    config.addinivalue_line("markers", "long: not one of the everyday tests")


@pytest.fixture
def make_guest():
    need_kvm()
    made: list[Guest] = []

    def make(*arguments, **keywords) -> Guest:
        made.append(Guest(*arguments, **keywords))
        return made[-1]

    yield make
    for guest in made:
        guest.close()


@pytest.fixture(params=["small", "debian"])
def either(request, make_guest):
    """A function that makes a guest of each kernel in turn."""
    return lambda *arguments, **keywords: make_guest(request.param, *arguments, **keywords)


class Tap:
    count = 0

    def __init__(self):
        Tap.count += 1
        self.name = "wt" + uuid.uuid4().hex[:8]
        self.host, self.guest = f"{NETWORK}.{Tap.count}.1", f"{NETWORK}.{Tap.count}.2"
        self.mac = f"06:00:ac:1e:{Tap.count:02x}:02"
        subprocess.run(["ip", "tuntap", "add", self.name, "mode", "tap", "vnet_hdr"], check=True)
        subprocess.run(["ip", "addr", "add", f"{self.host}/24", "dev", self.name], check=True)
        subprocess.run(["ip", "link", "set", self.name, "up"], check=True)

    def close(self):
        subprocess.run(["ip", "link", "del", self.name], check=True)


@pytest.fixture
def tap():
    made = Tap()
    yield made
    made.close()


@pytest.fixture
def other_tap():
    made = Tap()
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path) -> pathlib.Path:
    path = tmp_path / "disk"
    with open(path, "wb") as file:
        file.truncate(16 << 20)
    return path
