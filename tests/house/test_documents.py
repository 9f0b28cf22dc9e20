"""What the documents name is there: links, files, decisions, and the flags that pages list."""
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("WHERRY_BIN", ROOT / "build/release/bin"))
OUTSIDE = {"build", ".git"}
PAGES = [page for page in sorted(ROOT.rglob("*.md")) if page.relative_to(ROOT).parts[0] not in OUTSIDE]

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
# A file or folder of the project in the text, from the root or from the page's folder; "*" and "{a,b}" stand for several.
NAMED = re.compile(r"(?<![\w./<>-])((?:apps|bench|cmake|docs|guest|packaging|scripts|src|tests)/[\w./*-]*(?:\{[\w,]+\})?[\w./*-]*[\w*])")
DECISION = re.compile(r"\bdecisions? (\d{4})")
DECISIONS = {name.name[:4] for name in (ROOT / "docs/decisions").glob("*.md")}


def anchors(page: pathlib.Path) -> set[str]:
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(page.read_text())}


def broken_links(page: pathlib.Path) -> list[str]:
    broken = []
    for link in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def alternatives(name: str) -> list[str]:
    group = re.search(r"\{([\w,]+)\}", name)
    return [name] if group is None else [name[: group.start()] + choice + name[group.end() :] for choice in group.group(1).split(",")]


def missing_files(page: pathlib.Path) -> list[str]:
    return [name for named in NAMED.findall(page.read_text()) for name in alternatives(named)
            if not any(any(folder.glob(name + end)) for folder in (ROOT, page.parent) for end in ("", "-*.md", ".*"))]


def test_links_lead_somewhere():
    assert len(PAGES) > 50
    broken = {str(page.relative_to(ROOT)): broken_links(page) for page in PAGES}
    assert not {page: links for page, links in broken.items() if links}


def test_files_that_are_named_are_there():
    missing = {str(page.relative_to(ROOT)): missing_files(page) for page in PAGES if page.parent.name != "decisions"}
    assert not {page: names for page, names in missing.items() if names}


def test_decisions_that_are_named_are_there():
    missing = {str(page.relative_to(ROOT)): set(DECISION.findall(page.read_text())) - DECISIONS for page in PAGES}
    assert not {page: numbers for page, numbers in missing.items() if numbers}


def test_every_page_is_reached_from_the_readme():
    text = "".join((ROOT / name).read_text() for name in ("README.md", "docs/architecture.md", "docs/vmm.md"))
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in text] == []


def output_of(program: str, *arguments: str) -> str:
    if not (BIN / program).exists():
        pytest.skip(f"{program} is not built")
    return subprocess.run([BIN / program, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("program", ["wherryd", "wherry-fs"])
def test_manual_pages_have_every_flag(program):
    page = (ROOT / "packaging/man" / f"{program}.8").read_text().replace("\\-", "-").replace("\\fR", "").replace("\\fB", "")
    in_page = set(re.findall(r"--[\w-]+", page.partition(".SH OPTIONS")[2]))
    in_help = set(re.findall(r"--[\w-]+", "\n".join(line[:36] for line in output_of(program, "--help").splitlines() if line.startswith("  "))))
    assert len(in_help) > 8
    assert in_help - in_page - {"--help", "--version"} == set() and in_page - in_help == set()


def test_compatibility_lists_the_flags_of_the_command():
    def rows(text: str) -> list[str]:
        return [line.replace("; wherry's own", "") for line in text.splitlines() if line.startswith("| `wherry ")]

    flags = rows(output_of("wherry", "flags"))
    assert len(flags) > 300
    assert rows((ROOT / "docs/compatibility.md").read_text()) == flags
