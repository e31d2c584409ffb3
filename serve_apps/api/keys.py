"""API keys as operators write them: ``name:key``, one a line or between commas."""

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Mapping
from pathlib import Path

from starloom.errors import UserError

KEYS_VARIABLE = "STARLOOM_API_KEYS"
LOOK_SECONDS = 1.0  # so often a file of keys is looked at


def keys_of(text: str) -> dict[str, str]:
    """Names by keys, from ``name:key`` pairs between commas or lines; `UserError` for anything else."""
    keys = {}
    for entry in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        name, colon, key = entry.partition(":")
        if not (name and colon and key):
            raise UserError("API keys are written name:key, one a line or between commas; one of yours is not")
        keys[key] = name
    return keys


def read_keys(path: str | None) -> dict[str, str]:
    """The keys of a file; none without one.

    Raises:
        UserError: it cannot be read, or a line is no ``name:key``.
    """
    if path is None:
        return {}
    try:
        return keys_of(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"--api-keys {path}: is no UTF-8 text; give a file of name:key lines") from None
    except OSError as error:
        raise UserError(f"--api-keys {path}: {error.strerror}; give a file of name:key lines") from None


class Keys:
    """Names of users by the digests of their keys: fixed ones, and those of a file, read anew when it has changed.

    A file that cannot be read any more leaves the keys as they were, and says so once.

    Raises:
        UserError: the file cannot be read at first, or holds something else than ``name:key`` lines.
    """

    def __init__(self, fixed: Mapping[str, str], path: str | None) -> None:
        self._fixed, self._path = {_digest(key): name for key, name in fixed.items()}, path
        self._looked, self._state, self._told = time.monotonic(), _state(path), False
        self._of_file = {_digest(key): name for key, name in read_keys(path).items()}

    @property
    def asked_for(self) -> bool:
        """Whether a key must be sent."""
        return bool(self._fixed or self._path)

    def name(self, key: bytes) -> str | None:
        """Whose key it is; None where it is nobody's."""
        self._look()
        digest = hashlib.sha256(key).digest()
        # all are compared, each in constant time: the time tells nothing about any key
        known = [*self._fixed.items(), *self._of_file.items()]
        found = [name for one, name in known if hmac.compare_digest(one, digest)]
        return found[0] if found else None

    def _look(self) -> None:
        if self._path is None or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked, state = time.monotonic(), _state(self._path)
        if state == self._state:
            return
        try:
            self._of_file = {_digest(key): name for key, name in read_keys(self._path).items()}
            self._state, self._told = state, False
            print(f"keys: {len(self._of_file)} read from {self._path}", flush=True)
        except UserError as error:
            if not self._told:
                print(f"keys: as they were before: {error}", flush=True)
            self._told = True


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _state(path: str | None) -> tuple[int, int, int] | None:
    try:
        status = Path(path).stat() if path is not None else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None


def check_reach(host: str, meant: bool, keys: bool) -> None:
    """`UserError` where other machines could use a server without a key and nobody said that this is meant."""
    if not (keys or meant or host == "localhost" or _is_loopback(host)):
        raise UserError(f"--host {host}: whoever reaches it could use the server; give --api-keys FILE, or --open")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name can mean any address
