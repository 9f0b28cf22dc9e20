"""Hijacked and streamed answers: wait, attach, exec, logs, resize."""

import http.client
import socket
import time

from support.api import UnixConnection, demultiplex

NONE = {"NetworkMode": "none"}


def create(api, command, **body):
    return api.post("/containers/create", {"Image": "busybox", "Cmd": ["sh", "-c", command], "HostConfig": NONE, **body})["Id"]


def read_all(stream: socket.socket, start: bytes = b"") -> bytes:
    data = start
    while piece := stream.recv(65536):
        data += piece
    return data


def open_wait(daemon, container, condition="next-exit", prefix="") -> http.client.HTTPResponse:
    connection = UnixConnection(str(daemon.socket), 20)
    connection.request("POST", f"{prefix}/containers/{container}/wait?condition={condition}")
    return connection.getresponse()


def test_wait_answers_its_head_before_the_start(clean):
    container = create(clean.api, "exit 7")
    response = open_wait(clean, container)  # returns only when the head is there
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    clean.api.post(f"/containers/{container}/start")
    assert response.read() == b'{"Error":null,"StatusCode":7}\n'
    assert clean.api.post(f"/containers/{container}/wait") == {"Error": None, "StatusCode": 7}
    assert clean.api.post(f"/containers/{container}/wait?condition=not-running") == {"Error": None, "StatusCode": 7}


def test_wait_for_removal_of_an_auto_removed_one(clean):
    container = create(clean.api, "exit 3", HostConfig={**NONE, "AutoRemove": True})
    response = open_wait(clean, container, "removed")
    clean.api.post(f"/containers/{container}/start")
    assert response.read() == b'{"Error":null,"StatusCode":3}\n'
    assert clean.api.call("GET", f"/containers/{container}/json")[0] == 404


def test_a_waiter_may_go_away(clean):
    container = create(clean.api, "sleep 100")
    clean.api.post(f"/containers/{container}/start")
    for _ in range(20):
        open_wait(clean, container).close()
    clean.api.post(f"/containers/{container}/kill")
    assert clean.api.post(f"/containers/{container}/wait")["StatusCode"] == 137


def test_attach_before_start_has_every_byte_in_frames(clean):
    for prefix, kind in (("/v1.41", "raw-stream"), ("/v1.47", "multiplexed-stream")):
        container = create(clean.api, "echo out; echo err >&2; echo last")
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(20)
        stream.connect(str(clean.socket))
        stream.sendall(f"POST {prefix}/containers/{container}/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += stream.recv(1)
        assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
        assert f"Content-Type: application/vnd.docker.{kind}\r\n".encode() in head
        assert b"Connection: Upgrade\r\n" in head
        assert b"Upgrade: tcp\r\n" in head
        stream.shutdown(socket.SHUT_WR)  # as the CLI does without -i: not a detach
        clean.api.post(f"/containers/{container}/start")
        data = read_all(stream)
        assert data[0] in (1, 2)
        assert data[1:6] == bytes(5)
        assert demultiplex(data) == (b"out\nlast\n", b"err\n")


def test_attach_without_upgrade_is_a_raw_200(clean):
    container = create(clean.api, "echo hi")
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(20)
    stream.connect(str(clean.socket))
    stream.sendall(f"POST /v1.41/containers/{container}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += stream.recv(1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length" not in head
    assert b"chunked" not in head
    clean.api.post(f"/containers/{container}/start")
    assert demultiplex(read_all(stream)) == (b"hi\n", b"")


def test_input_goes_in_and_its_end_ends_a_reader(clean):
    container = create(clean.api, "cat; echo done", OpenStdin=True, StdinOnce=True, AttachStdin=True)
    stream, status, rest = clean.api.hijack(f"/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1")
    assert status == 101
    clean.api.post(f"/containers/{container}/start")
    stream.sendall(b"a line\n")
    stream.sendall(b"x" * 300_000 + b"\n")
    stream.shutdown(socket.SHUT_WR)
    out, err = demultiplex(read_all(stream, rest))
    assert out == b"a line\n" + b"x" * 300_000 + b"\ndone\n"
    assert err == b""


def test_a_terminal_is_raw_and_has_a_size(clean):
    container = create(clean.api, "read x; stty size; echo got $x", Tty=True, OpenStdin=True, AttachStdin=True)
    stream, status, rest = clean.api.hijack(f"/v1.47/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1")
    assert status == 101
    clean.api.post(f"/containers/{container}/start")
    assert clean.api.call("POST", f"/containers/{container}/resize?h=33&w=77")[0] == 200
    stream.sendall(b"word\n")
    data = read_all(stream, rest)
    assert b"33 77\r\n" in data
    assert b"got word\r\n" in data
    assert data[0] not in (1, 2)


def test_detach_keys_leave_the_process_running(clean):
    container = create(clean.api, "cat", Tty=True, OpenStdin=True)
    clean.api.post(f"/containers/{container}/start")
    stream, _, rest = clean.api.hijack(f"/containers/{container}/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,b")
    stream.sendall(b"hi\n")
    while b"hi" not in rest:
        piece = stream.recv(65536)
        assert piece, rest
        rest += piece
    stream.sendall(b"\x01b")
    read_all(stream)
    assert clean.api.get(f"/containers/{container}/json")["State"]["Running"] is True
    assert clean.api.call("POST", f"/containers/{container}/attach?stream=1&detachKeys=nonsense")[0] == 400


def test_attach_with_logs_gives_what_was(clean):
    container = create(clean.api, "echo early; sleep 0.2; echo late")
    clean.api.post(f"/containers/{container}/start")
    clean.api.post(f"/containers/{container}/wait")
    stream, _, rest = clean.api.hijack(f"/containers/{container}/attach?logs=1&stdout=1&stderr=1")
    assert demultiplex(read_all(stream, rest))[0] == b"early\nlate\n"


def test_attach_errors_are_text(daemon):
    stream, status, rest = daemon.api.hijack("/containers/absent/attach?stream=1&stdout=1")
    assert status == 404
    assert b"No such container: absent" in read_all(stream, rest)


def test_exec(clean):
    api = clean.api
    container = create(api, "sleep 1000")
    api.post(f"/containers/{container}/start")
    status, body = api.call("POST", f"/containers/{container}/exec", {"Cmd": ["sh", "-c", "echo o; echo e >&2; exit 5"], "AttachStdout": True, "AttachStderr": True, "User": "1000"})
    assert status == 201
    identifier = body["Id"]
    view = api.get(f"/exec/{identifier}/json")
    assert view["Running"] is False
    assert view["ExitCode"] is None
    assert view["ContainerID"] == container
    assert view["ProcessConfig"] == {"tty": False, "entrypoint": "sh", "arguments": ["-c", "echo o; echo e >&2; exit 5"], "privileged": False, "user": "1000"}
    stream, status, rest = api.hijack(f"/exec/{identifier}/start", {"Detach": False, "Tty": False})
    assert status == 101
    stream.shutdown(socket.SHUT_WR)
    assert demultiplex(read_all(stream, rest)) == (b"o\n", b"e\n")
    view = api.get(f"/exec/{identifier}/json")
    assert (view["Running"], view["ExitCode"]) == (False, 5)
    assert api.call("POST", f"/exec/{identifier}/start", {"Detach": False})[0] == 409


def test_exec_with_input(clean):
    api = clean.api
    container = create(api, "sleep 1000")
    api.post(f"/containers/{container}/start")
    identifier = api.post(f"/containers/{container}/exec", {"Cmd": ["sh", "-c", "cat; echo end"], "AttachStdin": True, "AttachStdout": True})["Id"]
    stream, _, rest = api.hijack(f"/exec/{identifier}/start", {})
    stream.sendall(b"input\n")
    stream.shutdown(socket.SHUT_WR)
    assert demultiplex(read_all(stream, rest))[0] == b"input\nend\n"


def test_exec_detached(clean):
    api = clean.api
    container = create(api, "sleep 1000")
    api.post(f"/containers/{container}/start")
    identifier = api.post(f"/containers/{container}/exec", {"Cmd": ["touch", "/made"]})["Id"]
    assert api.call("POST", f"/exec/{identifier}/start", {"Detach": True}) == (200, None)
    deadline = time.monotonic() + 20
    while api.get(f"/exec/{identifier}/json")["Running"] is True and time.monotonic() < deadline:
        time.sleep(0.02)
    assert api.get(f"/exec/{identifier}/json")["ExitCode"] == 0


def test_exec_of_a_missing_program_tells_so_in_the_stream(clean):
    api = clean.api
    container = create(api, "sleep 1000")
    api.post(f"/containers/{container}/start")
    identifier = api.post(f"/containers/{container}/exec", {"Cmd": ["nonsense"], "AttachStdout": True, "AttachStderr": True})["Id"]
    stream, status, rest = api.hijack(f"/exec/{identifier}/start", {})
    assert status == 101
    assert b"nonsense" in read_all(stream, rest)
    assert api.get(f"/exec/{identifier}/json")["ExitCode"] in (126, 127)


def test_exec_needs_a_running_container(clean):
    container = create(clean.api, "true")
    status, body = clean.api.call("POST", f"/containers/{container}/exec", {"Cmd": ["true"]})
    assert status == 409
    assert "is not running" in body["message"]


def logs(api, container, prefix="", **query):
    status, headers, body = api.request("GET", f"{prefix}/containers/{container}/logs", **query)
    assert status == 200, body
    return headers, body


def test_logs(clean):
    api = clean.api
    container = create(api, "for i in 1 2 3; do echo out$i; echo err$i >&2; done; sleep 0.1; echo end")
    api.post(f"/containers/{container}/start")
    api.post(f"/containers/{container}/wait")
    headers, body = logs(api, container, stdout=1, stderr=1)
    assert headers["Content-Type"] == "application/vnd.docker.multiplexed-stream"
    assert demultiplex(body) == (b"out1\nout2\nout3\nend\n", b"err1\nerr2\nerr3\n")
    assert logs(api, container, "/v1.41", stdout=1)[0]["Content-Type"] == "application/vnd.docker.raw-stream"
    assert demultiplex(logs(api, container, stderr=1)[1]) == (b"", b"err1\nerr2\nerr3\n")
    assert demultiplex(logs(api, container, stdout=1, tail=1)[1])[0] == b"end\n"
    assert demultiplex(logs(api, container, stdout=1, tail=0)[1])[0] == b""
    assert len(demultiplex(logs(api, container, stdout=1, tail="all")[1])[0].splitlines()) == 4
    stamped = demultiplex(logs(api, container, stdout=1, timestamps=1)[1])[0].splitlines()
    assert len(stamped) == 4
    assert all(len(line.split(b" ")[0]) == len("2026-11-23T13:09:51.000000123Z") for line in stamped)
    assert demultiplex(logs(api, container, stdout=1, since=int(time.time()) + 100)[1])[0] == b""
    assert demultiplex(logs(api, container, stdout=1, until=1)[1])[0] == b""
    assert demultiplex(logs(api, container, stdout=1, details=1, tail=1)[1])[0] == b" end\n"


def test_logs_follow_until_the_end(clean):
    api = clean.api
    container = create(api, "echo one; while ! test -e /go; do sleep 0.02; done; echo two")
    api.post(f"/containers/{container}/start")
    connection = UnixConnection(str(clean.socket), 20)
    connection.request("GET", f"/containers/{container}/logs?stdout=1&follow=1")
    response = connection.getresponse()
    assert response.read(8 + 4)[8:] == b"one\n", "the first line waited for the second"
    identifier = api.post(f"/containers/{container}/exec", {"Cmd": ["touch", "/go"]})["Id"]
    api.post(f"/exec/{identifier}/start", {"Detach": True})
    assert response.read()[8:] == b"two\n"


def test_a_follower_may_go_away(clean):
    api = clean.api
    container = create(api, "while true; do echo x; sleep 0.01; done")
    api.post(f"/containers/{container}/start")
    before = idle_descriptors(clean)
    for _ in range(10):
        connection = UnixConnection(str(clean.socket), 20)
        connection.request("GET", f"/containers/{container}/logs?stdout=1&follow=1")
        connection.getresponse().read(20)
        connection.sock.close()
        connection.close()
    for _ in range(5):
        stream, _, _ = api.hijack(f"/containers/{container}/attach?stream=1&stdout=1")
        stream.close()
    deadline = time.monotonic() + 5
    while open_descriptors(clean) > before + 2:
        assert time.monotonic() < deadline, "descriptors of clients that went away stay open"
        time.sleep(0.05)


def test_a_silent_attach_whose_client_dies_is_let_go(clean):
    api = clean.api
    container = create(api, "sleep 1000")
    api.post(f"/containers/{container}/start")
    before = idle_descriptors(clean)
    streams = [api.hijack(f"/containers/{container}/attach?stream=1&stdout=1&stderr=1")[0] for _ in range(5)]
    for stream in streams:
        stream.shutdown(socket.SHUT_WR)
    assert open_descriptors(clean) >= before + 5
    for stream in streams:
        stream.close()
    deadline = time.monotonic() + 5
    while open_descriptors(clean) > before + 1:
        assert time.monotonic() < deadline, "sessions of dead clients stay"
        time.sleep(0.05)


def open_descriptors(daemon) -> int:
    import os

    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def idle_descriptors(daemon) -> int:
    """Those of a daemon that has let go of every client so far."""
    deadline = time.monotonic() + 20
    while True:
        with open("/proc/net/unix") as table:  # accepted sockets have the path of the one that listens
            connected = [line for line in table if line.split()[-1] == str(daemon.socket) and line.split()[5] == "03"]
        if not connected:
            return open_descriptors(daemon)
        assert time.monotonic() < deadline, connected
        time.sleep(0.01)


def test_stats_stream(clean):
    import json

    container = create(clean.api, "sleep 1000")
    clean.api.post(f"/containers/{container}/start")
    connection = UnixConnection(str(clean.socket), 20)
    connection.request("GET", f"/containers/{container}/stats")
    response = connection.getresponse()
    first = json.loads(response.readline())
    second = json.loads(response.readline())
    assert first["preread"] == "0001-01-01T00:00:00Z"
    assert second["preread"] == first["read"]
    connection.close()


def test_early_bytes_behind_a_pipelined_upgrade_reach_the_process(clean):
    container = create(clean.api, "cat", OpenStdin=True, StdinOnce=True)
    clean.api.post(f"/containers/{container}/start")
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(20)
    stream.connect(str(clean.socket))
    stream.sendall(f"POST /containers/{container}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly\n".encode())
    stream.shutdown(socket.SHUT_WR)
    data = read_all(stream)
    assert demultiplex(data.partition(b"\r\n\r\n")[2])[0] == b"early\n"
