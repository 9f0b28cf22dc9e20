"""cp, diff, export, commit and their like with the wherry command."""

import pytest

from support.binaries import binary
from support.files import *  # noqa: F401,F403 - the tests


@pytest.fixture
def use(daemon):
    return daemon.wherry


@pytest.fixture
def command(daemon):
    return [binary("wherry")], daemon.client_environment()
