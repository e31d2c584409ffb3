"""Replacing what was found: the same value gets the same replacement within a file."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from data_jobs.personal_data.addresses import find_addresses
from data_jobs.personal_data.emails import find_emails
from data_jobs.personal_data.findings import Finding, without_overlaps
from data_jobs.personal_data.secrets import find_secrets
from starloom import plugins

Detector = Callable[[str], Iterable[Finding]]

DETECTORS: dict[str, Detector] = {"emails": find_emails, "addresses": find_addresses, "secrets": find_secrets}
PLACEHOLDERS = {"email": "<EMAIL>", "key": "<KEY>", "password": "<PASSWORD>", "name": "<NAME>"}
# addresses stay addresses, so that the code around them keeps its shape
PRIVATE_V4 = tuple(f"10.{n}.{n * 7 % 256}.{n * 11 % 256 or 1}" for n in range(20, 28))
PRIVATE_V6 = tuple(f"fd00:{n:x}::{n * 3:x}" for n in range(20, 28))


@dataclass(frozen=True)
class Edit:
    """The characters [start, end) of a text become `replacement`."""

    start: int
    end: int
    replacement: str
    kind: str


def find_all(text: str, detectors: Sequence[Detector] = tuple(DETECTORS.values())) -> list[Finding]:
    """What all detectors find, in order, without overlaps."""
    return without_overlaps(finding for detector in detectors for finding in detector(text))


def redact(text: str, detectors: Sequence[Detector] = tuple(DETECTORS.values())) -> list[Edit]:
    """The edits that take personal data and secrets out of a text, in order, without overlaps."""
    chosen: dict[str, str] = {}
    edits = []
    for finding in find_all(text, detectors):
        if finding.kind == "address" and finding.value not in chosen:
            pool = PRIVATE_V6 if ":" in finding.value else PRIVATE_V4
            chosen[finding.value] = pool[len(chosen) % len(pool)]
        replacement = PLACEHOLDERS.get(finding.kind) or chosen[finding.value]
        edits.append(Edit(finding.start, finding.end, replacement, finding.kind))
    return edits


def load_detectors(names: Sequence[str]) -> list[Detector]:
    """The detectors of that name, built in or ``module:function`` (a recognizer of names, for example).

    Raises:
        UserError: there is no such detector.
    """
    return plugins.load_all(names, DETECTORS, what="detectors", group="detectors")
