"""vsock: from the host by CONNECT, from the guest to uds_path_<port>."""

import os
import socket
import threading

import pytest


@pytest.fixture
def guest(make_guest):
    made = make_guest()
    made.put("/vsock", guest_cid=7, uds_path=str(made.folder / "v.sock"))
    return made.boot()


def connect(guest, port: int, seconds: float = 60) -> tuple[socket.socket, bytes]:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    connection.connect(str(guest.folder / "v.sock"))
    connection.sendall(f"CONNECT {port}\n".encode())
    answer = b""
    while not answer.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            break
        answer += byte
    return connection, answer


def start_echo(guest, port: int = 5000):
    guest.run(f"(guest vsock-echo {port} >/tmp/echo 2>&1 &) ; while ! grep -q listening /tmp/echo; do :; done")


def listen(guest, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(guest.folder / "v.sock") + f"_{port}")
    listener.listen(16)
    listener.settimeout(120)
    return listener


def test_from_the_host(guest):
    start_echo(guest)
    connection, answer = connect(guest, 5000)
    assert answer.startswith(b"OK ") and int(answer.split()[1]) >= 1024
    data = os.urandom(300_000)
    received = bytearray()

    def read():
        while len(received) < len(data):
            piece = connection.recv(65536)
            if not piece:
                return
            received.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    connection.sendall(data)
    reader.join(120)
    assert bytes(received) == data
    connection.close()


@pytest.mark.long
def test_several_at_once(guest):
    start_echo(guest)
    connections = [connect(guest, 5000)[0] for _ in range(8)]
    for number, connection in enumerate(connections):
        connection.sendall(f"number {number}".encode())
    for number, connection in enumerate(connections):
        expected = f"number {number}".encode()
        received = b""
        while len(received) < len(expected):
            received += connection.recv(100)
        assert received == expected
        connection.close()


def test_a_port_nobody_listens_on(guest):
    connection, answer = connect(guest, 9999)
    assert answer == b""
    connection.close()


@pytest.mark.long
def test_what_is_no_connect(guest):
    for text in (b"HELLO\n", b"CONNECT\n", b"CONNECT x\n", b"CONNECT 99999999999\n", b"C" * 10000, b"\n"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(60)
        connection.connect(str(guest.folder / "v.sock"))
        try:
            connection.sendall(text)
            assert connection.recv(100) == b""
        except ConnectionError:
            pass
        connection.close()
    assert guest.run("echo alive") == "alive"


def test_from_the_guest(guest):
    listener = listen(guest, 6000)
    guest.send("guest vsock-send 2 6000 'from the guest'")
    connection, _ = listener.accept()
    connection.settimeout(120)
    received = b""
    while len(received) < 14:
        received += connection.recv(100)
    assert received == b"from the guest"
    connection.sendall(b"and back")
    connection.close()
    listener.close()
    assert guest.finish() == (0, "and back")


def test_the_guest_finds_nobody(guest):
    status, text = guest.try_run("guest vsock-send 2 6001 x")
    assert status != 0 and "reset" in text.lower() or "refused" in text.lower()
    # Only the host is there to talk to.
    status, _ = guest.try_run("guest vsock-send 9 6001 x")
    assert status != 0


@pytest.mark.long
def test_a_stream_from_the_guest(guest):
    listener = listen(guest, 6002)
    guest.send("guest vsock-pour 2 6002 4")
    connection, _ = listener.accept()
    connection.settimeout(120)
    expected = bytes(i * 31 & 0xFF for i in range(1 << 16)) * 16
    received = bytearray()
    while len(received) < 4 << 20:
        piece = connection.recv(1 << 16)
        assert piece
        received += piece
    assert bytes(received) == expected * 4
    connection.close()
    listener.close()
    assert guest.finish()[0] == 0


def test_a_reader_that_does_not_read(guest):
    """Credit: what the host does not take stays with the guest, and others go on."""
    listener = listen(guest, 6003)
    guest.run("(guest vsock-pour 2 6003 16 &)")
    slow, _ = listener.accept()
    start_echo(guest, 5001)
    connection, answer = connect(guest, 5001)
    assert answer.startswith(b"OK")
    connection.sendall(b"still here")
    assert connection.recv(100)
    connection.close()
    slow.close()
    listener.close()
    assert guest.run("echo alive").endswith("alive")  # after what the sender complains of
