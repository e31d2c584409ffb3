"""A new batch against what is remembered of the corpus: its text is gone, its files stay, the batch loses copies."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from data_jobs import remember
from data_jobs.near_duplicates.config import SketchConfig
from starloom.artifact import Artifact
from starloom.errors import UserError
from starloom.step import run_step
from tests.data_jobs.corpora import artifact, changed, text
from tests.data_jobs.test_deduplicate import dedup, dropped

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]
SHORT = "x = 1"


def remembered(root: Path, collected: Artifact, *decisions: Artifact, **settings: Any) -> Artifact:
    config = SketchConfig(**settings)
    return run_step(remember.STEP, config, root=str(root), name="remembered", needs=[collected, *decisions])


def first_batch(root: Path) -> tuple[Artifact, Artifact, Artifact]:
    """A corpus of two shards in which text 1 is there twice; what it keeps is remembered, and its text is removed."""
    rows = [
        [{"content": text(1)}, {"content": text(2)}, {"content": text(3), "stars": 5}],
        [{"content": changed(text(1), 2)}, {"content": SHORT}],
    ]
    collected = artifact(root, "collected", rows, name="first")
    decisions = dedup(root, collected, name="duplicates")
    known = remembered(root, collected, decisions)
    shutil.rmtree(collected.folder)
    return collected, decisions, known


def test_batch_loses_every_copy_of_remembered_files_without_their_text(tmp_path: Path) -> None:
    _, decisions, known = first_batch(tmp_path)
    assert len(dropped(decisions)) == 1
    new = [
        [{"content": text(1), "stars": 10_000, "licenses": ["MIT"]}, {"content": text(7)}],
        [{"content": changed(text(3), 3)}, {"content": changed(text(7), 2)}, {"content": SHORT + "\n"}],
    ]
    named = [[{**row, "repo_name": f"new/{s}-{n}"} for n, row in enumerate(shard)] for s, shard in enumerate(new)]
    batch = artifact(tmp_path, "collected", named, name="second")
    made = dedup(tmp_path, batch, known, name="duplicates2")
    reasons = dropped(made)
    assert set(reasons) == {(0, 0), (1, 0), (1, 1), (1, 2)}
    assert reasons[0, 0] == "exact_duplicate"
    assert reasons[1, 2] == "normalized_duplicate"
    assert (made.manifest.counts.rows_in, made.manifest.counts.rows_out) == (5, 1)
    assert made.files("decisions/") == ["decisions/part-00000.parquet", "decisions/part-00001.parquet"]
    clusters = made.read_table("clusters.parquet").to_pylist()
    survivors = {row["repo_name"]: row["survivor_repo"] for row in clusters if not row["kept"]}
    assert survivors == {"new/0-0": "team/0-0", "new/1-0": "team/0-2", "new/1-1": "new/0-1", "new/1-2": "team/1-1"}


def test_batch_as_one_corpus_and_in_two_parts_keeps_the_same_number_of_texts(tmp_path: Path) -> None:
    contents = [changed(text(n % 12), 1 + n % 3, seed=n) for n in range(60)]
    halves = [[{"content": one} for one in contents[start : start + 30]] for start in (0, 30)]
    whole = dedup(tmp_path, artifact(tmp_path, "collected", halves, name="whole"), name="once")
    first = artifact(tmp_path, "collected", halves[:1], name="half1")
    early = dedup(tmp_path, first, name="early")
    late = dedup(
        tmp_path,
        artifact(tmp_path, "collected", halves[1:], name="half2"),
        remembered(tmp_path, first, early),
        name="late",
    )
    assert early.manifest.counts.rows_out + late.manifest.counts.rows_out == whole.manifest.counts.rows_out == 12


def test_file_between_two_remembered_ones_is_dropped_and_both_stay(tmp_path: Path) -> None:
    base = text(1)
    left, right = changed(base, 12, seed=1), changed(base, 12, seed=2)
    known = remembered(tmp_path, artifact(tmp_path, "collected", [[{"content": left}, {"content": right}]], name="old"))
    batch = artifact(tmp_path, "collected", [[{"content": base}, {"content": text(9)}]], name="new")
    made = dedup(tmp_path, batch, known)
    assert set(dropped(made)) == {(0, 0)}
    kept = [row["kept"] for row in made.read_table("clusters.parquet").to_pylist()]
    assert sorted(kept) == [False, True, True]


def test_signatures_made_with_other_settings_are_refused_in_one_line(tmp_path: Path) -> None:
    collected = artifact(tmp_path, "collected", [[{"content": text(1)}]], name="old")
    known = remembered(tmp_path, collected, ngram=7)
    with pytest.raises(UserError, match="remembered was made with ngram = 7, this step has 5"):
        dedup(tmp_path, collected, known)
