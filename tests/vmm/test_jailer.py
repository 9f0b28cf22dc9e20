"""wherry-jailer step by step, seen from the host while a stand-in monitor runs in the jail. $JAILER names another one."""

import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import time
import uuid

import pytest

from support import binaries

UID, GID = 12345, 12346


def jailer_binary() -> str:
    return os.environ.get("JAILER") or binaries.binary("wherry-jailer")


def cgroup_mounts() -> dict[str, pathlib.Path]:
    """Controller -> mount point, for v1; "" -> that of v2."""
    found = {}
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2":
            found[""] = pathlib.Path(left.split()[4])
        elif kind == "cgroup":
            for option in options.split(","):
                found[option] = pathlib.Path(left.split()[4])
    return found


class Jail:
    def __init__(self, folder: pathlib.Path, probe: pathlib.Path):
        binaries.need_root()
        self.base = folder / "jails"
        self.base.mkdir()
        self.probe = probe
        self.id = "wj-" + uuid.uuid4().hex[:12]
        self.parent = f"wherry-jailer-test-{uuid.uuid4().hex[:8]}"
        self.pid = 0
        self.started: subprocess.Popen | None = None

    @property
    def chroot(self) -> pathlib.Path:
        return self.base / self.probe.name / self.id / "root"

    def command(self, *options: str, after: tuple[str, ...] = (), **replace: str | None) -> list[str]:
        flags = {"id": self.id, "exec-file": str(self.probe), "uid": str(UID), "gid": str(GID), "chroot-base-dir": str(self.base)}
        flags.update({name.replace("_", "-"): value for name, value in replace.items()})
        words = [word for name, value in flags.items() if value is not None for word in (f"--{name}", value)]
        return [jailer_binary(), *words, *options, *(["--", *after] if after else [])]

    def refused(self, *options: str, after: tuple[str, ...] = (), **replace: str | None) -> str:
        done = subprocess.run(self.command(*options, after=after, **replace), capture_output=True, text=True, timeout=30,
                              stdin=subprocess.DEVNULL)
        assert done.returncode == 1, f"status {done.returncode}: {done.stdout} {done.stderr}"
        return done.stderr

    def start(self, *options: str, after: tuple[str, ...] = (), detaches: bool = False, keywords: dict | None = None,
              **replace: str | None) -> "Jail":
        process = subprocess.Popen(self.command(*options, after=after, **replace), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **(keywords or {}))
        self.started = process
        if detaches:
            # Not communicate(): the monitor has the pipes.
            status = process.wait(timeout=30)
            if status != 0:
                raise AssertionError(f"status {status}: {process.stderr.read()}")
        ready = self.chroot / "run/ready"
        deadline = time.monotonic() + 30
        while not ready.exists():
            if not detaches and process.poll() is not None:
                raise AssertionError(f"the jailer ended with {process.returncode}: {process.stderr.read()}")
            assert time.monotonic() < deadline, "the monitor does not come up"
            time.sleep(0.01)
        self.said = ready.read_text().splitlines()
        self.pid = int((self.chroot / f"{self.probe.name}.pid").read_text())
        return self

    def proc(self, name: str) -> str:
        return pathlib.Path(f"/proc/{self.pid}/{name}").read_text()

    def status(self, field: str) -> list[str]:
        return re.search(rf"^{field}:[ \t]*(.*)$", self.proc("status"), re.MULTILINE)[1].split()

    def arguments(self) -> list[str]:
        return [line.removeprefix("argument ") for line in self.said if line.startswith("argument ")]

    def namespace(self, kind: str) -> str:
        return os.readlink(f"/proc/{self.pid}/ns/{kind}")

    def close(self):
        pids = {self.pid} if self.pid else set()
        if self.started is not None:
            pids.add(self.started.pid)
        for pid in pids:
            try:
                # Only what is ours still: numbers come back.
                if pid == self.started.pid or self.id in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, FileNotFoundError):
                pass
        if self.started is not None:
            self.started.wait()
            self.started.stdout.close()
            self.started.stderr.close()
        deadline = time.monotonic() + 10
        for mount in set(cgroup_mounts().values()):
            for directory in (mount / self.parent / self.id, mount / self.parent, mount / self.probe.name / self.id, mount / self.probe.name):
                while directory.exists():
                    try:
                        directory.rmdir()
                    except OSError:
                        assert time.monotonic() < deadline, f"{directory} stays"
                        time.sleep(0.02)
        assert str(self.base) not in pathlib.Path("/proc/self/mountinfo").read_text(), "a mount came back to the host"
        shutil.rmtree(self.base, ignore_errors=True)


@pytest.fixture
def jail(tmp_path, probe):
    made = Jail(tmp_path, probe)
    yield made
    made.close()


def test_identity(jail):
    jail.start()
    assert jail.status("Uid") == [str(UID)] * 4
    assert jail.status("Gid") == [str(GID)] * 4
    assert jail.status("Groups") == []
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(jail.status(capabilities)[0], 16) == 0
    assert jail.pid == jail.started.pid, "without --daemonize and --new-pid-ns the process becomes the monitor"


def test_arguments_of_the_monitor(jail):
    jail.start(after=("--api-sock", "/run/x.sock", "--no-seccomp"))
    words = jail.arguments()
    assert words[0].lstrip("./") == jail.probe.name
    assert words[-3:] == ["--api-sock", "/run/x.sock", "--no-seccomp"]
    given = dict(zip(words[1:-3:2], words[2:-3:2]))
    assert given.pop("--id") == jail.id
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert now - 60_000_000 < int(given.pop("--start-time-us")) <= now
    assert 0 <= int(given.pop("--start-time-cpu-us")) < 10_000_000
    assert int(given.pop("--parent-cpu-time-us", "0")) == 0
    assert not given


def test_chroot(jail):
    jail.start()
    assert os.readlink(f"/proc/{jail.pid}/root") == "/"
    # Its root mount is the chroot, and there is nothing else in its mount namespace.
    mounts = jail.proc("mountinfo").splitlines()
    assert len(mounts) == 1, mounts
    assert mounts[0].split()[3].endswith(f"{jail.probe.name}/{jail.id}/root") and mounts[0].split()[4] == "/"
    assert jail.namespace("mnt") != os.readlink("/proc/self/ns/mnt")
    assert "outside 0" in jail.said
    assert os.readlink(f"/proc/{jail.pid}/cwd") == "/"
    assert sorted(entry.name for entry in jail.chroot.iterdir()) == sorted(
        ["dev", "run", jail.probe.name, f"{jail.probe.name}.pid"])


def test_owners_and_devices(jail):
    jail.start()
    for name in (".", "dev", "dev/net", "run"):
        status = (jail.chroot / name).lstat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (UID, GID, 0o700), name
    devices = {"dev/net/tun": (10, 200), "dev/kvm": (10, 232), "dev/urandom": (1, 9)}
    faults = re.search(r"^\s*(\d+) userfaultfd$", pathlib.Path("/proc/misc").read_text(), re.MULTILINE)
    if faults:
        devices["dev/userfaultfd"] = (10, int(faults[1]))
    for name, number in devices.items():
        status = (jail.chroot / name).lstat()
        assert stat.S_ISCHR(status.st_mode), name
        assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == number, name
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (UID, GID, 0o600), name
    found = {str(path.relative_to(jail.chroot)) for path in (jail.chroot / "dev").rglob("*")}
    assert found == set(devices) | {"dev/net"}
    if os.path.exists("/dev/kvm"):
        assert "kvm 1" in jail.said
    if os.path.exists("/dev/net/tun"):
        assert "tun 1" in jail.said


def test_binary_is_a_copy_it_cannot_change(jail):
    jail.start()
    copied = jail.chroot / jail.probe.name
    assert copied.read_bytes() == jail.probe.read_bytes()
    status = copied.lstat()
    assert status.st_ino != jail.probe.stat().st_ino
    assert status.st_uid == 0 and status.st_mode & 0o022 == 0


def test_descriptors_and_environment(jail):
    extra = os.open("/etc/passwd", os.O_RDONLY)
    try:
        jail.start(keywords={"pass_fds": (extra,), "env": {"SECRET": "1", "PATH": "/bin", "LD_PRELOAD": "/x.so"}})
    finally:
        os.close(extra)
    opened = {int(name) for name in os.listdir(f"/proc/{jail.pid}/fd")}
    targets = {os.readlink(f"/proc/{jail.pid}/fd/{fd}") for fd in opened}
    assert {0, 1, 2} <= opened
    # The stand-in opens /dev/kvm and /dev/net/tun itself.
    assert not [target for target in targets if not target.startswith(("/dev/", "pipe:"))], targets
    assert jail.proc("environ") == ""


def test_missing_standard_streams_are_not_taken_by_files(jail):
    def close_all():
        for fd in (0, 1, 2):
            os.close(fd)
    jail.start(keywords={"preexec_fn": close_all})
    for fd in (0, 1, 2):
        assert os.readlink(f"/proc/{jail.pid}/fd/{fd}") == "/dev/null"


def limits(jail) -> dict[str, list[str]]:
    return {line[:25].strip(): line[25:].split()[:2] for line in jail.proc("limits").splitlines()[1:]}


def test_default_limit_of_open_files(jail):
    jail.start()
    assert limits(jail)["Max open files"] == ["2048", "2048"]


def test_resource_limits(jail):
    jail.start("--resource-limit", "no-file=77", "--resource-limit", "fsize=123456789")
    assert limits(jail)["Max open files"] == ["77", "77"]
    assert limits(jail)["Max file size"] == ["123456789", "123456789"]


def test_network_namespace(jail):
    name = "wj" + uuid.uuid4().hex[:8]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        jail.start("--netns", f"/run/netns/{name}")
        assert os.stat(f"/proc/{jail.pid}/ns/net").st_ino == os.stat(f"/run/netns/{name}").st_ino
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_without_netns_the_network_stays(jail):
    jail.start()
    assert jail.namespace("net") == os.readlink("/proc/self/ns/net")


def test_daemonize(jail):
    jail.start("--daemonize", detaches=True)
    assert jail.pid != jail.started.pid
    for fd in (0, 1, 2):
        assert os.readlink(f"/proc/{jail.pid}/fd/{fd}") == "/dev/null"
    assert os.getsid(jail.pid) != os.getsid(0)
    assert os.stat(f"/proc/{jail.pid}/exe").st_size == jail.probe.stat().st_size
    words = jail.arguments()
    assert words[words.index("--parent-cpu-time-us") + 1] != "0"


def test_new_pid_namespace(jail):
    jail.start("--new-pid-ns", detaches=True)
    assert jail.said[0] == "pid 1"
    assert jail.status("NSpid") == [str(jail.pid), "1"]
    assert jail.namespace("pid") != os.readlink("/proc/self/ns/pid")
    assert jail.status("Uid") == [str(UID)] * 4


def test_daemon_in_a_new_pid_namespace(jail):
    jail.start("--daemonize", "--new-pid-ns", detaches=True)
    assert jail.status("NSpid")[-1] == "1"
    assert os.readlink(f"/proc/{jail.pid}/fd/1") == "/dev/null"


def test_pid_file_without_a_new_namespace(jail):
    jail.start()
    assert jail.status("NSpid") == [str(jail.pid)]


def one_of(mounts: dict[str, pathlib.Path], version: str) -> tuple[str, str, pathlib.Path]:
    """(file, value, mount) of a setting that this host has in that version."""
    if version == "1":
        if "pids" not in mounts:
            pytest.skip("no cgroup v1 hierarchy with pids")
        return "pids.max", "50", mounts["pids"]
    if "" not in mounts:
        pytest.skip("no cgroup v2 hierarchy")
    if "pids" not in (mounts[""] / "cgroup.controllers").read_text().split():
        pytest.skip("the cgroup v2 hierarchy has no controllers here")
    return "pids.max", "50", mounts[""]


@pytest.mark.parametrize("version", ["1", "2"])
def test_cgroups(jail, version):
    file, value, mount = one_of(cgroup_mounts(), version)
    jail.start("--cgroup-version", version, "--cgroup", f"{file}={value}", "--parent-cgroup", jail.parent)
    directory = mount / jail.parent / jail.id
    assert (directory / file).read_text().strip() == value
    assert str(jail.pid) in (directory / "cgroup.procs").read_text().split()
    assert f"/{jail.parent}/{jail.id}" in jail.proc("cgroup")


def test_cgroup_where_the_controller_is(jail):
    mounts = cgroup_mounts()
    mount = mounts.get("pids") or mounts[""]
    jail.start("--cgroup", "pids.max=33", "--parent-cgroup", jail.parent)
    assert (mount / jail.parent / jail.id / "pids.max").read_text().strip() == "33"


def test_cgroup_parent_is_the_binarys_name(jail):
    mounts = cgroup_mounts()
    mount = mounts.get("pids") or mounts[""]
    version = "1" if "pids" in mounts else "2"
    jail.start("--cgroup-version", version, "--cgroup", "pids.max=40")
    assert (mount / jail.probe.name / jail.id / "pids.max").read_text().strip() == "40"


def test_several_controllers_of_v1(jail):
    mounts = cgroup_mounts()
    if not {"memory", "cpuset", "cpu"} <= set(mounts):
        pytest.skip("no cgroup v1 hierarchies with memory, cpuset and cpu")
    jail.start("--cgroup-version", "1", "--cgroup", "memory.limit_in_bytes=268435456", "--cgroup", "cpuset.cpus=0", "--cgroup",
               "cpu.shares=77", "--parent-cgroup", jail.parent)
    for controller, file, value in (("memory", "memory.limit_in_bytes", "268435456"), ("cpuset", "cpuset.cpus", "0"),
                                    ("cpu", "cpu.shares", "77")):
        directory = mounts[controller] / jail.parent / jail.id
        assert (directory / file).read_text().strip() == value
        assert str(jail.pid) in (directory / "tasks").read_text().split()
    assert (mounts["cpuset"] / jail.parent / jail.id / "cpuset.mems").read_text().strip() != ""


def test_parent_alone_moves_into_the_parent(jail):
    mounts = cgroup_mounts()
    if "" not in mounts:
        pytest.skip("no cgroup v2 hierarchy")
    directory = mounts[""] / jail.parent
    directory.mkdir()
    jail.start("--cgroup-version", "2", "--parent-cgroup", jail.parent)
    assert str(jail.pid) in (directory / "cgroup.procs").read_text().split()


def test_without_cgroups_nothing_is_made(jail):
    jail.start()
    for mount in set(cgroup_mounts().values()):
        assert not (mount / jail.probe.name / jail.id).exists()


def test_root_as_the_user(jail):
    jail.start(uid="0", gid="0")
    assert jail.status("Uid") == ["0"] * 4
    assert int(jail.status("CapEff")[0], 16) != 0


def test_a_second_run_over_the_leavings_of_a_hostile_first(jail, tmp_path):
    """The jailed user owned the root: what it left there must lead the next run nowhere."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    jail.chroot.mkdir(parents=True)
    (jail.chroot / jail.probe.name).symlink_to(victim)
    (jail.chroot / f"{jail.probe.name}.pid").symlink_to(victim)
    (jail.chroot / "dev").mkdir()
    (jail.chroot / "dev/kvm").symlink_to(victim)
    jail.start()
    assert victim.read_text() == "untouched" and victim.lstat().st_uid == 0
    assert not (jail.chroot / jail.probe.name).is_symlink()
    assert stat.S_ISCHR((jail.chroot / "dev/kvm").lstat().st_mode)


def test_a_planted_directory_link_is_refused(jail, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    jail.chroot.mkdir(parents=True)
    (jail.chroot / "dev").symlink_to(tmp_path / "elsewhere")
    jail.refused()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("identifier", ["", "a/b", "..", "a" * 65, "a_b", "a b", "ä"])
def test_bad_ids(jail, identifier):
    jail.refused(id=identifier)
    assert not (jail.base / jail.probe.name).exists()


@pytest.mark.parametrize("missing", ["id", "exec_file", "uid", "gid"])
def test_missing_flags(jail, missing):
    assert missing.replace("_", "-") in jail.refused(**{missing: None})


@pytest.mark.parametrize("flag,value", [("uid", "-1"), ("uid", "nobody"), ("uid", "4294967296"), ("gid", "1x"), ("gid", "")])
def test_bad_numbers(jail, flag, value):
    jail.refused(**{flag: value})


@pytest.mark.parametrize("option", [
    ("--cgroup", "pids.max"), ("--cgroup", "=1"), ("--cgroup", "../pids.max=1"), ("--cgroup", "pidsmax=1"), ("--cgroup", "nothing.max=1"),
    ("--cgroup-version", "3"), ("--resource-limit", "cpu=1"), ("--resource-limit", "no-file"), ("--resource-limit", "no-file=x"),
    ("--parent-cgroup", "/a"), ("--parent-cgroup", "a/../../b"), ("--netns", "/nowhere"), ("--netns", "/etc/passwd"), ("--wrong",), ("word",)])
def test_bad_options(jail, option):
    jail.refused(*option)
    if option[0] not in ("--netns", "--cgroup"):
        assert not (jail.base / jail.probe.name).exists(), "refused before anything was made"


def test_bad_value_of_a_cgroup_file(jail):
    assert "pids.max" in jail.refused("--cgroup", "pids.max=lots", "--parent-cgroup", jail.parent)


def test_exec_file_must_be_a_file(jail, tmp_path):
    jail.refused(exec_file=str(tmp_path / "firecracker-missing"))
    (tmp_path / "firecracker-folder").mkdir()
    jail.refused(exec_file=str(tmp_path / "firecracker-folder"))
    os.mkfifo(tmp_path / "firecracker-fifo")
    jail.refused(exec_file=str(tmp_path / "firecracker-fifo"))


def test_chroot_base_must_be_there(jail, tmp_path):
    jail.refused(chroot_base_dir=str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    jail.refused(chroot_base_dir=str(tmp_path / "file"))


def test_what_cannot_be_executed_is_told_in_every_mode(jail, tmp_path):
    broken = tmp_path / "firecracker-broken"
    broken.write_text("this is no program")
    for options in ((), ("--daemonize",), ("--new-pid-ns",), ("--daemonize", "--new-pid-ns")):
        assert jail.refused(*options, exec_file=str(broken)) != ""
        shutil.rmtree(jail.base / broken.name)


def test_help_and_version():
    for option, text in (("--help", "--chroot-base-dir"), ("--version", "ailer")):
        done = subprocess.run([jailer_binary(), option], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0 and text in done.stdout
