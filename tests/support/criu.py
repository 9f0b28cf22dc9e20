"""CRIU for tests: whether a real one works here, and a shim that sees another one, or none, whatever is installed."""

import os
import pathlib
import shutil
import subprocess

import pytest

# Where it is looked for, the first one first.
PLACES = ("/usr/sbin/criu", "/usr/local/sbin/criu", "/usr/bin/criu", "/usr/local/bin/criu")


def works() -> bool:
    path = shutil.which("criu", path=":".join(os.path.dirname(place) for place in PLACES))
    return path is not None and subprocess.run([path, "check"], capture_output=True).returncode == 0


def command_with(folder: pathlib.Path, name: str, binary: str, program: pathlib.Path | None) -> str:
    """A command that runs `binary` where `program` stands at CRIU's place (None: where there is none), in a mount namespace of its own."""
    installed = [place for place in PLACES if os.path.exists(place)]
    steps = [f"mount --bind {program or '/dev/null'} {place}" for place in installed]  # /dev/null can't be executed
    if program and not installed:
        if not os.path.isdir("/usr/local/sbin"):
            pytest.skip("no /usr/local/sbin to put a stand-in for CRIU at")
        steps = ["mount -t tmpfs none /usr/local/sbin", f"cp {program} /usr/local/sbin/criu"]
    script = folder / name
    script.write_text("#!/bin/sh\nexec unshare -m sh -c '" + " && ".join([*steps, f'exec {binary} "$@"']) + """' sh "$@"\n""")
    script.chmod(0o755)
    return str(script)
