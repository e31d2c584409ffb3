"""How many cores a process may use: those that it may run on, and no more than its container's share of time."""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def cores_at_hand(cgroups: Path = CGROUPS, own: Path = OWN) -> int:
    """Whole cores, at least one: a thread that has no time of its own holds the others up."""
    mine = len(os.sched_getaffinity(0))
    return max(1, min([mine, *(int(quota) for quota in _quotas(cgroups, own))]))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """The cores' worth of time of the process's control group and of all above it, in both versions of Linux's."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            root = cgroups if controllers == "" else cgroups / "cpu"
            folder = root / path.lstrip("/")
            for place in [folder, *folder.parents]:
                yield from _quota(place)
                if place == root:
                    break


def _quota(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
    except OSError:  # no limit of this kind there
        return
    if quota not in ("max", "-1"):
        yield int(quota) / int(period)
