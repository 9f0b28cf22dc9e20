"""A folder to share with a secret beside it, and servers on it."""

import pathlib

import pytest

from support import binaries
from support.vhost_user import Server


@pytest.fixture
def shared(tmp_path) -> pathlib.Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    (tmp_path / "secret").write_text("secret")
    return folder


@pytest.fixture
def serve(shared):
    binaries.need_root()
    made: list[Server] = []

    def start(*options: str, **keywords) -> Server:
        made.append(Server(shared, *options, **keywords))
        return made[-1]

    yield start
    for server in made:
        server.close()
    # Nothing that was asked may have reached it.
    assert (shared.parent / "secret").read_text() == "secret"
