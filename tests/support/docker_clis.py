"""Stock docker CLIs to drive the daemon with: the one that is installed, and Debian's, fetched once and only unpacked."""

import functools
import glob
import os
import pathlib
import shutil
import subprocess

import pytest

CACHE = pathlib.Path(os.environ.get("WHERRY_TEST_CACHE", "/var/cache/wherry-tests"))


@functools.cache
def installed() -> str | None:
    return shutil.which("docker")


@functools.cache
def version(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()


@functools.cache
def debians() -> str | None:
    """Debian 12's docker 20.10, without installing the package (that would start its daemon). None when it can't be fetched."""
    program = installed()
    if program and " 20.10" in version(program):
        return program
    for there in ("/usr/bin/docker", str(CACHE / "docker.io/usr/bin/docker")):
        if os.access(there, os.X_OK) and " 20.10" in version(there):
            return there
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", "-qq", "docker.io"], cwd=CACHE, check=True, capture_output=True, timeout=180)
        package = max(glob.glob(str(CACHE / "docker.io_*.deb")), key=os.path.getmtime)
        subprocess.run(["dpkg-deb", "-x", package, str(CACHE / "docker.io")], check=True, capture_output=True, timeout=120)
        os.unlink(package)
    except (subprocess.SubprocessError, OSError, ValueError):
        return None
    program = str(CACHE / "docker.io/usr/bin/docker")
    return program if os.access(program, os.X_OK) else None


def cli(which: str) -> str:
    """"installed" or "debian": a program, or a counted skip."""
    program = installed() if which == "installed" else debians()
    if program is None:
        pytest.skip("no docker CLI is installed" if which == "installed" else "Debian's docker.io could not be fetched")
    if which == "debian" and program == installed():
        pytest.skip("the installed docker CLI is Debian's")
    return program
