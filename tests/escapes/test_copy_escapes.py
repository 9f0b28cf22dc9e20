"""Attacks on `cp` and `commit`: what the container or the archive does to make the daemon touch the host's files."""

import io
import os
import pathlib
import stat
import tarfile
import threading
import time

import pytest


def archive(*members) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE}[kind]
            info.mode = 0o755
            if kind in "lh":
                info.linkname = data
            info.size = len(data) if kind == "f" else 0
            tar.addfile(info, io.BytesIO(data) if kind == "f" else None)
    return raw.getvalue()


def put(daemon, name, path, raw):
    return daemon.api.request("PUT", f"/containers/{name}/archive", raw, path=path)[0]


def get(daemon, name, path):
    status, _, body = daemon.api.request("GET", f"/containers/{name}/archive", path=path)
    return status, body


@pytest.fixture
def host(daemon):
    """A folder of the host with a secret in it; nothing may come out of it or into it."""
    folder = daemon.root / "host-folder"
    folder.mkdir(exist_ok=True)
    (folder / "secret").write_text("TOP-SECRET-OF-THE-HOST")
    yield folder
    assert sorted(path.name for path in folder.iterdir()) == ["secret"] and (folder / "secret").read_text() == "TOP-SECRET-OF-THE-HOST"


@pytest.fixture(params=["running", "stopped"])
def victim(request, daemon, clean):
    daemon.wherry("run", "-d", "--name", "victim", "--network", "none", "busybox", "sleep", "1000")
    if request.param == "stopped":
        daemon.wherry("kill", "victim")
        daemon.wherry("wait", "victim")
    return daemon


# -- CVE-2018-15664, CVE-2026-42306: paths are resolved inside the root, by descriptor

def test_cve_2018_15664_symlinks_stay_inside(victim, host):
    outside = str(host)
    status = put(victim, "victim", "/", archive(("link", "l", outside), ("up", "l", "../../../../../../../.." + outside), ("rel", "l", "/home")))
    assert status == 200
    for path in ("/link/secret", "/up/secret", "/link/", f"/../../../..{outside}/secret", outside):
        assert get(victim, "victim", path)[0] == 404, path
    assert put(victim, "victim", "/link", archive(("planted", "f", b"x"))) == 404
    # An absolute symlink that means a place of the container goes on working.
    assert put(victim, "victim", "/rel", archive(("fine", "f", b"inside"))) == 200
    assert get(victim, "victim", "/home/fine")[0] == 200


def test_archives_that_lead_outside(victim, host):
    outside = str(host)
    for members in ([("out", "l", outside), ("out/planted", "f", b"x")], [("../" * 20 + outside[1:] + "/planted", "f", b"x")], [("hard", "h", "../" * 20 + outside[1:] + "/secret")],
                    [("hard", "h", outside + "/secret")], [("a", "l", "/../../.." + outside), ("a/secret", "f", b"x")],
                    [("x", "d", None), ("x/y", "l", "../../../../../../../../../.." + outside), ("x/y/planted", "f", b"x")]):
        put(victim, "victim", "/tmp", archive(*members))
    for name in ("hard", "out/secret", "a/secret", "x/y/secret"):
        assert b"TOP-SECRET" not in get(victim, "victim", f"/tmp/{name}")[1]


def test_cve_2018_15664_race(daemon, clean, host):
    """The container exchanges a folder for a symlink to the host's folder while cp goes through it."""
    outside = str(host)
    # busybox has no exchange: two renames, as fast as it can.
    script = (f"mkdir -p /home/swap {outside}; echo inside >/home/swap/secret; ln -s {outside} /home/evil; echo ready; "
              "while true; do mv /home/swap /home/away; mv -T /home/evil /home/swap; mv -T /home/swap /home/evil; mv /home/away /home/swap; done")
    daemon.wherry("run", "-d", "--name", "racer", "--network", "none", "busybox", "sh", "-c", script)
    deadline = time.monotonic() + 20
    while "ready" not in daemon.wherry("logs", "racer").stdout:
        assert time.monotonic() < deadline
    seen = {"in": 0, "out": 0}
    stop = time.monotonic() + 4
    payload = archive(("planted", "f", b"x" * 100))

    def reading():
        while time.monotonic() < stop:
            status, body = get(daemon, "racer", "/home/swap/secret")
            assert b"TOP-SECRET" not in body
            seen["out"] += status == 200

    def writing():
        while time.monotonic() < stop:
            seen["in"] += put(daemon, "racer", "/home/swap", payload) == 200

    threads = [threading.Thread(target=work) for work in (reading, writing)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen["in"] > 3 and seen["out"] > 3, seen


def test_cve_2026_42306_mount_points_stay_inside(daemon, clean, host):
    """A volume's place in a stopped container is a symlink to the host: the volume is mounted inside, or not at all."""
    daemon.wherry("volume", "create", "victim-volume")
    (daemon.data_root / "volumes/victim-volume/_data/mark").write_text("volume")
    daemon.wherry("create", "--name", "victim", "--network", "none", "-v", "victim-volume:/data/place", "busybox", "sleep", "1000")
    upper = daemon.data_root / "containers" / daemon.api.get("/containers/victim/json")["Id"] / "upper"
    (upper / "data").symlink_to(host)
    before = pathlib.Path("/proc/self/mountinfo").read_text()
    status, body = get(daemon, "victim", "/data/place/mark")
    assert b"TOP-SECRET" not in body
    put(daemon, "victim", "/data/place", archive(("planted", "f", b"x")))
    assert pathlib.Path("/proc/self/mountinfo").read_text() == before
    daemon.remove_all()
    daemon.wherry("volume", "rm", "victim-volume")


# -- what else a container can put in the way

def test_devices_and_fifos_are_not_opened(victim):
    """A device is copied as what it is; and a fifo does not make anybody wait."""
    if victim.api.get("/containers/victim/json")["State"]["Running"]:
        victim.wherry("exec", "victim", "sh", "-c", "mknod /home/memory c 1 1; mkfifo /home/fifo; ln -s /home/fifo /etc/passwd.new; mv /etc/passwd.new /etc/passwd")
        status, body = get(victim, "victim", "/home")
        assert status == 200 and len(body) < 100_000
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            kinds = {member.name: member.type for member in tar}
        assert kinds["home/memory"] == tarfile.CHRTYPE and kinds["home/fifo"] == tarfile.FIFOTYPE
    # Written over, they are replaced and not written to.
    assert put(victim, "victim", "/home", archive(("fifo", "f", b"now a file"), ("memory", "f", b"now a file"))) == 200
    status, body = get(victim, "victim", "/home/memory")
    assert status == 200 and b"now a file" in body


def test_magic_links_are_not_followed(daemon, clean, host):
    """/proc of the host's processes, as a container with --pid host sees it, is no way out."""
    daemon.wherry("run", "-d", "--name", "nosy", "--network", "none", "--pid", "host", "-v", "/proc:/hostproc", "busybox", "sleep", "1000")
    for path in (f"/hostproc/{os.getpid()}/root{host}/secret", f"/hostproc/{os.getpid()}/cwd/", "/hostproc/self/root/etc/passwd", f"/hostproc/{daemon.pid}/root{host}/secret"):
        status, body = get(daemon, "nosy", path)
        assert status >= 400 and b"TOP-SECRET" not in body, path
    assert put(daemon, "nosy", f"/hostproc/{os.getpid()}/root{host}", archive(("planted", "f", b"x"))) >= 400


def test_setuid_and_capabilities_stay_in_the_container(victim):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("suid")
        info.mode, info.size = 0o4755, 1
        info.pax_headers = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.user.fine": "1"}
        tar.addfile(info, io.BytesIO(b"x"))
    assert put(victim, "victim", "/home", raw.getvalue()) == 200
    identifier = victim.api.get("/containers/victim/json")["Id"]
    written = victim.data_root / "containers" / identifier / "upper/home/suid"
    assert stat.S_IMODE(written.stat().st_mode) == 0o4755
    names = os.listxattr(written)
    assert not [name for name in names if "opaque" in name]
    # Nobody but root comes that far on the host.
    assert stat.S_IMODE((victim.data_root / "containers" / identifier).stat().st_mode) & 0o007 == 0


def test_the_child_is_confined(daemon, clean):
    """What unpacks has lost every right that it does not need before it sees the first byte."""
    daemon.wherry("create", "--name", "slow", "--network", "none", "busybox", "true")
    import socket
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        whole = archive(("file", "f", b"x" * 3_000_000))
        connection.sendall(f"PUT /containers/slow/archive?path=/home HTTP/1.1\r\nHost: d\r\nContent-Length: {len(whole)}\r\n\r\n".encode() + whole[:5000])
        deadline = time.monotonic() + 20
        child = None
        while child is None or "Seccomp:\t2" not in pathlib.Path(f"/proc/{child}/status").read_text():
            assert time.monotonic() < deadline
            for entry in pathlib.Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        words = (entry / "cmdline").read_bytes().split(b"\0")
                        if words[:2] == [b"wherry-unpack", b"cp"] and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == daemon.pid:
                            child = int(entry.name)
                    except (OSError, IndexError):
                        continue
        status = pathlib.Path(f"/proc/{child}/status").read_text()
        assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
        capabilities = int(status.split("CapEff:\t")[1].split()[0], 16)
        allowed = sum(1 << number for number in (0, 1, 3, 4, 27, 31))  # chown, dac_override, fowner, fsetid, mknod, setfcap
        assert capabilities & ~allowed == 0 and int(status.split("CapBnd:\t")[1].split()[0], 16) & ~allowed == 0
        assert os.readlink(f"/proc/{child}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        assert os.readlink(f"/proc/{child}/ns/net") != os.readlink("/proc/self/ns/net")
        assert not [line for line in pathlib.Path(f"/proc/{child}/mountinfo").read_text().splitlines() if str(daemon.data_root) + "/store" in line]
        assert sorted(os.listdir(f"/proc/{child}/root/home")) in ([], ["file"])
        descriptors = os.listdir(f"/proc/{child}/fd")
        assert len(descriptors) <= 9, [os.readlink(f"/proc/{child}/fd/{number}") for number in descriptors]
