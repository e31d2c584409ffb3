"""A model that is cut over processes answers as the whole one does, and nobody waits for a process that is gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
import torch

from serve_apps.deployment import ServingConfig
from serve_apps.engine.engine import EngineConfig, LocalEngine, make_runner
from serve_apps.engine.pieces import Piece
from serve_apps.engine.request import Sampling, Stopping
from serve_apps.engine.slices import slice_of
from serve_apps.engine.tensor_parallel import TensorParallelRunner
from serve_apps.engine.torch_runner import Sizes, TorchRunner
from starloom.errors import RunError, UserError
from starloom.model.adapter import LowRank
from starloom.model.config import ModelConfig
from starloom.model.folder import read_model
from starloom.model.model import CodeModel, initial_state
from starloom.tokenizer import load_tokenizer
from tests.patience import PATIENCE
from tests.serve_apps.engine_contract import Asked, told

ROOT = Path(__file__).parents[2]
BLOCKS, SIZE = 32, 16
# an odd vocabulary, and heads for two and four parts
CONFIG = ModelConfig(layers=2, hidden=64, heads=4, context=128, vocabulary=301)
IDS = np.random.default_rng(0).integers(0, 301, (4, 40)).tolist()


def model() -> CodeModel:
    made = CodeModel(CONFIG)
    made.load_state_dict(initial_state(CONFIG, 1))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("bias"):  # fresh ones are nought, and would not tell whether they were added twice
                weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return made.eval()


def adapters() -> list[LowRank]:
    """Two; the second leaves a layer as it is."""
    draw, made = torch.Generator().manual_seed(3), []
    for layers in ((0, 1), (1,)):
        one = {}
        for name, weight in model().named_parameters():
            if any(f".{layer}." in name for layer in layers) and weight.dim() == 2:
                down, up = torch.randn(3, weight.shape[1], generator=draw), torch.randn(len(weight), 3, generator=draw)
                one[name] = (down * 0.1, up * 0.1)
        made.append(one)
    return made


def steps() -> Iterator[list[Piece]]:
    """Prompts of several lengths and adapters, then tokens with drafts, then single ones."""
    tables = [list(range(4 * n + 3, 4 * n - 1, -1)) for n in range(4)]
    which, lengths = (-1, 0, 1, -1), (1, 15, 17, 31)
    yield [Piece(IDS[n][:k], 0, tables[n], 1, which[n]) for n, k in enumerate(lengths)]
    yield [Piece(IDS[n][k : k + 3], k, tables[n], 3, which[n]) for n, k in enumerate(lengths)]
    yield [Piece(IDS[n][k + 3 : k + 4], k + 3, tables[n], 1) for n, k in enumerate(lengths) if which[n] < 0]


@pytest.mark.parametrize(("parts", "rounded"), [(2, True), pytest.param(4, False, marks=pytest.mark.slow)])
def test_parts_compute_what_the_whole_does(parts: int, *, rounded: bool) -> None:
    sizes = Sizes(BLOCKS, SIZE, rounded=rounded)
    whole = TorchRunner(slice_of(model(), adapters(), sizes.dtype), sizes)
    with closing(TensorParallelRunner(model(), adapters(), sizes, parts)) as cut:
        for pieces in steps():
            expected, got = whole.forward(pieces), cut.forward(pieces)
            assert got.logits.shape == expected.logits.shape
            assert np.allclose(got.logits, expected.logits, atol=1e-4)
            assert (got.best == expected.best).all()
        assert not cut.failure


def test_parts_hold_their_share_of_the_weights_and_never_the_models_own() -> None:
    whole = model()
    held = [slice_of(whole, adapters(), torch.float32, rank, 4) for rank in range(4)]
    shared = sum(weight.numel() for name, weight in whole.named_parameters() if ".ln_" in name or "wpe" in name)
    shared += CONFIG.layers * (2 * CONFIG.head_dim * (CONFIG.hidden + 1) + 2 * CONFIG.hidden)  # K and V, biases
    cut = sum(weight.numel() for weight in whole.parameters()) - shared
    fill = (-CONFIG.vocabulary % 4) * CONFIG.hidden
    for part in held:
        assert sum(weight.numel() for weight in part.state.values()) == shared + (cut + fill) // 4
    alone = slice_of(whole, (), torch.float32).state
    assert all(alone[name].data_ptr() != weight.data_ptr() for name, weight in whole.named_parameters())


def test_a_part_that_is_gone_fails_the_step_and_is_told() -> None:
    with closing(TensorParallelRunner(model(), (), Sizes(BLOCKS, SIZE), 2)) as cut:
        (pieces, *_) = steps()
        plain = [Piece(piece.ids, 0, piece.table, 1) for piece in pieces]
        cut.forward(plain)
        victim = cut._others[0].process
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait(PATIENCE)
        with pytest.raises(RunError, match="part 1 of the model has ended"):
            cut.forward(plain)
        assert cut.failure == "part 1 of the model has ended"


def test_a_part_that_ends_in_the_middle_of_a_step_fails_it_for_good() -> None:
    with closing(TensorParallelRunner(model(), (), Sizes(BLOCKS, SIZE), 2)) as cut:
        plain = [Piece(IDS[0], 0, [0, 1, 2], 1)]
        cut.forward(plain)
        victim = cut._others[0].process
        os.kill(victim.pid, signal.SIGSTOP)  # the step waits for it
        threading.Timer(0.3, victim.kill).start()
        with pytest.raises(RuntimeError, match=r"(?i)connection"):
            cut.forward(plain)
        assert cut.failure
        with pytest.raises(RunError, match="part"):
            cut.forward(plain)


def test_a_part_that_ends_as_it_starts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="ended as it started"):
        TensorParallelRunner(model(), (), Sizes(BLOCKS, SIZE), 2)


def test_parts_end_with_who_started_them() -> None:
    cut = TensorParallelRunner(model(), (), Sizes(BLOCKS, SIZE), 2)
    process, folder = cut._others[0].process, cut._folder
    cut.close()
    assert process.returncode == 0
    assert not folder.exists()


@pytest.mark.slow
def test_parts_end_where_who_started_them_is_killed() -> None:
    code = (
        "from tests.serve_apps.test_tensor_parallel import BLOCKS, SIZE, Sizes, TensorParallelRunner, model\n"
        "cut = TensorParallelRunner(model(), (), Sizes(BLOCKS, SIZE), 2)\n"
        "print(cut._others[0].process.pid, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True) as parent:
        assert parent.stdout
        other = Path("/proc", parent.stdout.readline().strip())
        assert other.exists()
        parent.kill()
    until = time.monotonic() + PATIENCE
    while other.exists() and "Z" not in (other / "stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_an_engine_in_parts_is_healthy_until_one_is_lost(tiny_models: tuple[Path, Path]) -> None:
    tokenizer = load_tokenizer(tiny_models[0])
    answers = []
    for parts in (1, 2):
        config = EngineConfig(kernels="torch", tensor_parallel=parts, cache_tokens=512)
        with closing(LocalEngine(read_model(tiny_models[0]), tokenizer, config)) as engine:
            answers.append(
                told(Asked(engine, tokenizer.encode("def add(a, b):\n    return"), Sampling(max_tokens=12)).all())
            )
            assert engine.failure == ""
            if parts == 2:
                assert isinstance(engine._runner, TensorParallelRunner)
                engine._runner._others[0].process.kill()
                until = time.monotonic() + PATIENCE
                while not engine.failure:
                    assert time.monotonic() < until
                    time.sleep(0.05)
                assert engine.failure == "part 1 of the model has ended"
                with pytest.raises(Stopping, match="another one takes over"):
                    Asked(engine, [1], Sampling())
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kernels": "native", "tensor_parallel": 2}, "native kernels do not cut a model"),
        ({"tensor_parallel": 3}, "tensor_parallel = 3: the model's heads, 4, cannot be cut"),
    ],
)
def test_cuts_that_cannot_be_are_told(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_runner(model(), EngineConfig(**settings))


def test_a_replica_asks_for_as_many_cards_as_its_largest_model() -> None:
    engines = [{"device": "cuda", "tensor_parallel": 4}, {"device": "cuda"}, {"kernels": "torch", "tensor_parallel": 8}]
    models = [{"folder": str(n), "engine": engine} for n, engine in enumerate(engines)]
    assert ServingConfig.model_validate({"models": models}).gpus == 4


@pytest.mark.gpu
def test_parts_on_cards_compute_what_the_processor_does() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    whole = TorchRunner(slice_of(model(), adapters(), torch.float32), Sizes(BLOCKS, SIZE))
    with closing(TensorParallelRunner(model(), adapters(), Sizes(BLOCKS, SIZE, "cuda"), 2)) as cut:
        for pieces in steps():
            assert np.allclose(cut.forward(pieces).logits, whole.forward(pieces).logits, atol=1e-3)
