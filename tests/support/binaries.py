"""Where the binaries under test are: $WHERRY_BIN, or the build folder that was built last."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def folder() -> pathlib.Path:
    chosen = os.environ.get("WHERRY_BIN")
    if chosen:
        return pathlib.Path(chosen)
    candidates = [ROOT / "build" / preset / "bin" for preset in ("release", "dev", "asan")]
    candidates = [path for path in candidates if (path / "wherry").exists() or (path / "wherryd").exists()]
    if not candidates:
        return ROOT / "build" / "release" / "bin"
    return max(candidates, key=lambda path: max((path / name).stat().st_mtime for name in ("wherry", "wherryd") if (path / name).exists()))


def binary(name: str) -> str:
    """The path of a binary, or a counted skip that says which one is missing."""
    path = folder() / name
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return str(path)


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
