"""The forward pass in PyTorch: pieces of any company, precisions, and devices that are not there."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from serve_apps.deployment import ServingConfig
from serve_apps.engine.engine import EngineConfig, make_runner
from serve_apps.engine.pieces import Piece
from serve_apps.engine.slices import slice_of
from serve_apps.engine.torch_runner import Device, Precision, Sizes, TorchRunner
from starloom.errors import UserError
from starloom.model.folder import read_model
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
BLOCKS, SIZE = 64, 16
IDS = np.random.default_rng(0).integers(20, 280, (6, 40)).tolist()


def runner(
    folder: Path, precision: Precision = "float32", device: Device = "cpu", rounded: bool | None = None
) -> TorchRunner:
    sizes = Sizes(BLOCKS, SIZE, device, precision, rounded)
    return TorchRunner(slice_of(read_model(folder), (), sizes.dtype), sizes)


def logits(model: TorchRunner, lengths: list[int], *, together: bool) -> np.ndarray:
    """Of the last token of prompts of so many tokens, the last three of which come one step later, as drafts do."""
    tables = [list(range(4 * n, 4 * n + 4)) for n in range(len(lengths))]
    first = [Piece(IDS[n][: length - 3], 0, tables[n], 0) for n, length in enumerate(lengths) if length > 3]
    last = [
        Piece(IDS[n][max(0, length - 3) : length], max(0, length - 3), tables[n], 1) for n, length in enumerate(lengths)
    ]
    if together:
        model.forward(first)
        return model.forward(last).logits
    for piece in first:
        model.forward([piece])
    return np.concatenate([model.forward([piece]).logits for piece in last])


@pytest.mark.parametrize("lengths", [[40], [1, 2, 40], [4, 20, 19, 21, 40, 3]], ids=str)
def test_company_changes_nothing_but_rounding(tiny_models: tuple[Path, Path], lengths: list[int]) -> None:
    model = read_model(tiny_models[0])
    together = logits(runner(tiny_models[0]), lengths, together=True)
    assert np.allclose(together, logits(runner(tiny_models[0]), lengths, together=False), atol=1e-4)
    for row, ids, length in zip(together, IDS, lengths, strict=False):
        with torch.inference_mode():
            expected = model(torch.tensor([ids[:length]]))[0, -1]
        assert np.allclose(row, expected.numpy(), atol=1e-4)


def test_what_others_have_in_the_cache_is_not_touched_even_where_it_is_broken(tiny_models: tuple[Path, Path]) -> None:
    model = runner(tiny_models[0])
    expected = logits(model, [3, 40], together=True)
    model._cache[:, :, : 4 * SIZE] = float("nan")  # the blocks of the first
    model.forward([Piece(IDS[1][:39], 0, [4, 5, 6, 7], 0)])
    got = model.forward([Piece(IDS[0][:1], 0, [8], 1), Piece(IDS[1][39:40], 39, [4, 5, 6, 7], 1)]).logits
    assert np.allclose(got[1], expected[1], atol=1e-4)
    assert np.isfinite(got).all()


@pytest.mark.parametrize(
    ("device", "rounded"), [("cpu", False), ("cpu", True), pytest.param("cuda", True, marks=pytest.mark.gpu)]
)
def test_steps_of_one_token_give_what_whole_texts_do(
    tiny_models: tuple[Path, Path], device: Device, rounded: bool
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model, own = runner(tiny_models[0], device=device, rounded=rounded), read_model(tiny_models[0])
    lengths, tables = [1, 15, 16, 17, 31], [list(range(4 * n + 3, 4 * n - 1, -1)) for n in range(5)]
    prompts = [Piece(IDS[n][:length], 0, tables[n], 0) for n, length in enumerate(lengths)]
    model.forward(prompts)
    model._cache[:, :, 20 * SIZE : BLOCKS * SIZE] = float("nan")  # of others
    for step in range(3):
        pieces = [Piece([IDS[n][length + step]], length + step, tables[n], 1) for n, length in enumerate(lengths)]
        scores = model.forward(pieces)
        for n, length in enumerate(lengths):
            with torch.inference_mode():
                expected = own(torch.tensor([IDS[n][: length + step + 1]]))[0, -1].numpy()
            assert np.allclose(scores.logits[n], expected, atol=1e-4 if device == "cpu" else 1e-3)
            assert scores.best[n] == expected.argmax()
        assert len(scores.logits) == len(lengths)


def test_sizes_of_recorded_steps_are_few(tiny_models: tuple[Path, Path]) -> None:
    model = runner(tiny_models[0], rounded=True)
    numbers = model._decoder._numbers
    sizes = {
        tuple(numbers([Piece([20], length, list(range(4)), 1)] * count).shape)
        for count in range(1, 9)
        for length in range(0, 4 * SIZE, 5)
    }
    assert sizes == {(count, 3 + 8) for count in (1, 2, 4, 8)}


def test_bfloat16_is_near_and_softmax_is_not_in_it(tiny_models: tuple[Path, Path]) -> None:
    exact = logits(runner(tiny_models[0]), [40, 20], together=True)
    near = logits(runner(tiny_models[0], "bfloat16"), [40, 20], together=True)
    assert near.dtype == np.float32
    assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.slow
def test_benchmark_for_a_card_runs_on_a_processor_at_toy_size() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.bench_serve_gpu", "--dry"]
    environment = {"PYTHONPATH": ".:platform", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert all(figures[f"card_{name}"] > 0 for name in ("decode_b1", "decode_b8", "decode_b32", "whole_b32", "prefill"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a graphics card")
def test_a_card_that_is_not_there_is_told(tiny_models: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="finds no graphics card here; use device = 'cpu'"):
        make_runner(read_model(tiny_models[0]), EngineConfig(device="cuda"))


def test_a_replica_asks_for_the_card_that_its_models_share() -> None:
    models = [{"folder": "a", "engine": {"device": "cuda"}}, {"folder": "b", "engine": {"device": "cuda"}}]
    assert ServingConfig.model_validate({"models": models}).gpus == 1
    assert ServingConfig.model_validate({"models": [{"folder": "a"}]}).gpus == 0


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-3), ("bfloat16", 0.05)])
def test_a_card_gives_what_the_processor_does(
    tiny_models: tuple[Path, Path], precision: Precision, near: float
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    lengths = [4, 20, 19, 21, 40, 3]
    exact = logits(runner(tiny_models[0]), lengths, together=True)
    card = logits(runner(tiny_models[0], precision, "cuda"), lengths, together=True)
    assert np.abs(card - exact).max() < near * np.abs(exact).max()
