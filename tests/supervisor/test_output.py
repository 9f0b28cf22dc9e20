"""Output, input, attach and logs: no byte is lost, nobody blocks anybody."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from shim_client import Failure, Shim, wait_until

TEN_MIB = 10 << 20
PATTERN = "yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c {bytes}"


def pattern(count: int) -> bytes:
    line = b"0123456789abcdefghijklmnopqrstuvwxyz\n"
    return (line * (count // len(line) + 1))[:count]


@pytest.mark.parametrize("driver", ["json-file", "local", "none"])
def test_ten_megabytes_through_each_stream(shim, driver):
    script = f"({PATTERN.format(bytes=TEN_MIB)}) & ({PATTERN.format(bytes=TEN_MIB)}) >&2; wait"
    request = shim.request(["sh", "-c", script], driver=driver)
    shim.control.call("create", request)
    stream = shim.stream(request["container_id"])
    shim.control.call("start", {"container_id": request["container_id"]})
    stream.read_to_end()
    expected = pattern(TEN_MIB)
    assert stream.stdout == expected
    assert stream.stderr == expected
    assert shim.wait(request["container_id"])["code"] == 0
    if driver == "json-file":
        assert "".join(line["log"] for line in shim.log_lines(request["container_id"]) if line["stream"] == "stderr").encode() == expected


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_binary_output_is_replayed_exactly(shim, driver):
    data = os.urandom(1 << 20)
    (shim.root / "data").write_bytes(data)
    container = shim.run(["cat", "/data"], driver=driver)
    shim.wait(container)
    assert shim.stream(container).read_to_end().stdout == data
    later = shim.stream(container, stdout_offset=777_777).read_to_end()
    assert later.reply["stdout_offset"] == 777_777
    assert later.stdout == data[777_777:]


def test_exec_output_waits_for_its_reader(shim):
    container = shim.run(["sleep", "60"])
    shim.exec(container, ["sh", "-c", PATTERN.format(bytes=TEN_MIB)])
    time.sleep(0.3)
    state = shim.control.call("state", {"container_id": container})["execs"][0]
    assert state["running"] and state["stdout_bytes"] < 1 << 20  # back-pressure
    assert shim.stream(container, "e1").read_to_end().stdout == pattern(TEN_MIB)
    assert shim.wait(container, "e1")["code"] == 0


def test_discarded_output_blocks_nobody(shim):
    container = shim.run(["sleep", "60"])
    shim.exec(container, ["sh", "-c", PATTERN.format(bytes=TEN_MIB)], discard_output=True)
    assert shim.wait(container, "e1")["code"] == 0
    shim.exec(container, ["sh", "-c", PATTERN.format(bytes=TEN_MIB)], exec_id="e2")
    shim.control.call("discard_output", {"container_id": container, "exec_id": "e2"})
    assert shim.wait(container, "e2")["code"] == 0


def test_no_log_and_no_client_discards(shim):
    container = shim.run(["sh", "-c", PATTERN.format(bytes=TEN_MIB)], driver="none")
    assert shim.wait(container)["code"] == 0


def test_a_slow_client_blocks_nobody_and_loses_nothing(shim):
    script = f"{PATTERN.format(bytes=TEN_MIB)}; echo complaint >&2"
    request = shim.request(["sh", "-c", script])
    shim.control.call("create", request)
    container = request["container_id"]
    slow = shim.stream(container)
    fast = shim.stream(container)
    shim.control.call("start", {"container_id": container})
    assert fast.read_to_end().stdout == pattern(TEN_MIB)
    assert shim.wait(container)["code"] == 0
    # The container is even deleted before the slow one begins to read.
    shim.delete(container)
    assert slow.read_to_end().stdout == pattern(TEN_MIB)
    assert slow.stderr == b"complaint\n"
    assert shim.ended()


def test_a_slow_client_keeps_rotated_files(shim):
    request = shim.request(["sh", "-c", PATTERN.format(bytes=TEN_MIB)], log={"max_size_bytes": 500_000, "max_files": 2})
    shim.control.call("create", request)
    slow = shim.stream(request["container_id"])
    shim.control.call("start", {"container_id": request["container_id"]})
    shim.wait(request["container_id"])
    assert slow.read_to_end().stdout == pattern(TEN_MIB)
    late = shim.stream(request["container_id"]).read_to_end()
    assert late.lost[1] > 0
    assert late.lost[1] + len(late.stdout) == TEN_MIB
    assert pattern(TEN_MIB).endswith(late.stdout)


def test_without_a_log_a_slow_client_holds_the_process(shim):
    request = shim.request(["sh", "-c", PATTERN.format(bytes=TEN_MIB)], driver="none")
    shim.control.call("create", request)
    slow = shim.stream(request["container_id"])
    shim.control.call("start", {"container_id": request["container_id"]})
    time.sleep(0.3)
    assert shim.control.call("state", {"container_id": request["container_id"]})["status"] == "running"
    assert slow.read_to_end().stdout == pattern(TEN_MIB)


def test_attach_from_now_on(shim):
    container = shim.run(["sh", "-c", "echo early; cat"], stdin_open=True)
    shim.stream(container).read_until(b"early\n")
    stream = shim.stream(container, stdin=True, stdout_offset=None, stderr_offset=None)
    assert stream.reply["stdout_offset"] == len("early\n")
    stream.write(b"late\n")
    assert stream.read_until(b"late\n") == b"late\n"
    stream.close_input()
    assert stream.read_to_end().stdout == b"late\n"


def test_partial_lines_are_seen_at_once_and_again(shim):
    container = shim.run(["sh", "-c", "printf prompt; cat"], stdin_open=True)
    assert shim.stream(container).read_until(b"prompt") == b"prompt"
    assert shim.stream(container).read_until(b"prompt") == b"prompt"
    assert shim.log_lines(container) == []
    last = shim.stream(container, stdin=True, stdout_offset=3)
    last.write(b" line\n")
    assert last.read_until(b"\n") == b"mpt line\n"
    assert [line["log"] for line in shim.log_lines(container)] == ["prompt line\n"]


def test_end_of_input_is_not_the_end_of_output(shim):
    container = shim.run(["sh", "-c", "cat; echo after"], stdin_open=True)
    stream = shim.stream(container, stdin=True)
    stream.write(b"x" * 200_000)
    stream.close_input()
    assert stream.read_to_end().stdout == b"x" * 200_000 + b"after\n"


def test_a_half_closed_connection_still_gets_output(shim):
    container = shim.run(["sh", "-c", "sleep 0.3; echo later"])
    stream = shim.stream(container)
    stream.connection.sock.shutdown(1)
    assert stream.read_to_end().stdout == b"later\n"


def test_stdin_once_ends_with_its_client(shim):
    container = shim.run(["sh", "-c", "cat >/dev/null; echo ended"], stdin_open=True, stdin_once=True)
    shim.stream(container, stdin=True).close()
    assert shim.stream(container).read_to_end().stdout == b"ended\n"


def test_stdin_stays_open_for_the_next_client(shim):
    container = shim.run(["cat"], stdin_open=True)
    first = shim.stream(container, stdin=True)
    first.write(b"one\n")
    first.read_until(b"one\n")
    first.close()
    second = shim.stream(container, stdin=True)
    second.write(b"two\n")
    assert second.read_until(b"two\n") == b"one\ntwo\n"
    shim.control.call("close_stdin", {"container_id": container})
    assert shim.wait(container)["code"] == 0


def test_stdin_that_nobody_reads_pushes_back(shim):
    container = shim.run(["sleep", "60"], stdin_open=True)
    stream = shim.stream(container, stdin=True)
    stream.connection.sock.setblocking(False)
    sent = 0
    try:
        while sent < 64 << 20:
            sent += stream.connection.sock.send(b"\0\0\0\0\0\1\0\0" + b"z" * 65536)
    except BlockingIOError:
        pass
    assert sent < 4 << 20
    assert shim.control.call("state", {"container_id": container})["status"] == "running"
    with pytest.raises(Failure):
        other = shim.run(["sleep", "60"])
        shim.stream(other, stdin=True)


def test_stream_over_a_connection_of_its_own(shim):
    container = shim.run(["sh", "-c", "cat"], stdin_open=True)
    stream = shim.stream(container, stdin=True, connection=shim.connect())
    stream.write(b"socket\n")
    stream.close_input()
    assert stream.read_to_end().stdout == b"socket\n"


READER = """
import sys
sys.path.insert(0, sys.argv[1])
from shim_client import *
sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[2])
connection = Connection(sock); connection.call("hello", {})
stream = Connection(sock)
reply = connection.call("stream", {"container_id": sys.argv[3], "want_stdout": True, "stdout_offset": 0})
stream = Stream(connection, reply)
while True:
    stream.read_frame()
    print(len(stream.stdout), flush=True)
    time.sleep(0.001)
"""


def test_killing_the_client_in_the_middle_loses_nothing():
    """The spawner and reader of a shim is killed with -9; another connects and goes on where it was."""
    shim = Shim()
    try:
        container = shim.run(["sh", "-c", f"{PATTERN.format(bytes=TEN_MIB)}; sleep 1; echo; echo end"])
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, str(pathlib.Path(__file__).parent), str(shim.directory / "shim.sock"), container],
            stdout=subprocess.PIPE)
        got = 0
        while got < 300_000:
            got = int(reader.stdout.readline())
        shim.control.close()  # as the death of the one who spawned it
        reader.send_signal(signal.SIGKILL)
        reader.wait()
        shim.control = shim.connect()
        stream = shim.stream(container, stdout_offset=got).read_to_end()
        assert pattern(got) + stream.stdout == pattern(TEN_MIB) + b"\nend\n"
        assert shim.wait(container)["code"] == 0
        state = shim.control.call("list")
        assert state["containers"][0]["exit"]["code"] == 0
    finally:
        shim.close()


def test_the_exit_is_kept_for_who_comes_later(shim):
    container = shim.run(["sh", "-c", "sleep 0.3; exit 11"])
    shim.control.close()
    wait_until(lambda: (shim.folder / container / "exit.json").exists())
    shim.control = shim.connect()
    assert shim.wait(container)["code"] == 11
    assert shim.control.call("list")["containers"][0]["exit"]["code"] == 11


def test_log_lines_are_dockers(shim):
    container = shim.run(["sh", "-c", "printf 'a\\tb\\n'; head -c 40000 /dev/zero; echo; echo tail"],
                         log={"attributes": {"tag": "t"}})
    shim.wait(container)
    raw = (shim.folder / container / "log").read_text()
    first = raw.splitlines()[0]
    assert first.startswith('{"log":"a\\u0009b\\n","stream":"stdout","attrs":{"tag":"t"},"time":"20') and first.endswith('Z"}')
    lines = shim.log_lines(container)
    assert [len(line["log"]) for line in lines] == [4, 16384, 16384, 40000 - 2 * 16384 + 1, 5]


def test_log_rotation_and_compression(shim):
    container = shim.run(["sh", "-c", "seq 100000"], log={"max_size_bytes": 1_000_000, "max_files": 4, "compress": True})
    assert shim.wait(container)["code"] == 0
    folder = shim.folder / container
    wait_until(lambda: not (folder / "log.1").exists() or (folder / "log.1.gz").exists(), what="compression")
    assert (folder / "log").stat().st_size < 1_100_000
    assert (folder / "log.2.gz").exists() and not (folder / "log.4.gz").exists()
    assert shim.log_lines(container)[-1]["log"] == "100000\n"


def test_waiting_for_the_log(shim):
    container = shim.run(["sh", "-c", "read line; echo $line; read line"], stdin_open=True)
    stream = shim.stream(container, stdin=True)
    waiting = shim.control.send("wait_log", {"container_id": container, "after": 0})
    stream.write(b"entry\n")
    progress = shim.control.receive(waiting)
    assert progress["entries"] == 1 and not progress.get("ended")
    waiting = shim.control.send("wait_log", {"container_id": container, "after": 1})
    stream.close_input()
    assert shim.control.receive(waiting)["ended"] is True


def test_a_full_disk_loses_log_lines_but_not_the_container(shim):
    container_folder = shim.folder / "small"
    container_folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(container_folder)], check=True)
    try:
        request = shim.request(["sh", "-c", PATTERN.format(bytes=TEN_MIB)])
        request["log"]["path"] = str(container_folder / "log")
        shim.control.call("create", request)
        stream = shim.stream(request["container_id"])
        shim.control.call("start", {"container_id": request["container_id"]})
        stream.read_to_end()
        assert len(stream.stdout) + stream.lost[1] == TEN_MIB
        assert shim.wait(request["container_id"])["code"] == 0
        for line in (container_folder / "log").read_text().splitlines():
            json.loads(line)
    finally:
        shim.delete(request["container_id"])
        assert shim.ended()
        subprocess.run(["umount", str(container_folder)], check=True)
