"""A machine of the testbed: QEMU in software emulation with nested virtualization, whose Linux runs the suites.

The emulated processor offers AMD's SVM, so that /dev/kvm inside is a real one whatever this host can do. Three disks:
the image (a throw-away layer above it), the project (tests and binaries, read-only) and a raw one that brings results back.
"""

import ctypes
import dataclasses
import io
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

from testbed import direct, guests, image, suites
from testbed.report import Report

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Only these parts of the tree travel; caches and build folders do not.
PARTS = ("tests", "scripts", "guest", "bench", "packaging")
RESULT_BYTES = 256 << 20


class MachineError(Exception):
    pass


def binaries_folder() -> pathlib.Path:
    from support import binaries
    return binaries.folder()


def split_by_binaries(group: list[suites.Suite], outcome: Report) -> list[suites.Suite]:
    """The suites whose binaries are built; the others become skips."""
    folder = binaries_folder()
    present = []
    for suite in group:
        missing = [name for name in suite.binaries if not find_binary(folder, name)]
        if missing:
            outcome.skipped(suite, f"{', '.join(missing)} is not built in {folder}")
        else:
            present.append(suite)
    return present


def find_binary(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    path = folder / name
    return path if path.exists() else None


def copy_project(stage: pathlib.Path, group: list[suites.Suite]) -> None:
    for part in PARTS:
        if (ROOT / part).exists():
            shutil.copytree(ROOT / part, stage / part, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"), symlinks=True)
    target = stage / "bin"
    target.mkdir()
    folder = binaries_folder()
    wanted = {name for suite in group for name in suite.binaries}
    for name in sorted(wanted):
        source = find_binary(folder, name)
        if source is not None:
            # Debug information would only be carried around.
            subprocess.run(["strip", "-g", "-o", str(target / name), str(source)], check=True)
    guests.copy_into(stage, group)


def make_disk(stage: pathlib.Path, path: pathlib.Path) -> None:
    size = sum(file.stat().st_size for file in stage.rglob("*") if file.is_file() and not file.is_symlink())
    megabytes = size // (1 << 20) * 5 // 4 + 32
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-m", "0", "-N", "8192", "-d", str(stage), str(path),
                    f"{megabytes}M"], check=True, capture_output=True)


def command_line(made: image.Image, folder: pathlib.Path, profile: str, *, icount: bool, memory: int) -> list[str]:
    if direct.hardware_kvm() and not icount:
        processor = ["-accel", "kvm", "-cpu", "host"]
    elif icount:
        processor = ["-accel", "tcg", "-cpu", "EPYC,+svm,+npt", "-icount", "shift=0,sleep=off"]
    else:
        # One processor: two have made this emulation panic.
        processor = ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "EPYC,+svm,+npt"]
    clock = ["-rtc", "base=2026-01-01,clock=vm"] if icount else ["-rtc", "base=utc"]
    append = f"console=ttyS0 panic=-1 mitigations=off quiet no_timer_check testbed.profile={profile}"
    command = ["qemu-system-x86_64", "-M", "q35", *processor, *clock, "-smp", "1", "-m", str(memory), "-nodefaults", "-no-user-config",
               "-nographic", "-serial", "stdio", "-no-reboot", "-kernel", str(made.kernel), "-initrd", str(folder / "initrd"),
               "-append", append]
    disks = ((made.root, "snapshot=on"), (folder / "project.ext4", "readonly=on"), (folder / "results", "snapshot=off"))
    for number, (path, mode) in enumerate(disks):
        command += ["-drive", f"if=none,id=disk{number},file={path},format=raw,cache=unsafe,{mode}",
                    "-device", f"virtio-blk-pci,drive=disk{number}"]
    return command


@dataclasses.dataclass
class Console:
    """What the machine printed; lines of the agent are shown as they come."""

    verbose: bool
    profile: str
    log: pathlib.Path
    started: float
    done: bool = False

    def follow(self, process: subprocess.Popen, deadline: float) -> str | None:
        """Until the machine ends; a reason when it had to be ended."""
        pending = b""
        with open(self.log, "wb") as file:
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    return "out of time"
                ready, _, _ = select.select([process.stdout], [], [], min(left, 1))
                if not ready:
                    if process.poll() is not None:
                        return None
                    continue
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    return None
                file.write(data)
                if self.verbose:
                    sys.stdout.buffer.write(data)
                    sys.stdout.flush()
                    continue
                file.flush()
                pending += data
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    text = line.decode(errors="replace").strip()
                    at = text.find("testbed: ")
                    if at >= 0:
                        print(f"  [{self.profile} {time.monotonic() - self.started:6.1f}] {text[at + 9:]}", flush=True)
                        self.done = self.done or text.endswith("testbed: done")


def end_with_parent() -> None:
    """In the child: a machine does not outlive whoever started it, however that ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()


def read_results(path: pathlib.Path, target: pathlib.Path) -> dict[str, dict]:
    """Unpacks what the agent wrote; nothing when it never did."""
    with open(path, "rb") as disk:
        if disk.read(512).strip(b"\0") == b"":
            return {}
        disk.seek(0)
        try:
            with tarfile.open(fileobj=io.BufferedReader(disk), mode="r|") as archive:
                archive.extractall(target, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(target)
        except tarfile.TarError:
            pass  # what was unpacked before the break counts
    states = target / "states.json"
    return {state["name"]: state for state in json.loads(states.read_text())} if states.exists() else {}


def run(profile: str, group: list[suites.Suite], outcome: Report, *, icount: bool = False, timeout: int = 900, memory: int = 2048) -> None:
    group = split_by_binaries(group, outcome)
    if not group:
        return
    if shutil.which("qemu-system-x86_64") is None:
        raise MachineError("qemu-system-x86_64 is not installed (scripts/lib/install-packages testbed)")
    try:
        made = image.get()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise MachineError(f"no image: {error}") from error
    with tempfile.TemporaryDirectory(prefix="wherry-testbed-") as temporary:
        folder = pathlib.Path(temporary)
        stage = folder / "stage"
        stage.mkdir()
        copy_project(stage, group)
        environment = direct.environment("/wherry") | {"WHERRY_TESTBED": profile, "WHERRY_ICOUNT": "1" if icount else "0"}
        plan = {"environment": environment, "source": str(ROOT),
                "suites": [{"name": suite.name, "command": suite.command, "timeout": suite.limit(), "verbose": outcome.verbose} for suite in group]}
        (stage / "plan.json").write_text(json.dumps(plan))
        make_disk(stage, folder / "project.ext4")
        shutil.rmtree(stage)
        (folder / "initrd").write_bytes(image.boot_initrd(made))
        with open(folder / "results", "wb") as file:
            file.truncate(RESULT_BYTES)
        started = time.monotonic()
        print(f"testbed: {profile}: a machine for {len(group)} suites", flush=True)
        with open(folder / "qemu.err", "wb") as errors:
            process = subprocess.Popen(command_line(made, folder, profile, icount=icount, memory=memory), stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=errors, preexec_fn=end_with_parent)
            console = Console(outcome.verbose, profile, outcome.folder / f"console-{profile}.log", started)
            try:
                reason = console.follow(process, started + timeout)
            finally:
                stop(process)
        unpacked = folder / "unpacked"
        unpacked.mkdir()
        states = read_results(folder / "results", unpacked)
        if not states and not console.done:
            tail = console.log.read_text(errors="replace")[-2000:]
            raise MachineError(f"{profile}: {reason or 'the machine ended'} before any suite did\n{tail}\n"
                               f"{(folder / 'qemu.err').read_text(errors='replace')[-500:]}")
        for suite in group:
            outcome.add(suite, unpacked / suite.name, states.get(suite.name), reason or "the machine ended first")
