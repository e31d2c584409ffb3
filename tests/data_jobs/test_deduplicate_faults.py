"""Workers that die and runs that stop: the run goes on, and its files are those of an undisturbed run."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_jobs import deduplicate, pack, train_tokenizer
from data_jobs.near_duplicates import candidates, connecting, deciding, signing, verification
from data_jobs.shards import map_shards
from starloom.artifact import Artifact
from starloom.step import run_step
from tests.data_jobs.corpora import artifact, changed, text

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]
STAGES = {
    "sign": signing,
    "candidates": candidates,
    "merge": candidates,
    "shingle": verification,
    "verify": verification,
    "connect": connecting,
    "decide": deciding,
    "decisions": deciding,
}


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    contents = [changed(text(n % 7), 1 + n % 3, seed=n) for n in range(40)]
    shards = [[{"content": content} for content in contents[s::4]] for s in range(4)]
    return artifact(tmp_path_factory.mktemp("source"), "collected", shards)


@pytest.fixture(scope="module")
def calm(ray_cluster: str, collected: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """What an undisturbed run makes."""
    return run(tmp_path_factory.mktemp("calm"), collected)


def checksums(made: Artifact) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in made.manifest.files.items()}


def run(root: Path, collected: Artifact) -> Artifact:
    config = deduplicate.DeduplicateConfig(edges_per_task=50, bands_per_task=16)
    return run_step(deduplicate.STEP, config, root=str(root), name="duplicates", needs=[collected])


def killing_once(marker: Path, stage: str) -> Callable[..., list[Any]]:
    """`map_shards` in which the first task of a stage kills its own worker, once."""

    def disturbed(items: Sequence[Any], work: Callable[[Any], Any], *, name: str, cpus: float = 1.0) -> list[Any]:
        def fatal(item: Any) -> Any:
            if name == stage and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return work(item)

        return map_shards(items, fatal, name=name, cpus=cpus)

    return disturbed


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_killed_worker_in_any_stage_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collected: Artifact, calm: Artifact, stage: str
) -> None:
    marker = tmp_path / "killed"
    monkeypatch.setattr(STAGES[stage], "map_shards", killing_once(marker, stage))
    disturbed = run(tmp_path / "disturbed", collected)
    assert marker.exists()
    assert checksums(disturbed) == checksums(calm)
    assert calm.manifest.counts.rows_out < 40


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_run_that_stops_in_any_stage_is_resumed_without_signing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collected: Artifact, calm: Artifact, stage: str
) -> None:

    def stopped(items: Sequence[Any], work: Callable[[Any], Any], *, name: str, cpus: float = 1.0) -> list[Any]:
        found = map_shards(items, work, name=name, cpus=cpus)
        if name == stage:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(STAGES[stage], "map_shards", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "again", collected)
    signatures = sorted((tmp_path / "again").rglob("signatures/*.npy"))
    assert len(signatures) == 4
    written = [path.stat().st_mtime_ns for path in signatures]
    seen: list[int] = []

    def watched(self: Any, relative: str) -> None:
        if relative == signing.FOLDER:
            seen.extend(path.stat().st_mtime_ns for path in signatures)
        remove(self, relative)

    from starloom.artifact import ArtifactWriter

    remove = ArtifactWriter.remove
    monkeypatch.setattr(ArtifactWriter, "remove", watched)
    resumed = run(tmp_path / "again", collected)
    assert seen == written
    assert checksums(resumed) == checksums(calm)


def test_run_that_stops_while_it_connects_pairs_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collected: Artifact, calm: Artifact
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(connecting, "connect", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "again", collected)
    assert not list((tmp_path / "again").rglob("clusters.parquet"))
    assert checksums(run(tmp_path / "again", collected)) == checksums(calm)


def test_killed_worker_while_packing_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[{"content": text(100 * s + n), "repo_name": f"o/{n}"} for n in range(10)] for s in range(4)]
    source = artifact(tmp_path, "corpus", rows)
    config = train_tokenizer.TrainTokenizerConfig(vocabulary=300)
    tokenizer = run_step(train_tokenizer.STEP, config, root=str(tmp_path), name="tokenizer", needs=[source])
    needs = [source, tokenizer]
    calm = run_step(pack.STEP, pack.PackConfig(), root=str(tmp_path / "calm"), name="tokens", needs=needs)
    marker = tmp_path / "killed"
    monkeypatch.setattr(pack, "map_shards", killing_once(marker, "pack"))
    disturbed = run_step(pack.STEP, pack.PackConfig(), root=str(tmp_path / "disturbed"), name="tokens", needs=needs)
    assert marker.exists()
    assert checksums(disturbed) == checksums(calm)
