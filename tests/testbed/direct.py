"""Suites on this host itself: where the processor virtualizes in hardware no machine is needed between."""

import os
import pathlib
import re
import subprocess
import tempfile
import time

from testbed.suites import Suite


def hardware_kvm() -> bool:
    """Whether guests run at full speed here: the processor's flag and a /dev/kvm that opens. A paravirtual KVM (no flag)
    interprets guests instruction by instruction: good for tiny payloads, useless for a kernel."""
    flags = re.search(r"^flags\s*:(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    if not flags or not {"vmx", "svm"} & set(flags[1].split()):
        return False
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def environment(root: str) -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if name in ("WHERRY_TEST_LONG", "WHERRY_TEST_ALL", "VMM", "JAILER")}
    return passed | {"WHERRY_SOURCE": root, "WHERRY_BIN": f"{root}/bin", "WHERRY_GUESTS": f"{root}/guests", "PYTHONDONTWRITEBYTECODE": "1"}


def run(group: list[Suite], outcome) -> None:
    from testbed import guests, machine
    root = machine.ROOT
    group = machine.split_by_binaries(group, outcome)
    with tempfile.TemporaryDirectory(prefix="wherry-testbed-direct-") as temporary:
        folder = pathlib.Path(temporary)
        guests.copy_into(folder, group)
        values = dict(os.environ) | environment(str(root)) | {
            "WHERRY_BIN": str(machine.binaries_folder()), "WHERRY_GUESTS": str(folder / "guests"), "WHERRY_TESTBED": "direct"}
        for suite in group:
            results = folder / suite.name
            results.mkdir()
            started = time.monotonic()
            with open(results / "output", "wb") as output:
                try:
                    status = subprocess.run(["/bin/bash", "-c", suite.command], cwd=root, stdin=subprocess.DEVNULL, stdout=output,
                                            stderr=subprocess.STDOUT, env=values | {"RESULTS": str(results)}, timeout=suite.limit()).returncode
                except subprocess.TimeoutExpired:
                    status = "timeout"
            outcome.add(suite, results, {"status": status, "seconds": round(time.monotonic() - started, 1)}, "")
