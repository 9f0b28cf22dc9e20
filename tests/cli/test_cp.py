"""cp in both directions, by Docker's rules of what becomes of which name."""

import io
import os
import tarfile

import pytest

from support.images import tar_of


@pytest.fixture
def box(daemon, clean):
    daemon.wherry("run", "-d", "--name", "box", "busybox", "sleep", "60")
    return daemon


def read(daemon, path):
    return daemon.wherry("exec", "box", "cat", path).stdout


def test_files_in(box, tmp_path):
    (tmp_path / "f").write_text("one")
    box.wherry("cp", str(tmp_path / "f"), "box:/tmp")
    assert read(box, "/tmp/f") == "one"
    box.wherry("cp", str(tmp_path / "f"), "box:/tmp/g")
    assert read(box, "/tmp/g") == "one"
    result = box.wherry("cp", str(tmp_path / "f"), "box:/nowhere/", check=False)
    assert result.returncode == 1


def test_folders_in(box, tmp_path):
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_text("deep")
    box.wherry("cp", str(tmp_path / "d"), "box:/tmp")
    assert read(box, "/tmp/d/e/f") == "deep"
    box.wherry("cp", str(tmp_path / "d"), "box:/tmp/new")
    assert read(box, "/tmp/new/e/f") == "deep"
    box.wherry("cp", f"{tmp_path}/d/.", "box:/home")
    assert read(box, "/home/e/f") == "deep"


def test_out(box, tmp_path):
    box.wherry("cp", "box:/etc/passwd", str(tmp_path))
    assert "root:x:0" in (tmp_path / "passwd").read_text()
    box.wherry("cp", "box:/etc/passwd", str(tmp_path / "renamed"))
    assert "root:x:0" in (tmp_path / "renamed").read_text()
    box.wherry("cp", "box:/etc", str(tmp_path / "new"))
    assert (tmp_path / "new/passwd").exists()
    box.wherry("cp", "box:/etc", str(tmp_path))
    assert (tmp_path / "etc/passwd").exists()
    (tmp_path / "into").mkdir()
    box.wherry("cp", "box:/etc/.", str(tmp_path / "into"))
    assert (tmp_path / "into/passwd").exists()


def test_streams(box):
    raw = box.wherry("cp", "box:/etc/passwd", "-", text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert tar.getnames() == ["passwd"]
    box.wherry("cp", "-", "box:/tmp", input=tar_of({"piped": b"x"}), text=False)
    assert read(box, "/tmp/piped") == "x"


def test_what_is_not_there(box, tmp_path):
    for words in (["box:/nope", str(tmp_path)], ["nobox:/etc", str(tmp_path)], [str(tmp_path / "nope"), "box:/tmp"], ["a", "b"], ["box:/a", "box:/b"]):
        result = box.wherry("cp", *words, check=False)
        assert result.returncode == 1 and result.stderr
