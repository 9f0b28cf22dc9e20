"""The everyday verbs with the stock docker CLIs: the installed one, and Debian's 20.10."""

import pytest

from support.docker_clis import cli
from support.everyday import *  # noqa: F401,F403 - the tests


@pytest.fixture(params=["installed", "debian"], scope="module")
def program(request):
    return cli(request.param)


@pytest.fixture
def use(daemon, program):
    def run(*arguments, **keywords):
        return daemon.docker(*arguments, program=program, **keywords)

    return run


@pytest.fixture
def command(daemon, program):
    return [program], daemon.client_environment()
