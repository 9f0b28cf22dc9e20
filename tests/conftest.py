"""Fixtures of every black-box suite. Run as root: /usr/bin/python3 -m pytest tests/<suite>."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from support.daemon import Daemon  # noqa: E402


@pytest.fixture(scope="module")
def daemon():
    """One wherryd for a test file, with busybox:latest; leaks are counted when the file is through."""
    with Daemon() as running:
        running.import_busybox()
        yield running


@pytest.fixture
def own_daemon():
    """A wherryd for one test alone, with busybox:latest: for tests that kill or configure it."""
    with Daemon() as running:
        running.import_busybox()
        yield running


@pytest.fixture
def make_daemon():
    """make_daemon(*flags, **keywords): daemons started with flags of the test's own, all closed at its end."""
    started: list[Daemon] = []

    def make(*arguments, **keywords) -> Daemon:
        running = Daemon(*arguments, **keywords).__enter__()
        started.append(running)
        return running

    yield make
    for running in reversed(started):
        running.close()


@pytest.fixture
def clean(daemon):
    """Removes every container after the test, so that names can be used again."""
    yield daemon
    daemon.remove_all()


def pytest_make_parametrize_id(val):
    """Long values are no names: pytest puts a test's name into the environment, where nothing may be over 128 KiB."""
    if isinstance(val, (str, bytes)) and len(val) > 200:
        text = val if isinstance(val, str) else val.decode("latin-1")
        return f"{text[:40].encode('unicode_escape').decode()}...{len(val)}"
    return None
