"""The rules of the house: dependencies between rooms, sizes of files, who may include a heavy library."""
import os
import pathlib
import re
import shlex
import subprocess
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = [p for top in ("src", "apps") for p in sorted((ROOT / top).rglob("*")) if p.suffix in (".cpp", ".hpp", ".cc")]

# Direct dependencies of each room, as docs/architecture.md draws them. A room may use what its dependencies use.
DEPENDS = {
    "base": [],
    "confine": ["base"],
    "kvm": ["base"],
    "http": ["base"],
    "net": ["base"],
    "store": ["base"],
    "store/etcd": ["store", "http", "base"],
    "dns": ["base", "http"],
    "dns/tools": ["base", "dns", "http"],
    "dns/steering": ["base", "dns", "http"],
    "image": ["base", "http", "confine"],
    "oci": ["base", "confine"],
    "checkpoint": ["base", "confine", "oci"],
    "supervisor": ["base", "oci", "confine"],
    "supervisor/client": ["base", "supervisor"],
    "vmm": ["base", "kvm", "confine"],
    "jailer": ["base", "confine"],
    "fuse": ["base"],
    "fs": ["base", "confine", "fuse", "vmm"],
    "build": ["image"],
    "engine": ["supervisor", "supervisor/client", "image", "build", "net", "store", "dns", "dns/tools", "oci", "confine", "base"],
    "api/docker": ["engine", "http", "image", "base"],
    "api/containerd": ["supervisor", "checkpoint", "oci", "confine", "base"],
    "adopt": ["base"],
    "cli": ["http", "dns", "dns/tools", "dns/steering", "adopt", "base"],
}
# Libraries that only some files may see: header prefix -> allowed places.
ONLY_IN = {
    r"<boost/beast": ["src/http/"],
    r"<spdlog/": ["src/base/log_spdlog.cpp"],
    r"<CLI/": ["src/cli/", "apps/wherryd/"],
    r"<sqlite3.h>": ["src/store/"],
    r"<archive(_entry)?.h>": ["src/image/"],
    r"<seccomp.h>": ["src/confine/seccomp_compile"],
    r"<nlohmann/": [],
}
# The trusted base: its binaries must not contain these rooms' libraries.
LIMIT_LINES = 1000


def room_of(path: pathlib.Path) -> str | None:
    parts = path.relative_to(ROOT).parts
    if parts[0] != "src":
        return None
    two = "/".join(parts[1:3])
    if two in DEPENDS:
        return two
    return parts[1]


def allowed(room: str) -> set[str]:
    seen, open_ = {room}, [room]
    while open_:
        for dependency in DEPENDS[open_.pop()]:
            if dependency not in seen:
                seen.add(dependency)
                open_.append(dependency)
    return seen


def test_rooms_are_known():
    rooms = {room_of(p) for p in SOURCES if p.parts[len(ROOT.parts)] == "src"}
    assert rooms <= set(DEPENDS), f"rooms without a place in the architecture: {sorted(rooms - set(DEPENDS))}"


def test_dependencies_point_one_way():
    wrong = []
    for path in SOURCES:
        room = room_of(path)
        if room is None or room not in DEPENDS:
            continue
        may = allowed(room)
        for included in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(errors="replace"), re.M):
            target = ROOT / "src" / included
            if not target.exists():
                wrong.append(f"{path.relative_to(ROOT)} includes \"{included}\", which is not a path from src/")
                continue
            if room_of(target) not in may:
                wrong.append(f"{path.relative_to(ROOT)} ({room}) includes {included} ({room_of(target)})")
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_stay_in_their_files():
    wrong = []
    for path in SOURCES:
        relative = str(path.relative_to(ROOT))
        text = path.read_text(errors="replace")
        for pattern, places in ONLY_IN.items():
            if re.search(r"^\s*#\s*include\s+" + pattern, text, re.M) and not any(relative.startswith(p) for p in places):
                wrong.append(f"{relative} includes {pattern}")
    assert not wrong, "\n".join(wrong)


def test_no_file_is_over_the_limit():
    long = [f"{p.relative_to(ROOT)}: {n} lines" for p in SOURCES if (n := p.read_text(errors="replace").count("\n")) > LIMIT_LINES]
    assert not long, "\n".join(long)


def test_rooms_have_a_readme():
    missing = [str(p.parent.relative_to(ROOT)) for p in (ROOT / "src").rglob("CMakeLists.txt") if not (p.parent / "README.md").exists()]
    assert not missing, missing


def test_small_binaries_are_static_and_load_nothing():
    bin_folder = pathlib.Path(os.environ.get("WHERRY_BIN", ROOT / "build/release/bin"))
    if not bin_folder.exists():
        pytest.skip("no release build")
    # Debian has ISA-L as a shared library only; wherry-unpack loads it before it jails itself.
    may_load = {"wherry-unpack": {"libisal.so.2", "libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"}}
    for name in ("wherry-shim", "wherry-unpack", "wherry-vmm", "wherry-jailer", "wherry-fs", "wherry-init", "containerd-shim-wherry-v2"):
        binary = bin_folder / name
        if binary.exists():
            output = subprocess.run(["readelf", "-d", binary], capture_output=True, text=True, check=True).stdout
            needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", output))
            assert needed <= may_load.get(name, set()), f"{name} loads shared libraries:\n{output}"


def compile_flags() -> dict[str, list[str]]:
    database = json.loads((ROOT / "build/release/compile_commands.json").read_text())
    flags = {}
    for entry in database:
        arguments = shlex.split(entry["command"])
        keep = [a for a in arguments if a.startswith(("-I", "-D", "-std", "-isystem", "-W"))]
        source = pathlib.Path(entry["file"])
        if "CMakeFiles" in source.parts:  # a batch of a room's files: the build folder mirrors the room's
            room = str(source.relative_to(ROOT / "build/release")).partition("/CMakeFiles/")[0]
            flags.setdefault(str(ROOT / room), keep)
        else:
            flags[str(source.parent)] = keep
    return flags


def test_headers_compile_alone():
    """Each header with the flags of its folder, and nothing before it."""
    if not (ROOT / "build/release/compile_commands.json").exists():
        pytest.skip("no release build")
    flags = compile_flags()
    headers = [p for p in SOURCES if p.suffix == ".hpp"]

    def check(header: pathlib.Path) -> str:
        folder = str(header.parent)
        while folder not in flags and folder != str(ROOT):
            folder = str(pathlib.Path(folder).parent)
        command = ["clang++-19", "-fsyntax-only", "-x", "c++", *flags.get(folder, ["-std=gnu++2b", f"-I{ROOT}/src"]),
                   "-Wno-pragma-once-outside-header", "-Wno-unused-function", "-Wno-unused-const-variable", str(header)]
        result = subprocess.run(command, capture_output=True, text=True)
        return "" if result.returncode == 0 else f"{header.relative_to(ROOT)}:\n{result.stderr[:800]}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wrong = [text for text in pool.map(check, headers) if text]
    assert not wrong, "\n".join(wrong)
