"""Small artifacts of collected and curated text, made without the steps that usually make them."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from starloom.artifact import Artifact
from starloom.config import Config
from starloom.schema import CORPUS
from starloom.step import Outcome, Step, StepContext, run_step


class RowsConfig(Config):
    """Shards of rows; keys that a row lacks get plain values."""

    shards: tuple[tuple[dict[str, Any], ...], ...]


def _write(config: RowsConfig, context: StepContext) -> Outcome:
    languages: dict[str, Counter[str]] = {}
    for number, shard in enumerate(config.shards):
        rows = [_row(row, f"{number}-{n}") for n, row in enumerate(shard)]
        for row in rows:
            counts = languages.setdefault(row["language"], Counter())
            counts["files"] += 1
            counts["bytes"] += len(row["content"].encode())
        context.output.write_table(f"data/part-{number:05d}.parquet", pa.Table.from_pylist(rows, schema=CORPUS))
    context.output.write_json("languages.json", languages)
    return Outcome()


def _row(given: dict[str, Any], name: str) -> dict[str, Any]:
    digest = hashlib.sha256(given["content"].encode()).hexdigest()
    plain = {"repo_name": f"team/{name}", "path": f"{name}.py", "language": "Python", "licenses": [], "stars": 0}
    return {**plain, "id": digest, "commit": None, "source": "test", "kind": "file", **given}


def artifact(root: Path, kind: str, shards: Sequence[Sequence[dict[str, Any]]], name: str | None = None) -> Artifact:
    """An artifact of kind `collected` or `corpus` with these rows."""
    step = Step(config=RowsConfig, run=_write, produces=kind)
    return run_step(step, RowsConfig(shards=tuple(map(tuple, shards))), root=str(root), name=name or kind)


def text(seed: int, words: int = 120) -> str:
    """Source-like text of random words; another seed shares no 5-gram with it."""
    generator = random.Random(seed)
    lines = [" ".join("".join(generator.choices("etaoinshrdlu", k=6)) for _ in range(6)) for _ in range(words // 6)]
    return "\n".join(lines) + "\n"


def changed(original: str, words: int, seed: int = 0) -> str:
    """The text with that many words in a row replaced, from a place that `seed` decides: each change loses 5-grams."""
    parts = original.split(" ")
    start = random.Random(seed).randrange(len(parts) - words)
    return " ".join([*parts[:start], *(f"x{seed}y{n}" for n in range(words)), *parts[start + words :]])
