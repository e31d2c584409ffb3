"""A control group around a sandbox, where the system lets this process make one.

The kernel then keeps memory and process counts itself. Without it the supervisor's own measuring does, every 50 ms.
Both versions are known: one tree (v2, when a subtree is delegated to this process) and one tree a controller (v1).
"""

import contextlib
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
SPARE_MEGABYTES = 128  # the zygote, the judge
REMOVAL_SECONDS = 2.0


@dataclass(frozen=True)
class ControlGroup:
    """The group's folders: one in v2, one of each controller in v1. None of them: no group."""

    folders: tuple[Path, ...] = ()

    @property
    def entrance(self) -> list[str]:
        """A command line that enters the group and becomes the command that follows it."""
        if not self.folders:
            return []
        enter = " && ".join(f"echo $$ > '{folder}/cgroup.procs'" for folder in self.folders)
        return ["/bin/sh", "-c", f'{enter} && exec "$@"', "sh"]

    def limit(self, memory_megabytes: int, processes: int) -> None:
        """Set the limits for the next program."""
        memory = str((memory_megabytes + SPARE_MEGABYTES) << 20)
        for folder in self.folders:
            for name, value in (
                ("memory.max", memory),
                ("memory.swap.max", "0"),
                ("memory.limit_in_bytes", memory),
                ("pids.max", str(processes + 16)),
            ):
                if (folder / name).exists():
                    (folder / name).write_text(value)

    def memory_kills(self) -> int:
        """How many processes the kernel has ended for want of memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    for line in (folder / name).read_text().splitlines():
                        if line.startswith("oom_kill "):
                            return int(line.split()[1])
        return 0

    def remove(self) -> None:
        """Remove the folders once the last process has left."""
        deadline = time.monotonic() + REMOVAL_SECONDS
        for folder in self.folders:
            while folder.is_dir():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        return
                    time.sleep(0.01)


def make_group() -> ControlGroup:
    """A new group below this process's own; an empty one where that is not allowed."""
    made: list[Path] = []
    try:
        name = f"starloom-{os.getpid()}-{secrets.token_hex(4)}"
        for parent in _parents():
            _sweep(parent)
            folder = parent / name
            folder.mkdir()
            made.append(folder)
        group = ControlGroup(tuple(made))
        group.limit(1024, 128)
        limited = any((folder / file).exists() for folder in made for file in ("memory.max", "memory.limit_in_bytes"))
        if limited:
            return group
    except OSError:
        pass
    _remove(made)
    return ControlGroup()


def _sweep(parent: Path) -> None:
    """Remove the empty groups of processes that were killed before they could."""
    for folder in parent.glob("starloom-*-*"):
        owner = folder.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _remove([folder])


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _parents() -> list[Path]:
    """This process's own group in each tree that has memory or process limits."""
    parents = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        if not controllers and (MOUNT / "cgroup.controllers").exists():
            parents.append(MOUNT / below)
        for controller in ("memory", "pids"):
            if controller in controllers.split(",") and (MOUNT / controller).is_dir():
                # inside a container the path is the host's: its own mount is then the group
                place = MOUNT / controller / below
                parents.append(place if place.is_dir() else MOUNT / controller)
    return parents
