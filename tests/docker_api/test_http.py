"""The daemon's socket under requests that are none, slow, large or half."""

import socket
import threading

import pytest


def talk(daemon, raw: bytes, half_close=True) -> bytes:
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(20)
    stream.connect(str(daemon.socket))
    try:
        stream.sendall(raw)
        if half_close:
            stream.shutdown(socket.SHUT_WR)
        data = b""
        while piece := stream.recv(65536):
            data += piece
        return data
    finally:
        stream.close()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", b"400"),
        (b"GET /_ping\r\n\r\n", b"400"),
        (b"GET /_ping HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /_ping HTTP/2.0\r\nHost: d\r\n\r\n", b"505"),
        (b"GET /%zz HTTP/1.1\r\nHost: d\r\n\r\n", b"400"),
        (b"GET /containers/%00/json HTTP/1.1\r\nHost: d\r\n\r\n", b"400"),
        (b"GET /_ping?%f HTTP/1.1\r\nHost: d\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: d\r\n\r\n", b"431"),
        (b"GET /_ping HTTP/1.1\r\nHost: d\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", b"431"),
        (b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST /containers/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: deflate\r\n\r\n", b"501"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_is_no_request(daemon, raw, status):
    assert talk(daemon, raw).split(b" ")[1] == status
    assert daemon.api.request("GET", "/_ping")[0] == 200


def test_pipelined_requests(daemon):
    answer = talk(daemon, b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n" * 50 + b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n", half_close=False)
    assert answer.count(b"HTTP/1.1 200 OK") == 51


def test_a_body_nobody_wants_does_not_hurt_the_next_request(daemon):
    body = b"x" * 10_000
    request = b"POST /nothing HTTP/1.1\r\nHost: d\r\nContent-Length: 10000\r\n\r\n" + body
    answer = talk(daemon, request + b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n", half_close=False)
    assert answer.count(b"HTTP/1.1 404") == 1
    assert answer.count(b"HTTP/1.1 200") == 1


def test_a_huge_body_nobody_wants_is_answered_all_the_same(daemon):
    status, body = daemon.api.call("POST", "/images/absent/tag?repo=x", b"x" * 5_000_000)
    assert status == 404


def test_many_clients_at_once(daemon):
    problems = []

    def work():
        try:
            for _ in range(50):
                assert daemon.api.request("GET", "/containers/json?all=1")[0] == 200
        except Exception as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_random_bytes_never_end_the_daemon(daemon):
    import random

    numbers = random.Random(7)
    seeds = [
        b"POST /v1.41/containers/create?name=x HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{\"Image\":\"busybox\"}x",
        b"POST /exec/x/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /containers/json?filters=%7B%22a%22%3A%5B%22b%22%5D%7D HTTP/1.1\r\nHost: d\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ]
    for _ in range(400):
        raw = bytearray(numbers.choice(seeds))
        for _ in range(numbers.randint(1, 8)):
            position = numbers.randrange(len(raw))
            raw[position : position + numbers.randint(0, 3)] = numbers.randbytes(numbers.randint(0, 3))
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(10)
        stream.connect(str(daemon.socket))
        try:
            stream.sendall(bytes(raw))
            stream.shutdown(socket.SHUT_WR)
            while stream.recv(65536):
                pass
        except (ConnectionError, BrokenPipeError):
            pass
        finally:
            stream.close()
    assert daemon.api.request("GET", "/_ping")[0] == 200
    daemon.remove_all()
