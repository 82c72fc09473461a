"""How many processors this process may really use, which is not how many the host has."""

import math
import os
from pathlib import Path

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_processors(quota_file: Path = _CGROUP_QUOTA) -> int:
    """Processors by affinity and by the control group's quota, whichever is less; at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        limit = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no control group, or the word "max" in place of a number
        return allowed
    return max(1, min(allowed, limit))
