"""Fixtures of the DNS suite: servers that end with their test."""

import pytest

from support.dns import Bind, Knot, Nsd, Wherry


@pytest.fixture
def servers():
    """servers(Kind): a server of that kind, not started yet; all are ended with the test."""
    started = []

    def make(kind):
        started.append(kind().__enter__())
        return started[-1]

    yield make
    for server in reversed(started):
        server.__exit__()


@pytest.fixture
def wherry(servers):
    return servers(Wherry)


@pytest.fixture
def nsd(servers):
    return servers(Nsd)


@pytest.fixture
def knot(servers):
    return servers(Knot)


@pytest.fixture
def bind(servers):
    return servers(Bind)
