"""Shared folders (virtio-fs): a file system's rules from inside, changes by the host, locks, ownership, walls, a server that dies."""

import fcntl
import json
import os
import pathlib
import subprocess
import threading
import time

import pytest

from support import binaries
from support.microvm import Guest

MIB = 1 << 20


class Folder:
    """A folder, and wherry-fs on it for one monitor."""

    def __init__(self, folder: pathlib.Path, *options: str):
        self.shared = folder / "shared"
        self.shared.mkdir()
        self.shared.chmod(0o755)
        self.secret = folder / "secret"
        self.secret.write_text("secret")
        self.socket = folder / "fs.sock"
        self.errors = open(folder / "fs.stderr", "w+b")
        self.options = options
        self.start()
        self.listens()

    def start(self) -> None:
        self.process = subprocess.Popen([binaries.binary("wherry-fs"), "--shared-dir", str(self.shared), "--socket", str(self.socket), *self.options],
                                        stderr=self.errors, stdin=subprocess.DEVNULL)

    def listens(self) -> None:
        deadline = time.monotonic() + 60
        while not self.socket.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.stderr()
            time.sleep(0.005)

    def stderr(self) -> str:
        return pathlib.Path(self.errors.name).read_text()

    def attach(self, guest: Guest, tag: str = "shared") -> None:
        guest.put("/fs/folder", id="folder", tag=tag, socket=str(self.socket))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.errors.close()
        assert self.secret.read_text() == "secret"


@pytest.fixture
def make_folder(tmp_path):
    made: list[Folder] = []

    def make(*options: str) -> Folder:
        made.append(Folder(tmp_path, *options))
        return made[-1]

    yield make
    for folder in made:
        folder.close()


def mounted(make, folder: Folder, **options) -> Guest:
    guest = make(**options)
    folder.attach(guest)
    guest.boot()
    guest.run("mount -t virtiofs shared /mnt")
    return guest


@pytest.mark.parametrize("kernel", [pytest.param("small", marks=pytest.mark.long), "debian"])
def test_the_rules_of_a_file_system(make_guest, make_folder, kernel):
    folder = make_folder()
    guest = mounted(lambda *arguments, **keywords: make_guest(kernel, *arguments, **keywords), folder)
    assert guest.get("/vm/config")["fs"] == [{"id": "folder", "tag": "shared", "socket": str(folder.socket)}]
    status, text = guest.try_run("folder-suite /mnt")
    assert status == 0, text
    assert (folder.shared / "attributes/open/mine").stat().st_uid == 1000
    guest.run("rm -r /mnt/files /mnt/directories && umount /mnt && mount -t virtiofs shared /mnt && cat /mnt/names/hard")
    assert not (folder.shared / "files").exists()
    guest.send("guest reboot")
    assert guest.wait(120) == 0
    assert folder.process.wait(60) == 0, folder.stderr()  # ends with its monitor
    assert not folder.socket.exists()


@pytest.mark.long
@pytest.mark.parametrize("cache", ["none", "always"])
def test_the_rules_of_a_file_system_otherwise_cached(make_guest, make_folder, cache):
    guest = mounted(make_guest, make_folder("--cache", cache))
    status, text = guest.try_run("folder-suite /mnt")
    assert status == 0, text


def test_changes_by_the_host_and_locks(make_guest, make_folder):
    folder = make_folder()
    (folder.shared / "file").write_text("one")
    (folder.shared / "big").write_bytes(os.urandom(MIB) * 3)
    guest = mounted(make_guest, folder)
    assert guest.run("cat /mnt/file") == "one"
    (folder.shared / "file").write_text("another")
    (folder.shared / "new").write_text("new")
    assert guest.run("sleep 1.1; cat /mnt/file /mnt/new") == "anothernew"
    expected = subprocess.run(["sha256sum", str(folder.shared / "big")], capture_output=True, text=True).stdout.split()[0]
    assert guest.run("sha256sum /mnt/big").split()[0] == expected
    guest.run("dd if=/mnt/big of=/mnt/copy bs=64k 2>/dev/null && sync")
    assert (folder.shared / "copy").read_bytes() == (folder.shared / "big").read_bytes()
    # Locks of the host's processes hold in the guest, and the other way round.
    with open(folder.shared / "file", "r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert guest.run("folder-suite /mnt try-lock file write") == "taken"
        assert guest.run("folder-suite /mnt try-lock new write") == "free"
        guest.run("folder-suite /mnt wait-lock file >/tmp/waited & sleep 0.2; cat /tmp/waited")
        fcntl.lockf(file, fcntl.LOCK_UN)
        assert guest.run("wait; while [ ! -s /tmp/waited ]; do sleep 0.05; done; cat /tmp/waited") == "locked"
        fcntl.flock(file, fcntl.LOCK_EX)
        assert guest.run("folder-suite /mnt try-lock file flock") == "taken"
        fcntl.flock(file, fcntl.LOCK_UN)
        guest.run("mknod /tmp/p p; (sleep 1000 >/tmp/p & echo $! >/tmp/keeper) ; folder-suite /mnt lock file </tmp/p >/tmp/held & "
                  "while [ ! -s /tmp/held ]; do sleep 0.05; done")
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        guest.run("kill $(cat /tmp/keeper)")
        deadline = time.monotonic() + 60
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_ownership_and_read_only(make_guest, make_folder):
    folder = make_folder("--map-uid", "0:4000:1", "--map-gid", "0:4000:1", "--map-uid", "1000:5000:10", "--map-gid", "1000:5000:10")
    (folder.shared / "roots").touch()
    os.chown(folder.shared, 4000, 4000)
    guest = mounted(make_guest, folder)
    guest.run("mkdir /mnt/made && chown 1003:1004 /mnt/made")
    assert (folder.shared / "made").stat().st_uid == 5003 and (folder.shared / "made").stat().st_gid == 5004
    assert guest.run("stat -c '%u %g' /mnt /mnt/made /mnt/roots").splitlines() == ["0 0", "1003 1004", "65534 65534"]
    assert guest.try_run("chown 77 /mnt/made")[0] != 0


def test_over_pci(make_guest, make_folder):
    folder = make_folder()
    (folder.shared / "file").write_bytes(os.urandom(MIB))
    guest = make_guest("any", "--enable-pci")
    folder.attach(guest)
    guest.boot()
    guest.run("mount -t virtiofs shared /mnt && cp /mnt/file /mnt/copy && mkdir /mnt/folder && ls /mnt/folder && umount /mnt")
    assert (folder.shared / "copy").read_bytes() == (folder.shared / "file").read_bytes()


@pytest.mark.long
def test_read_only(make_guest, make_folder):
    folder = make_folder("--read-only")
    (folder.shared / "file").write_text("content")
    guest = mounted(make_guest, folder)
    assert guest.run("cat /mnt/file") == "content"
    for command in ("touch /mnt/new", "echo x >/mnt/file", "rm /mnt/file", "mv /mnt/file /mnt/x", "chmod 777 /mnt/file", "mkdir /mnt/x"):
        status, text = guest.try_run(command)
        assert status != 0 and "Read-only" in text, (command, text)
    assert os.listdir(folder.shared) == ["file"]


@pytest.mark.long
def test_churn_on_both_sides(make_guest, make_folder):
    """Guest and host rename, link and remove in the same folder: nothing leaves it, nobody dies."""
    folder = make_folder()
    guest = mounted(make_guest, folder)
    program = pathlib.Path(os.environ["WHERRY_GUESTS"]) / "folder-suite"
    host = subprocess.Popen([str(program), str(folder.shared), "churn", "10"], stdout=subprocess.DEVNULL)
    assert "rounds" in guest.run("folder-suite /mnt churn 10")
    assert host.wait(60) == 0
    assert folder.process.poll() is None, folder.stderr()
    guest.run("rm -rf /mnt/churn-*; ls /mnt")
    assert not [name for name in os.listdir(folder.shared) if name.startswith("churn")]


@pytest.mark.parametrize("arguments", [(), pytest.param(("--enable-pci",), marks=pytest.mark.long)])
def test_a_server_that_dies_and_one_that_follows(make_guest, make_folder, arguments):
    """Requests in flight end with an error, and so do all others, until wherry-fs is started again: then paths are found as before."""
    folder = make_folder()
    (folder.shared / "folder").mkdir()
    (folder.shared / "folder/file").write_text("content")
    (folder.shared / "open").write_bytes(os.urandom(MIB))
    guest = make_guest("any", *arguments)
    folder.attach(guest)
    guest.boot()
    guest.run("mount -t virtiofs shared /mnt")
    for turn in (1, 2):
        assert guest.run("cat /mnt/folder/file") == "content"
        guest.run("rm -f /tmp/waited")
        if turn == 1:
            guest.run("mknod /tmp/p p; (exec 3</mnt/open; cat /tmp/p; cat <&3 >/dev/null; echo $? >/tmp/told) & "
                      "while ! ls -l /proc/*/fd/3 2>/dev/null | grep -q /mnt/open; do sleep 0.05; done")
        with open(folder.shared / "folder/file", "r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            guest.run("(folder-suite /mnt wait-lock folder/file 2>&1; echo status $?) >/tmp/waited &")
            deadline = time.monotonic() + 60
            while len(os.listdir(f"/proc/{folder.process.pid}/task")) == 1:  # the lock waits in a thread of its own
                assert time.monotonic() < deadline
                time.sleep(0.02)
            folder.process.kill()
            folder.process.wait()
            guest.wait_for_line("the process that serves the shared folder is gone")
            waited = guest.run("while ! grep -q status /tmp/waited; do sleep 0.05; done; cat /tmp/waited")
            assert "not connected" in waited and "status 1" in waited, waited
        status, text = guest.try_run("cat /mnt/folder/other")
        assert status != 0 and "not connected" in text, text
        if turn == 2:
            guest.run("umount /mnt")
        folder.start()
        guest.wait_for_line("fs.server_back")
        if turn == 2:
            guest.run("mount -t virtiofs shared /mnt")
        assert guest.run("cat /mnt/folder/file") == "content"
        if turn == 1:
            # What was open is not.
            told = guest.run("echo go >/tmp/p; while [ ! -s /tmp/told ]; do sleep 0.05; done; cat /tmp/told")
            assert ("Bad file descriptor" in told or "Stale file handle" in told) and told.split()[-1] == "1", told
        assert guest.run(f"echo {turn} >/mnt/folder/new{turn} && mkdir -p /mnt/folder/deep/er && ls /mnt/folder").split()[-1] == f"new{turn}"
        assert (folder.shared / f"folder/new{turn}").read_text() == f"{turn}\n"
    assert guest.get("/")["state"] == "Running"
    assert folder.process.poll() is None, folder.stderr()


@pytest.mark.long
@pytest.mark.parametrize("arguments", [(), ("--enable-pci",)])
def test_a_server_that_dies_many_times_under_load(make_guest, make_folder, arguments):
    """Whatever it was about to do: no request is lost (the guest would wait for ever) or answered twice (its driver would say so)."""
    folder = make_folder()
    (folder.shared / "big").write_bytes(os.urandom(MIB) * 16)
    guest = make_guest("any", *arguments)
    folder.attach(guest)
    guest.boot()
    guest.run("mount -t virtiofs shared /mnt")
    guest.run("for i in 1 2 3; do (while [ ! -e /tmp/end ]; do dd if=/mnt/big of=/dev/null bs=64k; echo 3 >/proc/sys/vm/drop_caches; done >/dev/null 2>&1; echo >/tmp/ended$i) & done; "
              "for i in 4 5; do (while [ ! -e /tmp/end ]; do folder-suite /mnt churn 1; done >/dev/null 2>&1; echo >/tmp/ended$i) & done")
    for turn in range(12):
        time.sleep(0.2 + 0.13 * turn)  # not a wait: somewhere in the middle of things
        folder.process.kill()
        folder.process.wait()
        folder.start()
        guest.wait_for_line("fs.server_back")
    guest.run("touch /tmp/end; for i in 1 2 3 4 5; do while [ ! -e /tmp/ended$i ]; do sleep 0.1; done; done")
    assert guest.run("dmesg | grep 'is not a head\\|out of range' || true") == ""
    assert guest.run("md5sum /mnt/big").split()[0] == subprocess.run(["md5sum", str(folder.shared / "big")], capture_output=True, text=True).stdout.split()[0]
    guest.run("rm -rf /mnt/churn-*; umount /mnt && mount -t virtiofs shared /mnt && ls /mnt")
    assert not [name for name in os.listdir(folder.shared) if name.startswith("churn")]
    assert guest.get("/")["state"] == "Running" and folder.process.poll() is None


def test_what_cannot_be_shared(make_guest, make_folder):
    folder = make_folder()
    guest = make_guest()
    guest.put("/machine-config", vcpu_count=1, mem_size_mib=guest.memory, huge_pages="Transparent")
    folder.attach(guest)
    answer = guest.request("PUT", "/actions", {"action_type": "InstanceStart"})
    assert answer.status == 400 and "cannot be shared" in answer.fault, answer
    guest.put("/machine-config", vcpu_count=1, mem_size_mib=guest.memory)
    guest.put("/fs/folder", id="folder", tag="shared", socket=str(folder.socket) + ".absent")
    answer = guest.request("PUT", "/actions", {"action_type": "InstanceStart"})
    assert answer.status == 400 and "shared folder" in answer.fault, answer
