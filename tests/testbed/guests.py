"""What tests/vmm boots, as a folder `guests`: Debian's kernel with an initial file system of modules, the small kernel
where it is built (guest/build-kernel), and the agent (tests/vmm/guest/init.cpp) that is their process 1.

    vmlinuz-debian  initrd-debian    the stock cloud kernel (bzImage)
    vmlinux-small   bzImage-small    initrd-small
"""

import os
import pathlib
import shutil
import subprocess

from testbed import image
from testbed.suites import Suite

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What a guest under wherry-vmm can meet; the kernel has ext4 and the serial port built in.
DEBIAN_MODULES = ("virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net", "vmw_vsock_virtio_transport", "virtio_balloon",
                  "virtio-rng", "virtio_pmem", "nd_pmem", "virtio_mem", "virtiofs", "overlay", "erofs")
APPLETS = ("sh cat echo ls mount umount mkdir dd sync sleep ip ping wget nc grep head tail wc md5sum sha256sum od free ps kill dmesg "
           "mknod stat blkdiscard hexdump test true false date nproc uname chmod rm cp mv cut tr sed seq nslookup arping").split()


def small_kernel() -> pathlib.Path | None:
    """vmlinux of the cache; built under --all. bzImage lies beside it."""
    script = ROOT / "guest/build-kernel"
    options = [] if os.environ.get("WHERRY_TEST_LONG") == "1" else ["--cached"]
    done = subprocess.run([str(script), *options], stdout=subprocess.PIPE, text=True)
    return pathlib.Path(done.stdout.strip()) if done.returncode == 0 else None


def initrd(agent: bytes, suite: bytes, busybox: bytes, modules: list[pathlib.Path]) -> bytes:
    entries: list[tuple[str, int, bytes, tuple[int, int]]] = [
        ("bin", 0o040755, b"", (0, 0)), ("dev", 0o040755, b"", (0, 0)), ("dev/console", 0o020600, b"", (5, 1)),
        ("bin/busybox", 0o100755, busybox, (0, 0)), ("init", 0o100755, agent, (0, 0)), ("bin/guest", 0o120777, b"/init", (0, 0)),
        ("bin/folder-suite", 0o100755, suite, (0, 0))]
    entries += [(f"bin/{name}", 0o120777, b"busybox", (0, 0)) for name in APPLETS]
    if modules:
        entries.append(("modules", 0o040755, b"", (0, 0)))
        entries += [(f"modules/{index:02}.ko", 0o100644, path.read_bytes(), (0, 0)) for index, path in enumerate(modules)]
    return image.cpio(entries)


def copy_into(stage: pathlib.Path, group: list[Suite]) -> None:
    """Puts the folder `guests` into the project's disk: small programs always, kernels for suites that boot."""
    folder = stage / "guests"
    folder.mkdir()
    subprocess.run([str(ROOT / "tests/vmm/guest/build"), str(folder)], check=True)
    if not any(suite.guests for suite in group):
        return
    made = image.get()
    agent, folder_suite, busybox = (folder / "init").read_bytes(), (folder / "folder-suite").read_bytes(), made.busybox.read_bytes()
    shutil.copy(made.kernel, folder / "vmlinuz-debian")
    (folder / "initrd-debian").write_bytes(initrd(agent, folder_suite, busybox, image.with_dependencies(made.modules, DEBIAN_MODULES)))
    (folder / "initrd-small").write_bytes(initrd(agent, folder_suite, busybox, []))
    small = small_kernel()
    if small is not None:
        shutil.copy(small, folder / "vmlinux-small")
        shutil.copy(small.parent / "bzImage", folder / "bzImage-small")


def main() -> None:
    """Into a folder of one's own, for trying by hand: python3 -m testbed.guests FOLDER (from tests/)."""
    import sys
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    copy_into(target, [Suite("by-hand", "kvm", "", guests=True)])


if __name__ == "__main__":
    main()
