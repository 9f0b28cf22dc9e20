"""What must not happen: leaving the folder, owners that are not mapped, locks that do not hold, messages that hurt."""

import ctypes
import errno
import fcntl
import os
import pathlib
import random
import re
import socket
import stat
import struct
import subprocess
import threading
import time

import pytest

from support import binaries
from support.vhost_user import (CREATE, INTERRUPT, LINK, LOOKUP, MEMORY, MKDIR, READLINK, RENAME, SETLK, SETLKW, GETLK, SYMLINK, UNLINK, Connection, Entry, Fault,
                                Server, error_of)

UID, GID = 2, 4


def status_of(process: subprocess.Popen) -> dict[str, str]:
    return dict(re.findall(r"(\w+):\t(.*)", pathlib.Path(f"/proc/{process.pid}/status").read_text()))


def test_the_process_is_confined(serve, shared):
    server = serve()
    (shared / "file").touch()
    process = server.process
    assert error_of(server.lookup, 1, "absent") == "ENOENT"  # it has answered: it is where it is to be
    status = status_of(process)
    names = ("CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID SETGID SETUID").split()
    numbers = {"CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "FSETID": 4, "SETGID": 6, "SETUID": 7}
    expected = sum(1 << numbers[name] for name in names)
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[kind], 16) == expected, kind
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2" and status["Groups"].strip() == ""
    mounts = pathlib.Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()
    assert len(mounts) == 1
    assert os.listdir(f"/proc/{process.pid}/root") == ["file"]
    for kind in ("mnt", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{process.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    # Descriptors: the three, the socket, its own list of descriptors, the folder, queues and memory: nothing of the host's tree.
    for number in os.listdir(f"/proc/{process.pid}/fd"):
        target = os.readlink(f"/proc/{process.pid}/fd/{number}")
        assert target in ("/dev/null", str(server.folder / "stderr"), "/") or re.match(r"socket:|anon_inode:|/memfd:|/proc/\d+/fd", target), target
    assert not server.path.exists()


def test_names_stay_inside(serve, shared):
    server = serve()
    folder = server.make_directory(1, "folder")
    for name in ("", ".", "..", "../secret", "folder/..", "/etc", "a/b"):
        for parent in (1, folder.node):
            assert error_of(server.lookup, parent, name) == "EINVAL", name
            assert error_of(server.make_directory, parent, name) == "EINVAL", name
            assert error_of(server.create, parent, name) == "EINVAL", name
            assert error_of(server.symlink, parent, name, "x") == "EINVAL", name
            assert error_of(server.ask, UNLINK, parent, name.encode() + b"\0") == "EINVAL", name
            assert error_of(server.ask, RENAME, parent, struct.pack("<Q", 1) + b"folder\0" + name.encode() + b"\0") == "EINVAL", name
    assert error_of(server.ask, LOOKUP, 1, b"no end") == "EINVAL"
    (shared / "up").symlink_to("..")
    (shared / "out").symlink_to(shared.parent / "secret")
    for name in ("up", "out"):
        entry = server.lookup(1, name)
        assert stat.S_ISLNK(entry.attributes.mode)
        assert error_of(server.lookup, entry.node, "secret") == "ENOTDIR"
        assert error_of(server.open_directory, entry.node) == "ENOTDIR"
        assert error_of(server.create, entry.node, "new") == "ENOTDIR"
        # Made over a link: the link is an entry that exists, not a way.
        data = struct.pack("<IIII", os.O_RDWR, 0o644, 0, 0) + name.encode() + b"\0"
        assert error_of(server.ask, CREATE, 1, data) in ("EPERM", "ELOOP")
    hard = server.link(server.lookup(1, "out").node, 1, "hard")
    assert stat.S_ISLNK(hard.attributes.mode) and os.path.islink(shared / "hard")


def test_while_folders_are_exchanged_for_links(serve, shared):
    """A folder and a link to the outside change places as fast as they can: what is found is one or the other."""
    server = serve()
    outside = shared.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("outside")
    (shared / "folder").mkdir()
    (shared / "folder/file").write_text("inside")
    (shared / "link").symlink_to("../outside")
    libc = ctypes.CDLL(None, use_errno=True)
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            libc.renameat2(-100, str(shared / "folder").encode(), -100, str(shared / "link").encode(), 2)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        found = refused = 0
        for _ in range(1500):
            try:
                folder = server.lookup(1, "folder")
                entry = server.lookup(folder.node, "file")
                handle = server.open(entry.node, os.O_RDWR)
                assert server.read(entry.node, handle, 0, 100) == b"inside"
                server.release(entry.node, handle)
                server.create(folder.node, f"made-{found}")
                found += 1
            except Fault as fault:
                assert fault.errno in (errno.ENOTDIR, errno.ENOENT, errno.ESTALE, errno.ENFILE), fault
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert found and refused
    assert os.listdir(outside) == ["file"] and (outside / "file").read_text() == "outside"


def test_closed_nodes_do_not_follow_links(serve, shared):
    """A folder that was closed to make room is found again by its path, and only if it is the very same."""
    server = serve("--descriptors", "256")
    outside = shared.parent / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / "inner/file").write_text("outside")
    (shared / "folder/inner").mkdir(parents=True)
    (shared / "folder/inner/file").write_text("inside")
    entry = server.walk("folder/inner/file")
    for number in range(200):
        (shared / f"other-{number}").touch()
        server.lookup(1, f"other-{number}")
    os.rename(shared / "folder", shared / "before")
    (shared / "folder").symlink_to("../outside")
    assert error_of(server.open, entry.node) == "ESTALE"
    (shared / "folder").unlink()
    (shared / "folder/inner").mkdir(parents=True)
    (shared / "folder/inner/file").write_text("another")
    assert error_of(server.open, entry.node) == "ESTALE"


def test_files_are_made_as_their_owner(serve, shared):
    server = serve()
    shared.chmod(0o700)
    server.uid, server.gid = 1234, 4321
    made = {"file": server.create(1, "file")[0], "folder": server.make_directory(1, "folder"), "link": server.symlink(1, "link", "x"),
            "pipe": server.make_node(1, "pipe", stat.S_IFIFO | 0o644)}
    for name, entry in made.items():
        host = os.lstat(shared / name)
        assert (host.st_uid, host.st_gid, entry.attributes.uid, entry.attributes.gid) == (1234, 4321, 1234, 4321), name
    server.uid = server.gid = 0
    assert server.create(1, "roots")[0].attributes.uid == 0
    # And the process has its rights back.
    server.set_attributes(made["file"].node, UID, uid=0)
    os.chmod(shared, 0o2777)
    os.chown(shared, 0, 777)
    server.uid = server.gid = 1234
    assert os.stat(shared / "roots").st_gid == 0
    server.make_directory(1, "inherits")
    host = os.stat(shared / "inherits")
    assert (host.st_uid, host.st_gid, host.st_mode & stat.S_ISGID) == (1234, 777, stat.S_ISGID)


def test_mapped_owners(serve, shared):
    server = serve("--map-uid", "0:4000:1", "--map-uid=1000:5000:10", "--map-gid", "0:4000:100")
    (shared / "foreign").touch()
    entry, _ = server.create(1, "file")
    host = (shared / "file").stat()
    assert (host.st_uid, host.st_gid, entry.attributes.uid, entry.attributes.gid) == (4000, 4000, 0, 0)
    changed = server.set_attributes(entry.node, UID | GID, uid=1009, gid=99)
    host = (shared / "file").stat()
    assert (host.st_uid, host.st_gid, changed.uid, changed.gid) == (5009, 4099, 1009, 99)
    assert error_of(server.set_attributes, entry.node, UID, uid=1010) == "EOVERFLOW"
    server.uid = 1
    assert error_of(server.create, 1, "other") == "EOVERFLOW" and not (shared / "other").exists()
    foreign = server.lookup(1, "foreign").attributes
    assert (foreign.uid, foreign.gid) == (65534, 65534)


def test_squashed_owners(serve, shared):
    server = serve("--map-uid", "0:4000:1", "--map-gid", "0:4000:1", "--squash-uid", "4444", "--squash-gid", "4444")
    server.uid = server.gid = 17
    server.create(1, "file")
    assert ((shared / "file").stat().st_uid, (shared / "file").stat().st_gid) == (4444, 4444)


def test_as_a_user(serve, shared):
    (shared / "roots").write_text("x")
    (shared / "roots").chmod(0o600)
    os.chown(shared, 1500, 1500)
    server = serve("--uid", "1500", "--gid", "1500")
    entry, _ = server.create(1, "file")
    assert (shared / "file").stat().st_uid == 1500
    assert error_of(server.open, server.lookup(1, "roots").node) == "EACCES"
    assert error_of(server.set_attributes, entry.node, UID, uid=0) == "EPERM"
    status = status_of(server.process)
    assert int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0 and status["Uid"].split() == ["1500"] * 4


def test_started_by_a_user(tmp_path):
    binaries.need_root()
    shared = tmp_path / "shared"
    shared.mkdir()
    for folder in (shared, *list(tmp_path.parents)[:2], tmp_path):
        if str(folder) != "/tmp":
            os.chmod(folder, 0o755)
    os.chown(shared, 1600, 1600)
    server = Server(shared, start=False)
    try:
        os.chmod(server.folder, 0o777)
        program = server.folder / "wherry-fs"
        program.write_bytes(pathlib.Path(binaries.binary("wherry-fs")).read_bytes())
        program.chmod(0o755)
        server.process = subprocess.Popen([str(program), "--shared-dir", str(shared), "--socket", str(server.path)], stderr=server.errors, user=1600, group=1600,
                                          extra_groups=[])
        try:
            server.connect()
        except (ConnectionResetError, BrokenPipeError):
            server.process.wait(30)
            if "user namespace" in server.stderr():
                pytest.skip("this host has no user namespaces for users: " + server.stderr().strip())
            raise
        server.initialize()
        server.create(1, "file")
        assert (shared / "file").stat().st_uid == 1600
        assert len(pathlib.Path(f"/proc/{server.process.pid}/mountinfo").read_text().splitlines()) == 1
    finally:
        server.close()


def test_locks_hold_against_the_host(serve, shared):
    server = serve()
    entry, handle = server.create(1, "file")
    server.write(entry.node, handle, 0, b"0123456789")
    with open(shared / "file", "r+") as file:
        server.ask(SETLK, entry.node, server.lock_request(handle, 1, fcntl.F_WRLCK, 0, 4))
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 5)
        assert error_of(server.ask, SETLK, entry.node, server.lock_request(handle, 1, fcntl.F_WRLCK, 5, 9)) == "EAGAIN"
        found = struct.unpack_from("<QQI", server.ask(GETLK, entry.node, server.lock_request(handle, 2, fcntl.F_RDLCK)))
        assert found == (0, 4, fcntl.F_WRLCK)
        # Owners of the guest are in each other's way, too.
        assert error_of(server.ask, SETLK, entry.node, server.lock_request(handle, 2, fcntl.F_RDLCK, 0, 0)) == "EAGAIN"
        # The owner closes the file: its locks are gone.
        server.ask(25, entry.node, struct.pack("<QQQ", handle, 0, 1))
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
        # Waiting does not keep other requests.
        slot = server.begin(server.message(SETLKW, entry.node, server.lock_request(handle, 1, fcntl.F_WRLCK, 0, 0)))
        assert server.attributes(entry.node).size == 10
        fcntl.lockf(file, fcntl.LOCK_UN)
        assert server.parse(server.end(slot)) == b""
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        server.ask(SETLK, entry.node, server.lock_request(handle, 1, fcntl.F_UNLCK))
        # flock(2) is another matter.
        fcntl.flock(file, fcntl.LOCK_EX)
        assert error_of(server.ask, SETLK, entry.node, server.lock_request(handle, 1, fcntl.F_WRLCK, flock=True)) == "EAGAIN"
        slot = server.begin(server.message(SETLKW, entry.node, server.lock_request(handle, 1, fcntl.F_WRLCK, flock=True)))
        assert server.attributes(entry.node).size == 10
        fcntl.flock(file, fcntl.LOCK_UN)
        assert server.parse(server.end(slot)) == b""
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        server.release(entry.node, handle)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_wait_for_a_lock_is_interrupted(serve, shared):
    server = serve()
    entry, handle = server.create(1, "file")
    with open(shared / "file", "r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        for _ in range(20):
            message = server.message(SETLKW, entry.node, server.lock_request(handle, 1, fcntl.F_WRLCK))
            unique, = struct.unpack_from("<Q", message, 8)
            slot = server.begin(message)
            other = server.begin(server.message(INTERRUPT, 0, struct.pack("<Q", unique)), reply_room=0, queue=0)
            server.end(other)
            assert error_of(lambda: server.parse(server.end(slot))) == "EINTR"
        # And forgotten when the queue stops or the connection ends.
        for _ in range(70):
            try:
                server.begin(server.message(SETLKW, entry.node, server.lock_request(handle, 1, fcntl.F_WRLCK)))
            except StopIteration:
                break
        index, base = struct.unpack("<II", server.connection.ask(11, struct.pack("<II", 1, 0)))
        assert index == 1 and base > 20
    server.connection.socket.close()
    assert server.process.wait(30) == 0


def test_hostile_messages(serve, shared):
    """Each ends the connection, or is refused; the process ends by itself, never by a signal."""
    table = struct.pack("<IIQQQQ", 1, 0, 0, MEMORY, 0, 0)
    cases = {
        "unknown request": (99, b"", False),
        "a table of nine regions": (5, struct.pack("<II", 9, 0) + bytes(9 * 32), False),
        "a table without files": (5, table, False),
        "a region beyond its file": (5, struct.pack("<IIQQQQ", 1, 0, 0, MEMORY * 2, 0, 0), True),
        "a region that wraps": (5, struct.pack("<IIQQQQ", 1, 0, (1 << 64) - 4096, 8192, 0, 0), True),
        "a region of nothing": (5, struct.pack("<IIQQQQ", 1, 0, 0, 0, 0, 0), True),
        "a queue of no power of two": (8, struct.pack("<II", 1, 0xffff), False),
        "the hundredth queue": (9, struct.pack("<IIQQQQ", 100, 0, 0, 0, 0, 0), False),
        "a kick without a descriptor": (12, struct.pack("<Q", 1), False),
        "a kick for the last queue": (12, struct.pack("<Q", 255), True),
        "short state": (8, b"x", False),
        "features that nobody offered": (2, struct.pack("<Q", 1 << 40), False),
        "a long payload": (5, bytes(513), False),
    }
    for name, (request, payload, with_file) in cases.items():
        server = serve(initialize=False)
        fds = (server.memory_fd,) if with_file else ()
        try:
            server.connection.send(request, payload, fds)
            server.connection.receive()
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert server.process.wait(30) == 1, name
        assert "vhost-user" in server.stderr() or "guest memory" in server.stderr(), (name, server.stderr())
    server = serve(initialize=False)
    server.connection.socket.send(struct.pack("<III", 1, 2, 0))  # another version
    assert server.process.wait(30) == 1
    server = serve(connect=False)
    Connection(server.path).socket.close()
    assert server.process.wait(30) == 0


def test_hostile_rings(serve, shared):
    """Rings and requests of noise: an answer, or the end of the process with a reason, never by a signal."""
    chance = random.Random(7)
    server = serve()
    for round_ in range(60):
        if server.process.poll() is not None:
            assert server.process.returncode == 1, server.stderr()
            server = serve()
        queue = server.queues[1]
        kind = round_ % 3
        try:
            if kind == 0:
                for index in range(64):
                    queue.descriptor(index, chance.choice([0, 1 << 20, MEMORY - 10, 1 << 63]), chance.choice([0, 40, 4096, 0xffffffff]), chance.randrange(8), chance.randrange(64))
                queue.offer(chance.randrange(64))
                server.wait(seconds=0.05)
            elif kind == 1:
                request = bytearray(server.message(chance.randrange(1, 52), chance.choice([0, 1, 2, 1 << 63]), chance.randbytes(chance.randrange(200))))
                request[0:4] = struct.pack("<I", chance.choice([0, 39, 40, len(request), 0xffffffff]))
                server.end(server.begin(bytes(request), reply_room=chance.choice([8, 16, 100, 4096])), seconds=0.05)
            else:
                struct.pack_into("<H", server.memory, queue.base + 0x1002, chance.randrange(65536))
                os.eventfd_write(queue.kick, 1)
                server.wait(seconds=0.05)
        except (TimeoutError, ConnectionResetError, BrokenPipeError, AssertionError, StopIteration):
            server.process.kill() if server.process.poll() is None else None
            assert server.process.wait(30) in (1, -9), server.stderr()
            server = serve()
    assert error_of(server.lookup, 1, "absent") in ("ENOENT", "EINVAL", "")


def test_arguments(shared, tmp_path):
    binary = binaries.binary("wherry-fs")
    for arguments, text in (([], "--shared-dir is missing"), (["--shared-dir", "/tmp"], "one of --socket and --fd"), (["--what"], "unknown argument"),
                            (["--cache", "sometimes"], "none, auto or always"), (["--map-uid", "1:2"], "guest:host:count"), (["--uid", "x"], "no number"),
                            (["--shared-dir"], "needs a value"), (["x"], "unexpected")):
        done = subprocess.run([binary, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and text in done.stderr, (arguments, done.stderr)
    for arguments, text in ((["--map-uid", "0:0:10", "--map-uid", "5:100:1"], "overlap"), (["--map-gid", "0:0:0"], "empty"), (["--descriptors", "999999999"], "at most")):
        done = subprocess.run([binary, "--shared-dir", str(shared), "--socket", str(tmp_path / "s"), *arguments], capture_output=True, text=True)
        assert done.returncode == 1 and text in done.stderr, (arguments, done.stderr)
    done = subprocess.run([binary, "--shared-dir", str(tmp_path / "absent"), "--socket", str(tmp_path / "s")], capture_output=True, text=True)
    assert done.returncode == 1 and "shared directory" in done.stderr and not (tmp_path / "s").exists()
    assert "--shared-dir" in subprocess.run([binary, "--help"], capture_output=True, text=True).stdout
    assert subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.startswith("wherry-fs ")


def test_a_socket_that_was_given(shared):
    binaries.need_root()
    ours, theirs = socket.socketpair()
    with Server(shared, start=False) as server:
        server.process = subprocess.Popen([binaries.binary("wherry-fs"), "--shared-dir", str(shared), "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                                          stderr=server.errors)
        theirs.close()
        ours.sendall(struct.pack("<III", 1, 1, 0))
        assert len(ours.recv(20, socket.MSG_WAITALL)) == 20
        ours.close()
        assert server.process.wait(30) == 0


def test_told_to_end_before_anybody_came(serve):
    server = serve(connect=False)
    deadline = time.monotonic() + 30
    while not server.path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    server.process.terminate()
    assert server.process.wait(30) == 0
    assert not server.path.exists()
