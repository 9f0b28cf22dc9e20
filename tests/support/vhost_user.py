"""A monitor's end of vhost-user and a guest's end of virtio-fs, in Python: FUSE requests to wherry-fs without a guest."""

import array
import errno
import mmap
import os
import pathlib
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time

from support import binaries

MEMORY = 16 << 20
RING = 64
NEXT, WRITE = 1, 2
VERSION_1, EVENT_INDEX, PROTOCOL = 1 << 32, 1 << 29, 1 << 30
(LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, _, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE_FILE, STATFS,
 RELEASE) = range(1, 19)
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR = range(20, 31)
GETLK, SETLK, SETLKW, ACCESS, CREATE, INTERRUPT, BMAP, DESTROY = range(31, 39)
BATCH_FORGET, FALLOCATE, READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE, SYNCFS = 42, 43, 44, 45, 46, 47, 50
ATTRIBUTES = "<6Q10I"


class Fault(OSError):
    """An errno from the server."""


class Attributes:
    def __init__(self, data: bytes):
        (self.ino, self.size, self.blocks, self.atime, self.mtime, self.ctime, _, _, _, self.mode, self.nlink, self.uid, self.gid, self.rdev,
         _, _) = struct.unpack_from(ATTRIBUTES, data)


class Entry:
    def __init__(self, data: bytes):
        self.node, self.generation, self.entry_valid, self.attr_valid, _, _ = struct.unpack_from("<QQQQII", data)
        self.attributes = Attributes(data[40:])


class Queue:
    """Rings of 64 at an address of the memory, and buffers for each head."""

    def __init__(self, memory: mmap.mmap, base: int):
        self.memory, self.base = memory, base
        self.available = self.taken = 0
        self.kick, self.call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def descriptor(self, index: int, address: int, size: int, flags: int, following: int = 0) -> None:
        struct.pack_into("<QIHH", self.memory, self.base + 16 * index, address, size, flags, following)

    def offer(self, head: int) -> None:
        struct.pack_into("<H", self.memory, self.base + 0x1000 + 4 + 2 * (self.available % RING), head)
        self.available = (self.available + 1) & 0xffff
        struct.pack_into("<H", self.memory, self.base + 0x1000 + 2, self.available)
        os.eventfd_write(self.kick, 1)

    def take(self) -> tuple[int, int] | None:
        index, = struct.unpack_from("<H", self.memory, self.base + 0x2000 + 2)
        if index == self.taken:
            return None
        head, written = struct.unpack_from("<II", self.memory, self.base + 0x2000 + 4 + 8 * (self.taken % RING))
        self.taken = (self.taken + 1) & 0xffff
        return head, written

    def close(self) -> None:
        os.close(self.kick)
        os.close(self.call)


class Connection:
    """vhost-user messages on a socket."""

    def __init__(self, path: str | pathlib.Path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.socket.connect(str(path))
                return
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < deadline, "nobody listens"
                time.sleep(0.005)

    def send(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = (), flags: int = 1) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([struct.pack("<III", request, flags, len(payload)) + payload], ancillary)

    def receive(self) -> tuple[int, bytes]:
        header = self._exactly(12)
        request, _, size = struct.unpack("<III", header)
        return request, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionResetError("the server closed the connection")
            data += more
        return data

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        self.send(request, payload)
        answered, data = self.receive()
        assert answered == request
        return data

    def tell(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> int:
        self.send(request, payload, fds, flags=1 | 8)
        answered, data = self.receive()
        assert answered == request
        return struct.unpack("<Q", data)[0]


class Server:
    """wherry-fs on a folder, and a connection to it that is set up like a monitor's."""

    def __init__(self, shared: pathlib.Path, *options: str, connect: bool = True, initialize: bool = True, start: bool = True, **keywords):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="wherry-fs-test-"))
        self.path = self.folder / "socket"
        self.errors = open(self.folder / "stderr", "w+b")
        self.queues: list[Queue] = []
        self.pending: dict[int, tuple[int, int]] = {}
        self.unique = 0
        self.uid = self.gid = 0
        self.shared = shared
        self.process: subprocess.Popen | None = None
        if not start:
            return
        self.process = subprocess.Popen([binaries.binary("wherry-fs"), "--shared-dir", str(shared), "--socket", str(self.path), *options],
                                        stderr=self.errors, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **keywords)
        if connect:
            self.connect()
            if initialize:
                self.initialize()

    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def connect(self, features: int = VERSION_1 | PROTOCOL) -> None:
        try:
            self.connection = Connection(self.path)
        except AssertionError:
            raise AssertionError(f"nobody listens: {self.process.poll()} {self.stderr()}") from None
        offered, = struct.unpack("<Q", self.connection.ask(1))
        assert offered & features == features
        self.connection.ask(15)
        self.connection.send(16, struct.pack("<Q", 1 << 3))
        assert self.connection.tell(3) == 0
        assert self.connection.tell(2, struct.pack("<Q", features)) == 0
        self.memory_fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.memory_fd, MEMORY)
        self.memory = mmap.mmap(self.memory_fd, MEMORY)
        # Addresses of the monitor are not those of the guest.
        self.user = 0x7f0000000000
        assert self.connection.tell(5, struct.pack("<IIQQQQ", 1, 0, 0, MEMORY, self.user, 0), (self.memory_fd,)) == 0
        for index in range(2):
            queue = Queue(self.memory, index * 0x4000)
            self.queues.append(queue)
            self.start_queue(index)

    def start_queue(self, index: int) -> None:
        queue, tell = self.queues[index], self.connection.tell
        assert tell(8, struct.pack("<II", index, RING)) == 0
        at = self.user + queue.base
        assert tell(9, struct.pack("<IIQQQQ", index, 0, at, at + 0x2000, at + 0x1000, 0)) == 0
        assert tell(10, struct.pack("<II", index, 0)) == 0
        assert tell(13, struct.pack("<Q", index), (queue.call,)) == 0
        assert tell(12, struct.pack("<Q", index), (queue.kick,)) == 0
        assert tell(18, struct.pack("<II", index, 1)) == 0

    # Requests: each slot has 128 KiB of request and of reply.
    SLOT, FIRST = 128 << 10, 1 << 20

    def begin(self, request: bytes, reply_room: int = 128 << 10, queue: int = 1) -> int:
        slot = next(n for n in range(30) if n not in self.pending)
        at = self.FIRST + slot * 2 * self.SLOT
        self.memory[at:at + len(request)] = request
        rings = self.queues[queue]
        if reply_room:
            rings.descriptor(2 * slot, at, len(request), NEXT, 2 * slot + 1)
            rings.descriptor(2 * slot + 1, at + self.SLOT, reply_room, WRITE)
        else:
            rings.descriptor(2 * slot, at, len(request), 0)
        self.pending[slot] = (at + self.SLOT, queue)
        rings.offer(2 * slot)
        return slot

    def end(self, slot: int, seconds: float = 30) -> bytes:
        at, queue = self.pending[slot]
        head, written = self.wait(queue, seconds)
        assert head == 2 * slot
        del self.pending[slot]
        return bytes(self.memory[at:at + written])

    def wait(self, queue: int = 1, seconds: float = 30) -> tuple[int, int]:
        rings = self.queues[queue]
        deadline = time.monotonic() + seconds
        while True:
            done = rings.take()
            if done is not None:
                return done
            ready, _, _ = select.select([rings.call, self.connection.socket], [], [], max(deadline - time.monotonic(), 0))
            if rings.call in ready:
                os.eventfd_read(rings.call)
            elif ready:
                raise ConnectionResetError(f"the server ended: {self.stderr()}")
            else:
                raise TimeoutError("no answer")

    def message(self, opcode: int, node: int, arguments: bytes = b"", unique: int | None = None) -> bytes:
        self.unique += 1
        return struct.pack("<IIQQIIIHH", 40 + len(arguments), opcode, unique or self.unique, node, self.uid, self.gid, 1, 0, 0) + arguments

    @staticmethod
    def parse(reply: bytes) -> bytes:
        size, error, _ = struct.unpack_from("<IiQ", reply)
        assert size == len(reply), (size, len(reply))
        if error:
            raise Fault(-error, os.strerror(-error))
        return reply[16:]

    def ask(self, opcode: int, node: int, arguments: bytes = b"", **options) -> bytes:
        return self.parse(self.end(self.begin(self.message(opcode, node, arguments), **options)))

    def initialize(self, minor: int = 38) -> bytes:
        return self.ask(INIT, 0, struct.pack("<IIII", 7, minor, 131072, 0xffffffff) + bytes(48))

    def lookup(self, parent: int, name: str | bytes) -> Entry:
        return Entry(self.ask(LOOKUP, parent, _name(name)))

    def walk(self, path: str) -> Entry:
        node = 1
        for part in path.split("/"):
            entry = self.lookup(node, part)
            node = entry.node
        return entry

    def attributes(self, node: int) -> Attributes:
        return Attributes(self.ask(GETATTR, node, bytes(16))[16:])

    def set_attributes(self, node: int, valid: int, *, size: int = 0, mode: int = 0, uid: int = 0, gid: int = 0, mtime: int = 0, handle: int = 0) -> Attributes:
        return Attributes(self.ask(SETATTR, node, struct.pack("<IIQQQQQQIIIIIIII", valid, 0, handle, size, 0, 0, mtime, 0, 0, 0, 0, mode, 0, uid, gid, 0))[16:])

    def make_directory(self, parent: int, name: str, mode: int = 0o755) -> Entry:
        return Entry(self.ask(MKDIR, parent, struct.pack("<II", mode, 0) + _name(name)))

    def make_node(self, parent: int, name: str, mode: int, device: int = 0) -> Entry:
        return Entry(self.ask(MKNOD, parent, struct.pack("<IIII", mode, device, 0, 0) + _name(name)))

    def symlink(self, parent: int, name: str, target: str) -> Entry:
        return Entry(self.ask(SYMLINK, parent, _name(name) + _name(target)))

    def link(self, node: int, parent: int, name: str) -> Entry:
        return Entry(self.ask(LINK, parent, struct.pack("<Q", node) + _name(name)))

    def create(self, parent: int, name: str, flags: int = os.O_RDWR, mode: int = 0o644) -> tuple[Entry, int]:
        data = self.ask(CREATE, parent, struct.pack("<IIII", flags, mode, 0, 0) + _name(name))
        return Entry(data), struct.unpack_from("<Q", data, 128)[0]

    def open(self, node: int, flags: int = os.O_RDONLY) -> int:
        return struct.unpack_from("<Q", self.ask(OPEN, node, struct.pack("<II", flags, 0)))[0]

    def open_directory(self, node: int) -> int:
        return struct.unpack_from("<Q", self.ask(OPENDIR, node, bytes(8)))[0]

    def release(self, node: int, handle: int, directory: bool = False) -> None:
        self.ask(RELEASEDIR if directory else RELEASE, node, struct.pack("<QIIQ", handle, 0, 0, 0))

    def read(self, node: int, handle: int, offset: int, size: int) -> bytes:
        return self.ask(READ, node, struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0))

    def write(self, node: int, handle: int, offset: int, data: bytes, flags: int = 0) -> int:
        return struct.unpack_from("<I", self.ask(WRITE_FILE, node, struct.pack("<QQIIQII", handle, offset, len(data), flags, 0, 0, 0) + data))[0]

    def list(self, node: int, plus: bool = False, size: int = 4096) -> dict[str, tuple]:
        """Names to (inode, type) or, with plus, to entries."""
        handle = self.open_directory(node)
        found: dict[str, tuple] = {}
        position = 0
        while True:
            data = self.ask(READDIRPLUS if plus else READDIR, node, struct.pack("<QQIIQII", handle, position, size, 0, 0, 0, 0))
            if not data:
                break
            at = 0
            while at < len(data):
                entry = Entry(data[at:]) if plus else None
                at += 128 if plus else 0
                inode, position, length, kind = struct.unpack_from("<QQII", data, at)
                name = data[at + 24:at + 24 + length].decode()
                assert name not in found, name
                found[name] = entry if plus else (inode, kind)
                at += (24 + length + 7) // 8 * 8
        self.release(node, handle, directory=True)
        return found

    def forget(self, node: int, count: int) -> None:
        self.end(self.begin(self.message(FORGET, node, struct.pack("<Q", count)), reply_room=0, queue=0))

    def lock_request(self, handle: int, owner: int, kind: int, start: int = 0, end: int = (1 << 63) - 1, flock: bool = False) -> bytes:
        return struct.pack("<QQQQIIII", handle, owner, start, end, kind, 1, 1 if flock else 0, 0)

    def close(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
        self.errors.close()
        for queue in self.queues:
            queue.close()
        if self.queues:
            self.connection.socket.close()
            self.memory.close()
            os.close(self.memory_fd)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _name(text: str | bytes) -> bytes:
    return (text if isinstance(text, bytes) else text.encode()) + b"\0"


def error_of(function, *arguments, **keywords) -> str:
    """The name of the errno that a call ends with, "" for none."""
    try:
        function(*arguments, **keywords)
    except Fault as fault:
        return "EOPNOTSUPP" if fault.errno == errno.EOPNOTSUPP else errno.errorcode[fault.errno]
    return ""
