"""What each profile promises its suites, checked first: without it their failures would be riddles."""

import os
import pathlib
import subprocess
import sys


def expect(good: bool, what: str) -> None:
    print(("ok    " if good else "FAILED ") + what)
    if not good:
        sys.exit(1)


def cgroup_v2_alone() -> None:
    kinds = [line.split(" - ")[1].split()[0] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()]
    expect("cgroup2" in kinds, "cgroup v2 is mounted")
    expect("cgroup" not in kinds, "no v1 hierarchy beside it")
    controllers = pathlib.Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    expect({"cpu", "cpuset", "io", "memory", "pids"} <= set(controllers), f"controllers {controllers}")


def kvm() -> None:
    descriptor = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    import fcntl
    expect(fcntl.ioctl(descriptor, 0xAE00) == 12, "KVM_GET_API_VERSION is 12")
    expect(fcntl.ioctl(descriptor, 0xAE01, 0) >= 0, "KVM_CREATE_VM")
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    expect(" svm" in flags or " vmx" in flags, "the processor has svm or vmx")
    expect(pathlib.Path("/dev/net/tun").exists(), "/dev/net/tun")


def host() -> None:
    cgroup_v2_alone()
    expect(os.uname().release.startswith("6.1."), f"Linux {os.uname().release} is 6.1")
    for kind in ("overlay", "netem", "nft"):
        commands = {"overlay": ["modprobe", "overlay"], "netem": ["modprobe", "sch_netem"], "nft": ["nft", "list", "ruleset"]}
        expect(subprocess.run(commands[kind], capture_output=True).returncode == 0, " ".join(commands[kind]))
    expect(subprocess.run(["iptables", "-L", "-n"], capture_output=True).returncode == 0, "iptables")


def systemd() -> None:
    cgroup_v2_alone()
    expect(pathlib.Path("/proc/1/comm").read_text().strip() == "systemd", "process 1 is systemd")
    done = subprocess.run(["systemctl", "is-system-running"], capture_output=True, text=True)
    expect(done.stdout.strip() in ("running", "starting", "degraded"), f"systemctl is-system-running: {done.stdout.strip()}")
    done = subprocess.run(["systemd-run", "--scope", "--quiet", "true"], capture_output=True, text=True)
    expect(done.returncode == 0, f"systemd-run makes a scope {done.stderr}")
    done = subprocess.run(["criu", "check"], capture_output=True, text=True)
    expect(done.returncode == 0, f"criu check: {(done.stdout + done.stderr).strip().splitlines()[-1:]}")


{"kvm": kvm, "host": host, "systemd": systemd}[sys.argv[1]]()
