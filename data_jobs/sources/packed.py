"""Files of JSON, plain or packed, as a stream of records: JSON lines, one array, or objects one after the other."""

import bz2
import gzip
import json
import lzma
from collections.abc import Iterator
from typing import IO, Any

from data_jobs.sources.entries import Refusal
from starloom import storage
from starloom.errors import StarloomError, one_line

LONGEST_RECORD = 256 << 20  # bytes of one JSON value
_BLOCK = 1 << 20
_MAGICS = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\x00", "xz"))
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Record = dict[str, Any]


def packing_of(head: bytes) -> str | None:
    """How a file is packed, by its first bytes; None: it is not."""
    return next((name for magic, name in _MAGICS if head.startswith(magic)), None)


def unpacked(raw: IO[bytes]) -> IO[bytes]:
    """The file's content, whatever it is packed by."""
    head = raw.read(6)
    raw.seek(0)
    kind = packing_of(head)
    if kind == "gzip":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if kind == "bzip2":
        return bz2.BZ2File(raw)
    if kind == "xz":
        return lzma.LZMAFile(raw)
    if kind == "zstd":
        import pyarrow as pa

        return pa.CompressedInputStream(raw, "zstd")  # type: ignore[no-any-return]
    return raw


def json_records(location: str, name: str, repo_name: str) -> Iterator[tuple[str, Record | Refusal]]:
    """Every record with its place in the file, whether the file is JSON lines or one array; and what is none.

    Where the bytes are damaged the records before stay, and the damage is the last refusal.

    Raises:
        StorageError: the machine or the network did not give the file.
    """
    with storage.open_steady(location) as raw:
        try:
            file = unpacked(raw)
            head = file.read(4096)
            if head.removeprefix(_BYTE_ORDER_MARK).lstrip()[:1] == b"[":
                yield from _of_array(head, file, name, repo_name)
            else:
                yield from _of_lines(head, file, name, repo_name)
        except (StarloomError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - the file is steady: whatever a decoder raises, the bytes are at fault
            yield "end", Refusal(repo_name, name, "damaged_file", one_line(f"{type(error).__name__}: {error}", 200))


def line_record(line: bytes, name: str, place: str, repo_name: str) -> Record | Refusal:
    """The object of one line."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Refusal(repo_name, f"{name}:{place}", "invalid_json", one_line(error, 200))
    return _checked(value, name, place, repo_name)


def _checked(value: Any, name: str, place: str, repo_name: str) -> Record | Refusal:
    if isinstance(value, dict):
        return value
    return Refusal(repo_name, f"{name}:{place}", "not_an_object", type(value).__name__)


def _of_lines(head: bytes, file: IO[bytes], name: str, repo_name: str) -> Iterator[tuple[str, Record | Refusal]]:
    at = len(head) - len(head.removeprefix(_BYTE_ORDER_MARK))
    for line in _lines(head[at:], file):
        place = f"byte-{at}"
        at += len(line)
        if line.strip():
            yield place, line_record(line, name, place, repo_name)


def _lines(head: bytes, file: IO[bytes]) -> Iterator[bytes]:
    """Lines with their ends; one that is too long is no record, and ends the file."""
    held = head
    while True:
        *whole, held = held.split(b"\n")
        for line in whole:
            yield line + b"\n"
        if len(held) > LONGEST_RECORD:
            raise ValueError(f"a line of more than {LONGEST_RECORD} bytes")
        parts = [held]
        while True:
            block = file.read(_BLOCK)
            parts.append(block)
            if not block or b"\n" in block or sum(map(len, parts)) > LONGEST_RECORD:
                break
        held = b"".join(parts)
        if not block:
            if held:
                yield held
            return


def _of_array(head: bytes, file: IO[bytes], name: str, repo_name: str) -> Iterator[tuple[str, Record | Refusal]]:
    """The elements of an array, one at a time; more is read where an element does not end in what is there."""
    decoder, text, number = json.JSONDecoder(), _Text(head, file), 0
    text.at = text.held.index("[") + 1
    while True:
        mark = text.skip(" \t\r\n,")
        if mark == "]":
            return
        if not mark:
            raise ValueError("the array does not end")
        while True:
            try:
                value, end = decoder.raw_decode(text.held, text.at)
            except RecursionError:
                raise ValueError("an element is nested too deeply") from None
            except json.JSONDecodeError:
                if not text.more():
                    raise
                continue
            # a number may go on in what is not read yet
            if end == len(text.held) and text.more():
                continue
            break
        text.at = end
        yield f"item-{number}", _checked(value, name, f"item-{number}", repo_name)
        number += 1


class _Text:
    """Decoded text of a file from `at` on, read as it is asked for; twice as much each time: so it stays linear."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        import codecs

        self._decoder, self._file = codecs.getincrementaldecoder("utf-8")(), file
        self.held, self.at = self._decoder.decode(head.removeprefix(_BYTE_ORDER_MARK)), 0

    def more(self) -> bool:
        wanted = max(_BLOCK, len(self.held) - self.at)
        if wanted > LONGEST_RECORD:
            raise ValueError(f"an element of more than {LONGEST_RECORD} bytes")
        block = self._file.read(wanted)
        self.held = self.held[self.at :] + self._decoder.decode(block, final=not block)
        self.at = 0
        return bool(block)

    def skip(self, characters: str) -> str:
        """The first character that is none of these; empty at the end."""
        while True:
            while self.at < len(self.held):
                if self.held[self.at] not in characters:
                    return self.held[self.at]
                self.at += 1
            if not self.more():
                return ""
