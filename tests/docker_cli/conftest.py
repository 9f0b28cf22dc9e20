"""The stock docker CLIs: the installed one, and Debian's 20.10."""

import pytest

from support.docker_clis import cli


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
