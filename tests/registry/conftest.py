import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from hostile import ScriptedRegistry  # noqa: E402
from real import RealRegistry  # noqa: E402
from support.daemon import Daemon  # noqa: E402

LONG = os.environ.get("WHERRY_TEST_LONG") == "1" or os.environ.get("WHERRY_TEST_ALL") == "1"


@pytest.fixture(scope="module")
def daemon():
    """A wherryd that gives up soon, with busybox:latest."""
    with Daemon("--max-download-attempts", "3", "--max-layer-size", "64m", network=False) as running:
        running.import_busybox()
        yield running


@pytest.fixture(scope="module")
def real():
    with RealRegistry() as registry:
        yield registry


@pytest.fixture
def registry():
    with ScriptedRegistry() as scripted:
        yield scripted


def traces(daemon) -> dict[str, list[str]]:
    """What of images is on disk: layers whole and half, blobs, ingests."""
    root = daemon.data_root
    names = lambda path: sorted(os.listdir(path)) if path.exists() else []  # noqa: E731
    return {"layers": names(root / "layers"), "blobs": names(root / "content/blobs/sha256"), "ingests": names(root / "content/ingest"),
            "images": names(root / "images")}


@pytest.fixture
def nothing_left(daemon):
    """After the test, what of images is on disk is what was there before."""
    before, listed = traces(daemon), daemon.api.get("/images/json")
    yield
    after = traces(daemon)
    assert after == before
    assert daemon.api.get("/images/json") == listed
    assert daemon.api.get("/_ping") in (b"OK", "OK")
