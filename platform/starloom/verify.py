"""``starloom verify``: every file of a run read again and held against its checksum."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from starloom import storage
from starloom.artifact import Manifest, manifests, read_manifest
from starloom.errors import UserError
from starloom.recipe import Recipe

HASHED_AT_ONCE = 8  # files; hashing leaves the interpreter free


@dataclass(frozen=True)
class Verification:
    """What was found of one artifact; `damages` are one line a file, empty when it is whole."""

    step: str
    fingerprint: str
    files: int
    bytes: int
    damages: tuple[str, ...]


def verify(recipe: Recipe) -> Iterator[Verification]:
    """Check every finished artifact of the recipe's steps, in their order; sources and settings are not looked at.

    Raises:
        UserError: nothing is finished.
    """
    found = [(entry.name, folder) for entry in recipe.steps for folder in manifests(recipe.root, entry.name)]
    if not found:
        raise UserError(f"{recipe.root}: nothing is finished yet; run the recipe first")
    for name, folder in found:
        fingerprint = folder.rsplit("/", 1)[-1]
        try:
            manifest = read_manifest(folder)
        except UserError as error:
            yield Verification(name, fingerprint, 0, 0, (str(error),))
        else:
            yield Verification(name, fingerprint, len(manifest.files), manifest.bytes, damages(folder, manifest))


def told(found: Sequence[Verification]) -> list[str]:
    """What to do, as lines for people."""
    damaged = [one for one in found if one.damages]
    files, size = sum(one.files for one in found), sum(one.bytes for one in found)
    if not damaged:
        return [f"{len(found)} artifacts, {files:,} files, {size / 1e6:,.1f} MB: every checksum matches"]
    steps = ", ".join(dict.fromkeys(one.step for one in damaged))
    return [
        f"{len(damaged)} of {len(found)} artifacts are damaged; remove these folders and run again to make them anew:",
        *(f"  {one.step}/{one.fingerprint}" for one in damaged),
        f"steps to make again, and what was made from them if it was made since: {steps}",
    ]


def damages(folder: str, manifest: Manifest) -> tuple[str, ...]:
    """What is wrong with an artifact's files, one line a file: every one is read and held against its checksum."""
    present = storage.sizes_below(folder)

    def damage(name: str) -> str:
        wanted = manifest.files[name]
        if name not in present:
            return f"{name} is missing"
        if present[name] != wanted.bytes:
            return f"{name} has {present[name]:,} bytes, not {wanted.bytes:,}"
        if storage.checksum(storage.join(folder, name)) != wanted.sha256:
            return f"{name} does not match its checksum"
        return ""

    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        return tuple(filter(None, pool.map(damage, sorted(manifest.files))))
