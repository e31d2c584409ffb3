"""Names of files as sources meet them: which are excluded, which lead outside, which cannot be written down."""

import fnmatch
from collections.abc import Sequence
from pathlib import PurePosixPath


def is_utf8(name: str) -> bool:
    """Whether a file name from the operating system is valid UTF-8 (Python marks other bytes as surrogates)."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def excluded(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path matches one of the glob patterns."""
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def wholly_excluded(folder: str, patterns: Sequence[str]) -> bool:
    """Whether every path below a folder, whose name ends with a slash, matches one of the patterns."""
    return any(pattern.endswith("*") and fnmatch.fnmatch(folder, pattern) for pattern in patterns)


def safe_member(name: str) -> str | None:
    """A path from inside an archive or a tree, made relative and plain; None when it leads outside."""
    plain = name.replace("\\", "/")
    parts = [part for part in PurePosixPath(plain).parts if part != "."]
    if plain.startswith("/") or ".." in parts or not parts or (len(parts[0]) == 2 and parts[0][1] == ":"):
        return None
    return "/".join(parts)
