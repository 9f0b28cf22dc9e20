"""What layers may hold, and that no archive gets out of its folder, whatever it says."""

import bz2
import gzip
import lzma
import os
import pathlib
import stat
import struct
import subprocess
import tarfile
import tempfile

import pytest

from store_tool import digest, entry, folder, hard_link, symlink, tar


def test_everything_a_layer_may_hold(store):
    long = "very/" + "long-name/" * 30 + "f" * 120
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    archive = tar(
        folder("./", mode=0o751),
        folder("dir", mode=0o2770, uid=7, gid=8, mtime=1234567890.5),
        entry("dir/file", content=b"hello", mode=0o4755, uid=1000, gid=2_000_000_001, mtime=1500000000.25),
        entry("cap", content=b"x", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": capability.decode("latin-1"),
                                                            "SCHILY.xattr.user.note": "why", "SCHILY.xattr.trusted.overlay.opaque": "y"}),
        symlink("absolute", "/etc/passwd"),
        hard_link("dir/again", "dir/file"),
        entry("null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3),
        entry("disk", tarfile.BLKTYPE, mode=0o600, devmajor=8, devminor=1),
        entry("pipe", tarfile.FIFOTYPE, mode=0o600),
        entry(long, content=b"deep"),
        entry("ünï\x01cödé", content=b"names are bytes"),
        entry("implied/parent", content=b""),
    )
    store.imported(archive)
    root = store.only_tree()
    assert stat.S_IMODE(root.stat().st_mode) == 0o751
    made = (root / "dir").stat()
    assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid, made.st_mtime_ns) == (0o2770, 7, 8, 1234567890500000000)
    file = (root / "dir/file").stat()
    assert (stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid, file.st_nlink) == (0o4755, 1000, 2_000_000_001, 2)
    assert file.st_mtime_ns == 1500000000250000000
    assert (root / "dir/again").stat().st_ino == file.st_ino
    assert os.getxattr(root / "cap", "security.capability") == capability
    assert os.getxattr(root / "cap", "user.note") == b"why"
    assert "trusted.overlay.opaque" not in os.listxattr(root / "cap")
    assert os.readlink(root / "absolute") == "/etc/passwd"
    assert (root / "null").lstat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK((root / "disk").lstat().st_mode) and stat.S_ISFIFO((root / "pipe").lstat().st_mode)
    assert (root / long).read_bytes() == b"deep"
    assert (root / "ünï\x01cödé").read_bytes() == b"names are bytes"


def test_access_control_lists(store):
    acl = "user::rw-,user:lisa:rw-:502,user:501:r--,group::r--,mask::rw-,other::---"
    store.imported(tar(folder("d", pax_headers={"SCHILY.acl.default": "user::rwx\ngroup::r-x\nother::---"}),
                       entry("f", mode=0o660, pax_headers={"SCHILY.acl.access": acl}), entry("g", pax_headers={"SCHILY.acl.access": "user:by-name:rw-"})))
    words = struct.unpack("<I" + "HHI" * 6, os.getxattr(store.only_tree() / "f", "system.posix_acl_access"))
    nobody = 0xFFFFFFFF
    assert words == (2, 1, 6, nobody, 2, 4, 501, 2, 6, 502, 4, 4, nobody, 16, 6, nobody, 32, 0, nobody)
    assert len(os.getxattr(store.only_tree() / "d", "system.posix_acl_default")) == 4 + 3 * 8


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats(store, format):
    name = "d/" + "x" * 90 + "/" + "y" * 90
    store.imported(tar(entry(name, content=b"z" * 1000), symlink("l", "t" * 90), format=format))
    assert (store.only_tree() / name).read_bytes() == b"z" * 1000


@pytest.mark.parametrize("format", ["gnu", "posix"])
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_files_stay_sparse(store, tmp_path, format, version):
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as file:
        for offset in range(0, 64 << 20, 4 << 20):
            file.seek(offset)
            file.write(b"data at %d" % offset)
        file.truncate(100 << 20)
    flags = ["--format=gnu"] if format == "gnu" else ["--format=posix", f"--sparse-version={version}"]
    subprocess.run(["tar", "-S", *flags, "-C", source, "-cf", tmp_path / "a.tar", "sparse"], check=True)
    image = store.out("import", tmp_path / "a.tar")
    made = store.only_tree() / "sparse"
    assert made.stat().st_size == 100 << 20 and made.stat().st_blocks * 512 < 4 << 20
    assert made.read_bytes() == (source / "sparse").read_bytes()
    store.run("verify", image)


def test_compressions_give_the_same_layer(store, tmp_path):
    plain = tar(*[entry(f"f{i}", content=os.urandom(1000) * 50) for i in range(100)])
    (tmp_path / "a.tar").write_bytes(plain)
    subprocess.run(["zstd", "-q", tmp_path / "a.tar"], check=True)
    for archive in (plain, gzip.compress(plain), gzip.compress(plain[:5000]) + gzip.compress(plain[5000:]), (tmp_path / "a.tar.zst").read_bytes(),
                    bz2.compress(plain), bz2.compress(plain[:5000]) + bz2.compress(plain[5000:]), lzma.compress(plain)):
        store.imported(archive)
        assert store.layers() == [digest(plain)]


@pytest.mark.parametrize("compress", [lambda b: b, gzip.compress, bz2.compress, lzma.compress])
def test_truncated_anywhere(store, compress):
    whole = tar(folder("d"), entry("d/f", content=os.urandom(5000)), entry("g", content=os.urandom(700)))
    archive = compress(whole[:512 * 13 + 700])  # up to the last byte of content
    for cut in (1, 100, 511, 600, len(archive) // 2, len(archive) - 1):
        assert "invalid argument" in store.refused(archive[:cut])


def test_garbage_is_named(store):
    assert "bzip2" in store.refused(bz2.compress(tar(entry("f")))[:-5])
    assert "xz" in store.refused(lzma.compress(tar(entry("f")))[:-5])
    assert "tar" in store.refused(b"this is not a tar archive" * 100)


def test_whiteouts(store):
    store.imported(tar(folder("d"), entry("d/.wh.gone"), entry("d/.wh..wh..opq"), entry(".wh.top"), entry("d/kept", content=b"k"),
                       entry(".wh..wh.plnk/x"), entry("implied/.wh.x")))
    root = store.only_tree()
    for gone in ("d/gone", "top", "implied/x"):
        made = (root / gone).lstat()
        assert stat.S_ISCHR(made.st_mode) and made.st_rdev == 0
    assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"
    assert not list(root.rglob(".wh.*"))


def test_whiteout_then_folder_is_opaque(store):
    store.imported(tar(entry(".wh.d"), folder("d"), entry("d/new"), entry(".wh.e"), entry("e/new"), folder("own"), entry("own/f"), entry(".wh.own")))
    root = store.only_tree()
    for name in ("d", "e", "own"):
        assert os.getxattr(root / name, "trusted.overlay.opaque") == b"y", name
    assert (root / "own/f").exists()


@pytest.mark.parametrize("name", ["../escape", "../../../../../../../../tmp/wherry-escape", "a/../../escape", "/../escape", "..", "x/../../.."])
def test_names_that_lead_outside(store, name):
    assert "outside" in store.refused(tar(entry(name, content=b"evil")))


def test_absolute_names_stay_inside(store):
    target = "/tmp/wherry-absolute-test"
    store.imported(tar(entry(target, content=b"inside"), entry("a/../b", content=b"clean")))
    assert not os.path.exists(target)
    assert (store.only_tree() / target[1:]).read_bytes() == b"inside"
    assert (store.only_tree() / "b").read_bytes() == b"clean"


@pytest.fixture
def outside():
    with tempfile.TemporaryDirectory(prefix="wherry-outside-") as name:
        path = pathlib.Path(name)
        (path / "victim").write_text("untouched")
        before = path.stat()
        yield path
        assert sorted(p.name for p in path.iterdir()) == ["victim"]
        assert (path / "victim").read_text() == "untouched" and (path / "victim").stat().st_nlink == 1
        assert (path.stat().st_mode, path.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_file_through_a_symlink(store, outside):
    """A link to an absolute path means a path inside, as it would for a process in the container."""
    up = "../" * 20 + str(outside)[1:]
    store.imported(tar(symlink("a", str(outside)), entry("a/evil", content=b"x"), symlink("b", up), entry("b/evil2", content=b"x"),
                       symlink("c", str(outside) + "/victim"), entry("c", content=b"replaces the link"),
                       symlink("usr-merged", "usr/lib"), entry("usr-merged/x", content=b"merged")))
    root = store.only_tree()
    inside = root / str(outside)[1:]
    assert (inside / "evil").read_bytes() == b"x" and (inside / "evil2").read_bytes() == b"x"
    assert (root / "usr/lib/x").read_bytes() == b"merged"
    assert (root / "c").is_file() and not (root / "c").is_symlink()


def test_folder_attributes_through_a_symlink(store, outside):
    store.imported(tar(symlink("a", str(outside)), folder("a", mode=0o777, mtime=1)))
    assert (store.only_tree() / "a").is_dir()


@pytest.mark.parametrize("target", ["../../victim", "/etc/passwd", "victim", ".", "/", "missing/x"])
def test_hard_links_to_outside(store, outside, target):
    target = str(outside / "victim") if target == "victim" else target
    store.refused(tar(entry("f"), hard_link("l", target)))


def test_hard_link_through_a_symlink(store, outside):
    store.refused(tar(symlink("s", str(outside)), hard_link("l", "s/victim")))
    store.imported(tar(symlink("s", str(outside / "victim")), hard_link("l", "s"), entry("l/x")))
    assert (store.only_tree() / str(outside)[1:] / "victim/x").exists()  # inside, as the link says


def test_hard_link_to_a_symlink_is_not_followed(store, outside):
    store.imported(tar(symlink("s", str(outside / "victim")), hard_link("l", "s"), entry("l", content=b"new")))
    assert (store.only_tree() / "l").read_bytes() == b"new"


def test_duplicates_and_replacements(store):
    first, second = os.urandom(3000), os.urandom(4000)
    archive = tar(entry("f", content=first), entry("f", content=second), folder("d"), entry("d/a", content=first), entry("d/b", content=first),
                  entry("d/a", content=second), entry("d", content=b"now a file"), folder("d"), entry("d/a", content=b"third"),
                  symlink("d/s", "/"), folder("d/s"), entry("d/s/x", content=b"1"), entry("p", tarfile.FIFOTYPE), entry("p", content=b"p"))
    image = store.imported(archive)
    root = store.only_tree()
    assert (root / "f").read_bytes() == second and (root / "d/a").read_bytes() == b"third" and not (root / "d/b").exists()
    assert (root / "d/s/x").read_bytes() == b"1"
    store.run("verify", image)  # the stream can still be written again
    saved = store.root.parent / "saved.tar"
    store.run("save", saved, image)
    with tarfile.open(saved) as outer:
        assert outer.extractfile("blobs/sha256/" + digest(archive)[7:]).read() == archive


def test_replaced_while_it_is_the_way(store):
    store.imported(tar(folder("real"), symlink("way", "real"), entry("way/a", content=b"a"), entry("way", content=b"file now"), hard_link("real/b", "real/a")))
    root = store.only_tree()
    assert (root / "real/b").read_bytes() == b"a" and (root / "way").read_bytes() == b"file now"
    assert "folder above" in store.refused(tar(folder("d"), entry("d/f", content=b"f"), hard_link("d", "d/f")))


def test_symlink_loops_end(store):
    assert store.refused(tar(symlink("a", "b"), symlink("b", "a"), entry("a/x")))
    assert store.refused(tar(symlink("a", "a/a/a"), entry("a/x")))


def test_file_as_a_parent(store):
    assert "Not a directory" in store.refused(tar(entry("f"), entry("f/x")))


def test_special_whiteout_names(store):
    for name in (".wh.", ".wh...", ".wh..", "d/.wh..", "d/.wh..."):
        assert "whiteout" in store.refused(tar(entry(name)))
    assert "reserved" in store.refused(tar(entry(".wh.d/f")))


def test_root_is_not_replaced(store):
    for bad in (entry("."), symlink("./", "/etc"), hard_link("/", "x"), entry("a/..", tarfile.CHRTYPE)):
        assert store.refused(tar(bad))


def test_names_without_end(store):
    assert "4095" in store.refused(tar(entry("x/" * 3000 + "f")))
    assert "255" in store.refused(tar(entry("x" * 300)))
    assert "impossible target" in store.refused(tar(symlink("l", "t" * 5000)))
    long = tar(entry("f"))
    header = bytearray(tarfile.TarInfo("././@LongLink").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"L"
    header[124:136] = b"77777777777\0"
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    assert "1 MiB" in store.refused(bytes(header) + long)


def test_huge_claims(store):
    info = tarfile.TarInfo("f")
    info.size = 1 << 62
    assert store.refused(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 10000)
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": str(1 << 62)}
    body = b"1\n%d\n5\n" % ((1 << 62) - 5)
    body += b"\0" * (512 - len(body)) + b"hello"
    assert "File too large" in store.refused(tar(entry("GNUSparseFile.0/s", content=body, pax_headers=sparse)))
    for map in (b"1\n10\n500\n", b"2\n10\n5\n3\n5\n", b"99999999999\n", b"x\n", b"1\n18446744073709551615\n5\n"):
        body = map + b"\0" * (512 - len(map)) + b"hello"
        bad = dict(sparse, **{"GNU.sparse.realsize": "100"})
        assert "sparse" in store.refused(tar(entry("GNUSparseFile.0/s", content=body, pax_headers=bad)))


def test_bombs(store):
    bomb = gzip.compress(tar(entry("zeros", content=b"\0" * (64 << 20))))
    assert len(bomb) < 200_000
    assert "resource exhausted" in store.refused(bomb, env={"WHERRY_MAX_BYTES": str(32 << 20)})
    # An end of the archive that never ends.
    endless = gzip.compress(tar(entry("f")) + b"\0" * (64 << 20))
    assert "resource exhausted" in store.refused(endless, env={"WHERRY_MAX_BYTES": str(32 << 20)})
    many = tar(*[entry(f"f{i}") for i in range(1001)])
    assert "1000 entries" in store.refused(many, env={"WHERRY_MAX_ENTRIES": "1000"})


def test_bad_numbers(store):
    for header in ({"size": "-1"}, {"size": "99999999999999999999"}, {"mtime": "x"}, {"uid": "-5"}, {"gid": "99999999999"}):
        assert store.refused(tar(entry("f", pax_headers=header)))


def test_odd_times_are_kept(store):
    store.imported(tar(entry("old", mtime=-1000.5), entry("new", mtime=4_000_000_000)))
    assert (store.only_tree() / "new").stat().st_mtime == 4_000_000_000


def test_child_cannot_reach_out():
    """The jail holds even for a child that would want to leave: no network, no capabilities beyond the files'."""
    from support.binaries import binary, need_root
    need_root()
    with tempfile.TemporaryDirectory() as work:
        for name in ("diff", "replaced"):
            os.mkdir(f"{work}/{name}")
        stream, feed = os.pipe()
        report, write = os.pipe()
        folder_fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        actions = [(os.POSIX_SPAWN_DUP2, os.dup(stream), 0), (os.POSIX_SPAWN_DUP2, 60, 3), (os.POSIX_SPAWN_DUP2, 61, 4)]
        os.dup2(write, 60), os.dup2(folder_fd, 61), os.set_inheritable(60, False), os.set_inheritable(61, False)
        pid = os.posix_spawn(binary("wherry-unpack"), ["wherry-unpack", "1000000", "100"], {}, file_actions=actions)
        try:
            os.write(feed, tar(entry("f", content=b"x" * 20000))[:2000])
            deadline = 200
            while deadline and not os.path.exists(f"{work}/diff/f"):
                deadline -= 1
                subprocess.run(["sleep", "0.02"])
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            files = (1 << 0) | (1 << 1) | (1 << 3) | (1 << 4) | (1 << 27) | (1 << 31)
            assert int(fields["CapEff"], 16) & ~files == 0 and int(fields["CapBnd"], 16) & ~files == 0
            assert fields["NoNewPrivs"].strip() == "1" and fields["Seccomp"].strip() == "2"
            assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
            assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
            assert sorted(os.listdir(f"/proc/{pid}/root")) == ["diff", "opaque", "recipe", "replaced"]
        finally:
            for fd in (feed, stream, 60, 61, write, folder_fd, actions[0][1]):
                os.close(fd)
            os.waitpid(pid, 0)
        assert os.read(report, 4096).startswith(b"error ")
        os.close(report)
