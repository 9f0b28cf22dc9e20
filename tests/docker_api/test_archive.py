"""Files of containers over the API: archive (cp), export, changes (diff), commit. What is expected is what dockerd 20.10 answers, but for
errors a user provokes, which are 4xx here and 500 there."""

import base64
import bz2
import gzip
import io
import json
import lzma
import socket
import tarfile
import time

import pytest

from support.api import demultiplex

TYPES = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "p": tarfile.FIFOTYPE, "c": tarfile.CHRTYPE}


def tar(*entries) -> bytes:
    """(name, kind, content or target, attributes) each."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, data, *more in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = TYPES[kind], 0o755 if kind == "d" else 0o644
            if kind in "lh":
                info.linkname = data
            for key, value in (more[0] if more else {}).items():
                setattr(info, key, value)
            if kind == "f":
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if kind == "f" else None)
    return raw.getvalue()


def create(daemon, name, start=True, command=("sleep", "1000"), host=None, **config):
    body = {"Image": "busybox", "Cmd": list(command), "HostConfig": {"NetworkMode": "none", **(host or {})}, **config}
    identifier = daemon.api.post("/containers/create", body, name=name)["Id"]
    if start:
        daemon.api.post(f"/containers/{name}/start")
    return identifier


def head(daemon, name, path):
    status, headers, body = daemon.api.request("HEAD", f"/containers/{name}/archive", path=path)
    assert body == b""
    text = headers.get("X-Docker-Container-Path-Stat")
    return status, json.loads(base64.b64decode(text)) if text else None


class Member:
    """A TarInfo with its content."""

    def __init__(self, info: tarfile.TarInfo, content: bytes | None):
        self.info, self.content = info, content

    def __getattr__(self, name):
        return getattr(self.info, name)


def get(daemon, name, path) -> dict[str, Member]:
    status, _, body = daemon.api.request("GET", f"/containers/{name}/archive", path=path)
    assert status == 200, body
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        return {member.name: Member(member, archive.extractfile(member).read() if member.isreg() else None) for member in archive.getmembers()}


def first_names(body: bytes) -> list[bytes]:
    """Names as they stand in the headers: tarfile would take slashes off."""
    names, at = [], 0
    while at + 512 <= len(body) and body[at]:
        if body[at + 156:at + 157] != b"x":
            names.append(body[at:at + 100].split(b"\0")[0])
        size = int(body[at + 124:at + 136].strip(b"\0 ") or b"0", 8)
        at += 512 + (size + 511) // 512 * 512
    return names


def put(daemon, name, path, raw: bytes, **query):
    status, _, body = daemon.api.request("PUT", f"/containers/{name}/archive", raw, path=path, **query)
    return status, json.loads(body)["message"] if body else ""


def shell(daemon, name, script) -> str:
    result = daemon.wherry("exec", name, "sh", "-c", script)
    return result.stdout


TREE = tar(("d", "d", None), ("d/f", "f", b"hello", {"uid": 123, "gid": 456, "mode": 0o640, "mtime": 1000000000}), ("d/h", "h", "d/f"),
           ("d/abs", "l", "/etc/passwd"), ("d/rel", "l", "../d/f"), ("d/dangling", "l", "/nope/x"), ("d/dirlink", "l", "/etc"), ("d/p", "p", None),
           ("d/sub", "d", None, {"mode": 0o1777}), ("d/sub/g", "f", b"g"))


@pytest.fixture(params=["running", "stopped"])
def box(request, daemon, clean):
    create(daemon, "box", start=request.param == "running", host={"Binds": ["archive-vol:/vol", "archive-ro:/ro:ro", "archive-vol:/made/here"]})
    assert put(daemon, "box", "/home", TREE, noOverwriteDirNonDir="true") == (200, "")
    yield daemon
    daemon.remove_all()
    for volume in ("archive-vol", "archive-ro"):
        daemon.api.delete(f"/volumes/{volume}")


GO_FOLDER, GO_LINK, GO_FIFO, GO_STICKY = 1 << 31, 1 << 27, 1 << 25, 1 << 20


@pytest.mark.parametrize("path, name, mode, target", [
    ("/home/d", "d", GO_FOLDER | 0o755, ""), ("/home/d/", "d", GO_FOLDER | 0o755, ""), ("/home/d/.", ".", GO_FOLDER | 0o755, ""),
    ("/home/d/f", "f", 0o640, ""), ("home//d///f", "f", 0o640, ""), ("/home/d/sub", "sub", GO_FOLDER | GO_STICKY | 0o777, ""),
    ("/home/d/abs", "abs", GO_LINK | 0o777, "/etc/passwd"), ("/home/d/rel", "rel", GO_LINK | 0o777, "/home/d/f"),
    ("/home/d/dangling", "dangling", GO_LINK | 0o777, "/nope/x"), ("/home/d/dirlink", "dirlink", GO_LINK | 0o777, "/etc"),
    ("/home/d/dirlink/", "dirlink", GO_FOLDER | 0o755, ""), ("/home/d/p", "p", GO_FIFO | 0o644, ""),
    ("/", "/", None, ""), (".", ".", None, ""), ("/../..", "/", None, ""), ("/home/../etc", "etc", GO_FOLDER | 0o755, ""), ("/vol", "vol", None, ""),
])
def test_stat(box, path, name, mode, target):
    status, stat = head(box, "box", path)
    assert status == 200 and stat["name"] == name and stat["linkTarget"] == target
    assert mode is None or stat["mode"] == mode
    status, headers, _ = box.api.request("GET", "/containers/box/archive", path=path)
    assert status == 200 and json.loads(base64.b64decode(headers["X-Docker-Container-Path-Stat"])) == stat
    assert headers["Content-Type"] == "application/x-tar"


def test_times_and_sizes(box):
    _, stat = head(box, "box", "/home/d/f")
    assert stat["size"] == 5 and stat["mtime"] == "2001-09-09T01:46:40Z"


@pytest.mark.parametrize("path, status", [
    ("/nope", 404), ("/nope/x", 404), ("/home/d/dangling/", 404), ("/home/d/f/", 400), ("/home/d/f/x", 400), ("/proc/version", 404), ("/dev/null", 404),
    ("", 400), ("/" + "x" * 300, 400), ("/x" * 3000, 400),
])
def test_paths_that_lead_nowhere(box, path, status):
    assert head(box, "box", path)[0] == status
    answer, body = box.api.call("GET", "/containers/box/archive", path=path)
    assert answer == status
    if status == 404:
        assert body["message"] == f"Could not find the file {path} in container box"


def test_unknown_container(daemon):
    assert head(daemon, "nobox", "/")[0] == 404
    assert daemon.api.call("GET", "/containers/nobox/archive", path="/")[0] == 404
    assert put(daemon, "nobox", "/", TREE) == (404, "No such container: nobox")
    assert daemon.api.call("GET", "/containers/nobox/export")[0] == 404
    assert daemon.api.call("GET", "/containers/nobox/changes")[0] == 404


def test_reading(box):
    found = get(box, "box", "/home/d")
    assert list(found) == ["d", "d/abs", "d/dangling", "d/dirlink", "d/f", "d/h", "d/p", "d/rel", "d/sub", "d/sub/g"]
    assert (found["d/f"].uid, found["d/f"].gid, found["d/f"].mode, found["d/f"].content) == (123, 456, 0o640, b"hello")
    assert found["d/h"].islnk() and found["d/h"].linkname == "d/f"
    assert found["d/rel"].issym() and found["d/rel"].linkname == "../d/f" and found["d/p"].isfifo()
    assert found["d/f"].mtime == 1000000000
    for path, first in (("/home/d/", b"d/"), ("/home/d/.", b"./"), ("/home/d/dirlink/", b"dirlink/"), ("/", b"/"), (".", b"./"), ("/home/d/f", b"f")):
        body = box.api.request("GET", "/containers/box/archive", path=path)[2]
        names = first_names(body)
        assert names[0] == first and all(name.startswith(first) for name in names), path
    root = [name.decode() for name in first_names(box.api.request("GET", "/containers/box/archive", path="/")[2])]
    # What the runtime mounts is not the container's files; what the user mounts is.
    assert not [name for name in root if name.startswith(("/proc/", "/sys/", "/dev/")) and not name.endswith("/")]
    assert "/vol/" in root and "/made/here/" in root and "/etc/passwd" in root


def test_volumes_are_seen(box):
    assert put(box, "box", "/vol", tar(("in", "f", b"volume"))) == (200, "")
    assert get(box, "box", "/made/here/in")["in"].content == b"volume"
    assert (box.data_root / "volumes/archive-vol/_data/in").read_bytes() == b"volume"
    assert put(box, "box", "/ro", tar(("in", "f", b"x"))) == (403, "mounted volume is marked read-only")


def test_what_replaces_what(box):
    strict = {"noOverwriteDirNonDir": "true"}
    status, message = put(box, "box", "/home/d", tar(("f", "d", None)), **strict)
    assert status == 400 and message == 'cannot overwrite non-directory "/home/d/f" with directory "/home/d"'
    status, message = put(box, "box", "/home/d", tar(("sub", "f", b"x")), **strict)
    assert status == 400 and message == 'cannot overwrite directory "/home/d/sub" with non-directory "/home/d"'
    assert get(box, "box", "/home/d/sub/g")["g"].content == b"g"
    assert put(box, "box", "/home/d", tar(("sub", "d", None, {"mode": 0o700}), ("sub/n", "f", b"n")), **strict) == (200, "")  # merged
    assert set(get(box, "box", "/home/d/sub")) == {"sub", "sub/g", "sub/n"} and get(box, "box", "/home/d/sub")["sub"].mode == 0o700
    assert put(box, "box", "/home/d", tar(("sub", "f", b"file"))) == (200, "")
    assert get(box, "box", "/home/d/sub")["sub"].content == b"file"
    assert put(box, "box", "/home/d", tar(("sub", "d", None))) == (200, "")
    assert get(box, "box", "/home/d/sub")["sub"].isdir()
    assert put(box, "box", "/home/d", tar(("abs", "f", b"mine"))) == (200, "")  # the link goes, not what it leads to
    assert b"root" in get(box, "box", "/etc/passwd")["passwd"].content


def test_where_it_goes(box):
    assert put(box, "box", "/home/d/dirlink", tar(("via", "f", b"x"))) == (200, "")  # a link to a folder
    assert get(box, "box", "/etc/via")
    assert put(box, "box", "/home", tar(("/abs", "f", b"x"), ("m/n/o", "f", b"x"), ("q", "l", "/etc"), ("q/thru", "f", b"x"))) == (200, "")
    assert get(box, "box", "/home/abs") and get(box, "box", "/home/m/n/o") and get(box, "box", "/etc/thru")
    assert put(box, "box", "/home/d", tar((".", "d", None, {"mode": 0o700}), ("./dd", "f", b"x"))) == (200, "")
    assert get(box, "box", "/home/d")["d"].mode == 0o755  # the place itself stays as it is
    assert put(box, "box", "/home", tar((".wh.d", "f", b""))) == (200, "") and get(box, "box", "/home/d") and get(box, "box", "/home/.wh.d")
    assert put(box, "box", "/home", gzip.compress(tar(("gz", "f", b"x")))) == (200, "") and get(box, "box", "/home/gz")
    for name, compress in (("bz", bz2.compress), ("xz", lzma.compress)):
        assert put(box, "box", "/home", compress(tar((name, "f", b"x")))) == (200, "") and get(box, "box", f"/home/{name}")
    assert put(box, "box", "/home", b"") == (200, "")


@pytest.mark.parametrize("path, raw, status, words", [
    ("/nope", tar(("a", "f", b"x")), 404, "Could not find the file /nope in container box"),
    ("/home/d/f", tar(("a", "f", b"x")), 400, "extraction point is not a directory"),
    ("", tar(("a", "f", b"x")), 400, "path cannot be empty"),
    ("/home", tar(("../x", "f", b"x")), 400, '"../x" is outside of "/home"'),
    ("/home", tar(("d/../../x", "f", b"x")), 400, "is outside of"),
    ("/home", tar(("hard", "h", "../etc/passwd")), 400, "invalid hardlink"),
    ("/home", tar(("hard", "h", "zzz")), 400, "No such file"),
    ("/home", tar(("a" * 300, "f", b"x")), 400, "longer than 255"),
    ("/home", tar(("d/f/below", "f", b"x")), 400, "Not a directory"),
    ("/home", b"garbage" * 1000, 400, "tar"),
    ("/home", tar(("big", "f", b"x" * 5000))[:3000], 400, "unexpected end"),
    ("/home", gzip.compress(tar(("big", "f", b"x" * 5000)))[:60], 400, ""),
    ("/home", b"BZh91AY&SY" + b"x" * 600, 400, ""),
    ("/home", tar(("dev", "c", None, {"devmajor": 0, "devminor": 0})), 403, ""),
], ids=["no folder", "no folder but a file", "no path", "above", "above on the way", "hard link above", "hard link to nothing", "long name", "below a file", "garbage",
        "truncated", "truncated gzip", "corrupt bzip2", "whiteout device"])
def test_refused(box, path, raw, status, words):
    answer, message = put(box, "box", path, raw)
    assert answer == status and words in message
    # And nothing is held: the next one works.
    assert put(box, "box", "/home", tar(("after", "f", b"x"))) == (200, "")


def test_owners(daemon, clean):
    entry = tar(("a", "f", b"x", {"uid": 7, "gid": 8}))
    for name, user, copy, expected in (("none", "", 0, (7, 8)), ("plain", "worker", 0, (7, 8)), ("named", "worker", 1, (1000, 1000)),
                                       ("group", "worker:staff", 1, (1000, 50)), ("numbers", "1234:77", 1, (1234, 77)), ("nouser", "", 1, (7, 8))):
        create(daemon, name, start=False, User=user)
        assert put(daemon, name, "/home", entry, copyUIDGID=copy) == (200, "")
        found = get(daemon, name, "/home/a")["a"]
        assert (found.uid, found.gid) == expected, name


def test_read_only_root(daemon, clean):
    create(daemon, "rorun", host={"ReadonlyRootfs": True, "Tmpfs": {"/tmp": ""}})
    create(daemon, "rostop", start=False, host={"ReadonlyRootfs": True})
    assert put(daemon, "rorun", "/home", TREE) == (403, "container rootfs is marked read-only")
    assert put(daemon, "rostop", "/home", TREE) == (403, "container rootfs is marked read-only")
    assert put(daemon, "rorun", "/tmp", TREE) == (200, "")
    assert shell(daemon, "rorun", "cat /tmp/d/f") == "hello"


def test_mounted_files(daemon, clean):
    create(daemon, "files")
    assert put(daemon, "files", "/etc", tar(("hosts", "f", b"127.0.0.1 changed\n"))) == (200, "")
    assert shell(daemon, "files", "cat /etc/hosts") == "127.0.0.1 changed\n"


def test_while_paused(daemon, clean):
    create(daemon, "frozen")
    daemon.api.post("/containers/frozen/pause")
    assert put(daemon, "frozen", "/home", TREE) == (200, "")
    assert get(daemon, "frozen", "/home/d/f")["f"].content == b"hello"
    daemon.api.post("/containers/frozen/unpause")
    assert shell(daemon, "frozen", "cat /home/d/f") == "hello"


def test_large_and_sparse(daemon, clean):
    create(daemon, "large")
    shell(daemon, "large", "dd if=/dev/urandom of=/home/big bs=1M count=24 2>/dev/null; truncate -s 300M /home/hole; printf end >>/home/hole")
    found = get(daemon, "large", "/home/big")["big"]
    assert len(found.content) == 24 << 20
    status, _, body = daemon.api.request("GET", "/containers/large/archive", path="/home/hole")
    assert status == 200 and len(body) < 2 << 20
    create(daemon, "copy", start=False)
    assert put(daemon, "copy", "/home", body) == (200, "")
    assert put(daemon, "copy", "/home", tar(("big", "f", found.content))) == (200, "")
    daemon.api.post("/containers/copy/start")
    assert shell(daemon, "copy", "md5sum </home/big") == shell(daemon, "large", "md5sum </home/big")
    assert shell(daemon, "copy", "stat -c %s /home/hole; du -k /home/hole | cut -f1; tail -c 3 /home/hole").split()[::2] == ["314572803", "end"]


def test_events(daemon, clean):
    since = time.time()
    create(daemon, "seen")
    put(daemon, "seen", "/home", TREE)
    get(daemon, "seen", "/home/d")
    daemon.api.request("GET", "/containers/seen/export")
    raw = daemon.api.request("GET", "/events", since=f"{since:.3f}", until=f"{time.time() + 0.1:.3f}", filters={"container": ["seen"]})[2]
    actions = [json.loads(line)["Action"] for line in raw.splitlines()]
    assert actions == ["create", "start", "extract-to-dir", "archive-path", "export"]


def broken_upload(daemon, path: str, body: bytes, promised: int):
    """A client that goes away in the middle."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.sendall(f"PUT {path} HTTP/1.1\r\nHost: d\r\nContent-Length: {promised}\r\n\r\n".encode() + body)
        time.sleep(0.2)  # so that it is under way: nothing tells


def test_clients_that_go_away(daemon, clean):
    create(daemon, "left", start=False)
    whole = tar(("half", "f", b"x" * 3_000_000))
    broken_upload(daemon, "/containers/left/archive?path=/home", whole[:1_000_000], len(whole))
    # Reading stops in the middle, too.
    put(daemon, "left", "/home", tar(("big", "f", b"y" * 30_000_000)))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.sendall(b"GET /containers/left/archive?path=/home HTTP/1.1\r\nHost: d\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    # The lock is free again, and nobody is left behind.
    daemon.api.post("/containers/left/start")
    daemon.api.delete("/containers/left", force=1)
    daemon.assert_clean()


def test_a_forced_removal_does_not_wait(daemon, clean):
    create(daemon, "slow", start=False)
    whole = tar(("half", "f", b"x" * 3_000_000))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.sendall(f"PUT /containers/slow/archive?path=/home HTTP/1.1\r\nHost: d\r\nContent-Length: {len(whole)}\r\n\r\n".encode() + whole[:10000])
        time.sleep(0.3)
        daemon.api.delete("/containers/slow", force=1)
        assert not daemon.containers()


def test_a_start_ends_copies_of_the_last_run(daemon, clean):
    create(daemon, "again", command=["sh", "-c", "head -c 30000000 /dev/zero >/home/big; cat"], OpenStdin=True)
    deadline = time.monotonic() + 20
    while head(daemon, "again", "/home/big")[1] is None or head(daemon, "again", "/home/big")[1]["size"] < 30_000_000:
        assert time.monotonic() < deadline
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.sendall(b"GET /containers/again/archive?path=/home HTTP/1.1\r\nHost: d\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        daemon.api.post("/containers/again/kill")
        daemon.api.post("/containers/again/start")
        assert daemon.api.get("/containers/again/json")["State"]["Running"]
        connection.settimeout(20)
        rest = b""
        while piece := connection.recv(1 << 20):
            rest = (rest + piece)[-100:]
        assert not rest.endswith(b"0\r\n\r\n"), "half an archive was passed off as a whole one"


# -- export, changes, commit

CHANGE = ("echo x>/home/new; mkdir -p /home/nd/e; rm /etc/group; echo y>>/etc/passwd; rm -r /usr; mkdir /usr; touch /usr/only; chmod 700 /root; "
          "ln -s a /home/l; mv /var /var2; rm -r /home/nd/e; touch /vol/x")
CHANGED = {"/etc": 0, "/etc/group": 2, "/etc/passwd": 0, "/home": 0, "/home/l": 1, "/home/nd": 1, "/home/new": 1, "/root": 0, "/usr": 0, "/usr/bin": 2,
           "/usr/only": 1, "/var": 2, "/var2": 1, "/vol": 1}


@pytest.fixture
def changed(daemon, clean):
    create(daemon, "changed", Volumes={"/vol": {}})
    assert daemon.api.get("/containers/changed/changes") == [{"Path": "/vol", "Kind": 1}]
    shell(daemon, "changed", CHANGE)
    return daemon


def test_changes(changed):
    assert {change["Path"]: change["Kind"] for change in changed.api.get("/containers/changed/changes")} == CHANGED
    changed.api.post("/containers/changed/stop?t=0")
    assert {change["Path"]: change["Kind"] for change in changed.api.get("/containers/changed/changes")} == CHANGED
    create(changed, "fresh", start=False)
    assert changed.api.get("/containers/fresh/changes") is None


def test_export(changed):
    def exported():
        status, headers, body = changed.api.request("GET", "/containers/changed/export")
        assert status == 200 and headers["Content-Type"] == "application/octet-stream"
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            return archive.getnames()
    running = exported()
    assert {"home/new", "usr/only", "var2", "vol", "bin/busybox", "proc"} <= set(running)
    assert not [name for name in running if name.startswith(("vol/", "proc/", "sys/", "var/", "usr/bin"))]
    changed.api.post("/containers/changed/stop?t=0")
    assert exported() == running


def test_commit(changed):
    since = time.time()
    answer = changed.api.post("/commit", {"Env": ["A=1"], "Labels": {"l": "1"}}, container="changed", repo="committed", tag="t1", author="me", comment="note",
                              changes="ENV B=2\nEXPOSE 80")
    image = changed.api.get("/images/committed:t1/json")
    assert image["Id"] == answer["Id"] and image["Author"] == "me" and image["Comment"] == "note" and image["Config"]["Cmd"] == ["sleep", "1000"]
    assert set(image["Config"]["Env"]) == {"A=1", "B=2", "PATH=/bin:/sbin:/usr/bin"} and image["Config"]["ExposedPorts"] == {"80/tcp": {}}
    top = changed.api.get("/images/committed:t1/history")[0]
    assert top["CreatedBy"] == "sleep 1000" and top["Comment"] == "note" and top["Size"] > 0
    raw = changed.api.request("GET", "/events", since=f"{since:.3f}", until=f"{time.time() + 0.1:.3f}")[2]
    events = [(event["Action"], event["Actor"]["Attributes"]) for event in map(json.loads, raw.splitlines())]
    assert [action for action, _ in events] == ["pause", "unpause", "tag", "commit"]
    assert events[-1][1]["imageRef"] == "committed:t1" and events[-1][1]["imageID"] == answer["Id"]
    assert changed.api.get("/containers/changed/json")["State"]["Status"] == "running"
    changed.api.post("/containers/create", {"Image": "committed:t1", "Cmd": ["sh", "-c", "cat /home/new; ls /usr /etc/group; echo $A$B"],
                                            "HostConfig": {"NetworkMode": "none"}}, name="from")
    changed.api.post("/containers/from/start")
    changed.api.post("/containers/from/wait")
    out, error = demultiplex(changed.api.request("GET", "/containers/from/logs", stdout=1, stderr=1)[2])
    assert out == b"x\n/usr:\nonly\n12\n" and b"/etc/group: No such file" in error
    changed.remove_all()
    changed.api.delete("/images/committed:t1")


def test_commit_of_a_stopped_one_and_without_a_name(changed):
    changed.api.post("/containers/changed/stop?t=0")
    identifier = changed.api.ok("POST", "/commit", b"null", headers={"Content-Type": "application/json"}, container="changed", pause=0)["Id"]
    assert changed.api.get(f"/images/{identifier}/json")["RepoTags"] == []
    changed.remove_all()
    changed.api.delete(f"/images/{identifier}")


@pytest.mark.parametrize("query, status", [
    ({}, 400), ({"container": "nope"}, 404), ({"repo": "UPPER"}, 400), ({"repo": "x", "tag": "bad tag"}, 400), ({"changes": "FOO bar"}, 400),
    ({"changes": "EXPOSE nonsense"}, 400), ({"repo": "x@sha256:" + "0" * 64}, 400),
])
def test_commit_refused(daemon, clean, query, status):
    create(daemon, "refused")
    images = len(daemon.api.get("/images/json", all=1))
    query = {"container": "refused", **query} if query else {}
    assert daemon.api.call("POST", "/commit", **query)[0] == status
    for body in (b"[]", b"xx", b'{"Env":3}'):
        assert daemon.api.call("POST", "/commit", body, headers={"Content-Type": "application/json"}, container="refused")[0] == 400
    assert len(daemon.api.get("/images/json", all=1)) == images
    assert daemon.api.get("/containers/refused/json")["State"]["Status"] == "running"
