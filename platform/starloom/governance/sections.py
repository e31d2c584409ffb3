"""Sections of cards as Markdown, each from one kind of artifact."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starloom.kinds import Corpus, Evaluation, Memorization, Model
from starloom.markdown import table

SETTINGS: Final = (
    *("global_batch", "sequence", "context", "optimizer", "fim", "weights", "seed", "precision", "layout", "zero"),
    *("lora", "length_warmup"),
)


def training(model: Model, position: Mapping[str, Any] | None = None) -> str:
    """What a model was trained with; `position` is a checkpoint's own manifest."""
    settings = model.artifact.manifest.config
    rows: list[tuple[str, Any]] = [(name, settings[name]) for name in SETTINGS if settings.get(name) not in (None, {})]
    loss = (position or {}).get("heldout_loss")
    if loss is not None:
        rows.append(("held-out loss at this step", f"{loss:.4f}"))
    return table(("setting", "value"), [(name, _shown(value)) for name, value in rows])


def data(corpus: Corpus) -> list[str]:
    """What was kept of what was offered, and the languages."""
    funnel = [(stage.stage, f"{stage.files_in:,}", f"{stage.files_out:,}") for stage in corpus.funnel()]
    sizes = [(name, f"{e['files']:,}", f"{e['bytes']:,}") for name, e in sorted(corpus.languages().items())]
    return [
        table(("stage", "files in", "files out"), funnel, numbers=True),
        table(("language", "files", "bytes"), sizes, numbers=True),
    ]


def scores(evaluation: Evaluation) -> str:
    """What a model was measured at."""
    found = evaluation.results()
    rows = [
        (benchmark, f"pass@{k}", f"{value:.1%}", f"{entry['tasks']:,} tasks, n = {entry['n']:,}")
        for benchmark, entry, k, value in passes(found)
    ]
    if "heldout" in found:
        held = found["heldout"]
        beside = f"gzip {held['gzip']:.3f}, xz {held['xz']:.3f}"
        rows.append(("held-out files", "bits per byte", f"{held['bits_per_byte']:.3f}", beside))
    return table(("benchmark", "measure", "value", "on"), rows)


def passes(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], str, float]]:
    """(benchmark, its entry, k, pass@k) of an evaluation's results, in order."""
    return [
        (benchmark, entry, k, value)
        for benchmark, entry in sorted(results.items())
        if isinstance(entry, dict) and "pass_at_k" in entry
        for k, value in sorted(entry["pass_at_k"].items(), key=lambda pair: int(pair[0]))
    ]


def memorization(found: Memorization) -> str:
    """How much a model writes that stands in its corpus."""
    rows = [
        (row["prompts"], row["writer"], f"{row['share']:.1%}", f"{row['longest']:,}", f"{row['extractable']:.1%}")
        for row in found.results()["figures"]
    ]
    return table(("prompts", "written by", "characters in the corpus", "longest passage", "extractable"), rows)


def titled(title: str, parts: Sequence[str]) -> list[str]:
    """A section with its title."""
    return [f"## {title}", *parts]


def _shown(value: Any) -> str:
    return f"`{json.dumps(value)}`" if isinstance(value, dict | list) else str(value)
