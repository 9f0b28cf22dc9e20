"""What runs in the testbed. A suite is a shell command, started in the folder of the project inside the machine, that
leaves JUnit files in $RESULTS; one that leaves none counts as a single case, passed when its status is 0."""

import dataclasses
import os

PROFILES = ("kvm", "kvm-devices", "host", "systemd")  # in the order they are started: the longest first
PYTEST = "/usr/bin/python3 -B -m pytest -q -rs -p no:cacheprovider --durations=3 --junitxml=$RESULTS/pytest.xml"


@dataclasses.dataclass(frozen=True)
class Suite:
    name: str
    profile: str  # kvm, kvm-devices: guests boot here (two machines, side by side); host: containers on Linux 6.1 with cgroup v2 alone; systemd: the same under systemd
    command: str
    timeout: int = 120  # seconds
    everyday: bool = True
    excluded: str = ""  # why it is not of the everyday ones
    binaries: tuple[str, ...] = ()  # of the build; a missing one is a counted skip
    guests: bool = False  # needs what tests/vmm boots: kernels, initial file systems

    def limit(self) -> int:
        """Seconds; long versions of suites get four times the everyday limit."""
        return self.timeout * (4 if os.environ.get("WHERRY_TEST_LONG") == "1" else 1)


def unit(name: str, profile: str = "host", **keywords) -> Suite:
    return Suite(f"unit-{name}", profile, f"GTEST_OUTPUT=xml:$RESULTS/gtest.xml $WHERRY_BIN/{name}_test --gtest_brief=1",
                 binaries=(f"{name}_test",), **keywords)


def pytest(name: str, folder: str, profile: str = "host", *, options: str = "", **keywords) -> Suite:
    return Suite(name, profile, f"{PYTEST} {options} {folder}", **keywords)


SUITES = (
    Suite("kvm-facts", "kvm", "/usr/bin/python3 -B tests/testbed/facts.py kvm", timeout=60),
    pytest("vmm-api", "tests/vmm/test_api.py tests/vmm/test_memory.py tests/vmm/test_flags.py tests/vmm/test_devices.py tests/vmm/test_snapshot.py", "kvm", binaries=("wherry-vmm",), timeout=240),
    pytest("vmm-guests", " ".join(f"tests/vmm/guests/test_{name}.py" for name in ("boot", "disks", "network", "vsock", "others", "hardware")), "kvm",
           binaries=("wherry-vmm", "wherry-jailer"), guests=True, timeout=600),
    pytest("vmm-guests-devices", " ".join(f"tests/vmm/guests/test_{name}.py" for name in ("snapshots", "pci", "memory", "shared_folders")), "kvm-devices",
           binaries=("wherry-vmm", "wherry-fs"), guests=True, timeout=840),
    Suite("host-facts", "host", "/usr/bin/python3 -B tests/testbed/facts.py host", timeout=60),
    unit("base"),
    unit("confine"),
    unit("oci"),
    unit("supervisor"),
    unit("jailer"),
    pytest("jailer", "tests/vmm/test_jailer.py", binaries=("wherry-jailer",)),
    pytest("jailer-systemd", "tests/vmm/test_jailer.py", "systemd", binaries=("wherry-jailer",)),
    pytest("runtime", "tests/runtime", binaries=("wherry-runtime",), timeout=300),
    pytest("runtime-systemd", "tests/runtime/test_systemd.py", "systemd", binaries=("wherry-runtime",), timeout=300),
    pytest("runtime-checkpoint", "tests/runtime/test_checkpoint.py", "systemd", binaries=("wherry-runtime",), timeout=300, everyday=False,
           excluded="a minute and a half of criu under emulation"),
    pytest("containerd-checkpoint", "tests/containerd/test_checkpoint.py", "systemd", binaries=("containerd-shim-wherry-v2",), timeout=420,
           everyday=False, excluded="minutes of criu and containerd under emulation"),
    # Without the bars of speed: they are not meant for an emulated processor.
    Suite("network", "host", "GTEST_OUTPUT=xml:$RESULTS/gtest.xml $WHERRY_BIN/network_test --gtest_brief=1 --gtest_filter=-*attach_is_quick",
          binaries=("network_test",), timeout=180),
    pytest("containers", "tests/docker_api/test_containers.py", binaries=("wherryd", "wherry", "wherry-shim", "wherry-unpack"), timeout=300),
    pytest("docker-api", "tests/docker_api", binaries=("wherryd", "wherry", "wherry-shim", "wherry-unpack"), timeout=600, everyday=False,
           excluded="the suite containers is its part that depends on the kernel"),
    pytest("faults", "tests/faults", binaries=("wherryd", "wherry", "wherry-shim", "wherry-unpack"), timeout=900, everyday=False,
           excluded="minutes under emulation"),
    pytest("supervisor", "tests/supervisor", binaries=("wherry-shim",), timeout=240, everyday=False,
           excluded="nearly three minutes; its kernel paths are those of the suite runtime"),
    Suite("systemd-facts", "systemd", "/usr/bin/python3 -B tests/testbed/facts.py systemd", timeout=60),
)


def select(names: list[str], profile: str | None) -> list[Suite]:
    return [suite for suite in SUITES if (not names or suite.name in names) and (profile in (None, suite.profile))]
