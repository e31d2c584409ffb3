"""What the files that tell licences say: read place by place, each distinct text identified once, in tasks.

The texts wait on disk, some hundreds a file; between tasks travel their keys.
"""

import pickle
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any

from data_jobs.licenses.coverage import Claim, Coverage, Covered, Repository
from data_jobs.licenses.files import covered_folder
from data_jobs.licenses.metadata import FileRule, declared, file_rules, is_map
from data_jobs.licenses.texts import Identified, identify, text_key
from data_jobs.sources.entries import LicenseFile
from starloom.artifact import ArtifactWriter

TEXTS_PER_FILE = 256
IDENTIFIED = "identified"


@dataclass(frozen=True)
class Told:
    """What one file says: a claim, whose licences may hang on a text that is yet to be identified, or rules."""

    scope: str
    repo_name: str
    claim: Claim | None = None
    text: str = ""  # the key of a text
    rules: tuple[FileRule, ...] = ()
    by_content: bool = False  # it counts only when its text is a licence


@dataclass
class Surveyor:
    """Takes the licence files of one place and puts their texts aside; `close` ends the last file."""

    output: ArtifactWriter
    folder: str
    keys: dict[str, str] = field(default_factory=dict)  # of a text -> the file that it is in
    _held: dict[str, str] = field(default_factory=dict)

    def take(self, file: LicenseFile) -> Told | None:
        """What the file says; None where it says nothing."""
        folder = covered_folder(file.path)
        if file.kind == "map" or is_map(file.text):
            rules = tuple(file_rules(file.path, file.text))
            return Told(file.scope, file.repo_name, rules=rules) if rules else None
        if file.kind == "metadata":
            licenses = declared(file.path, file.text)
            claim = Claim(file.path, folder, "metadata", licenses)
            return Told(file.scope, file.repo_name, claim) if licenses else None
        key = text_key(file.text)
        if key not in self.keys:
            self._held[key] = file.text
            self.keys[key] = f"{self.folder}/{len(self.keys) // TEXTS_PER_FILE:06d}"
            if len(self._held) == TEXTS_PER_FILE:
                self.close()
        claim = Claim(file.path, folder, "library" if file.kind == "library" else "text", ())
        return Told(file.scope, file.repo_name, claim, key, by_content=file.kind == "content")

    def close(self) -> None:
        """Write what is held."""
        if self._held:
            name = self.keys[next(iter(self._held))]
            with self.output.create(name) as file:
                pickle.dump(self._held, file)
            self._held = {}


def identify_texts(name: str, keys: Collection[str], output: ArtifactWriter) -> dict[str, Identified]:
    """The licences of some of the texts of a file that a `Surveyor` wrote."""
    with output.open_file(name) as file:
        texts: dict[str, str] = pickle.load(file)
    return {key: identify(texts[key]) for key in sorted(keys)}


def resolved(told: Told, identified: Mapping[str, Identified]) -> Told | None:
    """With the licences of its text; None where its content was to tell and does not."""
    if told.claim is None or not told.text:
        return told
    found = identified[told.text]
    if told.by_content and not (found.licenses and found.score):
        return None
    return replace(told, claim=replace(told.claim, licenses=found.licenses, score=found.score))


def gather(told: Iterable[Told], scopes: Collection[str] | None = None) -> dict[str, Repository]:
    """The repositories by scope; only those of `scopes`, where it is given."""
    by_scope: dict[str, Repository] = {}
    for one in told:
        if scopes is None or one.scope in scopes:
            repository = by_scope.setdefault(one.scope, Repository())
            repository.rules += one.rules
            if one.claim is not None:
                repository.add(one.claim)
    return by_scope


def top_of(told: Iterable[Told]) -> Iterator[tuple[str, Covered]]:
    """What covers the top of each repository, by its full name in lower case; without an owner a name says nothing."""
    names: dict[str, str] = {}
    kept = []
    for one in told:
        if "/" in one.repo_name and (one.rules or (one.claim and not one.claim.folder)):
            names[one.scope] = one.repo_name.lower()
            kept.append(one)
    for scope, repository in gather(kept).items():
        covered = repository.of("file")
        if covered.licenses:
            yield names[scope], Covered(covered.licenses, f"repository {names[scope]}: {covered.source}")


def agreed(several: Iterable[tuple[str, Covered]]) -> dict[str, Covered]:
    """By name, where all repositories of that name have the same licences."""
    found: dict[str, Covered | None] = {}
    for name, covered in several:
        before = found.setdefault(name, covered)
        if before is None or before.licenses != covered.licenses:
            found[name] = None
    return {name: covered for name, covered in found.items() if covered is not None}


def coverage_of(told: Iterable[Told], scopes: Collection[str], by_name: Mapping[str, Covered]) -> Coverage:
    """What a shard of these scopes needs to know."""
    return Coverage(gather(told, scopes), dict(by_name))


def dump_batches(file: IO[bytes], items: Iterable[Any], size: int = 1000) -> int:
    """Write items in batches, for `load_batches`; returns how many."""
    batch: list[Any] = []
    count = 0
    for item in items:
        batch.append(item)
        count += 1
        if len(batch) == size:
            pickle.dump(batch, file, protocol=5)
            batch = []
    pickle.dump(batch, file, protocol=5)
    return count


def load_batches(file: IO[bytes]) -> Iterator[Any]:
    """The items that `dump_batches` wrote, a batch in memory at a time."""
    while True:
        try:
            yield from pickle.load(file)
        except EOFError:
            return
