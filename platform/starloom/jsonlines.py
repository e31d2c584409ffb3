"""JSON lines: one object a line, plain or gzipped. A line ends at a line feed and nowhere else.

(``str.splitlines`` ends lines at U+2028 and others too, which JSON allows inside a string.)
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from starloom import storage
from starloom.errors import RunError, UserError, one_line

Record = dict[str, Any]
_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# what giving another file mends
_NO_FILE = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
)


class Line(NamedTuple):
    """A line that is not blank, and its number, counted from 1."""

    number: int
    content: bytes


def parse(content: bytes) -> Record:
    """The object of one line.

    Raises:
        ValueError: it is not UTF-8, not JSON, or no object; the message says which.
    """
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({one_line(error)})") from None
    except RecursionError:
        raise ValueError("is not JSON (nested too deeply)") from None
    if not isinstance(value, dict):
        raise ValueError(f"is not an object ({type(value).__name__})")
    return value


def dump(record: Record) -> str:
    """One line with its line feed: sorted keys, so that equal records are equal bytes."""
    return json.dumps(record, sort_keys=True) + "\n"


def lines(file: IO[bytes]) -> Iterator[Line]:
    """The lines of an open file, unpacked where it is gzipped, without a byte order mark.

    Raises:
        OSError, EOFError, zlib.error: the file is damaged.
    """
    head = file.read(2)
    file.seek(0)
    unpacked: Iterable[bytes] = gzip.GzipFile(fileobj=file) if head == _GZIP else file
    for number, content in enumerate(unpacked, start=1):
        content = content.removeprefix(_BYTE_ORDER_MARK) if number == 1 else content
        if content.strip():
            yield Line(number, content)


def read_lines(location: str | Path) -> Iterator[Line]:
    """The lines of a file or URL.

    Raises:
        UserError: there is no such file, or it is damaged.
        RunError: the machine or the network did not give it.
    """
    try:
        with storage.open_file(str(location)) as file:
            yield from lines(file)
    except _NO_FILE as error:
        raise UserError(f"{location}: cannot be read ({one_line(error)}); give a file of JSON lines") from None
    except OSError as error:
        raise RunError(f"{location}: cannot be read ({one_line(error)})") from error


def read(location: str | Path) -> Iterator[tuple[str, Record]]:
    """Each object with its place, ``LOCATION:LINE``, for messages.

    Raises:
        UserError: the file cannot be read, or a line is no JSON object; names the line.
    """
    for number, content in read_lines(location):
        where = f"{location}:{number}"
        try:
            yield where, parse(content)
        except ValueError as error:
            raise UserError(f"{where}: {error}; write one JSON object a line") from None


def read_log(path: Path) -> list[Record]:
    """The objects of a file that a process appends to; what follows the last line feed was torn by a kill.

    A file that is not there yet is empty.
    """
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [parse(line.content) for line in lines(io.BytesIO(whole))]
