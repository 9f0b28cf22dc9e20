"""What each request does to the folder, looked at from the host; and what the host does, looked at by requests."""

import os
import stat
import struct

import pytest

from support.vhost_user import (ACCESS, BATCH_FORGET, COPY_FILE_RANGE, DESTROY, FALLOCATE, FLUSH, FSYNC, FSYNCDIR, GETXATTR, INIT, LISTXATTR, LOOKUP, LSEEK,
                                READ, READLINK, REMOVEXATTR, RENAME, RENAME2, RMDIR, SETXATTR, STATFS, SYNCFS, UNLINK, WRITE_FILE, error_of)

MODE, UID, GID, SIZE, ATIME, MTIME, FH = 1, 2, 4, 8, 16, 32, 64


def test_content(serve, shared):
    server = serve()
    entry, handle = server.create(1, "file", mode=0o640)
    assert stat.S_IMODE((shared / "file").stat().st_mode) == 0o640
    data = os.urandom(100_000)
    assert server.write(entry.node, handle, 0, data) == len(data)
    assert (shared / "file").read_bytes() == data
    assert server.read(entry.node, handle, 1000, 50_000) == data[1000:51_000]
    assert server.read(entry.node, handle, 99_999, 10) == data[-1:]
    assert server.read(entry.node, handle, 100_000, 10) == b""
    (shared / "file").write_bytes(b"by the host")
    assert server.read(entry.node, handle, 0, 100) == b"by the host"
    assert server.attributes(entry.node).size == 11
    server.ask(FLUSH, entry.node, struct.pack("<QQQ", handle, 0, 7))
    server.ask(FSYNC, entry.node, struct.pack("<QII", handle, 1, 0))
    server.release(entry.node, handle)
    assert error_of(server.read, entry.node, handle, 0, 1) == "EBADF"
    assert error_of(server.lookup, 1, "absent") == "ENOENT"


def test_append_and_truncate(serve, shared):
    server = serve()
    (shared / "log").write_text("one\n")
    entry = server.lookup(1, "log")
    handle = server.open(entry.node, os.O_WRONLY | os.O_APPEND)
    with open(shared / "log", "a") as file:
        file.write("two\n")
    server.write(entry.node, handle, 4, b"three\n")  # the guest does not know of the second line
    assert (shared / "log").read_text() == "one\ntwo\nthree\n"
    server.set_attributes(entry.node, SIZE, size=3)
    assert (shared / "log").read_text() == "one"
    server.open(entry.node, os.O_RDWR | os.O_TRUNC)
    assert (shared / "log").read_text() == ""


def test_directories_and_names(serve, shared):
    server = serve()
    folder = server.make_directory(1, "folder", 0o750)
    assert stat.S_IMODE((shared / "folder").stat().st_mode) == 0o750
    inner = server.make_directory(folder.node, "inner")
    assert error_of(server.make_directory, folder.node, "inner") == "EEXIST"
    assert error_of(server.ask, RMDIR, 1, b"folder\0") == "ENOTEMPTY"
    assert error_of(server.ask, UNLINK, 1, b"folder\0") in ("EISDIR", "EPERM")
    server.ask(RENAME, folder.node, struct.pack("<Q", 1) + b"inner\0moved\0")
    assert (shared / "moved").is_dir()
    assert server.attributes(inner.node).ino == (shared / "moved").stat().st_ino
    (shared / "a").write_text("a")
    (shared / "b").write_text("b")
    assert error_of(server.ask, RENAME2, 1, struct.pack("<QII", 1, 1, 0) + b"a\0b\0") == "EEXIST"
    server.ask(RENAME2, 1, struct.pack("<QII", 1, 2, 0) + b"a\0b\0")
    assert (shared / "a").read_text() == "b"
    first = server.lookup(1, "a")
    assert server.link(first.node, folder.node, "hard").node == first.node
    assert os.stat(shared / "folder/hard").st_nlink == 2
    server.ask(UNLINK, 1, b"a\0")
    assert server.attributes(first.node).nlink == 1
    server.ask(RMDIR, 1, b"moved\0")
    assert sorted(os.listdir(shared)) == ["b", "folder"]
    assert error_of(server.make_directory, server.lookup(1, "b").node, "x") == "ENOTDIR"
    assert error_of(server.lookup, 1, "x" * 256) == "ENAMETOOLONG"


def test_links_pipes_sockets_devices(serve, shared):
    server = serve()
    link = server.symlink(1, "link", "../secret")
    assert os.readlink(shared / "link") == "../secret"
    assert server.ask(READLINK, link.node) == b"../secret"
    assert error_of(server.ask, READLINK, 1) == "EINVAL"
    server.make_node(1, "pipe", stat.S_IFIFO | 0o600)
    server.make_node(1, "socket", stat.S_IFSOCK | 0o600)
    server.make_node(1, "plain", stat.S_IFREG | 0o600)
    server.make_node(1, "whiteout", stat.S_IFCHR | 0o600)
    assert error_of(server.make_node, 1, "null", stat.S_IFCHR | 0o600, os.makedev(1, 3)) == "EPERM"
    assert error_of(server.make_node, 1, "disk", stat.S_IFBLK | 0o600, os.makedev(8, 0)) == "EPERM"
    # Pipes and links are never opened on the host.
    for name in ("pipe", "socket", "link", "whiteout"):
        assert error_of(server.open, server.lookup(1, name).node) == "EPERM", name
    assert error_of(server.open, 1) == "EISDIR"


def test_attributes(serve, shared):
    server = serve()
    (shared / "file").write_text("x" * 5000)
    entry = server.lookup(1, "file")
    assert (entry.attributes.size, entry.attributes.nlink, stat.S_IFMT(entry.attributes.mode)) == (5000, 1, stat.S_IFREG)
    changed = server.set_attributes(entry.node, MODE, mode=0o4711)
    assert stat.S_IMODE(changed.mode) == stat.S_IMODE((shared / "file").stat().st_mode) == 0o4711
    changed = server.set_attributes(entry.node, UID | GID, uid=1234, gid=5678)
    host = (shared / "file").stat()
    assert (host.st_uid, host.st_gid, changed.uid, changed.gid) == (1234, 5678, 1234, 5678)
    assert stat.S_IMODE(host.st_mode) == 0o711  # as chown(2) does
    server.set_attributes(entry.node, MTIME, mtime=1_000_000_000)
    assert (shared / "file").stat().st_mtime == 1_000_000_000
    assert error_of(server.set_attributes, entry.node, SIZE, size=1 << 63) == "EFBIG"
    assert error_of(server.set_attributes, 1, SIZE, size=0) == "EISDIR"
    (shared / "link").symlink_to("file")
    link = server.lookup(1, "link")
    server.set_attributes(link.node, UID, uid=77)
    assert os.lstat(shared / "link").st_uid == 77 and (shared / "file").stat().st_uid == 1234
    assert error_of(server.set_attributes, link.node, MODE, mode=0o777) == "EOPNOTSUPP"
    assert stat.S_IMODE((shared / "file").stat().st_mode) == 0o711


def test_access(serve, shared):
    server = serve()
    (shared / "file").touch()
    os.chown(shared / "file", 1000, 1000)
    os.chmod(shared / "file", 0o640)
    node = server.lookup(1, "file").node
    for uid, gid, mask, expected in ((1000, 1, 6, ""), (1, 1000, 4, ""), (1, 1000, 2, "EACCES"), (1, 1, 4, "EACCES"), (0, 0, 6, ""), (0, 0, 1, "EACCES")):
        server.uid, server.gid = uid, gid
        assert error_of(server.ask, ACCESS, node, struct.pack("<II", mask, 0)) == expected, (uid, gid, mask)


@pytest.mark.parametrize("plus", [False, True])
def test_listing(serve, shared, plus):
    server = serve()
    names = {f"file {number:04}" for number in range(700)}
    for name in names:
        (shared / name).touch()
    (shared / "folder").mkdir()
    found = server.list(1, plus)
    assert set(found) == names | {".", "..", "folder"}
    if plus:
        assert found["."].node == found[".."].node == 0
        entry = found["file 0123"]
        assert entry.attributes.ino == (shared / "file 0123").stat().st_ino
        assert server.attributes(entry.node).ino == entry.attributes.ino
        assert server.lookup(1, "file 0123").node == entry.node
    else:
        assert found["folder"] == ((shared / "folder").stat().st_ino, stat.S_IFDIR >> 12)
    for name in names:
        (shared / name).unlink()
    assert set(server.list(1, plus)) == {".", "..", "folder"}


def test_extended_attributes(serve, shared):
    server = serve()
    (shared / "file").touch()
    node = server.lookup(1, "file").node
    try:
        os.setxattr(shared / "file", "user.host", b"by the host")
    except OSError:
        pytest.skip("the file system of the temporary folder has no user attributes")

    def put(name: bytes, value: bytes, flags: int = 0) -> None:
        server.ask(SETXATTR, node, struct.pack("<II", len(value), flags) + name + b"\0" + value)

    def get(name: bytes, size: int = 1000) -> bytes:
        return server.ask(GETXATTR, node, struct.pack("<II", size, 0) + name + b"\0")

    assert get(b"user.host") == b"by the host"
    assert get(b"user.host", 0) == struct.pack("<II", 11, 0)
    assert error_of(get, b"user.host", 5) == "ERANGE"
    put(b"user.guest", b"value")
    assert os.getxattr(shared / "file", "user.guest") == b"value"
    assert error_of(put, b"user.guest", b"", os.XATTR_CREATE) == "EEXIST"
    assert server.ask(LISTXATTR, node, struct.pack("<II", 1000, 0)).split(b"\0")[:-1] == [b"user.host", b"user.guest"]
    server.ask(REMOVEXATTR, node, b"user.guest\0")
    assert os.listxattr(shared / "file") == ["user.host"]
    for name, expected in ((b"security.capability", "EPERM"), (b"trusted.overlay.opaque", "EPERM"), (b"system.posix_acl_access", "EOPNOTSUPP")):
        assert error_of(put, name, b"x") == expected, name
    assert error_of(get, b"trusted.overlay.opaque") == "EOPNOTSUPP"


def test_space(serve, shared):
    server = serve()
    entry, handle = server.create(1, "file")
    server.ask(FALLOCATE, entry.node, struct.pack("<QQQII", handle, 0, 65536, 0, 0))
    assert (shared / "file").stat().st_size == 65536
    server.write(entry.node, handle, 1 << 20, b"far")
    found = server.ask(LSEEK, entry.node, struct.pack("<QQII", handle, 65536, os.SEEK_DATA, 0))
    assert struct.unpack("<Q", found)[0] >= 65536
    assert error_of(server.ask, LSEEK, entry.node, struct.pack("<QQII", handle, 2 << 20, os.SEEK_DATA, 0)) == "ENXIO"
    other, target = server.create(1, "copy")
    done = server.ask(COPY_FILE_RANGE, entry.node, struct.pack("<QQQQQQQ", handle, 1 << 20, other.node, target, 0, 3, 0))
    assert struct.unpack("<II", done)[0] == 3 and (shared / "copy").read_bytes() == b"far"
    shown = struct.unpack_from("<QQQQQIII", server.ask(STATFS, 1))
    host = os.statvfs(shared)
    assert (shown[0], shown[6], shown[7]) == (host.f_blocks, host.f_namemax, host.f_frsize)
    folder = server.open_directory(1)
    server.ask(FSYNCDIR, 1, struct.pack("<QII", folder, 0, 0))
    server.ask(SYNCFS, 1, bytes(8))


def test_a_removed_file_stays_open(serve, shared):
    server = serve()
    entry, handle = server.create(1, "file")
    server.write(entry.node, handle, 0, b"still there")
    (shared / "file").unlink()
    assert server.read(entry.node, handle, 0, 100) == b"still there"
    assert server.attributes(entry.node).nlink == 0
    server.set_attributes(entry.node, SIZE | FH, size=5, handle=handle)
    assert server.read(entry.node, handle, 0, 100) == b"still"
    # Another file of the name is another node.
    (shared / "file").write_text("new")
    assert server.lookup(1, "file").node != entry.node


def test_nodes_are_forgotten(serve, shared):
    server = serve()
    (shared / "file").touch()
    entry = server.lookup(1, "file")
    assert server.lookup(1, "file").node == entry.node
    server.forget(entry.node, 1)
    server.attributes(entry.node)
    server.forget(entry.node, 1)
    assert error_of(server.attributes, entry.node) == "ESTALE"
    again = server.lookup(1, "file")
    assert again.node != entry.node
    server.end(server.begin(server.message(BATCH_FORGET, 0, struct.pack("<IIQQ", 1, 0, again.node, 1)), reply_room=0, queue=0))
    assert error_of(server.attributes, again.node) == "ESTALE"


def test_more_nodes_than_descriptors(serve, shared):
    server = serve("--descriptors", "256")
    (shared / "deep/er").mkdir(parents=True)
    for number in range(300):
        (shared / f"deep/er/{number}").write_text(str(number))
    folder = server.walk("deep/er")
    nodes = [server.lookup(folder.node, str(number)).node for number in range(300)]
    assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < 128
    for number, node in enumerate(nodes):
        assert server.attributes(node).size == len(str(number))
    handle = server.open(nodes[0])
    (shared / "deep/er/0").unlink()
    (shared / "deep/er/1").unlink()
    (shared / "deep/er/1").write_text("another file")
    os.rename(shared / "deep/er/2", shared / "deep/er/moved")
    for node in nodes[3:]:
        server.attributes(node)
    assert server.read(nodes[0], handle, 0, 10) == b"0"
    assert server.attributes(nodes[0]).nlink == 0  # open: never closed to make room
    assert error_of(server.attributes, nodes[1]) == "ESTALE"
    assert error_of(server.attributes, nodes[2]) == "ESTALE"
    assert server.attributes(server.lookup(folder.node, "moved").node).size == 1
    os.rename(shared / "deep", shared / "elsewhere")
    server.ask(LOOKUP, 1, b"elsewhere\0")
    assert server.attributes(nodes[200]).size == 3  # found by its folder, which is known to have moved


def test_too_many_open_files(serve, shared):
    server = serve("--descriptors", "256")
    (shared / "file").write_text("x")
    node = server.lookup(1, "file").node
    handles = []
    while not (fault := error_of(lambda: handles.append(server.open(node)))):
        assert len(handles) < 256
    assert fault == "ENFILE"
    server.release(node, handles.pop())
    server.open(node)


def test_read_only(serve, shared):
    (shared / "file").write_text("content")
    os.utime(shared / "file", (1, 1))
    server = serve("--read-only")
    node = server.lookup(1, "file").node
    handle = server.open(node)
    assert server.read(node, handle, 0, 100) == b"content"
    for name, call in {
            "open": lambda: server.open(node, os.O_RDWR), "truncating open": lambda: server.open(node, os.O_RDONLY | os.O_TRUNC),
            "create": lambda: server.create(1, "new"), "mkdir": lambda: server.make_directory(1, "new"), "unlink": lambda: server.ask(UNLINK, 1, b"file\0"),
            "write": lambda: server.write(node, handle, 0, b"x"), "chmod": lambda: server.set_attributes(node, MODE, mode=0o777),
            "symlink": lambda: server.symlink(1, "new", "x"), "link": lambda: server.link(node, 1, "new"),
            "rename": lambda: server.ask(RENAME, 1, struct.pack("<Q", 1) + b"file\0new\0"),
            "setxattr": lambda: server.ask(SETXATTR, node, struct.pack("<II", 1, 0) + b"user.x\0x"),
            "fallocate": lambda: server.ask(FALLOCATE, node, struct.pack("<QQQII", handle, 0, 10, 0, 0))}.items():
        assert error_of(call) == "EROFS", name
    assert os.listdir(shared) == ["file"] and (shared / "file").read_text() == "content"
    # The kernel keeps it as well: the folder is mounted read-only for this process.
    mounts = open(f"/proc/{server.process.pid}/mountinfo").read().splitlines()
    assert len(mounts) == 1 and {"ro", "nosuid", "nodev", "noexec", "nosymfollow"} <= set(mounts[0].split()[5].split(","))


@pytest.mark.parametrize("mode,seconds", [("none", 0), ("auto", 1), ("always", 86400)])
def test_caching(serve, shared, mode, seconds):
    server = serve("--cache", mode)
    (shared / "file").touch()
    entry = server.lookup(1, "file")
    assert entry.entry_valid == entry.attr_valid == seconds
    flags = struct.unpack_from("<QI", server.ask(14, entry.node, bytes(8)))[1]
    assert flags == {"none": 1, "auto": 0, "always": 2}[mode]
    flags = struct.unpack_from("<QI", server.ask(27, 1, bytes(8)))[1]
    assert flags == {"none": 0, "auto": 0, "always": 2 | 8}[mode]


def test_versions(serve):
    server = serve(initialize=False)
    major, minor = struct.unpack_from("<II", server.ask(INIT, 0, struct.pack("<IIII", 8, 0, 0, 0) + bytes(48)))
    assert (major, minor) == (7, 38)
    assert error_of(server.initialize, 26) == "EPROTO"
    server.initialize(31)
    node = server.make_directory(1, "folder").node
    server.ask(DESTROY, 0)
    server.initialize()
    assert error_of(server.attributes, node) == "ESTALE"
    assert error_of(server.ask, 63, 1, b"") == "ENOSYS"
    assert error_of(server.ask, WRITE_FILE, 1, struct.pack("<QQIIQII", 1, 0, 100, 0, 0, 0, 0)) == "EINVAL"  # less data than it says
    assert error_of(server.ask, READ, 1, b"short") == "EINVAL"
