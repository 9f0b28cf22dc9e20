"""Root, mounts, devices, masks: what a container sees of files."""

import os
import stat
import subprocess

import pytest

from support.runtime import MASKED, READONLY, is_ours


def test_default_mounts(runtime, bundle):
    mounts = {}
    for line in runtime.output(bundle, "cat /proc/self/mountinfo").splitlines():
        fields = line.split()
        separator = fields.index("-")
        mounts[fields[4]] = (fields[separator + 1], fields[5].split(","), fields[6:separator])
    for path, kind in (("/proc", "proc"), ("/dev", "tmpfs"), ("/dev/pts", "devpts"), ("/sys", "sysfs"),
                       ("/dev/mqueue", "mqueue"), ("/dev/shm", "tmpfs")):
        assert mounts[path][0] == kind
        assert "nosuid" in mounts[path][1]
    assert "ro" in mounts["/sys"][1] and "noexec" in mounts["/proc"][1]
    # Nothing of the host's is left.
    assert not [path for path in mounts if path.startswith(("/tmp", "/home", "/work", "/usr"))]


def test_nothing_is_mounted_in_the_host(runtime, bundle):
    before = open("/proc/self/mountinfo").read()
    bundle.process["args"] = ["/bin/sleep", "1000"]
    runtime.start(bundle)
    assert open("/proc/self/mountinfo").read() == before


def test_readonly_root(runtime, bundle):
    bundle.config["root"]["readonly"] = True
    output = runtime.output(bundle, "touch /file 2>&1; touch /dev/file && echo dev; touch /tmp/x 2>&1; mkdir /newdir 2>&1; true")
    assert output.count("Read-only file system") == 3 and "dev\n" in output


def test_root_is_writable_by_default(runtime, bundle):
    runtime.output(bundle, "echo x > /file")
    assert (bundle.rootfs / "file").read_text() == "x\n"


def test_devices(runtime, bundle):
    bundle.linux["devices"] = [{"path": "/dev/sub/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o640, "uid": 5,
                                "gid": 6},
                               {"path": "/dev/pipe", "type": "p", "fileMode": 0o600}]
    output = runtime.output(bundle, "for d in null zero full random urandom tty sub/kmsg pipe; do stat -c '%n %F %t:%T %a %u:%g' "
                                    "/dev/$d; done; for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; "
                                    "echo x > /dev/null; head -c 4 /dev/zero | wc -c; echo x > /dev/full 2>&1 || echo full")
    for expected in ("/dev/null character special file 1:3 666", "/dev/zero character special file 1:5 666",
                     "/dev/full character special file 1:7 666", "/dev/random character special file 1:8 666",
                     "/dev/urandom character special file 1:9 666", "/dev/tty character special file 5:0 666",
                     "/dev/sub/kmsg character special file 1:b 640 5:6", "/dev/pipe fifo", "pts/ptmx", "/proc/self/fd\n", "full"):
        assert expected in output


def test_device_nodes_not_allowed_do_not_open(runtime, bundle):
    output = runtime.output(bundle, "mknod /dev/kmem c 1 2; mknod /dev/loopy b 7 0; cat /dev/loopy 2>&1; true")
    assert "Operation not permitted" in output or "ermission denied" in output


def test_masked_and_readonly_paths(runtime, bundle):
    script = "; ".join(f"if [ -d {p} ]; then ls -A {p}; elif [ -e {p} ]; then cat {p}; fi" for p in MASKED)
    assert runtime.output(bundle, script) == ""
    script = "; ".join(f"[ -e {p} ] && {{ touch {p} 2>&1; echo x > {p} 2>&1; }}" for p in READONLY) + "; echo 1 > /proc/sys/kernel/hostname; true"
    bundle.script(script + "; hostname")
    done = runtime.run(bundle)
    assert done.stdout.endswith("box\n") and "Read-only file system" in done.stdout + done.stderr


def test_masking_what_is_not_there_is_fine(runtime, bundle):
    bundle.linux["maskedPaths"] += ["/proc/nosuchthing", "/nowhere/at/all", "/etc/passwd/x"]
    bundle.linux["readonlyPaths"] += ["/nowhere/at/all"]
    assert runtime.output(bundle, "echo ok") == "ok\n"


def test_own_masks(runtime, bundle):
    (bundle.rootfs / "secret").write_text("secret")
    (bundle.rootfs / "folder").mkdir()
    (bundle.rootfs / "folder/file").write_text("secret")
    (bundle.rootfs / "fixed").mkdir()
    bundle.linux["maskedPaths"] += ["/secret", "/folder"]
    bundle.linux["readonlyPaths"] += ["/fixed"]
    output = runtime.output(bundle, "cat /secret; ls /folder; touch /folder/x 2>&1; touch /fixed/x 2>&1; true")
    assert "secret" not in output and output.count("Read-only file system") == 2


def test_bind_mounts(runtime, bundle):
    host = runtime.folder / "host"
    (host / "sub").mkdir(parents=True)
    (host / "file").write_text("from the host\n")
    bundle.mount("/volume", host, "rbind", "rw")
    bundle.mount("/fixed", host, "rbind", "ro")
    bundle.mount("/etc/one-file", host / "file", "bind", "ro")
    bundle.mount("/deep/er/still", host, "bind")
    output = runtime.output(bundle, "cat /volume/file /etc/one-file /deep/er/still/file; echo x > /volume/new; "
                                    "touch /fixed/new2 2>&1; echo x > /etc/one-file; true")
    assert output.count("from the host") == 3 and "Read-only file system" in output
    assert (host / "new").exists() and not (host / "new2").exists() and (host / "file").read_text() == "from the host\n"


def test_bind_of_something_missing(runtime, bundle):
    bundle.mount("/volume", runtime.folder / "nothere", "rbind")
    done = runtime.run(bundle)
    assert done.returncode != 0 and "nothere" in done.stderr


def test_recursive_readonly(runtime, bundle):
    host = runtime.folder / "host"
    (host / "below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", host / "below"], check=True)
    try:
        bundle.mount("/plain", host, "rbind", "ro").mount("/all", host, "rbind", "rro")
        output = runtime.output(bundle, "touch /plain/below/x && echo plain-writable; touch /all/below/y 2>&1; true")
    finally:
        subprocess.run(["umount", host / "below"], check=True)
    assert "Read-only file system" in output
    assert "plain-writable" in output


@pytest.fixture
def nested(runtime):
    """A folder of the host with another mount below it."""
    host = runtime.folder / "nested"
    (host / "below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", host / "below"], check=True)
    yield host
    subprocess.run(["umount", host / "below"], check=True)


@pytest.mark.parametrize("option, word, at_both", [
    ("rnosuid", "nosuid", True), ("rnodev", "nodev", True), ("rnoexec", "noexec", True), ("rnoatime", "noatime", True),
    ("rnodiratime", "nodiratime", True), ("rnosymfollow", "nosymfollow", True), ("rro", "ro", True),
    ("nosuid", "nosuid", False), ("noexec", "noexec", False), ("noatime", "noatime", False), ("ro", "ro", False),
])
def test_options_of_one_mount_and_of_all_below(runtime, bundle, nested, option, word, at_both):
    bundle.mount("/t", nested, "rbind", option)
    options = {line.split()[4]: line.split()[5].split(",") for line in runtime.output(bundle, "cat /proc/self/mountinfo").splitlines()}
    assert word in options["/t"] and (word in options["/t/below"]) is at_both


def test_recursive_options_are_taken_back(runtime, bundle, nested):
    subprocess.run(["mount", "-o", "remount,nosuid,noexec,ro", nested / "below"], check=True)
    bundle.mount("/t", nested, "rbind", "rsuid", "rexec", "rrw")
    options = {line.split()[4]: line.split()[5].split(",") for line in runtime.output(bundle, "cat /proc/self/mountinfo").splitlines()}
    assert not {"nosuid", "noexec"} & set(options["/t/below"]) and "rw" in options["/t/below"]


@pytest.mark.parametrize("option, at_top, below", [
    ("rshared", "shared:", "shared:"), ("rslave", None, "master:"), ("rprivate", None, None), ("private", None, "master:"),
])
def test_propagation_of_a_mount(runtime, bundle, nested, option, at_top, below):
    subprocess.run(["mount", "--make-shared", nested / "below"], check=True)
    bundle.mount("/t", nested, "rbind", option)
    fields = {line.split()[4]: line.split(" - ")[0] for line in runtime.output(bundle, "cat /proc/self/mountinfo").splitlines()}

    def holds(line: str, word: str | None) -> bool:
        return word in line if word else "shared:" not in line and "master:" not in line

    if option != "rslave":  # what the folder itself was before depends on the host
        assert holds(fields["/t"], at_top)
    assert holds(fields["/t/below"], below)


def test_mount_options(runtime, bundle):
    bundle.mount("/t", "tmpfs", "size=1m", "mode=1770", "noexec", "nosuid", "nodev", kind="tmpfs")
    output = runtime.output(bundle, "grep ' /t ' /proc/mounts; stat -c %a /t; head -c 2000000 /dev/zero > /t/x 2>/dev/null || echo full; stat -c size:%s /t/x")
    assert "noexec" in output and "size=1024k" in output and "1770" in output and "full\nsize:1048576" in output


@pytest.mark.skipif(not is_ours(), reason="the others differ in words")
def test_bad_mount_options(runtime, bundle):
    bundle.mount("/t", "tmpfs", "size=notanumber", kind="tmpfs")
    done = runtime.run(bundle)
    assert done.returncode != 0 and "size=notanumber" in done.stderr
    other = runtime.bundle().mount("/t", "x", kind="nosuchfs")
    assert "nosuchfs" in runtime.run(other).stderr


@pytest.mark.skipif(not is_ours(), reason="others differ in what they let pass")
@pytest.mark.parametrize("kind, options, words", [
    ("bind", ["rbind", "size=64k"], "size"),
    ("bind", ["rbind", "nonsense"], "nonsense"),
    ("bind", ["bind", "tmpcopyup"], "tmpcopyup"),
    ("tmpfs", ["remount"], "remount"),
])
def test_options_without_effect_are_refused(runtime, bundle, kind, options, words):
    done = runtime.run(bundle.mount("/mnt", "/tmp", *options, kind=kind))
    assert done.returncode != 0 and words in done.stderr


def test_tmpcopyup(runtime, bundle):
    (bundle.rootfs / "data/sub").mkdir(parents=True)
    (bundle.rootfs / "data/sub/file").write_text("kept\n")
    (bundle.rootfs / "data/link").symlink_to("sub/file")
    os.chown(bundle.rootfs / "data/sub/file", 1000, 1000)
    bundle.mount("/data", "tmpfs", "tmpcopyup", kind="tmpfs")
    output = runtime.output(bundle, "cat /data/link; stat -c %u /data/sub/file; echo new > /data/sub/file; grep -c ' /data ' /proc/mounts")
    assert output == "kept\n1000\n1\n"
    assert (bundle.rootfs / "data/sub/file").read_text() == "kept\n"


def test_propagation_from_the_host(runtime, bundle):
    """rslave: what the host mounts later appears; private: it does not."""
    host = runtime.folder / "shared"
    host.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", host], check=True)
    subprocess.run(["mount", "--make-shared", host], check=True)
    try:
        (host / "later").mkdir()
        bundle.linux["rootfsPropagation"] = "rslave"
        bundle.mount("/slave", host, "rbind", "rslave").mount("/private", host, "rbind", "rprivate")
        bundle.process["args"] = ["/bin/sleep", "1000"]
        identifier = runtime.start(bundle)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", host / "later"], check=True)
        (host / "later/file").write_text("x")
        assert runtime.exec(identifier, "ls", "/slave/later").stdout == "file\n"
        assert runtime.exec(identifier, "ls", "/private/later").stdout == ""
        runtime.delete(identifier)
        subprocess.run(["umount", host / "later"], check=True)
    finally:
        subprocess.run(["umount", host], check=True)


def test_shared_root_reaches_the_host(runtime, bundle):
    """rshared binds propagate mounts made inside; the container's root itself never shows in the host."""
    host = runtime.folder / "shared"
    host.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", host], check=True)
    subprocess.run(["mount", "--make-shared", host], check=True)
    before = open("/proc/self/mountinfo").read().count("\n")
    try:
        (host / "made").mkdir()
        bundle.linux["rootfsPropagation"] = "rshared"
        bundle.mount("/volume", host, "rbind", "rshared")
        for name in ("bounding", "effective", "permitted"):
            bundle.process["capabilities"][name].append("CAP_SYS_ADMIN")
        runtime.output(bundle, "mount -t tmpfs tmpfs /volume/made && echo x > /volume/made/file")
        assert (host / "made/file").exists()
        assert open("/proc/self/mountinfo").read().count("\n") == before + 1
        subprocess.run(["umount", host / "made"], check=True)
    finally:
        subprocess.run(["umount", "-R", host], check=True)


@pytest.mark.skipif(not is_ours(), reason="runtimes differ in what the mount shows")
def test_cgroup_mount_is_the_containers_own(runtime, bundle):
    output = runtime.output(bundle, "cat /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null; "
                                    "touch /sys/fs/cgroup/x 2>&1; mkdir /sys/fs/cgroup/pids/x 2>&1; true")
    assert len([line for line in output.split("\n") if line.isdigit()]) >= 1
    assert "Read-only file system" in output


def test_working_directory_is_made(runtime, bundle):
    bundle.process["cwd"] = "/not/there/yet"
    assert runtime.output(bundle, "pwd") == "/not/there/yet\n"


def test_file_as_destination_for_folder(runtime, bundle):
    host = runtime.folder / "host"
    host.mkdir()
    bundle.mount("/etc/passwd", host, "bind")
    assert runtime.run(bundle).returncode != 0


def test_symlinked_destination_stays_inside(runtime, bundle):
    """/var/run -> /run as images have it, and dangling ones."""
    host = runtime.folder / "host"
    host.mkdir()
    (host / "file").write_text("x")
    (bundle.rootfs / "var/run").symlink_to("/run")
    (bundle.rootfs / "dangling").symlink_to("/made/on/demand")
    bundle.mount("/var/run/volume", host, "bind")
    if is_ours():
        bundle.mount("/dangling/volume", host, "bind")
    assert runtime.output(bundle, "cat /run/volume/file") == "x"
    assert stat.S_ISDIR((bundle.rootfs / "run/volume").stat().st_mode)
    if is_ours():
        assert (bundle.rootfs / "made/on/demand/volume").is_dir() and not os.path.exists("/made/on/demand")


def test_idmapped_bind(runtime, bundle):
    host = runtime.folder / "host"
    host.mkdir()
    (host / "file").write_text("x")
    os.chown(host / "file", 5000, 6000)
    bundle.config["mounts"].append({
        "destination": "/mapped", "type": "bind", "source": str(host), "options": ["bind", "idmap"],
        "uidMappings": [{"containerID": 5000, "hostID": 1000, "size": 1}, {"containerID": 0, "hostID": 0, "size": 1}],
        "gidMappings": [{"containerID": 6000, "hostID": 2000, "size": 1}, {"containerID": 0, "hostID": 0, "size": 1}]})
    done = runtime.run(bundle.script("stat -c %u:%g /mapped/file"))
    if not is_ours() and done.returncode != 0:
        pytest.skip("this runtime has no idmapped mounts")
    assert done.stdout == "1000:2000\n", done.stderr


@pytest.mark.skipif(not is_ours(), reason="others have it since later versions, or not at all")
@pytest.mark.parametrize("option, below", [("idmap", "0:0"), ("ridmap", "1000:2000")])
def test_idmapped_trees(runtime, bundle, nested, option, below):
    if option == "ridmap" and tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 3):
        pytest.skip("a tmpfs, which lies below here, has idmapped mounts since Linux 6.3")
    maps = lambda inside: [{"containerID": 0, "hostID": inside, "size": 1}]
    bundle.config["mounts"].append({"destination": "/mapped", "type": "bind", "source": str(nested), "options": ["rbind", option],
                                    "uidMappings": maps(1000), "gidMappings": maps(2000)})
    assert runtime.output(bundle, "stat -c %u:%g /mapped /mapped/below").split() == ["1000:2000", below]
