"""Attacks on the runtime itself: every one is really tried."""

import array
import ctypes
import hashlib
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import threading
import time

import pytest

from support.runtime import is_ours

ours_only = pytest.mark.skipif(not is_ours(), reason="looks inside our runtime")


def digest(path) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


class Exchange:
    """Swaps two names in a folder as fast as it can, from a thread: the other side of a race."""

    def __init__(self, folder: pathlib.Path, first: str, second: str):
        self.arguments = (os.open(folder, os.O_PATH), first.encode(), second.encode())
        self.library = ctypes.CDLL(None, use_errno=True)
        self.running = True
        self.swaps = 0
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        folder, first, second = self.arguments
        while self.running:
            self.library.renameat2(folder, first, folder, second, 2)  # RENAME_EXCHANGE
            self.swaps += 1

    def close(self):
        self.running = False
        self.thread.join()
        os.close(self.arguments[0])


# -- CVE-2019-5736: the runtime's own binary is overwritten through /proc/<pid>/exe

@ours_only
def test_cve_2019_5736_own_binary_cannot_be_written(runtime, bundle):
    # A copy, so that a success hurts nobody.
    copy = runtime.folder / "runtime-copy"
    shutil.copy(runtime.binary, copy)
    runtime.binary = str(copy)
    before = digest(copy)
    # The attacker is root inside and may even look into other processes.
    for name in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][name].append("CAP_SYS_PTRACE")
    # A script whose interpreter is the runtime itself: what the kernel runs is the host's file, with the container's rights.
    (bundle.rootfs / "evil").write_text("#!/proc/self/exe state\n")
    (bundle.rootfs / "evil").chmod(0o755)
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.start(bundle)
    # It hangs on its error message: the pipe is full.
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 65536)
    os.set_blocking(write_end, True)
    victim = subprocess.Popen([runtime.binary, "--root", runtime.root, "exec", identifier, "/evil"], stderr=write_end,
                              stdin=subprocess.DEVNULL)
    os.close(write_end)
    attack = """
        i=0; while [ $i -lt 300 ]; do i=$((i+1))
          for p in /proc/[0-9]*; do
            [ "$(tr '\\0' ' ' < $p/cmdline | cut -c1-14)" = "/proc/self/exe" ] || continue
            exec 3< $p/exe || continue
            echo found
            echo direct > $p/exe
            while [ -d $p/fd ] && [ -n "$(ls $p/fd)" ]; do sleep 0.05; done
            echo later > /proc/self/fd/3
            cat /proc/self/fd/3 | wc -c
            exit 0
          done
          sleep 0.05
        done
        exit 9"""
    attacker = subprocess.Popen([runtime.binary, "--root", runtime.root, "exec", identifier, "sh", "-c", attack], text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert attacker.stdout.readline() == "found\n"
    time.sleep(0.2)
    while os.read(read_end, 65536):  # until the victim has ended
        pass
    os.close(read_end)
    victim.wait(20)
    output, errors = attacker.communicate(timeout=30)
    assert attacker.returncode == 0, errors
    assert int(output.split()[-1]) == copy.stat().st_size  # it was the real binary
    assert errors.count("Read-only file system") >= 1 and "later" not in output, errors
    assert digest(copy) == before


@ours_only
def test_cve_2019_5736_binary_is_behind_a_readonly_mount(runtime, bundle):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.create(bundle)
    pid = runtime.state(identifier)["pid"]
    with pytest.raises(OSError) as caught:
        os.open(f"/proc/{pid}/exe", os.O_WRONLY)
    assert caught.value.errno in (30, 26)
    assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
    assert digest(f"/proc/{pid}/exe") == digest(runtime.binary)


@ours_only
def test_waiting_process_cannot_be_looked_into(runtime, bundle):
    """Not dumpable: its files in /proc belong to root and ptrace is refused without CAP_SYS_PTRACE."""
    identifier = runtime.create(bundle)
    pid = runtime.state(identifier)["pid"]
    done = subprocess.run(["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-all", "readlink", f"/proc/{pid}/exe"],
                          capture_output=True, text=True)
    if "setpriv" in done.stderr and "not found" in done.stderr:
        pytest.skip("setpriv is missing")
    assert done.returncode != 0


# -- CVE-2016-9962, CVE-2024-21626: descriptors of the host that leak into the container

def test_cve_2016_9962_exec_shows_no_descriptor(runtime, bundle):
    for name in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][name].append("CAP_SYS_PTRACE")
    bundle.script("""while :; do for f in /proc/[0-9]*/fd/*; do
        case $f in /proc/1/*|/proc/self/*) continue;; esac
        t=$(readlink $f) && echo "$t"; done; done > /tmp/seen 2>/dev/null""")
    identifier = runtime.start(bundle)
    for _ in range(60):
        assert runtime.exec(identifier, "true").returncode == 0
    runtime.command("kill", identifier, "KILL", check=True)
    seen = {line for line in (bundle.rootfs / "tmp/seen").read_text().splitlines()
            if not line.startswith(("pipe:", "socket:", "/dev/null", "anon_inode:", "/tmp/seen", "/proc/"))}
    # Folders and files of the host would show as paths.
    assert not {line for line in seen if line.startswith("/") and line != "/"}, seen
    assert "/" not in seen, "a root folder was open while the process could be seen"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_descriptors_of_the_runtime(runtime, bundle, closed):
    """What the runtime opens must not become the container's standard streams."""
    bundle.script("for n in 0 1 2; do readlink /proc/self/fd/$n; done > /tmp/links; ls /proc/self/fd/0/ /proc/self/fd/1/ > /tmp/list")
    bundle.write()
    subprocess.run(["sh", "-c", f'exec "$0" "$@" {closed}', runtime.binary, "--root", str(runtime.root), "run", "-b",
                    str(bundle.path), runtime.new_id()], stdin=subprocess.DEVNULL, capture_output=True)
    if is_ours():
        links = (bundle.rootfs / "tmp/links").read_text().split()
        # The second line is the file it is written to.
        assert len(links) == 3 and all(link.startswith(("/dev/null", "pipe:", "/tmp/links")) for link in links), links
    if (bundle.rootfs / "tmp/list").exists():
        assert not (bundle.rootfs / "tmp/list").read_text()


@ours_only
def test_waiting_process_has_no_folder_open(runtime, bundle):
    identifier = runtime.create(bundle)
    pid = runtime.state(identifier)["pid"]
    for entry in os.listdir(f"/proc/{pid}/fd"):
        mode = os.stat(f"/proc/{pid}/fd/{entry}").st_mode
        assert not stat.S_ISDIR(mode), os.readlink(f"/proc/{pid}/fd/{entry}")
    assert os.readlink(f"/proc/{pid}/cwd") == "/" and len(os.listdir(f"/proc/{pid}/fd")) <= 5


@pytest.mark.parametrize("way", ["cwd", "symlink", "program"])
def test_cve_2024_21626_working_directory(runtime, bundle, way):
    """A descriptor of the host's root is open in the runtime itself; the container asks for it by number."""
    folder = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    marker = runtime.folder / "marker"
    marker.write_text("host")
    leaked = []
    try:
        for number in range(3, 14):
            attempt = runtime.bundle()
            if way == "cwd":
                attempt.process["cwd"] = f"/proc/self/fd/{number}"
                attempt.script(f"cat .{marker}")
            elif way == "symlink":
                (attempt.rootfs / "link").symlink_to(f"/proc/self/fd/{number}")
                attempt.process["cwd"] = "/link"
                attempt.script(f"cat .{marker}")
            else:
                attempt.process["args"] = [f"/proc/self/fd/{number}/bin/cat", f"/proc/self/fd/{number}{marker}"]
            attempt.write()
            done = subprocess.run([runtime.binary, "--root", runtime.root, "run", "-b", attempt.path, runtime.new_id()],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, close_fds=False,
                                  preexec_fn=lambda: [os.dup2(folder, n) for n in (7, 9)])
            if "host" == done.stdout:
                leaked.append(number)
    finally:
        os.close(folder)
    assert not leaked, f"descriptors {leaked} reach the host"


def test_cve_2024_21626_exec(runtime, bundle):
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.start(bundle)
    marker = runtime.folder / "marker"
    marker.write_text("host")
    for number in range(3, 14):
        done = runtime.command("exec", "--cwd", f"/proc/self/fd/{number}", identifier, "cat", f".{marker}")
        assert done.stdout != "host"


# -- CVE-2021-30465: the destination of a mount is exchanged for a symlink while it is mounted

def test_cve_2021_30465_symlink_exchange(runtime):
    volume = runtime.folder / "volume"
    (volume / "a").mkdir(parents=True)
    os.symlink("/", volume / "b")
    target = runtime.folder / "outside"
    target.mkdir()
    os.symlink(str(runtime.folder), volume / "c")
    exchange = Exchange(volume, "a", "b")
    before = open("/proc/self/mountinfo").read()
    escaped = started = 0
    try:
        for _ in range(40):
            bundle = runtime.bundle()
            (bundle.rootfs / "inside").mkdir()
            bundle.mount("/volume", volume, "rbind")
            # With the exchange: "/volume/a" is a folder, or a link to "/": of the container, never of the host.
            bundle.mount("/volume/a/inside", "tmpfs", "size=1m", kind="tmpfs")
            done = runtime.run(bundle.script("ls /; [ -e /work -o -e /boot ] && echo ESCAPED; true"))
            started += done.returncode == 0
            escaped += "ESCAPED" in done.stdout
            assert open("/proc/self/mountinfo").read() == before
    finally:
        exchange.close()
    assert escaped == 0 and exchange.swaps > 1000
    assert not list(target.iterdir())


# -- CVE-2024-45310: folders are made on the host while a destination is created

def test_cve_2024_45310_no_folder_outside(runtime):
    volume = runtime.folder / "volume"
    (volume / "real").mkdir(parents=True)
    outside = runtime.folder / "outside"
    outside.mkdir()
    os.symlink(str(outside), volume / "link")
    exchange = Exchange(volume, "real", "link")
    try:
        for attempt in range(40):
            bundle = runtime.bundle()
            bundle.mount("/volume", volume, "rbind")
            bundle.mount(f"/volume/real/made-{attempt}/deeper", "tmpfs", "size=1m", kind="tmpfs")
            runtime.run(bundle)
    finally:
        exchange.close()
    assert not list(outside.iterdir()), "made outside of the root"


def test_cve_2024_45310_links_of_the_image(runtime, bundle):
    outside = runtime.folder / "outside"
    outside.mkdir()
    source = runtime.folder / "source"
    source.mkdir()
    (bundle.rootfs / "up").symlink_to("../../../../../../../../.." + str(outside))
    (bundle.rootfs / "absolute").symlink_to(outside)
    bundle.mount("/up/made", source, "bind")
    bundle.mount("/absolute/made", source, "bind")
    bundle.mount("/../../../../../../.." + str(outside) + "/made", source, "bind")
    runtime.run(bundle)
    assert not list(outside.iterdir())


# -- CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2025-52881: a /proc that is not procfs

def test_cve_2019_16884_volume_over_proc(runtime, bundle):
    fake = runtime.folder / "fake"
    (fake / "self/attr").mkdir(parents=True)
    bundle.mount("/proc", fake, "rbind")
    assert runtime.run(bundle).returncode != 0
    for inside in ("/proc/self/attr", "/proc/sys", "/proc/1", "/proc/sys/kernel/core_pattern"):
        other = runtime.bundle()
        other.mount(inside, fake, "rbind")
        assert runtime.run(other).returncode != 0, inside


@pytest.mark.parametrize("target", ["/evil", "evil", "/proc2"])
def test_cve_2019_19921_proc_is_a_symlink(runtime, bundle, target):
    (bundle.rootfs / "proc").rmdir()
    (bundle.rootfs / target.strip("/")).mkdir()
    (bundle.rootfs / "proc").symlink_to(target)
    done = runtime.run(bundle)
    assert done.returncode != 0 and "ordinary directory" in done.stderr


def test_cve_2023_27561_proc_through_a_shared_volume(runtime):
    """/proc exchanged for a link to a folder while the container is made: masks must be over the real procfs, or nothing."""
    for _ in range(25):
        bundle = runtime.bundle()
        (bundle.rootfs / "fake").symlink_to("/evil")
        (bundle.rootfs / "evil").mkdir()
        for name in ("sys", "bus"):
            (bundle.rootfs / "evil" / name).mkdir()
        exchange = Exchange(bundle.rootfs, "proc", "fake")
        try:
            done = runtime.run(bundle.script("grep -q 'proc /proc proc' /proc/mounts && "
                                             "(echo x > /proc/sys/kernel/hostname) 2>/dev/null && echo WRITABLE; true"))
        finally:
            exchange.close()
        assert "WRITABLE" not in done.stdout


def test_cve_2025_52881_sysctl_goes_to_procfs_only(runtime, bundle):
    victim = runtime.folder / "victim"
    victim.write_text("untouched")
    bundle.linux["sysctl"] = {"kernel.shmmax": "4711"}
    bundle.mount("/proc/sys/kernel/shmmax", victim, "bind")
    assert runtime.run(bundle).returncode != 0
    assert victim.read_text() == "untouched"
    for name in ("../../../../etc/passwd", "kernel/../../../self/oom_score_adj", "/etc/x"):
        other = runtime.bundle()
        other.linux["sysctl"] = {name: "1"}
        assert runtime.run(other).returncode != 0


# -- CVE-2025-31133: /dev/null is exchanged before it masks

@pytest.mark.parametrize("null", ["symlink", "missing", "file"])
def test_cve_2025_31133_mask_with_a_false_null(runtime, bundle, null):
    devices = runtime.folder / "dev"
    (devices / "pts").mkdir(parents=True)
    if null == "symlink":
        (devices / "null").symlink_to("/proc/sys/kernel/core_pattern")
    elif null == "file":
        (devices / "null").write_text("host data")
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    bundle.mount("/dev", devices, "rbind")
    bundle.linux["maskedPaths"] = ["/proc/keys", "/proc/timer_list"]
    bundle.linux["readonlyPaths"] = []
    done = runtime.run(bundle.script("stat -c '%F %t:%T' /proc/keys; cat /proc/keys"))
    if done.returncode == 0:
        assert done.stdout == "character special file 1:3\n"


# -- CVE-2025-52565: /dev/console is exchanged before the terminal is bound over it

@pytest.mark.parametrize("place", ["console", "pts"])
def test_cve_2025_52565_console_by_descriptor(runtime, bundle, place):
    victim = "/proc/sys/kernel/core_pattern"
    before = pathlib.Path(victim).read_text()
    devices = runtime.folder / "dev"
    (devices / "pts").mkdir(parents=True)
    bundle.config["mounts"] = [m for m in bundle.config["mounts"]
                               if m["destination"] not in ("/dev", "/dev/shm", "/dev/mqueue")
                               and not (place == "pts" and m["destination"] == "/dev/pts")]
    bundle.config["mounts"].insert(1, {"destination": "/dev", "type": "bind", "source": str(devices), "options": ["rbind"]})
    if place == "console":
        (devices / "console").symlink_to(victim)
    else:
        for number in range(4):
            (devices / "pts" / str(number)).symlink_to(victim)
        (devices / "ptmx").symlink_to(victim)
    bundle.process["terminal"] = True
    bundle.script("stat -L -c '%t:%T' /dev/console; echo attacked > /dev/console; sleep 0.2")
    bundle.write()
    listener = socket.socket(socket.AF_UNIX)
    path = str(bundle.path / "sock")
    listener.bind(path)
    listener.listen()
    listener.settimeout(10)
    identifier = runtime.new_id()
    done = runtime.command("create", "-b", bundle.path, "--console-socket", path, identifier)
    if done.returncode == 0:
        connection, _ = listener.accept()
        _, ancillary, _, _ = connection.recvmsg(256, socket.CMSG_SPACE(4))
        fds = array.array("i")
        fds.frombytes(ancillary[0][2])
        # What came is a terminal's master, whatever lay around in /dev.
        assert os.fstat(fds[0]).st_rdev == os.makedev(5, 2)
        runtime.command("start", identifier)
        time.sleep(0.3)
        os.close(fds[0])
    assert pathlib.Path(victim).read_text() == before
    assert place != "console" or done.returncode != 0 or not is_ours()


# -- CVE-2019-14271: a library of the image is loaded into a process with the host's rights

@ours_only
def test_cve_2019_14271_no_library_of_the_image(runtime, bundle):
    output = subprocess.run(["readelf", "-dl", runtime.binary], capture_output=True, text=True).stdout
    assert "NEEDED" not in output and "INTERP" not in output
    for folder in ("lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu"):
        (bundle.rootfs / folder).mkdir(parents=True, exist_ok=True)
        for name in ("libnss_files.so.2", "libnss_compat.so.2", "libc.so.6", "libresolv.so.2"):
            (bundle.rootfs / folder / name).write_bytes(b"\x7fELF evil")
    (bundle.rootfs / "etc/nsswitch.conf").write_text("passwd: evil files\ngroup: evil files\n")
    bundle.process["user"] = {"uid": 0, "gid": 0, "username": "bob:wheel"}
    identifier = runtime.create(bundle)
    pid = runtime.state(identifier)["pid"]
    mapped = {line.split(None, 5)[5].strip() for line in open(f"/proc/{pid}/maps") if len(line.split(None, 5)) == 6}
    assert not [path for path in mapped if ".so" in path], mapped
    status = open(f"/proc/{pid}/status").read()
    assert "Uid:\t1000\t1000" in status and "Gid:\t10\t10" in status


# -- CVE-2022-24769: inheritable capabilities

def test_cve_2022_24769_nothing_inheritable(runtime, bundle):
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    output = runtime.output(bundle, "grep CapInh /proc/self/status")
    assert output.split()[1] == "0" * 16
    bundle.process["args"] = ["/bin/sleep", "1000"]
    identifier = runtime.start(bundle)
    assert runtime.exec(identifier, "grep", "CapInh", "/proc/self/status").stdout.split()[1] == "0" * 16


# -- and plain walks: the old root is gone

def test_no_way_up(runtime, bundle):
    marker = runtime.folder / "marker"
    marker.write_text("host")
    for name in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][name] += ["CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"]
    up = "../" * 20
    script = f"cat {up}{marker}; cd /proc/1/root && cat {up}{marker}; cd /proc/1/cwd && cat .{marker}; umount -l / 2>/dev/null; cat {marker}; true"
    done = runtime.run(bundle.script(script))
    assert "host" not in done.stdout


def test_processes_of_the_host_are_not_seen(runtime, bundle):
    output = runtime.output(bundle, "ls /proc; kill -0 2; cat /proc/1/cmdline").split()
    assert {int(word) for word in output if word.isdigit()} <= set(range(1, 12))
