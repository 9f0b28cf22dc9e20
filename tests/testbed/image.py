"""The machine's root file system and kernel, made from Debian packages once and kept in a cache.

Everything comes out of one mmdebstrap: the root file system with what suites use (Python, pytest, network tools, QEMU
as the peer of benchmarks, systemd), Debian's cloud kernel and its modules. The cache is keyed by this file's recipe.
"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

SUITE = "bookworm"
KERNEL_META = "linux-image-cloud-amd64"
PACKAGES = (
    # what suites are written in and what they look with
    "python3", "python3-pytest", "iproute2", "iputils-ping", "nftables", "iptables", "ethtool", "curl", "jq", "strace", "procps",
    "psmisc", "e2fsprogs", "erofs-utils", "busybox-static", "binutils", "ca-certificates", "kmod", "socat", "iperf3", "fio",
    # the third profile's process 1, and what checkpoints need
    "systemd", "systemd-sysv", "dbus", "criu",
    # whose shims suites are
    "containerd",
    # the peer of the microVM benchmarks
    "qemu-system-x86",
    # shared libraries of wherryd and the unit tests
    "libfmt9", "libspdlog1.10", "libsqlite3-0", "libssl3", "libarchive13", "libisal2", "libseccomp2", "libmnl0",
    "libnftables1", "liburing2", "libmaxminddb0",
)
# Modules the initial file system loads before it can see the root disk; the kernel has ext4 built in.
BOOT_MODULES = ("virtio_pci", "virtio_blk")
RECIPE = 3  # bump when make() changes what it makes


def cache_root() -> pathlib.Path:
    chosen = os.environ.get("WHERRY_CACHE")
    base = pathlib.Path(chosen) if chosen else pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "wherry"
    base.mkdir(parents=True, exist_ok=True)
    return base


class Image:
    """A made image: `root` (ext4, never written: machines use a throw-away layer), `kernel`, `modules` (folder)."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.root = folder / "root.ext4"
        self.kernel = folder / "vmlinuz"
        self.config = folder / "kernel.config"
        self.modules = folder / "modules"
        self.busybox = folder / "busybox"

    @property
    def kernel_version(self) -> str:
        return next((self.modules / "lib/modules").iterdir()).name


def recipe_digest() -> str:
    text = repr((SUITE, KERNEL_META, PACKAGES, RECIPE))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def get() -> Image:
    """The image, made first when the cache has none (about two minutes)."""
    parent = cache_root() / "testbed"
    parent.mkdir(parents=True, exist_ok=True)
    wanted = parent / recipe_digest()
    with open(parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (wanted / "complete").exists():
            print(f"testbed: making the image of the machine in {wanted} (once, about two minutes)", flush=True)
            for old in parent.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
            make(wanted)
    return Image(wanted)


def make(folder: pathlib.Path) -> None:
    if os.geteuid() != 0:
        raise RuntimeError("the testbed's image is made by root (mmdebstrap, device nodes)")
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="wherry-testbed-") as temporary:
        tree = pathlib.Path(temporary) / "root"
        # The kernel's package is unpacked, not installed: its scripts would build an initial file system of their own.
        hook = (f'set -e; cd "$1"; mkdir kernel; cd kernel; package=$(apt-cache depends {KERNEL_META} | '
                "awk '/Depends: linux-image/{print $2; exit}'); apt-get -qq download \"$package\"; "
                'dpkg-deb -x linux-image*.deb .; rm linux-image*.deb; cp -a lib/modules "$1/usr/lib/"; '
                'chroot "$1" depmod "$(ls lib/modules)"')
        done = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
             '--dpkgopt=path-exclude=/usr/share/doc/*', '--dpkgopt=path-exclude=/usr/share/locale/*',
             '--dpkgopt=path-exclude=/usr/share/man/*', f"--customize-hook={hook}", SUITE, str(tree)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1500)
        if done.returncode != 0:
            raise RuntimeError(f"mmdebstrap: status {done.returncode}\n{done.stderr[-3000:]}")
        image = Image(folder)
        version = next((tree / "kernel/lib/modules").iterdir()).name
        shutil.copy(tree / f"kernel/boot/vmlinuz-{version}", image.kernel)
        shutil.copy(tree / f"kernel/boot/config-{version}", image.config)
        os.chmod(image.kernel, 0o644)
        image.modules.mkdir()
        shutil.copytree(tree / "usr/lib/modules", image.modules / "lib/modules")
        shutil.copy(tree / "bin/busybox", image.busybox)
        shutil.rmtree(tree / "kernel")
        (tree / "wherry").mkdir()
        (tree / "results").mkdir()
        (tree / "etc/hostname").write_text("testbed\n")
        (tree / "etc/hosts").write_text("127.0.0.1 localhost testbed\n::1 localhost\n")
        (tree / "etc/fstab").write_text("")
        (tree / "etc/resolv.conf").unlink(missing_ok=True)
        (tree / "etc/resolv.conf").write_text("")
        install_service(tree)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=1", "-m", "0",
                        "-d", str(tree), str(image.root), "6G"], check=True, capture_output=True)
    (folder / "complete").write_text("")


def install_service(tree: pathlib.Path) -> None:
    """Under systemd the agent is a service of the only target that is started."""
    unit = tree / "etc/systemd/system"
    (unit / "wherry-testbed.service").write_text(
        "[Unit]\nDescription=suites of the testbed\nAfter=dbus.service systemd-journald.service\nRequires=dbus.service\n"
        "[Service]\nType=oneshot\nExecStart=/bin/sh /wherry/tests/testbed/prepare.sh systemd\n"
        "StandardInput=null\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\nTimeoutStartSec=infinity\n")
    (unit / "wherry-testbed.target").write_text(
        "[Unit]\nDescription=testbed\nRequires=basic.target wherry-testbed.service\nAfter=basic.target\nAllowIsolate=yes\n")
    (tree / "etc/machine-id").write_text("b5a2c3f6e1d94b7c8a90a1b2c3d4e5f6\n")


# Process 1 of the initial file system: finds the root disk, then becomes the root's process 1.
BOOT_SCRIPT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in /modules/*.ko; do /bin/busybox insmod "$module" || echo "testbed: $module was refused"; done
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vdb ] && break; /bin/busybox sleep 0.2; done
/bin/busybox mount -t ext4 /dev/vda /root || { echo "testbed: no root disk"; /bin/busybox reboot -f; }
/bin/busybox mount -t ext4 -o ro /dev/vdb /root/wherry || { echo "testbed: no project disk"; /bin/busybox reboot -f; }
/bin/busybox mount --move /dev /root/dev
profile=kvm
for word in $(/bin/busybox cat /proc/cmdline); do case "$word" in testbed.profile=*) profile=${word#*=} ;; esac; done
/bin/busybox umount /proc
if [ "$profile" = systemd ]; then exec /bin/busybox switch_root /root /lib/systemd/systemd --unit=wherry-testbed.target; fi
exec /bin/busybox switch_root /root /bin/sh /wherry/tests/testbed/prepare.sh "$profile"
"""


def with_dependencies(modules: pathlib.Path, names: tuple[str, ...]) -> list[pathlib.Path]:
    """The files of the named modules and of what they need, in the order they can be loaded in (modules.dep)."""
    base = next((modules / "lib/modules").iterdir())
    needs: dict[str, list[str]] = {}
    for line in (base / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[name] = rest.split()
    by_name = {pathlib.Path(path).stem: path for path in needs}
    order: list[str] = []

    def add(path: str) -> None:
        for other in needs[path]:
            if other not in order:
                add(other)
        if path not in order:
            order.append(path)

    for name in names:
        if name not in by_name:
            raise RuntimeError(f"kernel module {name} is not in {base}")
        add(by_name[name])
    return [base / path for path in order]


def boot_initrd(image: Image) -> bytes:
    """The machine's own initial file system: few files and uncompressed, for emulation unpacks slowly."""
    entries: list[tuple[str, int, bytes, tuple[int, int]]] = [
        ("bin", 0o040755, b"", (0, 0)), ("dev", 0o040755, b"", (0, 0)), ("modules", 0o040755, b"", (0, 0)),
        ("dev/console", 0o020600, b"", (5, 1)), ("bin/busybox", 0o100755, image.busybox.read_bytes(), (0, 0)),
        ("init", 0o100755, BOOT_SCRIPT.encode(), (0, 0))]
    for index, path in enumerate(with_dependencies(image.modules, BOOT_MODULES)):
        entries.append((f"modules/{index:02}-{path.name}", 0o100644, path.read_bytes(), (0, 0)))
    return cpio(entries)


def cpio(entries: list[tuple[str, int, bytes, tuple[int, int]]]) -> bytes:
    """An archive in the "newc" format (kernel, driver-api/early-userspace/buffer-format) of (name, mode, data, device)."""
    out = bytearray()

    def add(number: int, name: str, mode: int, data: bytes, device: tuple[int, int]) -> None:
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, device[0], device[1], len(encoded), 0)
        out.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        out.extend(b"\0" * (-len(out) % 4))
        out.extend(data)
        out.extend(b"\0" * (-len(out) % 4))

    for number, (name, mode, data, device) in enumerate(entries, 1):
        add(number, name, mode, data, device)
    add(0, "TRAILER!!!", 0, b"", (0, 0))
    return bytes(out)
