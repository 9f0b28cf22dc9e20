"""A daemon that kills itself at a named point (src/engine/crash_point.hpp)."""

import pytest

from support.daemon import Daemon

# What is added to a point. Late: what the store had been given before is written when the daemon dies.
LATE = pytest.mark.parametrize("late", ["", "+100"], ids=["at-once", "late"])


def start_to_crash(daemon: Daemon, point: str):
    """Starts it, so that it dies when it comes to the point; the next one is sound."""
    daemon.environment["WHERRY_CRASH_AT"] = point
    daemon.start()
    del daemon.environment["WHERRY_CRASH_AT"]
