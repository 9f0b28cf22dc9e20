"""A client whose server has ended, and another process that it goes on with."""

import mmap
import os
import socket
import struct

from support.vhost_user import GETATTR, error_of

GET_VRING_BASE, GET_INFLIGHT_FD, SET_INFLIGHT_FD = 11, 31, 32
QUEUES, SIZE = 2, 64
QUEUE_BYTES = 16 + 16 * SIZE + 48  # a multiple of 64


def test_what_the_client_knows_is_stale(serve, shared):
    (shared / "folder").mkdir()
    (shared / "folder/file").write_text("content")
    numbers = set()
    for _ in range(3):
        server = serve()
        folder, file = server.lookup(1, "folder"), server.walk("folder/file")
        handle = server.open(file.node)
        assert not numbers & {folder.node, file.node}
        numbers |= {folder.node, file.node}
        server.process.kill()
        server.process.wait()
        another = serve(initialize=False)
        assert another.attributes(1).mode
        for node in (folder.node, file.node):
            assert error_of(another.attributes, node) == "ESTALE"
        assert error_of(another.lookup, folder.node, "file") == "ESTALE"
        assert error_of(another.read, file.node, handle, 0, 10) == "EBADF"
        found = another.walk("folder/file")
        assert found.node != file.node
        assert error_of(another.read, found.node, handle, 0, 10) == "EBADF"
        assert another.read(found.node, another.open(found.node), 0, 10) == b"content"
        another.forget(file.node, 1)
        another.ask(GETATTR, 1, bytes(16))


def test_what_was_in_flight_is_refused(serve, shared):
    """For monitors that hand the notes of the process that ended to the next one."""
    server = serve(initialize=False)
    connection = server.connection
    connection.send(GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, QUEUES, SIZE, 0))
    header, fds, _, _ = socket.recv_fds(connection.socket, 12, 1)
    description = connection._exactly(struct.unpack("<III", header)[2])
    size, offset, queues, entries, _ = struct.unpack("<QQHHI", description)
    assert (size, offset, queues, entries) == (QUEUES * QUEUE_BYTES, 0, QUEUES, SIZE)
    connection.ask(GET_VRING_BASE, struct.pack("<II", 1, 0))
    taken, waiting = (server.begin(server.message(GETATTR, 1, bytes(16))) for _ in range(2))
    with mmap.mmap(fds[0], size) as notes:
        assert struct.unpack_from("<QHH", notes, QUEUE_BYTES) == (0, 1, SIZE)
        notes[QUEUE_BYTES + 16 + 16 * 2 * taken] = 1
        assert connection.tell(SET_INFLIGHT_FD, description, (fds[0],)) == 0
        server.start_queue(1)
        assert error_of(lambda: server.parse(server.end(taken))) == "ENOTCONN"
        assert server.parse(server.end(waiting))
        assert server.attributes(1).mode
        assert not any(notes[QUEUE_BYTES + 16 + 16 * head] for head in range(SIZE)), "all is answered"
        assert struct.unpack_from("<H", notes, QUEUE_BYTES + 14)[0] == 3
    os.close(fds[0])


def test_notes_that_are_none(serve):
    for size, queues, entries, bytes_there in ((4096, 2, 64, 64), (64, 2, 64, 4096), (4096, 0, 64, 4096), (4096, 2, 0, 4096), (1 << 60, 2, 64, 4096)):
        server = serve(initialize=False)
        memory = os.memfd_create("notes")
        os.ftruncate(memory, bytes_there)
        assert server.connection.tell(SET_INFLIGHT_FD, struct.pack("<QQHHI", size, 0, queues, entries, 0), (memory,)) == 1
        assert server.process.wait(30) == 1 and "in flight" in server.stderr()
        os.close(memory)
