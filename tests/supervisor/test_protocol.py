"""Versions, bad input, hostile peers."""

import os
import random
import socket
import struct

import pytest

from shim_client import Connection, Failure


def test_unknown_methods_and_members(shim):
    with pytest.raises(Failure) as failure:
        shim.control.call("of_the_future")
    assert failure.value.code == "unimplemented"
    container = shim.run(["true"], of_the_future={"x": 1})
    assert shim.wait(container)["code"] == 0


@pytest.mark.parametrize("params", [
    {}, {"container_id": 5}, {"container_id": "../x", "spec": {}}, {"container_id": "x", "spec": []},
    {"container_id": "x", "spec": {}}, {"container_id": "x", "bundle": "relative", "spec": {}},
    {"container_id": "x", "spec": {"ociVersion": "1.2.0", "process": {"args": []}}},
    {"container_id": "x", "log": {"driver": "syslog"}}, {"container_id": "x", "log": {"driver": "local"}},
    {"container_id": "x", "seccomp_path": "/nonexistent", "spec": {"ociVersion": "1.2.0", "root": {"path": "/"}, "process": {"args": ["x"], "cwd": "/"}}},
])
def test_bad_requests_are_refused(shim, params):
    with pytest.raises(Failure) as failure:
        shim.control.call("run", params)
    assert failure.value.code in ("invalid_argument", "not_found")
    assert not shim.control.call("list").get("containers")


@pytest.mark.parametrize("payload", [
    b"\xff\xff\xff\xff", b"\0\0\0\3abc", b"\0\0\0\2{}", b"\0\0\0\2[]",
    b"\0\0\0\x14" + b'{"id":1,"result":{}}', b"\0\0\0\x1c" + b'{"id":1,"method":"x","fds":4}'[:28],
    b"\0\1\0\0" + b"[" * 65536,
])
def test_garbage_closes_the_connection(shim, payload):
    connection = shim.connect()
    connection.sock.sendall(payload)
    try:
        assert connection.sock.recv(100) == b""
    except ConnectionResetError:
        pass
    assert shim.control.call("list")["pid"] == shim.process.pid


def test_random_bytes(shim):
    generator = random.Random(1)
    for _ in range(200):
        connection = shim.connect()
        data = generator.randbytes(generator.randrange(1, 300))
        if generator.random() < 0.7:
            data = struct.pack(">I", len(data)) + data
        try:
            connection.sock.sendall(data)
        except OSError:
            pass
        connection.close()
    assert shim.control.call("list")["pid"] == shim.process.pid


def test_garbage_on_a_stream(shim):
    container = shim.run(["sleep", "60"], stdin_open=True)
    stream = shim.stream(container, stdin=True)
    stream.connection.sock.sendall(b"\0\1\2\3\4\5\6\7" * 100)
    with pytest.raises((EOFError, ConnectionResetError)):
        stream.read_frame()
    assert shim.control.call("state", {"container_id": container})["status"] == "running"


def test_descriptors_that_nobody_asked_for(shim):
    before = len(os.listdir(f"/proc/{shim.process.pid}/fd"))
    connection = shim.connect()
    with open("/dev/null") as null:
        connection.call("list", fds=[null.fileno()] * 4)
    connection.close()
    shim.control.call("list")
    assert len(os.listdir(f"/proc/{shim.process.pid}/fd")) <= before
    assert shim.control.call("list")["pid"] == shim.process.pid


def test_no_descriptor_is_left_behind(shim):
    keeper = shim.run(["sleep", "60"])
    before = None
    for round_number in range(12):
        container = shim.run(["echo", "x"])
        shim.stream(container).read_to_end()
        shim.wait(container)
        shim.exec(keeper, ["echo", "x"], exec_id=f"e{round_number}")
        shim.stream(keeper, f"e{round_number}").read_to_end()
        shim.wait(keeper, f"e{round_number}")
        shim.control.call("delete_exec", {"container_id": keeper, "exec_id": f"e{round_number}"})
        shim.delete(container)
        count = len(os.listdir(f"/proc/{shim.process.pid}/fd"))
        if round_number == 1:
            before = count
    assert count <= before


def test_many_connections(shim):
    connections = [shim.connect() for _ in range(100)]
    for connection in connections:
        connection.send("list")
    for connection in connections:
        connection.receive(2)
    for connection in connections:
        connection.close()
    assert shim.control.call("list")["pid"] == shim.process.pid


def test_a_client_that_never_reads_is_cut_off(shim):
    connection = shim.connect()
    connection.sock.settimeout(5)
    frame = b'{"id":1,"method":"list"}'
    with pytest.raises(OSError):
        for _ in range(200):
            connection.sock.sendall((struct.pack(">I", len(frame)) + frame) * 2000)
    assert shim.control.call("list")["pid"] == shim.process.pid


def test_only_a_filesystem_socket(shim):
    with open("/proc/net/unix") as table:
        names = [line.split()[-1] for line in table if "shim" in line]
    assert not [name for name in names if name.startswith("@") and str(shim.folder) in name]
    abstract = socket.socket(socket.AF_UNIX)
    with pytest.raises(OSError):
        abstract.connect("\0" + str(shim.directory / "shim.sock"))
