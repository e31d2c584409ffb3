"""Training on tokens that were packed by language: the weights decide what is seen, and each language has a loss."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_jobs.train_tokenizer import train_bpe
from starloom.artifact import ArtifactWriter
from starloom.errors import RunError, UserError
from starloom.step import StepContext
from starloom.tokens import FimConfig, TokenShard, TokenShardWriter
from starloom.tokens.mixture import mixture, mixture_lines
from train_jobs.config import OptimizerConfig, PretrainConfig, ShapeConfig
from train_jobs.job import Job
from train_jobs.layout import Layout
from train_jobs.loop.batches import batches, open_data
from train_jobs.loop.launch import announce
from train_jobs.loop.place import Place
from train_jobs.loop.schedule import oddities
from train_jobs.parallel.draws import Draws
from train_jobs.parallel.layers import TensorSlice


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python's tokens are all 1, Go's all 2, and of Go there is half as much."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "tokenizer.json").write_text(train_bpe(iter(["def add(a, b): return a"] * 9), 280).json_text)
    for split in ("train", "heldout"):
        for language, number, length in (("Python", 1, 4000), ("Go", 2, 2000)):
            documents = [np.full(length, number, dtype="uint16")]
            TokenShardWriter("uint16").write(ArtifactWriter(str(folder)), f"{split}/{language}/part-00000", documents)
    return folder


def job(packed: Path, **changes: object) -> Job:
    config = PretrainConfig(
        model=ShapeConfig(layers=1, hidden=8, heads=2, context=20), fim=FimConfig(rate=0), **changes
    )
    train, heldout = (
        tuple(str(packed / split / language / "part-00000") for language in ("Go", "Python"))
        for split in ("train", "heldout")
    )
    return Job(config, train, heldout, "uint16", 280, str(packed / "tokenizer.json"), "")


def share_of_go(data) -> float:
    return float(np.mean([data[number].tokens[0] == 2 for number in range(3000)]))


def test_weights_decide_what_is_sampled(packed: Path) -> None:
    assert share_of_go(open_data(job(packed))[0]) == pytest.approx(1 / 3, abs=0.02)
    assert share_of_go(open_data(job(packed, weights={"Go": 2.0}))[0]) == pytest.approx(1 / 2, abs=0.01)
    assert share_of_go(open_data(job(packed, weights={"Python": 0.0}))[0]) == 1.0


def test_unknown_language_is_told_with_the_known_ones(packed: Path) -> None:
    with pytest.raises(UserError, match=r"weights\.Rust: no tokens of that group; there are Go, Python"):
        open_data(job(packed, weights={"Rust": 2.0}))


def test_each_language_is_held_out_by_itself(packed: Path) -> None:
    assert list(open_data(job(packed))[1]) == [""]
    heldout = open_data(job(packed, heldout_groups=True))[1]
    assert list(heldout) == ["", "Go", "Python"]
    assert set(heldout["Go"][3].tokens) == {2}


def test_table_tells_shares_epochs_and_what_is_left_out(packed: Path) -> None:
    shards = [TokenShard(packed / "train" / name / "part-00000", "uint16") for name in ("Go", "Python")]
    lines = list(mixture_lines(mixture(shards, {"Go": 3.0}, 20), 12_000))
    assert [line.split() for line in lines[1:]] == [
        ["Go", "2,000", "60.0000%", "3.60"],
        ["Python", "4,000", "40.0000%", "1.20"],
    ]
    (line,) = [line for line in mixture_lines(mixture(shards, {"Go": 1.0}, 3000), 12_000) if "left out" in line]
    assert line == "left out: Go, 2,000 tokens: shorter than a sample of 3,001 tokens"
    assert len(list(mixture_lines(mixture(shards, {}, 20), 12_000, most=1))) == 3


def test_id_that_the_model_does_not_have_ends_the_run(packed: Path) -> None:
    few = dataclasses.replace(job(packed), vocabulary=2)
    data, _ = open_data(few)
    place = Place(0, 0, TensorSlice(0, 1, None), Layout(), Draws())
    with pytest.raises(RunError, match="the tokens hold the id 2, the model has 2; pack with its tokenizer"):
        list(batches(data, 0, few, place))


def test_weights_that_leave_nothing_are_told_in_one_line(packed: Path, tmp_path: Path) -> None:
    context = StepContext("model", str(tmp_path), ArtifactWriter(str(tmp_path)), ())
    with pytest.raises(UserError, match="weights: every group is left out"):
        announce(job(packed, weights={"Go": 0.0, "Python": 0.0}), context)


def test_odd_lengths_are_told() -> None:
    optimizer = OptimizerConfig(warmup_steps=100)
    assert list(oddities(optimizer, 1000, 2.0)) == []
    assert [line.split()[1] for line in oddities(optimizer, 100, 2.0)] == ["optimizer.warmup_steps"]
    assert len(list(oddities(OptimizerConfig(warmup_steps=0), 1, 25.0))) == 2
