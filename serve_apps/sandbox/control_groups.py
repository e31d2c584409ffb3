"""A control group for a sandbox, where the system lets this process make one.

The kernel then keeps memory and process counts itself, and its account of CPU time and memory is the truth. The sandbox
enters it as a whole when it starts: to move each program into one would wait for every core (the kernel's
cgroup_threadgroup_rwsem). When its memory runs out the kernel ends a program and not the zygote: programs are marked
for it (oom_score_adj 1000), can take no mark away, and reach no mark of another. Both versions are known: one tree (v2,
in any delegated subtree above this process) and one tree a controller (v1). Without a group the supervisor's own
measuring takes its place (`inside/usage.py`).
"""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "pids", "cpuacct")  # of version 1; in version 2 the account of CPU time is always there
SPARE_PROCESSES = 16  # the sandbox's own, a cell's first, the judge's
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

    def open_account(self) -> int:
        """Descriptor of the account of CPU time.

        Raises:
            FileNotFoundError: the group has none.
        """
        for folder in self.folders:
            for name in ("cpu.stat", "cpuacct.usage"):
                if (folder / name).exists():
                    return os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        raise FileNotFoundError("the control group has no account of CPU time")

    def limit(self, memory_megabytes: int, processes: int) -> None:
        """Set the limits for the next program, and begin a new account of its peak.

        Raises:
            OSError: the kernel does not take them.
        """
        memory = str((memory_megabytes + SPARE_MEGABYTES) << 20)
        # swap cannot be limited below memory nor memory above swap: whichever way the limit moves, one order is right
        for name in ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
            with contextlib.suppress(OSError):
                self._write(name, memory)
        for name, value in (
            ("memory.limit_in_bytes", memory),
            ("memory.max", memory),
            ("memory.swap.max", "0"),
            ("pids.max", str(processes + SPARE_PROCESSES)),
            ("memory.max_usage_in_bytes", "0"),
        ):
            self._write(name, value)

    def memory_kills(self) -> int:
        """How many processes the kernel has ended for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            for line in self._read(name).splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    def peak_megabytes(self) -> float | None:
        """The most memory that the last program held; None where the kernel does not say."""
        peak = self._read("memory.max_usage_in_bytes")
        return int(peak) / (1 << 20) if peak else None

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

    def _read(self, name: str) -> str:
        for folder in self.folders:
            with contextlib.suppress(FileNotFoundError):
                return (folder / name).read_text()
        return ""

    def _write(self, name: str, value: str) -> None:
        for folder in self.folders:
            if (folder / name).exists():
                (folder / name).write_text(value)


def make_group() -> ControlGroup:
    """A new group with limits of memory and processes and an account of CPU time; an empty one where none can be."""
    name = f"starloom-{os.getpid()}-{secrets.token_hex(4)}"
    for parents in _places():
        made: list[Path] = []
        try:
            for parent in parents:
                _sweep(parent)
                (parent / name).mkdir()
                made.append(parent / name)
            group = ControlGroup(tuple(made))
            if _complete(group):
                return group
        except OSError:
            pass
        _remove(made)
    return ControlGroup()


def _complete(group: ControlGroup) -> bool:
    group.limit(1024, 128)
    os.close(group.open_account())
    if not all(os.access(folder / "cgroup.procs", os.W_OK) for folder in group.folders):
        return False
    files = {path.name for folder in group.folders for path in folder.iterdir()}
    return bool(files & {"memory.max", "memory.limit_in_bytes"}) and "pids.max" in files


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


def _places() -> Iterator[list[Path]]:
    """Where a group could be made: below this process's own group, else below one that is above it.

    In version 2 a group that holds processes gives its children no controllers, so that a delegated subtree is often
    one further up.
    """
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    places = {name: path.lstrip("/") for _, names, path in lines for name in names.split(",")}
    if all(name in places and (MOUNT / name).is_dir() for name in CONTROLLERS):
        # inside a container the path is the host's: its own mount is then the group
        own = [MOUNT / name / places[name] for name in CONTROLLERS]
        yield [place if place.is_dir() else MOUNT / name for name, place in zip(CONTROLLERS, own, strict=True)]
    if "" in places and (MOUNT / "cgroup.controllers").exists():
        own_group = MOUNT / places[""]
        for place in (own_group, *own_group.parents):
            if place.is_relative_to(MOUNT):
                yield [place]
