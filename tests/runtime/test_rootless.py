"""Containers of an ordinary user: no rights on the host, his own id alone or (newuidmap) a range of others."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from support.runtime import is_ours

USER = 65534


@pytest.fixture
def user_runtime(runtime, bundle):
    """Runs the runtime as nobody, from a copy that nobody may read."""
    home = runtime.folder / "home"
    home.mkdir()
    binary = shutil.copy(runtime.binary, home / "runtime")
    for path in (home, bundle.path, *bundle.rootfs.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    os.chown(bundle.rootfs, USER, USER)
    root = home / "state"

    def command(*arguments, check=False, **keywords):
        done = subprocess.run([binary, "--root", root, *map(str, arguments)], text=True, capture_output=True, timeout=60, user=USER,
                              group=USER, extra_groups=[], cwd=bundle.path, env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(home)},
                              stdin=subprocess.DEVNULL, **keywords)
        assert not check or done.returncode == 0, done
        return done

    return command


def make_rootless(bundle, user_runtime):
    user_runtime("spec", "--rootless", check=True)
    bundle.config = json.loads((bundle.path / "config.json").read_text())
    bundle.process["terminal"] = False
    bundle.config["root"]["readonly"] = False
    bundle.config["root"]["path"] = str(bundle.rootfs)


def test_run(user_runtime, bundle):
    make_rootless(bundle, user_runtime)
    bundle.script("id -u; cat /proc/self/uid_map; touch /tmp/file && ls -ln /tmp; echo x > /dev/null; hostname; exit 3").write()
    done = user_runtime("run", "one")
    assert done.returncode == 3, done
    assert done.stdout.splitlines()[0] == "0" and done.stdout.split()[1:4] == ["0", str(USER), "1"]
    assert os.stat(bundle.rootfs / "tmp/file").st_uid == USER


def test_life_cycle(user_runtime, bundle):
    make_rootless(bundle, user_runtime)
    # The streams of the container are the caller's: closed, so that nobody waits for them.
    bundle.script("exec sleep 1000 < /dev/null > /dev/null 2>&1").write()
    try:
        user_runtime("run", "-d", "one", check=True)
        assert json.loads(user_runtime("state", "one", check=True).stdout)["status"] == "running"
        assert [entry["id"] for entry in json.loads(user_runtime("list", "-f", "json", check=True).stdout)] == ["one"]
        done = user_runtime("exec", "one", "sh", "-c", "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; exit 6")
        assert done.returncode == 6, done
        identity, own, first = done.stdout.split()
        assert identity == "0" and own == first != os.readlink("/proc/self/ns/user")
        user_runtime("kill", "one", "KILL", check=True)
    finally:
        user_runtime("delete", "-f", "one", check=True)


def test_limits_without_a_cgroup_are_refused(user_runtime, bundle):
    """A limit that was asked for and cannot be set is an error: the container would run without it."""
    make_rootless(bundle, user_runtime)
    bundle.linux["resources"] = {"pids": {"limit": 10}}
    bundle.write()
    done = user_runtime("run", "one")
    if done.returncode == 0:
        pytest.skip("this user may make cgroups")
    if is_ours():
        assert "delegated" in done.stderr


def test_delegated_cgroup(user_runtime, bundle):
    base = pathlib.Path("/sys/fs/cgroup")
    roots = [base] if (base / "cgroup.controllers").exists() else [path for path in base.iterdir() if (path / "cgroup.procs").exists()]
    name = f"wt-user-{os.getpid()}"
    for root in roots:
        (root / name).mkdir()
        os.chown(root / name, USER, USER)
        for file in ("cgroup.procs", "tasks", "cgroup.subtree_control", "cpuset.cpus", "cpuset.mems"):
            if (root / name / file).exists():
                os.chown(root / name / file, USER, USER)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (root / name / file).exists() and not (root / "cgroup.controllers").exists():
                (root / name / file).write_text((root / file).read_text())
    try:
        make_rootless(bundle, user_runtime)
        bundle.linux["cgroupsPath"] = f"/{name}/one"
        bundle.linux["resources"] = {"pids": {"limit": 25}}
        bundle.script("cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true").write()
        done = user_runtime("run", "one")
        if base in roots:
            pytest.skip("on v2 a process moves only below the cgroup it is in: tested with systemd's delegation in the testbed")
        assert done.returncode == 0, done
        assert done.stdout.split() == ["25"]
    finally:
        for root in roots:
            if (root / name / "one").exists():
                (root / name / "one").rmdir()
            (root / name).rmdir()


def test_range_of_ids(user_runtime, bundle):
    """More than his own id a user maps by newuidmap and newgidmap, as far as /etc/subuid lets him."""
    if shutil.which("newuidmap") is None:
        pytest.skip("newuidmap (package uidmap) is not installed")
    files = {path: path.read_text() if path.exists() else None for path in (pathlib.Path("/etc/subuid"), pathlib.Path("/etc/subgid"))}
    try:
        for path, before in files.items():
            path.write_text((before or "") + f"nobody:700000:65536\n")
        make_rootless(bundle, user_runtime)
        bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": USER, "size": 1},
                                                                     {"containerID": 1, "hostID": 700000, "size": 65536}]
        bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [10]}
        bundle.script("id; cat /proc/self/uid_map").write()
        done = user_runtime("run", "one")
        assert done.returncode == 0 and "uid=1000(bob) gid=1000(bob) groups=10(wheel)" in done.stdout, done
        bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 10}]
        bundle.write()
        done = user_runtime("run", "two")
        assert done.returncode != 0 and done.stderr  # not his to map
    finally:
        for path, before in files.items():
            path.write_text(before) if before is not None else path.unlink()


def test_terminal_hooks_and_binds(user_runtime, bundle):
    make_rootless(bundle, user_runtime)
    told = bundle.path / "told"
    source = bundle.path / "source"
    source.mkdir()
    (source / "file").write_text("bound\n")
    os.chown(source, USER, USER)
    bundle.mount("/mnt", source, "rbind", "ro")
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {told}"]}]}
    bundle.script("cat /mnt/file; touch /mnt/x 2>&1 || echo refused").write()
    done = user_runtime("run", "one")
    assert done.returncode == 0 and done.stdout.splitlines()[0] == "bound" and "refused" in done.stdout, done
    assert json.loads(told.read_text())["id"] == "one"
