"""Corners of the runtime specification: hooks that fail, seccomp notifications, joined mount namespaces, default devices,
what a machine lacks."""

import array
import ctypes
import json
import os
import socket
import struct
import subprocess
import threading

import pytest

from support.runtime import is_ours


def hook(path, *words) -> dict:
    return {"path": "/bin/sh", "args": ["sh", "-c", " ".join(words) or f"cat >> {path}; echo >> {path}"]}


def states_in(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def test_poststart_failure_is_no_failure(runtime, bundle):
    told = bundle.path / "told"
    bundle.process["args"] = ["/bin/sleep", "1000"]
    bundle.config["hooks"] = {"poststart": [hook("", "exit 3"), hook(told)]}
    identifier = runtime.start(bundle)
    if is_ours():  # "the remaining hooks and lifecycle continue"
        assert [state["status"] for state in states_in(told)] == ["running"]
        assert runtime.state(identifier)["status"] == "running"


def test_poststop_failure_is_no_failure(runtime, bundle):
    told = bundle.path / "told"
    bundle.config["hooks"] = {"poststop": [hook("", "exit 3"), hook(told)]}
    done = runtime.run(bundle)
    if is_ours():
        assert done.returncode == 0
    assert [state["status"] for state in states_in(told)] == ["stopped"]


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer"])
def test_poststop_runs_after_a_failed_creation(runtime, bundle, kind):
    told = bundle.path / "told"
    bundle.config["hooks"] = {kind: [hook("", "echo broken >&2; exit 3")], "poststop": [hook(told)]}
    bundle.write()
    done = runtime.command("create", "-b", bundle.path, runtime.new_id())
    assert done.returncode != 0 and "broken" in done.stderr
    assert [state["status"] for state in states_in(told)] == ["stopped"]


def test_poststop_runs_after_a_failed_start(runtime, bundle):
    told = bundle.path / "told"
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/false"}], "poststop": [hook(told)]}
    assert runtime.run(bundle).returncode != 0
    assert [state["status"] for state in states_in(told)] == ["stopped"]


def test_hooks_get_arguments_environment_and_annotations(runtime, bundle):
    told = bundle.path / "told"
    bundle.config["annotations"] = {"org.example.key": "value"}
    bundle.config["hooks"] = {"createRuntime": [
        {"path": "/bin/sh", "args": ["named", "-c", f"echo $0 $A ${{HOME-none}} > {told}; cat >> {told}"], "env": ["A=b"]}]}
    runtime.output(bundle, "true")
    head, state = told.read_text().split("\n", 1)
    assert head == "named b none"
    state = json.loads(state)
    assert state["annotations"] == {"org.example.key": "value"} and state["status"] in ("creating", "created") and state["pid"] > 0
    assert state["bundle"] == str(bundle.path) and state["ociVersion"]


def test_default_devices_whatever_the_rules(runtime, bundle):
    """Engines deny all and list what is special; the devices every container has work nevertheless."""
    bundle.linux["resources"]["devices"] = [{"allow": False, "access": "rwm"}]
    output = runtime.output(bundle, "echo x > /dev/null && head -c 4 /dev/zero | wc -c && head -c 4 /dev/urandom | wc -c && "
                                    "mknod /tmp/n c 10 200 && (cat /tmp/n 2>&1 || echo refused)")
    assert output.split()[:2] == ["4", "4"] and "refused" in output


def test_terminal_whatever_the_rules(runtime, bundle):
    bundle.linux["resources"]["devices"] = [{"allow": False, "access": "rwm"}]
    bundle.process["terminal"] = True
    bundle.script("tty")
    bundle.write()
    assert b"/dev/pts/0" in subprocess.run(["script", "-qec", f"{runtime.binary} --root {runtime.root} run -b {bundle.path} {runtime.new_id()}",
                                            "/dev/null"], capture_output=True, timeout=60, stdin=subprocess.DEVNULL).stdout


def test_unified_resources(runtime, bundle):
    has_v2_pids = "pids" in (open("/sys/fs/cgroup/cgroup.controllers").read() if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "")
    bundle.linux["resources"]["unified"] = {"pids.max": "77"}
    done = runtime.run(bundle.script("cat /sys/fs/cgroup/pids.max 2>/dev/null"))
    if has_v2_pids:
        assert done.returncode == 0 and done.stdout.strip() == "77"
    else:
        assert done.returncode != 0  # never ignored silently
    bundle.linux["resources"]["unified"] = {"../cgroup.procs": "1"}
    assert runtime.run(bundle).returncode != 0


@pytest.mark.parametrize("change", [
    {"apparmorProfile": "no-such-profile"},
    {"selinuxLabel": "system_u:system_r:container_t:s0"},
])
def test_labels_the_machine_does_not_know(runtime, bundle, change):
    if os.path.exists("/sys/module/apparmor/parameters/enabled") or os.path.exists("/sys/fs/selinux/enforce"):
        pytest.skip("this machine has a security module of that kind")
    if not is_ours():
        pytest.skip("other runtimes ignore labels where the kernel has no such module")
    bundle.process.update(change)
    done = runtime.run(bundle)
    assert done.returncode != 0 and next(iter(change)) in done.stderr


def test_sysctls_of_the_host_are_refused(runtime, bundle):
    same = open("/proc/sys/vm/overcommit_ratio").read().strip()  # whatever happens, nothing changes
    bundle.linux["sysctl"] = {"vm.overcommit_ratio": same}
    done = runtime.run(bundle)
    assert done.returncode != 0 and "overcommit_ratio" in done.stderr
    bundle.linux["sysctl"] = {"net.ipv4.ip_default_ttl": "64"}
    bundle.drop_namespace("network")
    assert runtime.run(bundle).returncode != 0


@pytest.mark.skipif(not is_ours(), reason="others leave out what the host has no controller for")
@pytest.mark.parametrize("controller, resources, words", [
    ("net_cls", {"network": {"classID": 1048577}}, "network traffic"),
    ("net_prio", {"network": {"priorities": [{"name": "lo", "priority": 3}]}}, "network traffic"),
    ("rdma", {"rdma": {"no-such-device": {"hcaHandles": 3}}}, "RDMA"),
])
def test_limits_of_controllers_the_host_lacks_are_refused(runtime, bundle, controller, resources, words):
    if os.path.exists(f"/sys/fs/cgroup/{controller}"):
        pytest.skip(f"{controller} is mounted here")
    bundle.linux["resources"].update(resources)
    done = runtime.run(bundle)
    assert done.returncode != 0 and words in done.stderr, done
    assert runtime.output(runtime.bundle("/bin/echo", "still fine")) == "still fine\n"


@pytest.mark.skipif(not is_ours(), reason="since version 1.2.1 of the specification; others ignore it")
def test_processors_of_exec_alone(runtime, bundle):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor")
    last = str(max(os.sched_getaffinity(0)))
    bundle.process["execCPUAffinity"] = {"initial": last, "final": last}
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.start(bundle)
    allowed = lambda text: next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("Cpus_allowed_list"))
    first = open(f"/proc/{runtime.state(identifier)['pid']}/status").read()
    assert allowed(first) == allowed(open("/proc/self/status").read()) != last
    assert allowed(runtime.exec(identifier, "cat", "/proc/self/status").stdout) == last


def test_intel_rdt_is_refused_clearly(runtime, bundle):
    if os.path.exists("/sys/fs/resctrl/schemata"):
        pytest.skip("this machine has resctrl")
    bundle.linux["intelRdt"] = {"closID": "group", "l3CacheSchema": "L3:0=ff"}
    done = runtime.run(bundle)
    assert done.returncode != 0 and "rdt" in done.stderr.lower()
    if is_ours():
        assert "linux.intelRdt: no resctrl file system is mounted on this host" in done.stderr
        assert list(runtime.root.iterdir()) == []


@pytest.fixture
def resctrl(tmp_path):
    """A folder that plays resctrl as far as plain files can: groups are taken away empty, and one is there already."""
    (tmp_path / "info/L3").mkdir(parents=True)
    group = tmp_path / "group"
    group.mkdir()
    for name in ("tasks", "schemata"):
        (group / name).touch()
    return tmp_path


def with_group(runtime, identifier: str, resctrl, **members) -> None:
    """As if the container had been made with linux.intelRdt, on a machine that has resctrl."""
    path = runtime.root / identifier / "state.json"
    state = json.loads(path.read_text())
    state["container"]["intelRdt"] = {"mount": str(resctrl), "group": str(resctrl / "group"), "monitoringGroup": "", **members}
    path.write_text(json.dumps(state))


@pytest.mark.skipif(not is_ours(), reason="the state file is ours")
def test_intel_rdt_of_a_container_of_an_earlier_process(runtime, bundle, resctrl):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.start(bundle)
    for mine in ("mine", "monitoring"):
        (resctrl / mine).mkdir()
    (resctrl / "monitoring/tasks").touch()
    with_group(runtime, identifier, resctrl, monitoringGroup=str(resctrl / "monitoring"), made=True, named=True)
    assert runtime.exec(identifier, "true").returncode == 0
    assert (resctrl / "group/tasks").read_text() == (resctrl / "monitoring/tasks").read_text() == "0"

    runtime.command("update", "--l3-cache-schema", "L3:0=f", identifier, check=True)
    assert (resctrl / "group/schemata").read_text() == "L3:0=f\n"
    refused = runtime.command("update", "--l3-cache-schema", "L3:0=1", "--mem-bw-schema", "MB:0=20", identifier)
    assert refused.returncode != 0 and "memBwSchema" in refused.stderr and "MBA: info/MB" in refused.stderr
    assert (resctrl / "group/schemata").read_text() == "L3:0=f\n"

    # A group with a closID stays, whoever made it; one of the container's own goes with it.
    (resctrl / "monitoring/tasks").unlink()
    with_group(runtime, identifier, resctrl, monitoringGroup=str(resctrl / "monitoring"), made=True, named=True)
    runtime.command("delete", "-f", identifier, check=True)
    assert (resctrl / "group").exists() and not (resctrl / "monitoring").exists()
    identifier = runtime.start(bundle)
    with_group(runtime, identifier, resctrl, group=str(resctrl / "mine"), made=True, named=False)
    runtime.command("delete", "-f", identifier, check=True)
    assert not (resctrl / "mine").exists()


@pytest.mark.skipif(not is_ours(), reason="runc asks the machine first")
def test_update_of_intel_rdt_that_is_not_there(runtime, bundle):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    bundle.linux["resources"] = {"memory": {"limit": 128 << 20}}
    identifier = runtime.start(bundle)
    done = runtime.command("update", "--memory", "64M", "--l3-cache-schema", "L3:0=f", identifier)
    assert done.returncode != 0 and "made without linux.intelRdt" in done.stderr
    statistics = json.loads(runtime.command("events", "--stats", identifier, check=True).stdout)
    assert statistics["data"]["memory"]["usage"]["limit"] == 128 << 20


@pytest.mark.skipif(not is_ours(), reason="what others do to a mount namespace they were given differs")
def test_joined_mount_namespace(runtime, bundle):
    mounts = open("/proc/self/mountinfo").read()
    holder = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 1000"],
                              stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "ready\n"
        bundle.set_namespace("mount", f"/proc/{holder.pid}/ns/mnt")
        output = runtime.output(bundle, "readlink /proc/self/ns/mnt; ls /; cat /proc/1/comm; true")
        assert output.splitlines()[0] == os.readlink(f"/proc/{holder.pid}/ns/mnt")
        assert "rootfs" not in output and "busybox" in os.listdir(bundle.rootfs / "bin") and output.splitlines()[-1] == "sh"
        # The holder still looks at its own /.
        assert os.path.exists(f"/proc/{holder.pid}/root{bundle.path}/config.json")
        bundle.process["args"] = ["/bin/sleep", "1000"]
        identifier = runtime.start(bundle)
        assert "rootfs" not in runtime.exec(identifier, "ls", "/").stdout.split()
        runtime.delete(identifier)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert open("/proc/self/mountinfo").read() == mounts


class Notifications:
    """Answers one kind of system call as a seccomp agent does: SECCOMP_IOCTL_NOTIF_RECV and _SEND."""

    RECEIVE, SEND = 0xC0502100, 0xC0182101

    def __init__(self, path, error: int):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(path))
        self.socket.listen(4)
        self.error = error
        self.states: list[dict] = []
        self.calls: list[int] = []
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            data, control, _, _ = connection.recvmsg(65536, socket.CMSG_LEN(4))
            listener = array.array("i", control[0][2])[0]
            with self.changed:
                self.states.append(json.loads(data))
                self.changed.notify_all()
            threading.Thread(target=self.answer, args=(listener,), daemon=True).start()

    def first_state(self) -> dict:
        """The runtime has sent it when `create` returns; this thread may not have read it yet."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.states, 30), "nobody told the agent"
            return self.states[0]

    def answer(self, listener: int):
        libc = ctypes.CDLL(None, use_errno=True)
        while True:
            request = ctypes.create_string_buffer(80)
            if libc.ioctl(listener, ctypes.c_ulong(self.RECEIVE), request) != 0:
                os.close(listener)
                return
            identifier, _, _, number = struct.unpack_from("=QIIi", request.raw)
            self.calls.append(number)
            response = ctypes.create_string_buffer(struct.pack("=QqiI", identifier, 0, -self.error, 0), 24)
            libc.ioctl(listener, ctypes.c_ulong(self.SEND), response)

    def close(self):
        self.socket.close()


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_seccomp_notifications(runtime, bundle, no_new_privileges):
    agent = Notifications(bundle.path / "agent.sock", 77)  # EBADFD: nobody else says that
    try:
        bundle.process["noNewPrivileges"] = no_new_privileges
        bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": str(bundle.path / "agent.sock"),
                                   "listenerMetadata": "for the agent",
                                   "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]}
        bundle.script("mkdir /tmp/asked 2>&1; ls -d /tmp/asked || echo not made")
        identifier = runtime.create(bundle)
        state = agent.first_state()
        assert state["metadata"] == "for the agent" and state["fds"] == ["seccompFd"] and state["state"]["id"] == identifier
        assert state["pid"] == runtime.state(identifier)["pid"]
        runtime.command("start", identifier, check=True)
        runtime.wait_for(identifier, "stopped")
        assert "File descriptor in bad state" in runtime.log(identifier) and "not made" in runtime.log(identifier)
        assert len(agent.calls) == 1
    finally:
        agent.close()


def test_seccomp_notifications_without_a_listener(runtime, bundle):
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW",
                               "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}
    assert runtime.run(bundle).returncode != 0
    bundle.linux["seccomp"]["listenerPath"] = "/nonexistent/agent.sock"
    assert runtime.run(bundle).returncode != 0


def test_oom_score_in_a_user_namespace(runtime, bundle):
    bundle.set_namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.process["oomScoreAdj"] = 321
    os.chmod(bundle.path, 0o755)
    assert runtime.output(bundle, "cat /proc/self/oom_score_adj") == "321\n"


def test_existing_empty_cgroup_is_used(runtime, bundle):
    base = next(path for path in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup") if os.path.isdir(path))
    name = "wt-" + os.path.basename(bundle.path)
    bundle.linux["cgroupsPath"] = f"/wherry-runtime/{name}"
    os.makedirs(f"{base}/wherry-runtime/{name}", exist_ok=True)
    try:
        assert f"/wherry-runtime/{name}" in runtime.output(bundle, "cat /proc/self/cgroup")
    finally:
        if os.path.isdir(f"{base}/wherry-runtime/{name}"):
            os.rmdir(f"{base}/wherry-runtime/{name}")
