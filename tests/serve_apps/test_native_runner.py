"""Weights in fewer bits: the numbers that they stand for, in any company, chunk and number of threads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from serve_apps.engine.engine import EngineConfig, make_runner
from serve_apps.engine.native import runner as native
from serve_apps.engine.native.runner import GROUP, NativeRunner, has_bfloat16, quantized
from serve_apps.engine.pieces import Piece
from starloom.model.folder import read_model
from starloom.model.model import CodeModel
from tests.models import tiny_tokenizer, write_tiny_model

IDS = np.random.default_rng(0).integers(20, 280, 60).tolist()
TABLE = list(range(4))


@pytest.fixture(scope="module", params=[64, 96], ids=["whole groups", "half a group"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model") / "m"
    heads = request.param // 32
    return write_tiny_model(place, tiny_tokenizer(), layers=2, vocabulary=290, hidden=request.param, heads=heads)


def halved(folder: Path) -> CodeModel:
    """The model whose weights lose nothing as bfloat16."""
    model = read_model(folder)
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16).float()
    return model


def test_bfloat16_weights_with_inputs_in_fp32_are_the_same_to_the_bit_where_they_lose_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "whole_vectors", lambda shape: False)  # inputs are not bfloat16 then
    exact, small = (
        NativeRunner(halved(folder), blocks=16, threads=2, weights=kind) for kind in ("float32", "bfloat16")
    )
    assert not small._pairs
    piece = Piece(IDS, 0, TABLE, len(IDS))
    assert np.array_equal(small.forward([piece]).logits, exact.forward([piece]).logits)
    for place in range(40, 44):  # single rows have tiles of their own
        one = Piece([IDS[place]], place, TABLE, 1)
        assert np.array_equal(small.forward([one]).logits, exact.forward([one]).logits)


def test_weights_that_lose_nothing_are_held_as_bfloat16(folder: Path) -> None:
    config = EngineConfig(weights="auto", kernels="native")
    assert make_runner(halved(folder), config)[0].precision == "bfloat16"
    assert make_runner(read_model(folder), config)[0].precision == ("bfloat16" if has_bfloat16() else "float32")


def made(folder: Path, threads: int = 2) -> NativeRunner:
    runner = NativeRunner(read_model(folder), blocks=16, threads=threads, weights="int8")
    if not runner._fours:
        pytest.skip("this processor has no products of eight bits (AVX-512 VNNI)")
    return runner


def rounded(x: Tensor) -> Tensor:
    """What eight bits leave of the last axis, by groups."""
    scales = [part.abs().amax(-1, keepdim=True) / 127 for part in x.split(GROUP, dim=-1)]
    parts = zip(x.split(GROUP, dim=-1), scales, strict=True)
    return torch.cat([(part / scale).round() * scale for part, scale in parts], dim=-1)


def standing_for(folder: Path) -> CodeModel:
    """The model in fp32 whose weights and inputs of products are rounded to what eight bits hold."""
    model = read_model(folder)
    exact = model.transformer.wte.weight.detach().clone()
    weights = [model.transformer.wte.weight]
    for block in model.transformer.h.modules():
        if isinstance(block, nn.Linear):
            weights.append(block.weight)
            block.register_forward_pre_hook(lambda _, given: (rounded(given[0]),))
    for weight in weights:
        whole, scale = quantized(weight.detach())
        weight.data = whole.float() * scale[:, None]
    model.transformer.ln_f.register_forward_hook(lambda _, given, out: rounded(out))
    model.transformer.wte.register_forward_hook(lambda _, given, out: exact[given[0]])
    return model


def test_products_are_those_of_the_numbers_that_eight_bits_stand_for(folder: Path) -> None:
    got = made(folder).forward([Piece(IDS, 0, TABLE, len(IDS))]).logits
    with torch.inference_mode():
        expected = standing_for(folder)(torch.tensor([IDS]))[0].numpy()
        exact = read_model(folder)(torch.tensor([IDS]))[0].numpy()
    # an input on the border of two numbers may fall to either side; a fault would be everywhere
    assert np.quantile(np.abs(got - expected), 0.9) < 0.02 * np.abs(got - exact).max()
    assert np.abs(got - exact).max() < 0.3 * np.abs(exact).max()


@pytest.mark.parametrize("cut", [1, 7, 33])
def test_company_chunks_and_threads_change_no_bit(folder: Path, cut: int) -> None:
    whole = made(folder, threads=1).forward([Piece(IDS, 0, TABLE, len(IDS))]).logits
    runner, other = made(folder), [Piece(IDS[n : n + 9], 0, [8 + n], 1) for n in range(3)]
    runner.forward([Piece(IDS[:cut], 0, TABLE, 0), *other])
    rest = runner.forward([*other, Piece(IDS[cut:], cut, TABLE, len(IDS) - cut)]).logits[3:]
    assert np.array_equal(rest, whole[cut:])


def test_where_they_cannot_be_had_weights_alone_are_in_eight_bits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "whole_vectors", lambda shape: False)
    runner = NativeRunner(read_model(folder), blocks=16, threads=1, weights="int8")
    got = runner.forward([Piece(IDS, 0, TABLE, 1)]).logits
    with torch.inference_mode():
        exact = read_model(folder)(torch.tensor([IDS]))[0, -1:].numpy()
    assert 0 < np.abs(got - exact).max() < 0.3 * np.abs(exact).max()
