"""The testbed's own counting and archives; no machine is booted here."""

import pathlib
import struct
import subprocess
import sys

import pytest

from testbed import direct, image, report, suites

SUITE = suites.Suite("one", "host", "true")
JUNIT = """<testsuites><testsuite><testcase classname="a" name="good"/><testcase classname="a" name="bad"><failure message="x"/></testcase>
<testcase classname="a" name="left"><skipped message="no means"/></testcase></testsuite></testsuites>"""


def result(tmp_path, *, xml: str | None = None, output: str = "") -> pathlib.Path:
    folder = tmp_path / "left"
    folder.mkdir()
    (folder / "output").write_text(output)
    if xml is not None:
        (folder / "pytest.xml").write_text(xml)
    return folder


def test_cases_are_counted(tmp_path, capsys):
    outcome = report.Report(tmp_path / "results")
    outcome.add(SUITE, result(tmp_path, xml=JUNIT, output="what it said"), {"status": 1, "seconds": 1}, "")
    assert (outcome.passed, outcome.failed, outcome.skips) == (1, 1, ["testbed one: no means"])
    assert outcome.finish() == 1
    shown = capsys.readouterr().out
    assert "what it said" in shown and shown.splitlines()[-1] == "1 passed, 1 failed, 1 skipped"
    assert (tmp_path / "results/host-one/testbed-pytest.xml").exists()


@pytest.mark.parametrize("state,passed,failed", [
    ({"status": 0, "seconds": 1}, 1, 0), ({"status": 3, "seconds": 1}, 0, 1), ({"status": "timeout", "seconds": 9}, 0, 1), (None, 0, 1)])
def test_a_suite_without_cases_is_one(tmp_path, state, passed, failed):
    outcome = report.Report(tmp_path / "results")
    outcome.add(SUITE, result(tmp_path), state, "the machine ended first")
    assert (outcome.passed, outcome.failed) == (passed, failed)
    assert outcome.finish() == (1 if failed else 0)


def test_a_crash_after_good_cases_is_a_failure(tmp_path):
    outcome = report.Report(tmp_path / "results")
    good = '<testsuite><testcase classname="a" name="good"/></testsuite>'
    outcome.add(SUITE, result(tmp_path, xml=good), {"status": 139, "seconds": 1}, "")
    assert (outcome.passed, outcome.failed) == (1, 1)


def test_half_a_file_is_no_pass(tmp_path):
    outcome = report.Report(tmp_path / "results")
    outcome.add(SUITE, result(tmp_path, xml=JUNIT[:60]), {"status": "timeout", "seconds": 1}, "")
    assert (outcome.passed, outcome.failed) == (0, 1)


def test_the_projects_sum_sees_them(tmp_path):
    outcome = report.Report(tmp_path / "results")
    outcome.add(SUITE, result(tmp_path, xml=JUNIT), {"status": 1, "seconds": 1}, "")
    outcome.excluded(suites.Suite("long", "host", "true", everyday=False, excluded="hours"))
    outcome.machine_failed("kvm", [suites.Suite("guests", "kvm", "true")], "no QEMU")
    assert outcome.finish() == 2
    script = pathlib.Path(__file__).resolve().parents[2] / "scripts/lib/count-results"
    done = subprocess.run([sys.executable, str(script), str(tmp_path / "results")], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "1 passed, 2 failed, 2 skipped"


def test_suites_are_well_formed():
    names = [suite.name for suite in suites.SUITES]
    assert len(names) == len(set(names))
    for suite in suites.SUITES:
        assert suite.profile in suites.PROFILES
        assert suite.everyday or suite.excluded, f"{suite.name} does not say why it is left out"
    for profile in ("kvm", "kvm-devices"):
        everyday = sum(suite.timeout for suite in suites.SUITES if suite.everyday and suite.profile == profile)
        assert everyday <= 900, "the limits of a machine's everyday suites are over a quarter of an hour"
    # Each file of tests with guests is in a suite.
    listed = " ".join(suite.command for suite in suites.SUITES)
    for path in (pathlib.Path(__file__).parents[1] / "vmm" / "guests").glob("test_*.py"):
        assert f"tests/vmm/guests/{path.name}" in listed, path.name


def test_archive_is_what_cpio_reads(tmp_path):
    data = image.cpio([("dir", 0o040755, b"", (0, 0)), ("dir/file", 0o100644, b"hello", (0, 0)), ("link", 0o120777, b"dir/file", (0, 0))])
    assert len(data) % 4 == 0 and data.startswith(b"070701") and b"TRAILER!!!" in data
    done = subprocess.run(["/bin/busybox", "cpio", "-idm"], input=data, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dir/file").read_text() == "hello" and (tmp_path / "link").readlink() == pathlib.Path("dir/file")


def test_modules_come_after_what_they_need(tmp_path):
    base = tmp_path / "lib/modules/6.1"
    base.mkdir(parents=True)
    (base / "modules.dep").write_text("k/a.ko: k/b.ko k/c.ko\nk/b.ko: k/c.ko\nk/c.ko:\nk/d.ko:\n")
    assert [path.name for path in image.with_dependencies(tmp_path, ("a", "d"))] == ["c.ko", "b.ko", "a.ko", "d.ko"]
    with pytest.raises(RuntimeError):
        image.with_dependencies(tmp_path, ("nothing",))


def test_hardware_is_told_apart():
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    if " vmx" not in flags and " svm" not in flags:
        assert not direct.hardware_kvm(), "a paravirtual /dev/kvm is not enough"


def test_stand_in_kernel_is_elf():
    from support.microvm import payload
    for end in ("reset", "halt", "spin", "triple"):
        data = payload(end, "text\n")
        assert data.startswith(b"\x7fELF\x02") and data.endswith(b"text\n\0")
        entry, program = struct.unpack_from("<QQ", data, 24)
        assert (entry, program) == (0x100000, 64)


def test_suites_run_directly_where_hardware_allows(tmp_path):
    """The way taken on hosts with hardware virtualization, here with suites that need none."""
    outcome = report.Report(tmp_path / "results")
    group = [suites.Suite("good", "kvm", "test -x $WHERRY_GUESTS/firecracker-probe && test -d $RESULTS && test -f tests/testbed/run"),
             suites.Suite("bad", "kvm", "exit 3"), suites.Suite("slow", "kvm", "sleep 60", timeout=1),
             suites.Suite("unbuilt", "kvm", "true", binaries=("no-such-program",))]
    direct.run(group, outcome)
    assert (outcome.passed, outcome.failed, len(outcome.skips)) == (1, 2, 1)
