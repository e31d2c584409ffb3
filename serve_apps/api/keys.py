"""API keys as operators write them: ``name:key``, one a line or between commas."""

import ipaddress
from pathlib import Path

from starloom.errors import UserError

KEYS_VARIABLE = "STARLOOM_API_KEYS"


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
    except OSError as error:
        raise UserError(f"--api-keys {path}: {error.strerror}; give a file of name:key lines") from None


def check_reach(host: str, meant: bool, keys: bool) -> None:
    """`UserError` where other machines could use a server without a key and nobody said that this is meant."""
    if not (keys or meant or host == "localhost" or _is_loopback(host)):
        raise UserError(f"--host {host}: whoever reaches it could use the server; give --api-keys FILE, or --open")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name can mean any address
