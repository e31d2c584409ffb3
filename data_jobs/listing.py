"""Listing every source of a config, and telling whether a source has changed since."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from data_jobs.sources.entries import Listing
from data_jobs.sources.folder import FolderSource, StandardLibrarySource, list_folder, standard_library
from starloom.errors import UserError


def list_source(source: Any) -> Listing:
    """The listing of one source of any kind."""
    match source:
        case FolderSource():
            return list_folder(source)
        case StandardLibrarySource():
            return list_folder(standard_library(source))
    raise UserError(f"sources: kind = {source.kind!r} has no reader")


def fingerprint_sources(sources: Sequence[Any]) -> str:
    """sha256 over (repository, path, size, time of change) of everything listed."""
    digest = hashlib.sha256()
    for source in sources:
        listing = list_source(source)
        for entry in listing.entries:
            changed = os.lstat(entry.location).st_mtime_ns
            digest.update(f"{entry.repo_name}\0{entry.path}\0{entry.size}\0{changed}\n".encode())
        for refusal in listing.refusals:
            digest.update(f"{refusal.repo_name}\0{refusal.path}\0{refusal.reason}\n".encode())
    return digest.hexdigest()
