"""Digests of files as they are written, so that nobody has to read them again to know them.

A process remembers what it has written; a task hands it to the process that asked for it (`collected`, `remember`).
"""

import hashlib
import io
from typing import IO, Any, NamedTuple

_written: dict[str, "Digest"] = {}  # by path or URL


class Digest(NamedTuple):
    """Size and sha256 of a file."""

    bytes: int
    sha256: str


class HashingFile:
    """A file that is being written, from its beginning to its end; everything else is the file's own."""

    def __init__(self, file: IO[Any]) -> None:
        self._file, self._digest, self._size, self._in_order = file, hashlib.sha256(), 0, True

    def write(self, content: Any) -> int:
        """Write, and take into the digest."""
        data = content.encode("utf-8") if isinstance(content, str) else memoryview(content).cast("B")
        self._digest.update(data)
        self._size += len(data)
        self._file.write(content)
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go elsewhere: what is written then is not in the order of the file, and its digest is not known."""
        self._in_order = False
        return int(self._file.seek(offset, whence))

    def digest(self) -> Digest | None:
        """What was written; None where it was not written in order."""
        return Digest(self._size, self._digest.hexdigest()) if self._in_order else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def remember(found: dict[str, Digest]) -> None:
    """Know what another process has written."""
    _written.update(found)


def collected() -> dict[str, Digest]:
    """What this process has written since it was asked last."""
    found = dict(_written)
    _written.clear()
    return found


def known(location: str) -> Digest | None:
    """The digest of a file that was written here, or told by `remember`."""
    return _written.get(location)
