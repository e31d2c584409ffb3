"""What of a root is still led to: by a recipe, by what other recipes ran there, by a pin, by a step that is at work.

`run` keeps a plan of each recipe at its root; `prune` leaves alone whatever any plan reaches through manifests' inputs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from starloom import storage
from starloom.artifact import MANIFEST, Artifact, find
from starloom.errors import UserError
from starloom.lease import is_held
from starloom.recipe import Recipe, StepStatus

PLANS: Final = ".plans"


@dataclass(frozen=True)
class Stale:
    """A folder that nothing leads to, and the bytes in it."""

    folder: str
    bytes: int


def keep_plan(recipe: Recipe, statuses: Iterable[StepStatus]) -> None:
    """Write down at the root what a recipe leads to now."""
    prefix = recipe.root + "/"  # relative names: a root can be moved
    folders = sorted({folder.removeprefix(prefix) for folder in _led_to(recipe, statuses)})
    text = ("\n".join(folders) + "\n").encode()
    if storage.exists(_plan(recipe)) and storage.read_bytes(_plan(recipe)) == text:
        return  # a root that is only read stays as it is
    with storage.atomic_write(_plan(recipe)) as file:
        file.write(text)


def stale(recipe: Recipe, statuses: Iterable[StepStatus]) -> Iterator[Stale]:
    """Artifacts of the recipe's steps, finished or not, that nothing leads to and nobody writes."""
    listed = list(statuses)
    reached = _closed(recipe.root, [*_led_to(recipe, listed), *_of_other_plans(recipe)])
    for status in listed:
        base = storage.join(recipe.root, status.entry.name)
        for name in storage.folders(base):
            folder = storage.join(base, name)
            if folder not in reached and not is_held(folder):
                yield Stale(folder, sum(storage.sizes_below(folder).values()))


def _plan(recipe: Recipe) -> str:
    return storage.join(recipe.root, PLANS, f"of-{quote(recipe.name, safe='')}")


def _led_to(recipe: Recipe, statuses: Iterable[StepStatus]) -> Iterator[str]:
    for status in statuses:
        yield status.folder
        for need in status.needs:
            yield _folder(recipe.root, need)


def _folder(root: str, need: str) -> str:
    """The folder of an exact need: below the root, or where it says."""
    try:
        return find(root, need).folder
    except UserError:  # of a step that is to come
        return storage.join(root, need)


def _of_other_plans(recipe: Recipe) -> Iterator[str]:
    own = _plan(recipe)
    folder = storage.join(recipe.root, PLANS)
    for name in storage.sizes_below(folder) if storage.exists(folder) else ():
        path = storage.join(folder, name)
        if path != own:
            lines = storage.read_bytes(path).decode().splitlines()
            yield from (line if _is_whole(line) else storage.join(recipe.root, line) for line in lines)


def _is_whole(location: str) -> bool:
    return location.startswith("/") or "://" in location


def _closed(root: str, folders: Iterable[str]) -> set[str]:
    """The folders, and all that their finished artifacts were made from."""
    reached: set[str] = set()
    waiting = [folder for folder in folders if folder]
    while waiting:
        folder = waiting.pop()
        if folder in reached:
            continue
        reached.add(folder)
        if storage.exists(storage.join(folder, MANIFEST)):
            for origin in Artifact.open(folder).manifest.inputs:
                at = origin.location
                waiting.append(at if _is_whole(at) else storage.join(root, at))
    return reached
