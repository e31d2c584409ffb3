"""A lock: what a recipe came to when it was locked, to be committed beside it; ``--frozen`` runs that and no more."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from starloom import storage
from starloom.artifact import fingerprint_of
from starloom.config import Config, read_toml, to_toml, validate
from starloom.errors import UserError
from starloom.recipe import StepStatus

SUFFIX: Final = ".lock"


class LockedStep(Config):
    """A step's fingerprint, and one of its sources' state, so that a line can tell which of the two has changed."""

    fingerprint: str
    source: str = ""


class Lock(Config):
    """The steps by name."""

    steps: dict[str, LockedStep]


def lock_of(statuses: Iterable[StepStatus]) -> Lock:
    """What a recipe comes to now."""
    return Lock(steps={status.entry.name: _locked(status) for status in statuses})


def place_of(recipe: str) -> str:
    """Where the lock of a recipe lies: beside its file.

    Raises:
        UserError: the recipe has no file here, as built-in ones have none.
    """
    if storage.is_remote(recipe) or not Path(recipe).is_file():
        raise UserError(f"{recipe}: only a recipe in a file of yours has a lock; copy it into one")
    return str(Path(recipe).with_suffix(SUFFIX))


def write(location: str, lock: Lock) -> None:
    """Write it."""
    text = "# Written by `starloom lock`; commit it. `--frozen` refuses to run anything else.\n"
    with storage.atomic_write(location) as file:
        file.write((text + to_toml(lock.model_dump(mode="json", exclude_defaults=True))).encode())


def hold(location: str, statuses: Iterable[StepStatus]) -> None:
    """Hold what a recipe comes to against its lock.

    Raises:
        UserError: a step is another; the line names the first, and whether its sources have changed.
    """
    known, now = validate(Lock, read_toml(location), where=location).steps, lock_of(statuses).steps
    if list(now) != list(known):
        more = sorted(set(now) ^ set(known)) or list(now)
        raise UserError(
            f"--frozen: the recipe has other steps than {location}: {', '.join(more)}; run starloom lock again"
        )
    for name, step in now.items():
        if step != known[name]:
            what = (
                "its sources have changed"
                if step.source != known[name].source
                else "its settings or inputs have changed"
            )
            raise UserError(f"--frozen: step {name} is another than in {location}: {what}; run starloom lock again")


def _locked(status: StepStatus) -> LockedStep:
    source = fingerprint_of({"state": status.source.state}) if status.source else ""
    return LockedStep(fingerprint=status.fingerprint, source=source)
