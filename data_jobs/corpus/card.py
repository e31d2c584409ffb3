"""The data card: what a corpus is made of and what was kept out, as one Markdown page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from data_jobs.corpus.funnel import LicenseLosses
from starloom.kinds import Stage
from starloom.markdown import table

LISTED = 20  # licences and repositories, those with the most files


@dataclass(frozen=True)
class CardFacts:
    """Everything that the card tells; the sizes are (files, bytes) by name."""

    funnel: Sequence[Stage]
    languages: Mapping[str, tuple[int, int]]
    licenses: Mapping[str, tuple[int, int]]
    sources: Mapping[str, tuple[int, int]]
    kinds: Mapping[str, tuple[int, int]]
    edits: Mapping[str, int]  # replacements by kind of personal data
    clusters: int  # of duplicates
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)  # licence -> files, and what tells it
    losses: LicenseLosses = field(default_factory=LicenseLosses)


def render_card(facts: CardFacts) -> str:
    """The page; a function of the facts alone."""
    first, last = facts.funnel[0], facts.funnel[-1]
    opted_out = sum(stage.dropped.get("opt_out", 0) for stage in facts.funnel)
    sections = [
        "# Data card",
        f"{last.files_out:,} files and {_megabytes(last.bytes_out)} of text, "
        f"from {first.files_in:,} files that the sources offered.",
        "## Funnel",
        table(("stage", "files in", "files out", "bytes out"), [_stage(s) for s in facts.funnel], numbers=True),
        "## What was dropped",
        table(("stage", "reason", "files"), _reasons(facts.funnel), numbers=True),
        "## Sources",
        _sizes("source", facts.sources),
        "## Kinds of document",
        _sizes("kind", facts.kinds),
        "## Languages",
        _sizes("language", facts.languages),
        "## Licences",
        "A file under several licences counts for each of them; of alternatives (`A OR B`) one is enough.",
        _sizes("licence", facts.licenses),
        *_license_sections(facts),
        "## Personal data and secrets",
        table(("kind", "replacements"), [(kind, f"{n:,}") for kind, n in sorted(facts.edits.items())], numbers=True)
        if facts.edits
        else "No replacements were made.",
        "## Duplicates and opt-outs",
        f"{facts.clusters:,} clusters of duplicates, one file of each kept. "
        f"{opted_out:,} files left out at the wish of their owners; `dropped.parquet` lists them (reason `opt_out`).",
    ]
    return "\n\n".join(sections) + "\n"


def _license_sections(facts: CardFacts) -> list[str]:
    """What the licence policy dropped, and the evidence for some files of each licence, kept or not."""
    lost = _most(facts.losses.licenses)
    sections = ["### Files that the licence policy left out"]
    if lost:
        sections += [
            table(("licence", "files"), [(name or "none", f"{n:,}") for name, n in lost], numbers=True),
            table(
                ("repository", "files"),
                [(name, f"{n:,}") for name, n in _most(facts.losses.repositories)],
                numbers=True,
            ),
            *_evidence("Left out", [name for name, _ in lost], facts.losses.examples),
        ]
    else:
        sections.append("None.")
    kept = sorted(facts.licenses, key=lambda name: (-facts.licenses[name][0], name))[:LISTED]
    return [*sections, *_evidence("Kept", kept, facts.examples)]


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:LISTED]


def _evidence(what: str, names: Sequence[str], examples: Mapping[str, Sequence[str]]) -> list[str]:
    """A list of files and what tells their licence, for each of some licences."""
    sections = []
    for name in names:
        lines = "\n".join(f"- {_plain(example)}" for example in examples.get(name, ()))
        sections += [f"#### {what}: {_plain(name) or 'no licence'}", lines] if lines else []
    return sections


def _plain(text: str) -> str:
    return " ".join(text.replace("`", "'").replace("<", "&lt;").split())


def _stage(stage: Stage) -> tuple[str, str, str, str]:
    return stage.stage, f"{stage.files_in:,}", f"{stage.files_out:,}", _megabytes(stage.bytes_out)


def _reasons(funnel: Sequence[Stage]) -> list[tuple[str, str, str]]:
    return [
        (stage.stage, reason, f"{files:,}")
        for stage in funnel
        for reason, files in sorted(stage.dropped.items(), key=lambda entry: (-entry[1], entry[0]))
    ]


def _sizes(name: str, sizes: Mapping[str, tuple[int, int]]) -> str:
    ordered = sorted(sizes.items(), key=lambda entry: (-entry[1][1], entry[0]))
    rows = [(key or "none", f"{n:,}", _megabytes(b)) for key, (n, b) in ordered]
    return table((name, "files", "bytes"), rows, numbers=True)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
