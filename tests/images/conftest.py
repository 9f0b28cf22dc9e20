import pytest

from store_tool import Store
from support.binaries import binary, need_root


@pytest.fixture
def store(tmp_path):
    need_root()
    binary("wherry-unpack")
    made = Store(tmp_path / "data")
    made.run("list")
    return made
