"""What files hold, for fingerprints: digests, kept by size and times so that a second look reads nothing.

An edit changes a file's ctime even where it sets the file's date back, and `touch` changes no digest.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from starloom import storage
from starloom.errors import UserError

CHUNK = 1 << 20
READERS = 4


def folder_state(location: str, *, setting: str) -> list[list[str]]:
    """Names and digests of the files of a folder, sorted; a remote one's by ETag or date.

    Raises:
        UserError: there is no such folder; names the `setting`.
    """
    if storage.is_remote(location):
        names = [storage.join(location, name) for name, _ in storage.files_below(location)]
        return [[str(part) for part in entry] for entry in storage.file_state(names)]
    folder = Path(location).expanduser()
    if not folder.is_dir():
        raise UserError(f"{setting}: {location!r}: no such folder; give one that is here, or a URL")
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [[storage.printable(str(path.relative_to(folder))), digest_of(path)] for path in found]


def files_state(names: Sequence[str]) -> list[list[object]]:
    """Name, size and digest of files; of remote ones the ETag or date stands for the digest. JSON-able."""
    local = [name for name in names if not storage.is_remote(name)]
    with ThreadPoolExecutor(READERS) as readers:
        digests = dict(zip(local, readers.map(lambda name: digest_of(Path(name)), local), strict=True))
    remote = iter(storage.file_state([name for name in names if storage.is_remote(name)]))
    return [
        [storage.printable(name), Path(name).stat().st_size, digests[name]] if name in digests else next(remote)
        for name in names
    ]


def digest_of(path: Path) -> str:
    """The sha256 of a local file; read once, and again only after it has changed."""
    stat = path.stat()
    name = str(path.absolute())
    seen = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    kept = storage.cache_folder() / "digests" / hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["seen"] == seen:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not seen before, or written by half: it is read
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    _keep(kept, {"seen": seen, "sha256": found.hexdigest()})
    return found.hexdigest()


def _keep(path: Path, value: dict[str, object]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.replace(path)
    except (OSError, UnicodeEncodeError):
        return  # a cache that cannot be written costs time and nothing else
