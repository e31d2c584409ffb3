"""What a detector returns."""

from collections.abc import Iterable
from dataclasses import dataclass

KINDS = ("email", "address", "key", "password", "name")


@dataclass(frozen=True)
class Finding:
    """A value at the characters [start, end) of a text."""

    start: int
    end: int
    kind: str  # one of KINDS
    value: str


def without_overlaps(findings: Iterable[Finding]) -> list[Finding]:
    """In order of place; of findings that overlap, the one that begins first, then the longest, stays."""
    kept: list[Finding] = []
    for finding in sorted(findings, key=lambda f: (f.start, -f.end, KINDS.index(f.kind))):
        if not kept or finding.start >= kept[-1].end:
            kept.append(finding)
    return kept
