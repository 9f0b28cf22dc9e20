"""User, capabilities, limits, seccomp, terminal, descriptors, namespaces, hooks of the process."""

import array
import json
import os
import pathlib
import socket
import subprocess
import threading
import time

import pytest

from support import criu
from support.runtime import is_ours


def status_field(output: str, name: str) -> str:
    return next(line.split(":", 1)[1].strip() for line in output.splitlines() if line.startswith(name + ":"))


def test_user_and_groups(runtime, bundle):
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [10, 4242], "umask": 0o27}
    output = runtime.output(bundle, "id; umask; touch /tmp/x 2>&1; cat /proc/self/status")
    assert "uid=1000(bob) gid=1000(bob) groups=10(wheel),4242" in output and "0027" in output
    assert status_field(output, "CapEff") == "0" * 16 and status_field(output, "CapBnd") == "00000000a80425fb"


def test_default_capabilities(runtime, bundle):
    output = runtime.output(bundle, "cat /proc/self/status")
    for name, value in (("CapInh", 0), ("CapPrm", 0xa80425fb), ("CapEff", 0xa80425fb), ("CapBnd", 0xa80425fb), ("CapAmb", 0)):
        assert int(status_field(output, name), 16) == value, name


def test_ambient_capabilities(runtime, bundle):
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.process["capabilities"] = {name: ["CAP_NET_BIND_SERVICE"]
                                      for name in ("bounding", "effective", "permitted", "inheritable", "ambient")}
    output = runtime.output(bundle, "cat /proc/self/status")
    assert int(status_field(output, "CapEff"), 16) == int(status_field(output, "CapAmb"), 16) == 1 << 10


def test_no_capabilities(runtime, bundle):
    del bundle.process["capabilities"]
    output = runtime.output(bundle, "cat /proc/self/status; chown 5 /etc 2>&1; true")
    assert int(status_field(output, "CapBnd"), 16) == 0 and "not permitted" in output


def test_no_new_privileges(runtime, bundle):
    assert status_field(runtime.output(bundle, "cat /proc/self/status"), "NoNewPrivs") == "0"
    bundle.process["noNewPrivileges"] = True
    assert status_field(runtime.output(bundle, "cat /proc/self/status"), "NoNewPrivs") == "1"


def test_rlimits(runtime, bundle):
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    assert runtime.output(bundle, "ulimit -Sn; ulimit -Hn; ulimit -c") == "100\n200\n0\n"
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]
    assert runtime.run(bundle).returncode != 0


def test_oom_score(runtime, bundle):
    bundle.process["oomScoreAdj"] = 321
    assert runtime.output(bundle, "cat /proc/self/oom_score_adj") == "321\n"


def seccomp(action="SCMP_ACT_ERRNO"):
    return {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action, "errnoRet": 28}]}


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_seccomp(runtime, bundle, no_new_privileges):
    bundle.linux["seccomp"] = seccomp()
    bundle.process["noNewPrivileges"] = no_new_privileges
    output = runtime.output(bundle, "mkdir /tmp/x 2>&1; cat /proc/self/status; true")
    assert "No space left on device" in output and status_field(output, "Seccomp") == "2"
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.start(bundle)
    done = runtime.exec(identifier, "sh", "-c", "mkdir /tmp/x 2>&1; cat /proc/self/status")
    assert "No space left on device" in done.stdout and status_field(done.stdout, "Seccomp") == "2"


def test_seccomp_that_is_wrong(runtime, bundle):
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_NONSENSE"}
    assert runtime.run(bundle).returncode != 0


def test_only_standard_descriptors(runtime, bundle):
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    try:
        output = runtime.output(bundle, "ls /proc/self/fd")
        bundle.write()
        done = subprocess.run([runtime.binary, "--root", runtime.root, "run", "-b", bundle.path, runtime.new_id()],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, pass_fds=[read_end])
    finally:
        os.close(read_end)
        os.close(write_end)
    # ls itself opens the folder: 3.
    assert output.split() == ["0", "1", "2", "3"] and done.stdout.split() == ["0", "1", "2", "3"]


def test_preserved_descriptors(runtime, bundle):
    bundle.script("cat <&3")
    bundle.write()
    read_end, write_end = os.pipe()
    os.write(write_end, b"passed\n")
    os.close(write_end)
    done = subprocess.run([runtime.binary, "--root", str(runtime.root), "run", "--preserve-fds", "1", "-b", str(bundle.path),
                           runtime.new_id()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, close_fds=False,
                          preexec_fn=lambda: os.dup2(read_end, 3))
    os.close(read_end)
    assert done.stdout == "passed\n"


def test_closed_standard_streams(runtime, bundle):
    bundle.script("echo x > /tmp/out; exit 4")
    bundle.write()
    done = subprocess.run(["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', runtime.binary, "--root", str(runtime.root), "run", "-b",
                           str(bundle.path), runtime.new_id()])
    if not is_ours() and done.returncode != 4:
        pytest.skip("this runtime wants its streams")
    assert done.returncode == 4


def test_signals_are_default(runtime, bundle):
    bundle.process["args"] = ["/bin/cat", "/proc/self/status"]
    bundle.write()
    done = subprocess.run(["sh", "-c", 'trap "" PIPE HUP USR2; exec "$0" "$@"', runtime.binary, "--root", str(runtime.root), "run",
                           "-b", str(bundle.path), runtime.new_id()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert int(status_field(done.stdout, "SigBlk"), 16) == 0
    if is_ours():
        assert int(status_field(done.stdout, "SigIgn"), 16) == 0


class ConsoleSocket:
    """Receives the terminal that a runtime sends."""

    def __init__(self, folder: pathlib.Path):
        self.path = str(folder / "console.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.terminal = None
        self.thread = threading.Thread(target=self.receive)
        self.thread.start()

    def receive(self):
        self.listener.settimeout(20)
        connection, _ = self.listener.accept()
        _, ancillary, _, _ = connection.recvmsg(256, socket.CMSG_SPACE(4))
        fds = array.array("i")
        fds.frombytes(ancillary[0][2])
        self.terminal = fds[0]

    def read_until(self, needle: bytes) -> bytes:
        seen = b""
        deadline = time.monotonic() + 10
        while needle not in seen:
            assert time.monotonic() < deadline, seen
            try:
                seen += os.read(self.terminal, 4096)
            except OSError:
                break
        return seen


def test_terminal(runtime, bundle):
    bundle.process["terminal"] = True
    bundle.process["consoleSize"] = {"height": 33, "width": 77}
    bundle.script("tty; stty size; stat -c '%t:%T' /dev/console; echo to-console > /dev/console; read line; echo got:$line; exit 5")
    console = ConsoleSocket(bundle.path)
    identifier = runtime.create(bundle, "--console-socket", console.path)
    console.thread.join(20)
    runtime.command("start", identifier, check=True)
    seen = console.read_until(b"to-console")
    assert b"/dev/pts/0" in seen or b"/dev/console" in seen
    assert b"33 77" in seen and b"88:0" in seen
    os.write(console.terminal, b"hello\n")
    assert b"got:hello" in console.read_until(b"got:hello")
    os.close(console.terminal)


@pytest.mark.skipif(not is_ours() or not any(map(os.path.exists, criu.PLACES)), reason="the words are ours, and said where CRIU is installed")
def test_a_container_with_a_terminal_is_not_checkpointed(runtime, bundle):
    bundle.process["terminal"] = True
    bundle.process["args"] = ["/bin/sleep", "1000"]
    console = ConsoleSocket(bundle.path)
    identifier = runtime.create(bundle, "--console-socket", console.path)
    console.thread.join(20)
    runtime.command("start", identifier, check=True)
    done = runtime.command("checkpoint", "--shell-job", "--image-path", bundle.path / "image", identifier)
    assert done.returncode != 0 and "a container with a terminal cannot be checkpointed" in done.stderr
    assert runtime.state(identifier)["status"] == "running" and not (bundle.path / "image").exists()
    os.close(console.terminal)


def test_terminal_of_exec(runtime, bundle):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.start(bundle)
    console = ConsoleSocket(bundle.path)
    runtime.command("exec", "-t", "-d", "--console-socket", console.path, identifier, "sh", "-c", "tty; read x; echo $x-$x",
                    check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    console.thread.join(20)
    assert b"/dev/pts/0" in console.read_until(b"pts/0")
    os.write(console.terminal, b"yes\n")
    assert b"yes-yes" in console.read_until(b"yes-yes")
    os.close(console.terminal)


def test_terminal_needs_its_socket(runtime, bundle):
    bundle.process["terminal"] = True
    bundle.write()
    assert runtime.command("create", "-b", bundle.path, runtime.new_id()).returncode != 0


def test_namespaces_are_new(runtime, bundle):
    bundle.set_namespace("cgroup")
    output = runtime.output(bundle, "for n in pid net ipc uts mnt cgroup user; do readlink /proc/self/ns/$n; done; echo $$; hostname; "
                                    "cat /proc/self/cgroup").splitlines()
    host = [os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "net", "ipc", "uts", "mnt", "cgroup", "user")]
    assert all(a != b for a, b in zip(output[:6], host[:6])) and output[6] == host[6]
    assert output[7:9] == ["1", "box"]
    assert all(line.endswith(":/") for line in output[9:])


def test_loopback_is_up(runtime, bundle):
    assert "UP" in runtime.output(bundle, "ip link show lo")


def test_namespaces_by_path(runtime, bundle):
    first = runtime.bundle("/bin/sleep", "1000")
    identifier = runtime.start(first)
    pid = runtime.state(identifier)["pid"]
    for kind, name in (("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")):
        bundle.set_namespace(kind, f"/proc/{pid}/ns/{name}")
    del bundle.config["hostname"]
    output = runtime.output(bundle, "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; cat /proc/1/cmdline")
    assert output.splitlines()[:4] == [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("net", "ipc", "uts", "pid")]
    assert "/bin/sleep" in output


def test_namespace_path_of_the_wrong_kind(runtime, bundle):
    for path in ("/proc/self/ns/uts", "/etc/passwd", "/nowhere"):
        bundle.set_namespace("network", path)
        assert runtime.run(bundle).returncode != 0


def test_user_namespace(runtime, bundle):
    bundle.set_namespace("user")
    bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    for path in [bundle.rootfs, *bundle.rootfs.rglob("*")]:
        os.chown(path, 100000, 200000, follow_symlinks=False)
    host = runtime.folder / "private"
    host.mkdir(mode=0o700)
    (host / "file").write_text("bound\n")
    os.chmod(host / "file", 0o644)
    bundle.mount("/volume", host / "file", "bind", "ro")
    output = runtime.output(bundle, "id -u; cat /proc/self/uid_map; touch /made; cat /volume; stat -c %t:%T /dev/null; mount -t tmpfs x /tmp "
                                    "2>&1; true")
    assert output.startswith("0\n") and "100000" in output and "bound" in output and "1:3" in output
    made = (bundle.rootfs / "made").stat()
    assert (made.st_uid, made.st_gid) == (100000, 200000)
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.start(bundle)
    done = runtime.exec(identifier, "sh", "-c", "id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user")
    assert done.stdout.startswith("0\n") and "100000" in done.stdout, done.stderr
    assert os.readlink(f"/proc/{runtime.state(identifier)['pid']}/ns/user") in done.stdout


@pytest.mark.skipif(not is_ours(), reason="a user namespace by path")
def test_user_namespace_by_path(runtime, bundle):
    bundle.set_namespace("user")
    mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = mappings
    for path in [bundle.rootfs, *bundle.rootfs.rglob("*")]:
        os.chown(path, 100000, 100000, follow_symlinks=False)
    bundle.process["args"] = ["/bin/sleep", "1000"]
    pid = runtime.state(runtime.start(bundle))["pid"]
    other = runtime.bundle()
    for path in [other.rootfs, *other.rootfs.rglob("*")]:
        os.chown(path, 100000, 100000, follow_symlinks=False)
    other.set_namespace("user", f"/proc/{pid}/ns/user")
    output = runtime.output(other, "readlink /proc/self/ns/user; cat /proc/self/uid_map; echo $$")
    assert output.splitlines()[0] == os.readlink(f"/proc/{pid}/ns/user") and "100000" in output and output.endswith("1\n")


def test_time_namespace(runtime, bundle):
    if not is_ours():
        pytest.skip("runc 1.1 has no time namespaces")
    bundle.set_namespace("time")
    bundle.linux["timeOffsets"] = {"boottime": {"secs": 864000}}
    uptime = float(runtime.output(bundle, "cat /proc/uptime").split()[0])
    assert uptime > 864000


def test_sysctl(runtime, bundle):
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "12345678"}
    assert runtime.output(bundle, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax") == "1\n12345678\n"


@pytest.mark.skipif(not is_ours(), reason="domainname is newer than runc 1.1")
def test_domainname(runtime, bundle):
    bundle.config["domainname"] = "example.test"
    assert runtime.output(bundle, "cat /proc/sys/kernel/domainname") == "example.test\n"


@pytest.mark.skipif(not is_ours(), reason="scheduler and ioPriority are newer than runc 1.1")
def test_scheduler_and_io_priority(runtime, bundle):
    bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
    bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    fields = runtime.output(bundle, "cat /proc/self/stat").rsplit(") ", 1)[1].split()
    assert fields[16] == "7" and fields[38] == "3"


def test_personality(runtime, bundle):
    bundle.linux["personality"] = {"domain": "LINUX32"}
    bundle.process["args"] = ["/bin/busybox", "uname", "-m"]
    done = runtime.run(bundle)
    if not is_ours() and done.stdout != "i686\n":
        pytest.skip("this runtime has no personality")
    assert done.stdout == "i686\n"


def test_resources(runtime, bundle):
    bundle.linux["resources"]["pids"] = {"limit": 5}
    bundle.linux["resources"]["memory"] = {"limit": 64 << 20}
    output = runtime.run(bundle.script("for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait")).stderr
    assert "fork" in output
    bundle.script("tail -c 200m /dev/zero > /dev/null; echo $?")
    del bundle.linux["resources"]["pids"]
    assert runtime.output(bundle).strip() == "137"


def hook(bundle, name, script, timeout=None):
    path = bundle.path / f"hook-{name}"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    entry = {"path": str(path), "args": [name, "argument"], "env": ["HOOK=" + name, "PATH=/usr/bin:/bin"]}
    if timeout:
        entry["timeout"] = timeout
    bundle.config.setdefault("hooks", {}).setdefault(name, []).append(entry)


def test_hooks_in_order_with_state(runtime, bundle):
    log = runtime.folder / "hooks.log"
    for name in ("prestart", "createRuntime", "createContainer", "poststart", "poststop"):
        hook(bundle, name, f'echo "$HOOK $(cat)" >> {log}\n')
    (bundle.rootfs / "start-hook").write_text('#!/bin/sh\necho "startContainer $(cat)" > /hook-out\n')
    (bundle.rootfs / "start-hook").chmod(0o755)
    bundle.config["hooks"]["startContainer"] = [{"path": "/start-hook", "env": ["PATH=/bin"]}]
    bundle.config["annotations"] = {"key": "value"}
    bundle.script("cat /hook-out; sleep 1000")
    identifier = runtime.create(bundle)
    names = [line.split()[0] for line in log.read_text().splitlines()]
    assert names == ["prestart", "createRuntime", "createContainer"]
    pid = runtime.state(identifier)["pid"]
    for line in log.read_text().splitlines():
        state = json.loads(line.split(" ", 1)[1])
        assert state["id"] == identifier and state["status"] == "creating" and state["annotations"] == {"key": "value"}
        assert os.path.samefile(state["bundle"], bundle.path)
        assert state["pid"] == pid
    runtime.command("start", identifier, check=True)
    assert log.read_text().splitlines()[3].startswith("poststart") and '"running"' in log.read_text().splitlines()[3]
    deadline = time.monotonic() + 5
    while "startContainer" not in runtime.log(identifier):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert '"created"' in runtime.log(identifier)
    runtime.command("delete", "-f", identifier, check=True)
    last = log.read_text().splitlines()[4]
    assert last.startswith("poststop") and json.loads(last.split(" ", 1)[1])["status"] == "stopped"


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer"])
def test_failing_hook_stops_the_creation(runtime, bundle, name):
    hook(bundle, name, "echo it went wrong >&2; exit 3\n")
    bundle.write()
    identifier = runtime.new_id()
    done = runtime.command("create", "-b", bundle.path, identifier)
    assert done.returncode != 0 and "it went wrong" in done.stderr
    assert runtime.command("state", identifier).returncode != 0


def test_hook_timeout(runtime, bundle):
    hook(bundle, "createRuntime", "exec sleep 30\n", timeout=1)
    bundle.write()
    began = time.monotonic()
    assert runtime.command("create", "-b", bundle.path, runtime.new_id()).returncode != 0
    assert time.monotonic() - began < 10
