"""Files of containers by command line: what every client (docker, wherry) gives. `use(*arguments)` runs it; `command` is how it starts."""

import io
import json
import os
import subprocess
import tarfile
import time

import pytest

from .images import tar_of
from .terminal import Terminal


@pytest.fixture(params=["running", "stopped"])
def box(request, daemon, use, clean):
    """A container called box, running or not, with some files."""
    use("run", "-d", "--name", "box", "--network", "none", "-v", "/vol", "busybox", "sh", "-c",
        "mkdir -p /srv/d/e; echo deep >/srv/d/e/f; ln -s d /srv/link; ln -s e/f /srv/d/inner; chown -R 1000:50 /srv/d; echo mine >/vol/v; echo ready; exec sleep 1000")
    deadline = time.monotonic() + 20
    while "ready" not in use("logs", "box").stdout:
        assert time.monotonic() < deadline
    if request.param == "stopped":
        use("kill", "box")
    return request.param


def read(use, daemon, path) -> str:
    raw = use("cp", f"box:{path}", "-", text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return tar.extractfile(tar.getmembers()[0]).read().decode()


def test_cp_into(use, daemon, box, tmp_path):
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_text("from here")
    (tmp_path / "one").write_text("one")
    (tmp_path / "link").symlink_to("one")
    use("cp", str(tmp_path / "one"), "box:/tmp")
    use("cp", str(tmp_path / "one"), "box:/tmp/renamed")
    use("cp", str(tmp_path / "d"), "box:/tmp")
    use("cp", str(tmp_path / "d"), "box:/tmp/new")
    use("cp", f"{tmp_path}/d/.", "box:/home")
    use("cp", "-L", str(tmp_path / "link"), "box:/tmp/followed")
    use("cp", str(tmp_path / "link"), "box:/tmp/kept")
    for path in ("/tmp/one", "/tmp/renamed", "/tmp/followed"):
        assert read(use, daemon, path) == "one", path
    for path in ("/tmp/d/e/f", "/tmp/new/e/f", "/home/e/f"):
        assert read(use, daemon, path) == "from here", path
    raw = use("cp", "box:/tmp/kept", "-", text=False).stdout
    assert tarfile.open(fileobj=io.BytesIO(raw)).getmembers()[0].linkname == "one"
    use("cp", str(tmp_path / "one"), "box:/srv/link/through")  # a symlink to a folder on the way
    assert read(use, daemon, "/srv/d/through") == "one"
    use("cp", str(tmp_path / "one"), "box:/vol")
    assert read(use, daemon, "/vol/one") == "one"


def test_cp_out_of(use, daemon, command, box, tmp_path):
    use("cp", "box:/etc/passwd", str(tmp_path))
    assert "root:x:0" in (tmp_path / "passwd").read_text()
    use("cp", "box:/srv/d", str(tmp_path))
    assert (tmp_path / "d/e/f").read_text() == "deep\n" and os.readlink(tmp_path / "d/inner") == "e/f"
    use("cp", "box:/srv/d", str(tmp_path / "new"))
    assert (tmp_path / "new/e/f").exists()
    (tmp_path / "into").mkdir()
    use("cp", "box:/srv/d/.", str(tmp_path / "into"))
    assert (tmp_path / "into/e/f").exists()
    use("cp", "-L", "box:/srv/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed/e/f").exists()
    use("cp", "box:/srv/link", str(tmp_path / "kept"))
    assert os.readlink(tmp_path / "kept") == "d"
    use("cp", "-a", "box:/srv/d", str(tmp_path / "owned"))
    if command[0][0].endswith("wherry"):  # docker's client never sets owners of what it writes
        assert (os.stat(tmp_path / "owned/e/f").st_uid, os.stat(tmp_path / "owned/e/f").st_gid) == (1000, 50)
    quiet = ["-q"] if "--quiet" in use("cp", "--help").stdout else []  # not before docker 23
    use("cp", *quiet, "box:/vol/v", str(tmp_path / "v"))
    assert (tmp_path / "v").read_text() == "mine\n"


def test_cp_streams(use, daemon, box):
    raw = use("cp", "box:/srv/d", "-", text=False).stdout
    names = tarfile.open(fileobj=io.BytesIO(raw)).getnames()
    assert names == ["d", "d/e", "d/e/f", "d/inner"]
    use("cp", "-", "box:/tmp", input=tar_of({"piped": b"x"}), text=False)
    assert read(use, daemon, "/tmp/piped") == "x"
    use("cp", "-", "box:/home", input=raw, text=False)
    assert read(use, daemon, "/home/d/e/f") == "deep\n"


def test_cp_errors(use, daemon, box, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for words, expected in ((["box:/nope", str(tmp_path)], "Could not find the file /nope in container box"), (["nobox:/etc", str(tmp_path)], "No such container: nobox"),
                            ([str(tmp_path / "nope"), "box:/tmp"], "no such file"), ([str(tmp_path / "folder"), "box:/etc/passwd"], "cannot copy directory"),
                            ([str(tmp_path / "file"), "box:/nowhere/below/x"], "Could not find the file /nowhere/below in container box"), (["box:/etc", str(tmp_path / "file")], "cannot copy directory")):
        result = use("cp", *words, check=False)
        # Docker's client before 23 says it in words of its own.
        assert result.returncode == 1 and any(text in result.stderr.lower() for text in (expected.lower(), "no such container:path")), (words, result.stderr)


def test_diff_export_commit(use, daemon, clean, tmp_path):
    use("run", "-d", "--name", "job", "--network", "none", "busybox", "sh", "-c", "echo new >/home/new; rm /etc/group; echo ready; exec sleep 1000")
    deadline = time.monotonic() + 20
    while "ready" not in use("logs", "job").stdout:
        assert time.monotonic() < deadline
    assert sorted(use("diff", "job").stdout.splitlines()) == ["A /home/new", "C /etc", "C /home", "D /etc/group"]
    use("export", "-o", str(tmp_path / "root.tar"), "job")
    names = tarfile.open(tmp_path / "root.tar").getnames()
    assert "home/new" in names and "etc/group" not in names
    identifier = use("commit", "-a", "me", "-m", "note", "-c", "ENV X=1", "-c", "CMD [\"cat\", \"/home/new\"]", "job", "job-image:1").stdout.strip()
    assert identifier.startswith("sha256:")
    assert use("run", "--rm", "--network", "none", "job-image:1").stdout == "new\n"
    assert use("run", "--rm", "--network", "none", "job-image:1", "sh", "-c", "echo $X; test -e /etc/group || echo gone").stdout == "1\ngone\n"
    assert json.loads(use("inspect", "--type", "image", "job-image:1").stdout)[0]["Author"] == "me"
    assert use("inspect", "-f", "{{.State.Status}}", "job").stdout == "running\n"
    use("rm", "-f", "job")
    use("rmi", "job-image:1")
    assert use("commit", "job", check=False).returncode == 1


def test_load_shows_layers(use, daemon, clean, tmp_path):
    (tmp_path / "f").write_text(str(time.time()))
    subprocess.run(["tar", "-C", str(tmp_path), "-cf", str(tmp_path / "layer.tar"), "f"], check=True)
    use("import", str(tmp_path / "layer.tar"), "loaded:1")
    use("save", "-o", str(tmp_path / "loaded.tar"), "loaded:1")
    use("rmi", "loaded:1")
    assert use("load", "-q", "-i", str(tmp_path / "loaded.tar")).stdout == "Loaded image: loaded:1\n"
    use("rmi", "loaded:1")
    raw = (tmp_path / "loaded.tar").read_bytes()
    status, _, body = daemon.api.request("POST", "/images/load", raw, quiet="0", headers={"Content-Type": "application/x-tar"})
    lines = [json.loads(line) for line in body.splitlines()]
    assert status == 200 and lines[-1] == {"stream": "Loaded image: loaded:1\n"}
    layer = lines[0]
    assert layer["status"] == "Loading layer" and len(layer["id"]) == 12 and layer["progressDetail"]["current"] == layer["progressDetail"]["total"] > 0
    # A second time there is nothing to load.
    body = daemon.api.request("POST", "/images/load", raw, quiet="0", headers={"Content-Type": "application/x-tar"})[2]
    assert [json.loads(line) for line in body.splitlines()] == lines[-1:]
    use("rmi", "loaded:1")


def test_exec_on_a_terminal_has_its_size(use, daemon, command, clean):
    use("run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "1000")
    program, environment = command
    with Terminal([*program, "exec", "-it", "box", "sh"], environment, rows=33, columns=77) as terminal:
        terminal.expect(b"# ")
        if "--quiet" in use("cp", "--help").stdout:  # docker before 23 tells the size after the start
            terminal.send(b"stty size; echo do''ne\n")
            seen = terminal.expect(b"done")
            assert b"33 77" in seen, seen
        terminal.ask_until(b"stty size", b"33 77")
        terminal.resize(40, 100)
        terminal.ask_until(b"stty size", b"40 100")
        terminal.send(b"exit 7\n")
        assert terminal.wait() == 7


def test_shared_memory(use, daemon, clean):
    use("run", "-d", "--name", "donor", "--network", "none", "--ipc", "shareable", "--shm-size", "8m", "busybox", "sleep", "1000")
    use("run", "-d", "--name", "private", "--network", "none", "busybox", "sleep", "1000")
    use("exec", "donor", "sh", "-c", "echo shared >/dev/shm/note")
    assert use("run", "--rm", "--network", "none", "--ipc", "container:donor", "busybox", "sh", "-c",
               "cat /dev/shm/note; echo back >/dev/shm/answer; df -k /dev/shm | tail -1 | awk '{print $2}'").stdout == "shared\n8192\n"
    assert use("exec", "donor", "cat", "/dev/shm/answer").stdout == "back\n"
    result = use("run", "--rm", "--network", "none", "--ipc", "container:private", "busybox", "true", check=False)
    assert result.returncode == 125 and "non-shareable IPC" in result.stderr
