"""Counts what suites leave: JUnit files, or a status alone."""

import pathlib
import shutil
import tempfile
import threading
import xml.etree.ElementTree as tree

from testbed.suites import Suite


class Report:
    def __init__(self, folder: pathlib.Path | None, *, verbose: bool = False):
        self.temporary = None if folder else tempfile.TemporaryDirectory(prefix="wherry-testbed-results-")
        self.folder = folder or pathlib.Path(self.temporary.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.verbose = verbose
        self.passed = self.failed = 0
        self.skips: list[str] = []
        self.machine_broken = False
        self.lock = threading.RLock()  # machines run side by side

    def write_case(self, suite: Suite, *, skipped: str | None = None, failed: str | None = None) -> None:
        """A JUnit file of one case, for whoever adds up all suites of the project."""
        case = tree.Element("testcase", classname=f"testbed.{suite.profile}", name=suite.name)
        if skipped is not None:
            tree.SubElement(case, "skipped", message=skipped)
        if failed is not None:
            tree.SubElement(case, "failure", message=failed)
        top = tree.Element("testsuite", name="testbed")
        top.append(case)
        tree.ElementTree(top).write(self.folder / f"testbed-{suite.profile}-{suite.name}.xml")

    def skipped(self, suite: Suite, reason: str) -> None:
        reason = f"testbed {suite.name}: {reason}"
        with self.lock:
            self.skips.append(reason)
            self.write_case(suite, skipped=reason)

    def excluded(self, suite: Suite) -> None:
        print(f"testbed: excluded {suite.name}: {suite.excluded or 'long'} (runs with --all)", flush=True)
        self.skipped(suite, f"only with --all: {suite.excluded or 'long'}")

    def machine_failed(self, profile: str, group: list[Suite], reason: str) -> None:
        with self.lock:
            self.machine_broken = True
            for suite in group:
                self.fail(suite, f"no machine for {profile}: {reason}")

    def fail(self, suite: Suite, reason: str) -> None:
        self.failed += 1
        print(f"FAILED {suite.name}: {reason.splitlines()[0] if reason else ''}", flush=True)
        self.write_case(suite, failed=reason)

    def add(self, suite: Suite, folder: pathlib.Path, state: dict | None, reason: str) -> None:
        """`folder` is what the suite left ($RESULTS and "output"), `state` its status and seconds; none: `reason` says why."""
        with self.lock:
            self._add(suite, folder, state, reason)

    def _add(self, suite: Suite, folder: pathlib.Path, state: dict | None, reason: str) -> None:
        output = folder / "output"
        text = output.read_text(errors="replace") if output.exists() else ""
        good = state is not None and state["status"] in (0, 5)  # pytest's 5: nothing collected
        if self.verbose or not good:
            print("\n".join("    " + line for line in text.splitlines()[-400 if self.verbose else -120:]), flush=True)
        if folder.exists():
            target = self.folder / f"{suite.profile}-{suite.name}"
            shutil.copytree(folder, target, dirs_exist_ok=True)
            for junit in list(target.glob("*.xml")):
                junit.rename(target / f"testbed-{junit.name}")
        counted = failures = 0
        for junit in sorted(folder.glob("*.xml")):
            try:
                cases = list(tree.parse(junit).iter("testcase"))
            except tree.ParseError:
                continue
            for case in cases:
                counted += 1
                skip = case.find("skipped")
                if case.find("failure") is not None or case.find("error") is not None:
                    failures += 1
                    print(f"FAILED {suite.name}: {case.get('classname')}.{case.get('name')}", flush=True)
                elif skip is not None or case.get("status") == "notrun":
                    message = ((skip.get("message") or "no reason given") if skip is not None else "disabled").strip().splitlines()[-1]
                    self.skips.append(f"testbed {suite.name}: {message}")
                else:
                    self.passed += 1
        self.failed += failures
        if state is None:
            self.fail(suite, reason)
        elif state["status"] == "timeout":
            self.fail(suite, f"took over {suite.limit()} s")
        elif not good and failures == 0:
            self.fail(suite, f"status {state['status']}")
        elif counted == 0:
            self.passed += 1
            self.write_case(suite)
        if state is not None:
            print(f"  {suite.name}: {counted or 1} cases, {failures} failures, {state['seconds']} s", flush=True)

    def finish(self) -> int:
        reasons: dict[str, int] = {}
        for reason in self.skips:
            reasons[reason] = reasons.get(reason, 0) + 1
        for reason, count in sorted(reasons.items()):
            print(f"skipped {count}: {reason}")
        print(f"{self.passed} passed, {self.failed} failed, {len(self.skips)} skipped", flush=True)
        if self.temporary:
            self.temporary.cleanup()
        if self.machine_broken:
            return 2
        return 1 if self.failed else 0
