"""What a daemon may leave behind, counted: mounts, links, control groups, processes, nftables rules, files."""

import glob
import os
import subprocess


def mounts(*needles: str) -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return [line.split(" ")[4] for line in file if any(needle in line for needle in needles)]


def links_of_bridge(bridge: str) -> list[str]:
    found = []
    for path in glob.glob("/sys/class/net/*"):
        master = os.path.join(path, "master")
        if os.path.islink(master) and os.path.basename(os.readlink(master)) == bridge:
            found.append(os.path.basename(path))
    return found


def control_groups(parent: str, identifiers=()) -> list[str]:
    """Control groups below a parent that is the daemon's own, and those named after any of the identifiers."""
    found = []
    wanted = set(identifiers)
    for base, folders, _ in os.walk("/sys/fs/cgroup"):
        for folder in folders:
            path = os.path.join(base, folder)
            if (parent and f"/{parent.strip('/')}/" in path + "/" and folder != parent.strip("/")) or folder in wanted:
                found.append(path)
    return found


def processes(*needles: str) -> list[str]:
    """Processes (not this one) whose command line mentions any of the needles: roots are unique to a daemon."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                command = file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(needle in command for needle in needles) and "pytest" not in command:
            found.append(f"{entry} {command.strip()}")
    return found


def nft_rules(*needles: str) -> list[str]:
    try:
        listing = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return []
    return [line.strip() for line in listing.splitlines() if any(needle in line for needle in needles)]


def entries(*folders: str) -> list[str]:
    return sorted(os.path.join(folder, name) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder))
