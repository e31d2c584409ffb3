"""The right to write a folder, which one process has at a time; others wait and say for whom.

Locally that is a lock of the kernel's, which ends with its process. On an object store it is a numbered object: the
highest is the holder's, who writes it anew every few seconds. Whoever sees it unchanged for long takes the next number,
which the store gives to one alone. No two clocks are compared: everybody measures with his own.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from starloom import storage
from starloom.errors import StarloomError, disk_error

FILE: Final = ".lock"
FOLDER: Final = ".lease"
BEAT_SECONDS = 5.0
GONE_SECONDS = 30.0  # without a beat
POLL_SECONDS = 1.0


@contextmanager
def lease(folder: str, *, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a folder until the block ends; waits, and says for whom, while another process holds it.

    Raises:
        RunError: the folder cannot be made.
    """
    with _remote(folder, say) if storage.is_remote(folder) else _local(folder, say):
        yield


def is_held(folder: str) -> bool:
    """Whether a process holds the folder now; on an object store, or did and has not said that it ended."""
    if storage.is_remote(folder):
        return bool(_numbers(folder))
    lock = Path(folder) / FILE
    if not lock.exists():
        return False
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def _local(folder: str, say: Callable[[str], None]) -> Iterator[None]:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(Path(folder) / FILE, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise disk_error(error, folder) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            say(f"{folder} is being written by {holder}; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(OSError):  # a full disk: the name is for people
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _me().encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _remote(folder: str, say: Callable[[str], None]) -> Iterator[None]:
    own = uuid.uuid4().hex
    number = _taken(folder, own, say)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(folder, number, own, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with suppress(StarloomError):  # it runs out by itself
            storage.remove_file(_object(folder, number))


def _object(folder: str, number: int) -> str:
    return storage.join(folder, FOLDER, f".{number:08d}")  # hidden: no file of the artifact


def _numbers(folder: str) -> list[int]:
    return storage.asked(storage.join(folder, FOLDER), _listed)


def _listed(filesystem: object, path: str) -> list[int]:
    try:
        names = filesystem.ls(path, detail=False)  # type: ignore[attr-defined]
    except (FileNotFoundError, NotADirectoryError):
        return []
    ends = (name.rstrip("/").rsplit("/", 1)[-1].removeprefix(".") for name in names)
    return sorted(int(end) for end in ends if end.isdigit())


def _content(own: str, beat: int) -> bytes:
    return json.dumps({"holder": _me(), "id": own, "beat": beat}).encode()


def _taken(folder: str, own: str, say: Callable[[str], None]) -> int:
    """The number of a lease that is ours now."""
    seen, since, said = b"", time.monotonic(), False
    while True:
        numbers = _numbers(folder)
        last = numbers[-1] if numbers else 0
        content = _read(folder, last) if last else b""
        if content != seen:
            seen, since = content, time.monotonic()
        if content and json.loads(content).get("id") == own:  # a request that came through and whose answer did not
            return last
        if content and time.monotonic() - since < GONE_SECONDS:
            if not said:
                holder = json.loads(content).get("holder", "another process")
                say(f"{folder} is being written by {holder}; waiting for it")
                said = True
            time.sleep(POLL_SECONDS)
            continue
        if storage.create(_object(folder, last + 1), _content(own, 0)):
            if _numbers(folder)[-1:] == [last + 1]:
                for old in numbers:
                    storage.remove_file(_object(folder, old))
                return last + 1
            storage.remove_file(_object(folder, last + 1))  # somebody took a higher one while we looked
        seen, since = b"", time.monotonic()


def _read(folder: str, number: int) -> bytes:
    try:
        return storage.read_bytes(_object(folder, number))
    except FileNotFoundError:  # just given back
        return b""


def _beat(folder: str, number: int, own: str, ended: threading.Event) -> None:
    """Show that the holder lives. Who was held for dead meanwhile stops showing: the files are the same from either."""
    beat = 0
    while not ended.wait(BEAT_SECONDS):
        beat += 1
        with suppress(StarloomError):  # the next beat may come through
            if _numbers(folder)[-1:] != [number]:
                return
            with storage.atomic_write(_object(folder, number)) as file:
                file.write(_content(own, beat))
