"""What is asked of a storage again when it stutters, and what is told when that does not help.

What is not there, or may not be read, is the user's fault and told at once; whatever else fails is the machine's or the
network's.
"""

import io
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, Final, TypeVar

from starloom.errors import StarloomError, StorageError, UserError, one_line

RETRY_SECONDS = (0.2, 1.0, 4.0, 10.0)  # pauses before something is tried again
# no fault of a storage: another try would end alike
AT_ONCE: Final = (StarloomError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, TypeError,
            AttributeError, NotImplementedError)  # fmt: skip
KNOWN_TO_BE_THERE: Final = (StarloomError,)  # of a file that was listed: that it is gone is a fault too
_NO_KEYS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ClientAuthenticationError")
T = TypeVar("T")


def tried(
    location: str, work: Callable[[], T], *, doing: str = "read", at_once: tuple[type[Exception], ...] = AT_ONCE
) -> T:
    """The result of `work`, which asks something of a storage; `doing` is its participle for the error.

    Args:
        location: what it is asked of.
        work: may be called again.
        doing: such as "read".
        at_once: errors that another try would not mend.

    Raises:
        UserError: there are no rights or credentials.
        StorageError: it failed as often as it was tried.
    """
    pauses = iter(RETRY_SECONDS)
    while True:
        try:
            return work()
        except at_once:
            raise
        except Exception as error:
            refused = isinstance(error, PermissionError) or type(error).__name__ in _NO_KEYS
            if refused and at_once is AT_ONCE:
                raise UserError(f"{location}: may not be {doing}: {one_line(error, 160)}; check credentials") from None
            pause = next(pauses, None)
            if pause is None:
                tries = len(RETRY_SECONDS) + 1
                raise StorageError(
                    f"{location}: cannot be {doing}, {tries} tries: {type(error).__name__}: {one_line(error)}"
                ) from error
            time.sleep(pause)


class SteadyFile(io.RawIOBase):
    """Every open, seek and read is tried again when it fails, from the place where it stood.

    Raises:
        StorageError: it cannot be opened or read; reading raises it too.
    """

    def __init__(self, location: str, opener: Callable[[], IO[bytes]], at_once: tuple[type[Exception], ...]) -> None:
        self._location, self._opener, self._at_once, self._at = location, opener, at_once, 0
        self._file: IO[bytes] | None = None
        self.size: int = self._tried(self._measured)

    def _measured(self) -> int:
        file = self._open()
        end = file.seek(0, io.SEEK_END)
        file.seek(0)
        return end

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._file = self._opener()
            self._file.seek(self._at)
        return self._file

    def _tried(self, work: Callable[[], T]) -> T:
        def once() -> T:
            try:
                return work()
            except Exception:
                self._forget()
                raise

        return tried(self._location, once, at_once=self._at_once)

    def _forget(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(Exception):
                file.close()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go elsewhere; nothing is asked of the storage."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read some bytes into a buffer; their number."""
        found = self._tried(lambda: self._read(len(buffer)))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def _read(self, length: int) -> bytes:
        file = self._open()
        if file.tell() != self._at:
            file.seek(self._at)
        found = file.read(min(length, max(0, self.size - self._at)))
        if not found and length and self._at < self.size:
            raise EOFError(f"ends after {self._at} of {self.size} bytes")
        return found

    def close(self) -> None:
        """Close it."""
        self._forget()
        super().close()
