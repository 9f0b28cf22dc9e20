"""Tables and --format, byte for byte as the stock docker CLI prints them from the same answers."""

import os
import shutil
import subprocess
import time

import pytest

from support.binaries import binary
from support.fake_daemon import FakeDaemon

DOCKER = shutil.which("docker")
NOW = int(time.time())

CONTAINERS = [
    {"Id": "a" * 64, "Names": ["/web", "/other/alias"], "Image": "busybox", "ImageID": "sha256:" + "1" * 64, "Command": "httpd -f -p 80 --a-long-flag \"quoted\"", "Created": NOW - 3700,
     "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, {"PrivatePort": 443, "Type": "tcp"},
               {"IP": "0.0.0.0", "PrivatePort": 9000, "PublicPort": 9000, "Type": "udp"}, {"IP": "0.0.0.0", "PrivatePort": 9001, "PublicPort": 9001, "Type": "udp"}],
     "Labels": {"com.example.role": "front", "b": "2"}, "State": "running", "Status": "Up About an hour", "HostConfig": {"NetworkMode": "default"}, "SizeRw": 1234567, "SizeRootFs": 7654321,
     "NetworkSettings": {"Networks": {"bridge": {}}},
     "Mounts": [{"Type": "volume", "Name": "a-volume-with-a-long-name", "Source": "", "Destination": "/d", "Driver": "local"}, {"Type": "bind", "Source": "/srv/www", "Destination": "/w"}]},
    {"Id": "b" * 64, "Names": ["/größe"], "Image": "sha256:" + "2" * 64, "ImageID": "sha256:" + "2" * 64, "Command": "true", "Created": NOW - 18300, "Ports": [], "Labels": {}, "State": "exited",
     "Status": "Exited (0) About a minute ago", "HostConfig": {"NetworkMode": "none"}, "NetworkSettings": {"Networks": {"none": {}}}, "Mounts": []},
    {"Id": "c" * 64, "Names": ["/made"], "Image": "registry.example:5000/team/app:1.2@sha256:" + "3" * 64, "ImageID": "sha256:" + "3" * 64, "Command": "", "Created": NOW - 86400 * 20, "Ports": [], "Labels": None,
     "State": "created", "Status": "Created", "HostConfig": {}, "NetworkSettings": {"Networks": {}}, "Mounts": []},
]
IMAGES = [
    {"Id": "sha256:" + "1" * 64, "RepoTags": ["busybox:latest", "busybox:1"], "RepoDigests": ["busybox@sha256:" + "d" * 64], "Created": NOW - 4000000, "Size": 4261234, "SharedSize": -1, "Containers": -1, "Labels": None, "ParentId": ""},
    {"Id": "sha256:" + "2" * 64, "RepoTags": [], "RepoDigests": [], "Created": NOW - 18300, "Size": 999, "SharedSize": -1, "Containers": -1, "Labels": {}, "ParentId": ""},
    {"Id": "sha256:" + "3" * 64, "RepoTags": ["registry.example:5000/team/app:1.2"], "RepoDigests": [], "Created": NOW - 7200, "Size": 1234567890, "SharedSize": -1, "Containers": -1, "Labels": {}, "ParentId": ""},
]
INSPECTED = {"Id": "a" * 64, "Created": "2026-11-23T10:00:00.5Z", "Path": "sh", "Args": ["-c", "x"], "Name": "/web", "RestartCount": 0, "Driver": "overlay2", "Platform": "linux", "Image": "sha256:" + "1" * 64,
             "State": {"Status": "exited", "Running": False, "Paused": False, "Restarting": False, "OOMKilled": True, "Dead": False, "Pid": 0, "ExitCode": 137, "Error": "", "StartedAt": "2026-11-23T10:00:01Z", "FinishedAt": "2026-11-23T10:00:02Z"},
             "HostConfig": {"NetworkMode": "default", "Memory": 67108864, "CapAdd": None, "Binds": ["/a:/b"], "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}},
             "Mounts": [{"Type": "bind", "Source": "/a", "Destination": "/b", "Mode": "", "RW": True, "Propagation": "rprivate"}],
             "Config": {"Hostname": "h", "Env": ["A=1", "B=<2>&3"], "Cmd": ["sh"], "Entrypoint": None, "Image": "busybox", "Labels": {"x.y": "1", "a": "2"}, "Tty": False, "OpenStdin": False, "Volumes": None, "WorkingDir": "", "User": ""},
             "NetworkSettings": {"IPAddress": "172.17.0.2", "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": None}, "Networks": {"bridge": {"IPAddress": "172.17.0.2", "Gateway": "172.17.0.1"}}}}
VOLUMES = {"Volumes": [{"Name": "zeta", "Driver": "local", "Mountpoint": "/v/zeta", "Scope": "local", "Labels": {"k": "v"}, "Options": None, "CreatedAt": "2026-11-23T10:00:00Z"},
                       {"Name": "alpha", "Driver": "local", "Mountpoint": "/v/alpha", "Scope": "local", "Labels": None, "Options": None, "CreatedAt": "2026-11-23T10:00:00Z"}], "Warnings": None}
NETWORKS = [{"Id": "e" * 64, "Name": "bridge", "Driver": "bridge", "Scope": "local", "Created": "2026-11-23T10:00:00Z", "EnableIPv6": False, "Internal": False, "Labels": {}},
            {"Id": "f" * 64, "Name": "back", "Driver": "bridge", "Scope": "local", "Created": "2026-11-23T10:00:00Z", "EnableIPv6": False, "Internal": True, "Labels": {"a": "b"}}]
HISTORY = [{"Id": "sha256:" + "1" * 64, "Created": NOW - 18300, "CreatedBy": "/bin/sh -c #(nop)  CMD [\"sh\"] and something that is long enough to be cut", "Size": 0, "Comment": "", "Tags": ["busybox:latest"]},
           {"Id": "<missing>", "Created": NOW - 7200, "CreatedBy": "/bin/sh -c #(nop) ADD file:abc in /", "Size": 4261234, "Comment": "imported", "Tags": None}]
TOP = {"Titles": ["PID", "USER", "COMMAND"], "Processes": [["1", "root", "sh -c x"], ["12345", "a-user-with-a-long-name", "sleep"]]}
ANSWERS = {
    ("GET", "/containers/json"): (200, CONTAINERS), ("GET", "/images/json"): (200, IMAGES), ("GET", "/containers/web/json"): (200, INSPECTED), ("GET", "/containers/web/top"): (200, TOP),
    ("GET", "/containers/" + "a" * 64 + "/json"): (200, INSPECTED), ("GET", "/volumes"): (200, VOLUMES), ("GET", "/networks"): (200, NETWORKS), ("GET", "/images/busybox/history"): (200, HISTORY),
    ("GET", "/containers/web/changes"): (200, [{"Kind": 0, "Path": "/etc"}, {"Kind": 1, "Path": "/etc/x"}, {"Kind": 2, "Path": "/bin/y"}]),
    ("POST", "/containers/web/wait"): (200, {"StatusCode": 3, "Error": None}),
    ("DELETE", "/images/busybox"): (200, [{"Untagged": "busybox:latest"}, {"Deleted": "sha256:" + "1" * 64}]),
    ("POST", "/volumes/create"): (201, VOLUMES["Volumes"][0]),
}

COMMANDS = [
    ["ps"], ["ps", "-a"], ["ps", "--no-trunc"], ["ps", "-q"], ["ps", "-aq", "--no-trunc"], ["ps", "-s"],
    ["ps", "--format", "json"], ["ps", "--format", "{{json .}}"], ["ps", "--format", "{{.ID}}: {{.Names}}"], ["ps", "--format", "table {{.Names}}\t{{.Ports}}"],
    ["ps", "--format", "table {{.ID}}\\t{{.Label \"com.example.role\"}}\\t{{.Labels}}"], ["ps", "--format", "{{.Mounts}}|{{.LocalVolumes}}|{{.Networks}}|{{.Size}}|{{.RunningFor}}"],
    ["ps", "--format", "{{.Names | upper}} {{lower .State}} {{title .State}}"], ["ps", "--format", "{{json .Names}} {{.CreatedAt}}"], ["ps", "--format", "{{.Command}}"],
    ["ps", "--format", "{{if eq .State \"running\"}}up{{else}}down{{end}} {{.Names}}"], ["ps", "--format", "{{truncate .ID 4}} {{pad .Names 1 2}}|"], ["ps", "--format", "{{range split .Labels \",\"}}<{{.}}>{{end}}"],
    ["ps", "--format", "table"], ["ps", "--format", "table {{upper .Names}}"], ["container", "ls"],
    ["images"], ["images", "-a"], ["images", "--digests"], ["images", "-q"], ["images", "--no-trunc"], ["images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"], ["images", "--format", "json"],
    ["images", "--format", "table {{.ID}}\t{{.CreatedSince}}"], ["images", "--format", "{{.Digest}}"],
    ["inspect", "web"], ["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}", "web"], ["inspect", "-f", "{{json .Config.Env}}", "web"], ["inspect", "-f", "{{.Config.Env}} {{.Config.Labels}}", "web"],
    ["inspect", "-f", "{{range .Mounts}}{{.Source}}->{{.Destination}} {{end}}", "web"], ["inspect", "-f", "{{range $p, $c := .NetworkSettings.Ports}}{{$p}} -> {{(index $c 0).HostPort}}{{break}}{{end}}", "web"],
    ["inspect", "-f", "{{index .Config.Labels \"x.y\"}}|{{index .Config.Labels \"none\"}}|", "web"], ["inspect", "-f", "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "web"],
    ["inspect", "-f", "{{.HostConfig.CapAdd}} {{.Config.Entrypoint}} {{.Config.Volumes}} {{.HostConfig.Binds}}", "web"], ["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "web"],
    ["inspect", "-f", "{{len .Args}} {{join .Args \"-\"}} {{printf \"%s=%d\" .Name .HostConfig.Memory}}", "web"], ["inspect", "-f", "{{with .State}}{{.ExitCode}}{{end}} {{not .State.Running}}", "web"],
    ["inspect", "-f", "{{if .State.Health}}x{{else}}none{{end}}", "web"], ["inspect", "--format={{.Name}}", "web", "web"], ["inspect", "-f", "{{json .State}}", "web"],
    ["volume", "ls"], ["volume", "ls", "-q"], ["volume", "ls", "--format", "{{.Name}} {{.Mountpoint}} {{.Labels}}"], ["volume", "create", "zeta"],
    ["network", "ls"], ["network", "ls", "-q"], ["network", "ls", "--no-trunc"], ["network", "ls", "--format", "{{.Name}} {{.Internal}} {{.Labels}}"],
    ["history", "busybox"], ["history", "--no-trunc", "busybox"], ["history", "-q", "busybox"], ["history", "--format", "{{.CreatedBy}}|{{.Size}}", "busybox"], ["history", "-H=false", "--format", "{{.Size}}", "busybox"],
    ["top", "web"], ["diff", "web"], ["wait", "web"], ["rmi", "busybox"], ["port", "web"], ["port", "web", "80"], ["port", "web", "80/tcp"],
]
ERRORS = [["inspect", "nothing"], ["inspect", "-f", "{{.Nope}}", "web"], ["inspect", "-f", "{{.State.Nope}}", "web"], ["ps", "--filter", "nonsense"], ["port", "web", "82"], ["rm", "nothing"], ["logs", "nothing"],
          ["container", "inspect", "nothing"], ["volume", "inspect", "nothing"], ["network", "inspect", "nothing"], ["image", "inspect", "nothing"], ["inspect", "--type", "container", "nothing"],
          ["stop", "nothing"], ["cp", "a", "b"], ["tag", "busybox", "UPPER"]]


def run(program, arguments):
    answers = dict(ANSWERS)
    for kind in ("containers", "images", "volumes", "networks"):
        answers[("GET", f"/{kind}/nothing")] = (404, {"message": f"No such {kind[:-1]}: nothing"})
        answers[("DELETE", f"/{kind}/nothing")] = (404, {"message": f"No such {kind[:-1]}: nothing"})
        answers[("POST", f"/{kind}/nothing")] = (404, {"message": f"No such {kind[:-1]}: nothing"})
    # The longest path first: "/networks/nothing" before "/networks".
    answers = dict(sorted(answers.items(), key=lambda item: -len(item[0][1])))
    with FakeDaemon(answers) as fake:
        environment = {**os.environ, "DOCKER_HOST": fake.host, "DOCKER_CONFIG": fake.folder + "-none"}
        return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)


@pytest.mark.skipif(DOCKER is None, reason="no docker CLI on this machine")
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_output_is_dockers(arguments):
    theirs, ours = run(DOCKER, arguments), run(binary("wherry"), arguments)
    assert theirs.returncode == 0, theirs.stderr
    assert ours.stdout == theirs.stdout
    assert (ours.returncode, ours.stderr) == (0, "")


@pytest.mark.skipif(DOCKER is None, reason="no docker CLI on this machine")
@pytest.mark.parametrize("arguments", ERRORS, ids=" ".join)
def test_errors_are_dockers(arguments):
    theirs, ours = run(DOCKER, arguments), run(binary("wherry"), arguments)
    assert ours.returncode == theirs.returncode
    assert ours.stdout.strip() == theirs.stdout.strip()
    assert ours.stderr.replace("wherry", "docker") == theirs.stderr
