"""`cmake --install` puts everything in place, also below DESTDIR, and what is installed works from there."""

import os
import shutil
import subprocess

import pytest

from support.binaries import folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    build = folder().parent
    if not (build / "cmake_install.cmake").exists():
        pytest.skip(f"{build} is not a build folder")
    wanted = ["wherry"]
    missing = [name for name in wanted if not (folder() / name).exists()]
    if missing:
        pytest.skip(f"not built: {missing}")
    target = tmp_path_factory.mktemp("destdir")
    result = subprocess.run(["cmake", "--install", str(build), "--prefix", "/usr"], env={**os.environ, "DESTDIR": str(target)}, capture_output=True, text=True)
    if result.returncode != 0 and "file INSTALL cannot find" in result.stderr:
        pytest.skip("not everything is built: " + result.stderr.strip().splitlines()[-1])
    assert result.returncode == 0, result.stderr
    return target / "usr"


def test_binaries_are_there_and_start(tree):
    assert (tree / "bin/wherry").exists()
    result = subprocess.run([str(tree / "bin/wherry"), "--version"], capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith("wherry version ")


def test_the_unit_delegates_and_leaves_containers_alone(tree):
    text = (tree / "lib/systemd/system/wherryd.service").read_text()
    lines = text.splitlines()
    assert "Delegate=yes" in lines and "KillMode=process" in lines and "ExecStart=/usr/bin/wherryd" in lines
    if shutil.which("systemd-analyze") and (tree / "bin/wherryd").exists():
        result = subprocess.run(["systemd-analyze", "verify", "--man=no", "--root", str(tree.parent), "wherryd.service"], capture_output=True, text=True)
        assert "wherryd.service" not in result.stderr or "Unknown" not in result.stderr, result.stderr


def test_manual_pages_are_well_formed(tree):
    pages = [tree / "share/man/man1/wherry.1", *sorted((tree / "share/man/man8").glob("*.8"))]
    assert (tree / "share/man/man8/wherryd.8") in pages
    for page in pages:
        text = page.read_text()
        assert text.startswith(".TH "), page
        if shutil.which("groff"):
            result = subprocess.run(["groff", "-man", "-ww", "-z", str(page)], capture_output=True, text=True)
            assert "warning" not in result.stderr, result.stderr


def test_completions_complete(tree):
    script = tree / "share/bash-completion/completions/wherry"
    program = tree / "bin/wherry"
    code = f'''PATH={program.parent}:$PATH; source {script}
    complete_line() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _wherry; echo "${{COMPREPLY[*]}}"; }}
    complete_line wherry ren; complete_line wherry container pr; complete_line wherry run --timi; complete_line wherry -H x lo'''
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines() == ["rename", "prune", "--timings", "load login logout logs"], result.stdout + result.stderr
    assert (tree / "share/zsh/vendor-completions/_wherry").read_text().startswith("#compdef wherry")
    assert "complete -c wherry" in (tree / "share/fish/vendor_completions.d/wherry.fish").read_text()
