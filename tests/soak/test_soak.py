"""Create, start, exec, stop, rm by 16 clients, again and again, while wherryd is killed -9 every few seconds.

Nothing acknowledged is lost, nothing is stuck, nothing leaks, and the daemon's memory stays flat. 10,000 rounds under
scripts/test --all (WHERRY_TEST_LONG=1); half a minute of it otherwise."""

import http.client
import os
import random
import threading
import time

import pytest

from support.api import Api, ApiError, demultiplex
from support.daemon import Daemon

LONG = os.environ.get("WHERRY_TEST_LONG") == "1" or os.environ.get("WHERRY_TEST_ALL") == "1"
CLIENTS = 16
ROUNDS = int(os.environ.get("WHERRY_SOAK_ROUNDS", "10000" if LONG else "0"))  # 0: as many as fit into SECONDS
SECONDS = float(os.environ.get("WHERRY_SOAK_SECONDS", "15"))
QUIET_ROUNDS = 500 if LONG else 40  # without a kill, for the memory of one daemon
PATIENCE = 120  # seconds for one round: more is stuck
BROKEN = (OSError, http.client.HTTPException, ValueError, IndexError)  # the last: an answer without a head


class Soak:
    def __init__(self, daemon: Daemon):
        self.daemon = daemon
        self.lock = threading.Lock()
        self.done = 0
        self.limit = 0
        self.until = float("inf")
        self.problems: list[str] = []
        self.stopping = threading.Event()

    def more(self) -> bool:
        with self.lock:
            return not self.stopping.is_set() and time.monotonic() < self.until and (self.limit == 0 or self.done < self.limit)

    def insist(self, deadline, what, action, good=(), missing_is_good=False):
        """Until the daemon answers: it may be dead at the moment. `good`: statuses that say it was done before."""
        while True:
            try:
                return action()
            except ApiError as error:
                if error.status in good or (error.status == 404 and missing_is_good):
                    return None
                if error.status in (503, 500) and "shutting down" in error.message:
                    pass
                else:
                    raise AssertionError(f"{what}: {error}") from error
            except BROKEN:
                pass
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: stuck")
            time.sleep(0.05)

    def execute(self, api: Api, name: str):
        exec_id = api.post(f"/containers/{name}/exec", {"Cmd": ["echo", "here"], "AttachStdout": True})["Id"]
        stream, status, rest = api.hijack(f"/exec/{exec_id}/start", {"Detach": False})
        with stream:
            assert status in (101, 200), f"exec start: {status}"
            data = rest
            while piece := stream.recv(4096):
                data += piece
        if api.get(f"/exec/{exec_id}/json")["ExitCode"] != 0 or demultiplex(data)[0] != b"here\n":
            raise ValueError("the stream broke")  # the daemon died under it; a wrong answer repeats itself and is stuck

    def round(self, api: Api, name: str):
        deadline = time.monotonic() + PATIENCE
        body = {"Image": "busybox:latest", "Cmd": ["sleep", "1000"], "StopSignal": "SIGKILL"}
        self.insist(deadline, "create", lambda: api.post(f"/containers/create?name={name}", body), good=(409,))
        self.insist(deadline, "start", lambda: api.post(f"/containers/{name}/start"))
        # An exec of before a restart is forgotten with the daemon: 404 and 409 say so, and it is tried again.
        while True:
            try:
                self.insist(deadline, "exec", lambda: self.execute(api, name))
                break
            except AssertionError as error:
                if "No such exec" not in str(error) or time.monotonic() > deadline:
                    raise
        self.insist(deadline, "stop", lambda: api.post(f"/containers/{name}/stop?t=10"))
        assert self.insist(deadline, "inspect", lambda: api.get(f"/containers/{name}/json"))["State"]["ExitCode"] == 137
        self.insist(deadline, "rm", lambda: api.delete(f"/containers/{name}"), missing_is_good=True)

    def client(self, number: int):
        api = Api(str(self.daemon.socket), timeout=60)
        count = 0
        while self.more():
            count += 1
            try:
                self.round(api, f"soak-{number}-{count}")
            except Exception as error:  # noqa: BLE001 - told at the end, by the test
                with self.lock:
                    self.problems.append(f"client {number}: {error!r}")
                self.stopping.set()
                return
            with self.lock:
                self.done += 1

    def run(self, rounds=0, seconds=0.0, kills=False) -> int:
        """Rounds done."""
        self.done, self.limit = 0, rounds
        self.until = time.monotonic() + seconds if seconds else float("inf")
        clients = [threading.Thread(target=self.client, args=(number,)) for number in range(CLIENTS)]
        for one in clients:
            one.start()
        chance = random.Random(7)
        while any(one.is_alive() for one in clients):
            pause = time.monotonic() + chance.uniform(2, 5)
            while any(one.is_alive() for one in clients) and time.monotonic() < pause:
                time.sleep(0.05)
            if kills and any(one.is_alive() for one in clients):
                self.daemon.kill()
                self.daemon.start(timeout=60)
        for one in clients:
            one.join()
        assert not self.problems, self.problems[:5]
        return self.done


def memory_kib(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def settled_memory(daemon: Daemon) -> int:
    """PSS once what a burst took has been given back."""
    daemon.api.post("/containers/prune")  # those kept for undelete
    best = memory_kib(daemon.pid)
    deadline = time.monotonic() + 6.5  # it trims every five seconds
    while time.monotonic() < deadline:
        time.sleep(0.5)
        best = min(best, memory_kib(daemon.pid))
    return best


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_soak(own_daemon):
    daemon = own_daemon
    soak = Soak(daemon)

    # One daemon, left alone: what a round takes comes back.
    soak.run(rounds=QUIET_ROUNDS)
    descriptors = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    first = settled_memory(daemon)
    soak.run(rounds=2 * QUIET_ROUNDS)
    second = settled_memory(daemon)
    assert second <= first * 1.1 + 256, f"memory grew from {first} to {second} KiB in {2 * QUIET_ROUNDS} rounds"
    assert len(os.listdir(f"/proc/{daemon.pid}/fd")) <= descriptors + 4

    # Killed again and again.
    daemon.kill()
    daemon.start()
    fresh = settled_memory(daemon)
    done = soak.run(rounds=ROUNDS, seconds=0 if ROUNDS else SECONDS, kills=True)
    assert done >= (ROUNDS or CLIENTS), f"only {done} rounds were finished"
    assert daemon.containers() == [], "every round removed its container"
    daemon.kill()
    daemon.start()
    last = settled_memory(daemon)
    assert last <= fresh * 1.1 + 256, f"memory after a start grew from {fresh} to {last} KiB over {done} rounds"
    daemon.assert_clean(timeout=20)
    assert not os.listdir(daemon.data_root / "removed")
    store = (daemon.data_root / "store.db").stat().st_size
    assert store < 64 << 20, f"the store has grown to {store} bytes"
    print(f"{done} rounds under fire; {first} -> {second} KiB in one daemon, {fresh} -> {last} KiB after starts; store {store >> 10} KiB")
