"""What wherry asks of a daemon is what the stock docker CLI asks, flag by flag; what one refuses, the other refuses.

Both CLIs talk to a daemon that only remembers. Members that say nothing (null, empty, zero, false) are left out."""

import os
import re
import shutil
import subprocess

import pytest

from support.binaries import binary
from support.fake_daemon import FakeDaemon

DOCKER = shutil.which("docker")


def said(value):
    """A request without what says nothing."""
    if isinstance(value, dict):
        kept = {key: said(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, "", 0, False, [], {}, [0, 0])} or None
    if isinstance(value, list):
        return [said(item) if isinstance(item, (dict, list)) else item for item in value]
    return value


def normal(path, body):
    body = body or {}
    host = body.get("HostConfig", {})
    if host.get("MemorySwappiness") == -1:
        del host["MemorySwappiness"]
    if host.get("RestartPolicy", {}).get("Name") == "no":
        del host["RestartPolicy"]
    host.pop("ConsoleSize", None)
    # Docker keeps these in maps: their order says nothing.
    for where, key in ((body, "Env"), (host, "Binds")):
        if where.get(key):
            where[key] = sorted(where[key])
    if host.get("Ulimits"):
        host["Ulimits"] = sorted(host["Ulimits"], key=lambda limit: limit["Name"])
    # Empty objects have a meaning where keys are the message.
    for where, key in ((body, "ExposedPorts"), (body, "Volumes")):
        if where.get(key):
            where[key] = sorted(where[key])
    if host.get("Tmpfs"):
        host["Tmpfs"] = sorted(host["Tmpfs"].items())
    if body.get("Labels"):
        body["Labels"] = sorted(body["Labels"].items())
    if body.get("Entrypoint") == [""]:
        body["Entrypoint"] = ["<emptied>"]
    if host.get("PortBindings"):
        host["PortBindings"] = sorted((key, [(b.get("HostIp", ""), b.get("HostPort", "")) for b in value]) for key, value in host["PortBindings"].items())
    for key in ("MaskedPaths", "ReadonlyPaths"):
        if host.get(key) == []:
            host[key] = "emptied"
    return path, said(body)


def send(program, arguments, answers=None):
    with FakeDaemon(answers) as fake:
        environment = {**os.environ, "DOCKER_HOST": fake.host, "DOCKER_CONFIG": fake.folder + "-none", "ONE": "1"}
        environment.pop("TWO", None)
        result = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
        return result, [(method, *normal(path, body)) for method, path, body in fake.requests]


SAME = [
    [],
    ["-it", "--rm"],
    ["-i"],
    ["-a", "stdout"],
    ["-i", "-a", "STDERR"],
    ["-t"],
    ["-itw", "/x"],
    ["--rm=false"],
    ["--name", "abc", "--hostname", "h", "--domainname", "d"],
    ["-e", "A=1", "-e", "ONE", "-e", "TWO", "--env", "B=x y"],
    ["-m", "64m", "--memory-swap", "-1", "--memory-reservation", "32M", "--memory-swappiness", "5"],
    ["--memory=1.5g", "--cpus", "1.5", "--cpu-shares=5", "--cpu-period", "100", "--cpu-quota", "50"],
    ["--cpuset-cpus", "0-1", "--cpuset-mems", "0", "--pids-limit", "-1", "--blkio-weight", "300"],
    ["-p", "80:80"],
    ["-p80:80/udp"],
    ["-p", "80", "-P"],
    ["-p", "127.0.0.1::81/udp"],
    ["-p", "8000-8001:9000-9001"],
    ["-p", "7000-7010:70"],
    ["-p", "[::1]:5:5"],
    ["-p", "target=80,published=8080,protocol=tcp"],
    ["--expose", "5", "--expose", "6-8/udp"],
    ["-v", "/a:/b", "-v", "/anonymous", "-v", "name:/c:ro", "-v", "./rel:/d"],
    ["--mount", "type=bind,src=/a,dst=/c,readonly"],
    ["--mount", "type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=700"],
    ["--mount", "type=volume,source=v,target=/v,volume-nocopy,volume-opt=a=b,volume-label=k=v"],
    ["--mount", 'type=volume,src=v,dst=/v,"volume-opt=o=a,b"'],
    ["--mount", "type=bind,src=/a,dst=/c,bind-propagation=rslave"],
    ["--mount", "target=/anonymous"],
    ["--tmpfs", "/x:ro,size=1m", "--tmpfs", "/y"],
    ["--device", "/dev/null", "--device", "/dev/null:/dev/x:r", "--device", "/dev/zero:rw"],
    ["--device-cgroup-rule", "c 1:3 rwm", "--device-read-bps", "/dev/sda:1m", "--device-write-iops", "/dev/sda:7", "--blkio-weight-device", "/dev/sda:10"],
    ["--ulimit", "nofile=10:20", "--ulimit", "core=0", "--ulimit", "nproc=3:-1"],
    ["--cap-add", "NET_ADMIN", "--cap-drop", "ALL", "--privileged", "--group-add", "7"],
    ["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges", "--security-opt", "label:disable"],
    ["--security-opt", "systempaths=unconfined"],
    ["--network", "host"],
    ["--network", "none"],
    ["--net", "container:abc"],
    ["--network", "foo", "--network-alias", "a", "--ip", "1.2.3.4"],
    ["--network", "name=foo,alias=x,ip=1.1.1.1,driver-opt=a=b", "--link-local-ip", "1.2.3.4"],
    ["--network", "a", "--network", "b"],
    ["--dns", "1.1.1.1", "--dns-search", "x.y", "--dns-option", "ndots:1", "--add-host", "a=1.1.1.1", "--add-host", "x:[::1]", "--add-host", "h:host-gateway"],
    ["--link", "x:y"],
    ["--ipc", "host", "--pid", "host", "--uts", "host", "--userns", "host", "--cgroupns", "private"],
    ["--pid", "container:x"],
    ["--init", "--read-only", "--oom-kill-disable", "--oom-score-adj", "10"],
    ["--init=false"],
    ["--restart", "always"],
    ["--restart", "on-failure:3"],
    ["--restart", "unless-stopped"],
    ["--log-driver", "json-file", "--log-opt", "max-size=1m", "--log-opt", "max-file=3"],
    ["--label", "a=b=c", "-l", "q"],
    ["--health-cmd", "x y", "--health-interval", "3s", "--health-retries", "2", "--health-timeout", "1m", "--health-start-period", "1.5s"],
    ["--no-healthcheck"],
    ["--stop-signal", "TERM", "--stop-timeout", "7"],
    ["--shm-size", "64m", "--sysctl", "net.ipv4.ip_forward=1", "--cgroup-parent", "/x", "--runtime", "r", "--isolation", "default"],
    ["--volumes-from", "x", "--volumes-from", "y:ro", "--volume-driver", "local"],
    ["-u", "1000:50", "-w", "/tmp"],
    ["--entrypoint", "foo"],
    ["--entrypoint", ""],
    ["--pull", "never"],
    ["--kernel-memory", "1m"],
]


@pytest.mark.skipif(DOCKER is None, reason="no docker CLI on this machine")
@pytest.mark.parametrize("flags", SAME, ids=" ".join)
def test_create_sends_what_docker_sends(flags):
    arguments = ["create", *flags, "busybox", "sh", "-c", "x"]
    theirs, expected = send(DOCKER, arguments)
    assert theirs.returncode == 0, theirs.stderr
    ours, requests = send(binary("wherry"), arguments)
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == theirs.stdout
    expected, requests = ([list(r) for r in each if r[1].startswith("/containers/create")] for each in (expected, requests))
    for request in (*expected, *requests):
        networking = (request[2].get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
        if not any(networking.values()):
            request[2].pop("NetworkingConfig", None)
    assert requests == expected


REFUSED = [
    ["--fooo"], ["-Z"], ["-p"], ["--name"], ["--rm=foo"], ["-m", "1x"], ["--cpus", "x"], ["--memory-swappiness", "1.1"], ["-p", "99999:1"],
    ["--mount", "foo"], ["--mount", "type=bind,src=/a"], ["-e", ""], ["-e", "=x"], ["--env-file", "/nonexistent"], ["--ulimit", "x"],
    ["--ulimit", "nofile=5:3"], ["--attach", "x"], ["--restart", "foo:x"], ["--rm", "--restart", "always"], ["--label", "=x"], ["--dns", "foo"], ["--add-host", "foo"],
    ["--mac-address", "foo"], ["--sysctl", "foo"], ["--device", "foo"], ["--device", ""], ["--expose", "x"], ["--pull", "nope"], ["--security-opt", "foo"],
    ["--security-opt", "seccomp=/nonexistent"], ["--health-interval", "foo"], ["--health-interval", "-1s", "--health-cmd", "x"], ["--no-healthcheck", "--health-cmd", "x"],
    ["--pid", "foo"], ["--uts", "foo"], ["--userns", "foo"], ["--cgroupns", "foo"], ["--network", ""], ["--network", "host", "--network-alias", "x"], ["--stop-timeout", "x"],
    ["--blkio-weight", "70000"], ["--device-cgroup-rule", "x"], ["--shm-size", "-5"],
]
# Words that depend on Go's own parsers: the refusal and its exit code are compared, not the sentence.
OTHER_WORDS = {("--blkio-weight", "70000"), ("--shm-size", "-5"), ("--expose", "x"), ("--mount", "type=bind,src=/a")}


def first_line(text):
    line = text.splitlines()[0] if text else ""
    return re.sub(r" \(did you mean .*\)$", "", line.replace("wherry: ", "docker: "))


@pytest.mark.skipif(DOCKER is None, reason="no docker CLI on this machine")
@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_create_refuses_what_docker_refuses(flags):
    arguments = ["create", *flags] if flags in (["-p"], ["--name"]) else ["create", *flags, "busybox"]
    theirs, _ = send(DOCKER, arguments)
    ours, requests = send(binary("wherry"), arguments)
    assert requests == []
    assert ours.returncode == theirs.returncode
    if tuple(flags) not in OTHER_WORDS:
        assert first_line(ours.stderr) == first_line(theirs.stderr)
    else:
        assert ours.stderr


USAGE = [["run"], ["rm"], ["rename", "a"], ["rename", "a", "b", "c"], ["ps", "x"], ["stop", "-t", "x", "y"], ["stop", "-t"], ["wait"], ["tag", "a"], ["images", "a", "b"], ["kill", "--signal"],
         ["logs"], ["logs", "a", "b"], ["exec", "a"], ["port"], ["top"], ["cp", "a"], ["run", "UPPER"], ["run", "-d", "-a", "stdout", "x"], ["volume", "rm"], ["network", "create"],
         ["commit"], ["export"], ["inspect"], ["history"], ["update"], ["load", "x"], ["container", "ls", "x"], ["update", "x"], ["run", "a b"], ["run", "a:b:c"], ["run", "a@sha256:1"]]


@pytest.mark.skipif(DOCKER is None, reason="no docker CLI on this machine")
@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage_reads_as_dockers(arguments):
    theirs, _ = send(DOCKER, arguments)
    ours, requests = send(binary("wherry"), arguments)
    assert requests == []
    assert ours.returncode == theirs.returncode, ours.stderr
    assert first_line(ours.stderr).replace("wherry", "docker") == first_line(theirs.stderr)


def test_refused_flags_say_why():
    for flags, word in ((["--gpus", "all"], "GPUs"), (["--storage-opt", "size=1G"], "storage"), (["--cpu-count", "1"], "Windows")):
        ours, requests = send(binary("wherry"), ["create", *flags, "busybox"])
        assert (ours.returncode, requests) == (125, []) and word in ours.stderr


def test_typing_errors_are_answered_with_a_guess():
    ours, _ = send(binary("wherry"), ["rnu"])
    assert ours.returncode == 1 and "unknown command: wherry rnu" in ours.stderr and "Did you mean 'wherry run'?" in ours.stderr
    ours, _ = send(binary("wherry"), ["run", "--nmae", "x", "y"])
    assert ours.returncode == 125 and "did you mean --name?" in ours.stderr


def test_without_a_daemon_the_message_says_where_it_was_looked_for():
    environment = {**os.environ, "DOCKER_HOST": "unix:///nonexistent/x.sock"}
    for arguments, code in ((["ps"], 1), (["run", "busybox"], 125)):
        result = subprocess.run([binary("wherry"), *arguments], env=environment, capture_output=True, text=True)
        assert result.returncode == code and "Cannot connect to the wherry daemon at unix:///nonexistent/x.sock" in result.stderr
    result = subprocess.run([binary("wherry"), "-H", "foo://bar", "ps"], capture_output=True, text=True)
    assert result.returncode == 1 and "invalid bind address format" in result.stderr
