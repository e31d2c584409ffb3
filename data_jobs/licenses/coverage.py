"""Which licences cover a file: what it says itself, a map of files, or the nearest licence texts and metadata above it.

Everything is told of a `scope`: the place of one repository (its folder, archive, or URL). Two repositories of one name
have nothing in common.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from data_jobs.licenses.expressions import Conjuncts, conjoined, ids_of
from data_jobs.licenses.headers import header_notices, spdx_tags
from data_jobs.licenses.metadata import FileRule

UNKNOWN = "LicenseRef-unknown"  # of a licence text that no licence of SPDX matches and that takes nothing away
_SURE = 1.0


@dataclass(frozen=True)
class Claim:
    """A file of a repository and what it says about the licence of the files in a folder."""

    path: str
    folder: str
    kind: Literal["text", "library", "metadata"]
    licenses: Conjuncts  # empty: an unknown text, which covers itself alone
    score: float = _SURE


@dataclass(frozen=True)
class Covered:
    """The licences of a file, all of which hold, and where they are told."""

    licenses: Conjuncts = ()
    source: str = ""


@dataclass
class Repository:
    """What is told about one scope."""

    claims: dict[str, list[Claim]] = field(default_factory=lambda: defaultdict(list))  # by folder
    unknown: set[str] = field(default_factory=set)  # licence files that no licence matches
    rules: list[FileRule] = field(default_factory=list)

    def add(self, claim: Claim) -> None:
        """Take a claim into account."""
        if claim.licenses:
            self.claims[claim.folder].append(claim)
        else:
            self.unknown.add(claim.path)

    def of(self, path: str) -> Covered:
        """The licences of a file that says nothing itself; none when the repository has none that reaches it."""
        if path in self.unknown:
            return Covered((UNKNOWN,), f"{path} itself")
        rule = self.rule_of(path)
        if rule is not None:
            return Covered(rule.licenses, "map of files")
        folder = posixpath.dirname(path)
        while True:
            covered = _together(self.claims.get(folder, ()))
            if covered.licenses or not folder:
                return covered
            folder = posixpath.dirname(folder)

    def rule_of(self, path: str) -> FileRule | None:
        """The last rule that matches; one of a deeper folder comes before those above it."""
        matching = [rule for rule in self.rules if _matches(rule, path)]
        deepest = max((len(rule.folder) for rule in matching), default=0)
        return next((rule for rule in reversed(matching) if len(rule.folder) == deepest), None)


def _together(claims: Iterable[Claim]) -> Covered:
    """Texts beside each other all hold, unless metadata say how they belong together (``MIT OR Apache-2.0``).

    A folder ``LICENSES/`` is a library of texts: it speaks only where nothing else does.
    """
    by_kind: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        by_kind[claim.kind].append(claim)
    texts, metadata = by_kind["text"], by_kind["metadata"]
    if not texts and not metadata:
        texts = by_kind["library"]
    told, declared = (conjoined(*(claim.licenses for claim in some)) for some in (texts, metadata))
    if declared and _explains(declared, told):
        told, texts = declared, []
    used = [*texts, *metadata]
    return Covered(conjoined(told, declared), ", ".join(sorted(set(map(_shown, used)))))


def _explains(declared: Conjuncts, told: Conjuncts) -> bool:
    """Whether metadata name every licence of the texts; "GPL-3.0-or-later" names the text of GPL-3.0 too."""
    families = {_version(one) for one in ids_of(declared)}
    return {_version(one) for one in ids_of(told)} <= families


def _version(license_id: str) -> str:
    return re.sub(r"-(?:only|or-later)$|\+$", "", license_id)


def _shown(claim: Claim) -> str:
    return claim.path if claim.kind == "metadata" else f"{claim.path} ({claim.score:.2f})"


def _matches(rule: FileRule, path: str) -> bool:
    if rule.folder:
        if not path.startswith(rule.folder + "/"):
            return False
        path = path[len(rule.folder) + 1 :]
    return _glob(rule.pattern).fullmatch(path) is not None


@lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    """REUSE and Debian: a star matches slashes too, which REUSE writes with two."""
    return re.compile(
        re.escape(pattern.removeprefix("./")).replace(r"\*\*", ".*").replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL
    )


@dataclass(frozen=True)
class Coverage:
    """The repositories of a shard by scope; of those that are known by their full name alone, by that."""

    by_scope: dict[str, Repository] = field(default_factory=dict)
    by_name: dict[str, Covered] = field(default_factory=dict)  # owner/repo -> what covers its top

    def of(self, scope: str, path: str, text: str | None = None, *, given: Covered | None = None) -> Covered:
        """What covers a file of a scope with this text (None: a record that cannot say anything itself).

        A map of files that overrides comes first, then the file's own tags, the map, its own notice, what was `given`
        with the source, and the folders above.
        """
        repository = self.by_scope.get(scope)
        rule = repository.rule_of(path) if repository else None
        mapped = Covered(rule.licenses, "map of files") if rule else Covered()
        if rule is not None and rule.override:
            return mapped
        tagged = Covered(spdx_tags(text), "SPDX tag in the file") if text is not None else Covered()
        if tagged.licenses or mapped.licenses:
            return tagged if tagged.licenses else mapped
        noticed = Covered(header_notices(text), "notice in the file") if text is not None else Covered()
        if noticed.licenses:
            return noticed
        if given is not None:
            return given
        return repository.of(path) if repository else Covered()

    def of_name(self, repo_name: str) -> Covered:
        """What covers a repository that is known by its full name alone, such as that of an issue."""
        return self.by_name.get(repo_name.lower(), Covered())
