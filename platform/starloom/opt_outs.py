"""Who has asked to stay out: entries in the forms that people write, and the names that a run has withdrawn.

A run's root keeps the names in one file. Services read it again when it changes, so that a name is hidden at once in
every replica; `data_jobs.collect` writes rows of such repositories without their text.
"""

import re
import time
from collections.abc import Callable, Iterable
from typing import Final

from starloom import storage
from starloom.errors import UserError

FOLDER: Final = "opt-outs"  # below a run's root
WITHDRAWN: Final = f"{FOLDER}/withdrawn.txt"
JOURNAL: Final = f"{FOLDER}/pending.json"  # of an opt-out that was begun
REMOTE_SECONDS: Final = 30.0  # between two looks at an object store

_LINK = re.compile(
    r"(?:https?://|ssh://)?(?:[\w.-]+@)?(?:www\.)?[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}(?::\d+)?[/:]+", re.IGNORECASE
)
_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)*")


def name_of(entry: str, *, where: str) -> str:
    """What an entry names, in lower case; empty for a blank line or a comment.

    ``https://github.com/Owner/Repo.git`` is ``owner/repo``, ``@owner`` an owner, ``group/sub`` a group.

    Raises:
        UserError: it names no owner and no repository; tells `where` it stands.
    """
    plain = re.sub(r"(?:^|\s)#.*", "", entry).strip().strip("\u200b\ufeff").lower()
    plain = re.sub(r"^(?:[-*•]\s+)", "", plain).strip("<>\"'`,; ")
    link = _LINK.match(plain)
    if link and (link[0][-1] == ":" or "/" in link[0]):
        plain = re.split(r"[?#]|/(?:-|tree|blob|issues|pull)(?:/|$)", plain[link.end() :])[0]
    name = plain.removeprefix("@").removesuffix("/*").rstrip("/").removesuffix(".git")
    if name and not _NAME.fullmatch(name):
        raise UserError(f"{where}: {entry.strip()[:80]!r} is neither an owner nor owner/repo; write one to a line")
    return name


def names_in(text: str, *, where: str) -> frozenset[str]:
    """The names of a list, a line each; `UserError` for a line that names nobody: no wish is passed over."""
    found = (name_of(line, where=f"{where}:{number}") for number, line in enumerate(text.splitlines(), start=1))
    return frozenset(name for name in found if name)


def entry_for(repository: str, names: Iterable[str]) -> str | None:
    """The name that a repository falls under: its own, its owner's or that of a group that it is in."""
    known = names if isinstance(names, frozenset | set) else frozenset(names)
    parts = repository.lower().split("/")
    candidates = ("/".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in candidates if name in known), None)


def withdrawn(root: str) -> frozenset[str]:
    """The names that a run has withdrawn."""
    location = storage.join(root, WITHDRAWN)
    if not storage.exists(location):
        return frozenset()
    return names_in(storage.read_bytes(location).decode(), where=location)


def withdraw(root: str, names: Iterable[str]) -> None:
    """Add names to those that a run has withdrawn."""
    known = withdrawn(root)
    if not known.issuperset(names):
        with storage.atomic_write(storage.join(root, WITHDRAWN)) as file:
            file.write("".join(f"{name}\n" for name in sorted(known.union(names))).encode())


def watched(root: str) -> Callable[[], frozenset[str]]:
    """A function that gives the names of now; the file is read again when it has changed."""
    location = storage.join(root, WITHDRAWN)
    state: tuple[int, int] | None = None
    names: frozenset[str] = frozenset()
    looked = float("-inf")

    def now() -> frozenset[str]:
        nonlocal state, names, looked
        if storage.is_remote(root):
            if time.monotonic() - looked > REMOTE_SECONDS:
                names, looked = withdrawn(root), time.monotonic()
            return names
        found = storage.version(location)
        if found != state:
            names, state = withdrawn(root), found
        return names

    return now
