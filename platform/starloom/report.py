"""The report of a run: one self-contained page from what the steps left behind."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from starloom import jsonlines
from starloom.artifact import Artifact
from starloom.charts import Series, line_chart
from starloom.config import Config
from starloom.kinds import Corpus, Decisions, Evaluation, Memorization, Model, Report, Tokens
from starloom.pages import RUN_MARK, Bar, templates
from starloom.program import main
from starloom.step import Outcome, Step, StepContext

LANGUAGES_SHOWN = 20
CLUSTERS_SHOWN = 10


class ReportConfig(Config):
    """What the page is called."""

    title: str = "Starloom run"


def run(config: ReportConfig, context: StepContext) -> Outcome:
    """Write report.html from every artifact that the step needs."""
    page = page_of(config.title, context.inputs)
    context.output.write_text(Report.PAGE, page)
    return Outcome(rows_in=len(context.inputs), rows_out=1)


def page_of(title: str, artifacts: Sequence[Artifact]) -> str:
    """The page as HTML."""
    by_kind = {artifact.kind: artifact for artifact in artifacts}
    # an exported model has no curves
    trained = [Model(a) for a in artifacts if a.kind == Model.kind and a.has(Model.METRICS)]
    page: str = (
        templates()
        .get_template("report.html.j2")
        .render(
            title=title,
            run_mark=RUN_MARK,
            steps=[
                (a.name, a.kind, a.fingerprint, a.manifest.counts.rows_out, megabytes(a.manifest.bytes))
                for a in artifacts
            ],
            packages=artifacts[-1].manifest.packages if artifacts else {},
            corpus=_corpus(Corpus(by_kind[Corpus.kind])) if Corpus.kind in by_kind else None,
            duplicates=_duplicates([Decisions(a) for a in artifacts if a.kind == Decisions.kind]),
            tokens=_tokens(Tokens(by_kind[Tokens.kind])) if Tokens.kind in by_kind else None,
            training=_training(trained[-1]) if trained else None,
            evaluation=_evaluation(Evaluation(by_kind[Evaluation.kind])) if Evaluation.kind in by_kind else None,
            memorization=Memorization(by_kind[Memorization.kind]).results() if Memorization.kind in by_kind else None,
        )
    )
    return page


def megabytes(count: float) -> str:
    """Bytes as MB (10^6) with one decimal, as kB below 0.1 MB."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 or count == 0 else f"{count / 1e3:,.1f} kB"


def _corpus(view: Corpus) -> dict[str, Any]:
    funnel, languages = view.funnel(), view.languages()
    first = max(funnel[0].files_in, 1)
    stages = [
        {
            "name": stage.stage,
            "files_in": stage.files_in,
            "files_out": stage.files_out,
            "bytes_out": megabytes(stage.bytes_out),
            "share": stage.files_out / first,
            "reasons": sorted(stage.dropped.items(), key=lambda entry: (-entry[1], entry[0])),
        }
        for stage in funnel
    ]
    ordered = sorted(languages.items(), key=lambda entry: (-entry[1]["bytes"], entry[0]))
    longest = max((counts["bytes"] for _, counts in ordered), default=1) or 1
    bars = [
        Bar(name or "none", megabytes(counts["bytes"]), counts["bytes"] / longest, f"{counts['files']:,} files")
        for name, counts in ordered[:LANGUAGES_SHOWN]
    ]
    return {
        "files_in": funnel[0].files_in,
        "files": funnel[-1].files_out,
        "bytes": megabytes(funnel[-1].bytes_out),
        "stages": stages,
        "languages": bars,
        "language_count": len(languages),
        "owners": _owners(view),
    }


def _owners(view: Corpus) -> dict[str, Any] | None:
    """Whose code it is, and what was done for them; None for a corpus that does not tell."""
    facts = view.told()
    if facts is None:
        return None
    bars = {
        facet: _size_bars(facts["sizes"][facet], "none" if facet == "license" else "not told")
        for facet in ("license", "source")
    }
    opted_out = sum(stage.dropped.get("opt_out", 0) for stage in view.funnel())
    return {"bars": bars, "edits": sorted(facts["edits"].items()), "opted_out": opted_out, "dropped": facts["dropped"]}


def _size_bars(sizes: dict[str, list[int]], nothing: str) -> list[Bar]:
    ordered = sorted(sizes.items(), key=lambda entry: (-entry[1][1], entry[0]))
    longest = max((size for _, (_, size) in ordered), default=1) or 1
    return [
        Bar(name or nothing, megabytes(size), size / longest, f"{files:,} files")
        for name, (files, size) in ordered[:LANGUAGES_SHOWN]
    ]


def _duplicates(decisions: Sequence[Decisions]) -> dict[str, Any] | None:
    tables = [table for table in (view.clusters() for view in decisions) if table is not None]
    if not tables:
        return None
    table = tables[-1]
    if table.num_rows == 0:
        return {"clusters": 0, "dropped": 0, "sizes": [], "largest": []}
    clusters = table.group_by("cluster").aggregate([("path", "count")])
    sizes = clusters["path_count"].to_numpy()
    kept = table.filter(table["kept"])
    names = dict(
        zip(
            kept["cluster"].to_pylist(),
            zip(kept["repo_name"].to_pylist(), kept["path"].to_pylist(), strict=True),
            strict=True,
        )
    )
    order = np.lexsort((clusters["cluster"].to_numpy(), -sizes))[:CLUSTERS_SHOWN]
    largest = [
        {"size": int(sizes[n]), "survivor": "/".join(names.get(clusters["cluster"][int(n)].as_py(), ("?",)))}
        for n in order
    ]
    return {
        "clusters": len(sizes),
        "dropped": table.num_rows - int(pc.sum(table["kept"]).as_py()),
        "sizes": _histogram(sizes),
        "largest": largest,
    }


def _histogram(sizes: np.ndarray) -> list[Bar]:
    edges = [2, 3, 4, 6, 11, 101, 1001, np.iinfo(np.int64).max]
    labels = ["2", "3", "4–5", "6–10", "11–100", "101–1,000", "over 1,000"]
    counts = [int(((sizes >= low) & (sizes < high)).sum()) for low, high in itertools.pairwise(edges)]
    return [Bar(label, f"{c:,}", c / max(*counts, 1)) for label, c in zip(labels, counts, strict=True) if c]


def _tokens(view: Tokens) -> dict[str, Any]:
    return {"vocabulary": view.vocabulary, "tokens": sum(shard.tokens for shard in view.shards().values())}


def _training(view: Model) -> dict[str, Any]:
    rows = [row for _, row in jsonlines.read(view.artifact.path(Model.METRICS))]
    trained = [row for row in rows if "loss" in row]
    held_out = [row for row in rows if "heldout_loss" in row]
    lines = [Series("training loss", [r["step"] for r in trained], [r["loss"] for r in trained])]
    if held_out:
        steps, losses = [r["step"] for r in held_out], [r["heldout_loss"] for r in held_out]
        lines.append(Series("held-out loss", steps, losses, marks=True))
    rate = Series("learning rate", [r["step"] for r in trained], [r["learning_rate"] for r in trained])
    norm = Series("gradient norm", [r["step"] for r in trained], [r["gradient_norm"] for r in trained])
    return {
        "steps": trained[-1]["step"] if trained else 0,
        "tokens": trained[-1]["tokens"] if trained else 0,
        "loss": trained[-1]["loss"] if trained else None,
        "curve": line_chart(lines, x_label="step", y_label="nats per token", title="Loss by step"),
        "norm": line_chart([norm], x_label="step", y_label="gradient norm", title="Gradient norm by step"),
        "rate": line_chart([rate], x_label="step", y_label="learning rate", title="Learning rate by step"),
        "parameters": view.parameters,
    }


def _evaluation(view: Evaluation) -> dict[str, Any]:
    results = view.results()
    heldout, before = results.get("heldout"), results.get("before")
    bars = []
    if heldout:
        compared = [("this model", heldout["bits_per_byte"])]
        if before:
            compared.append(("before this training", before["heldout"]["bits_per_byte"]))
        compared += [("xz", heldout["xz"]), ("gzip", heldout["gzip"])]
        longest = max(value for _, value in compared) or 1
        bars = [Bar(name, f"{value:.3f}", value / longest) for name, value in compared]
    return {
        "heldout": heldout,
        "bars": bars,
        "humaneval": results.get("humaneval"),
        "before": before["humaneval"]["pass_at_k"] if before else None,
        "completions": results["completions"],
    }


STEP = Step(config=ReportConfig, run=run, produces=Report.kind)

if __name__ == "__main__":
    main(STEP)
