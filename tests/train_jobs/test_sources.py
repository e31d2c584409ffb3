"""Parts of logical tensors: those of the whole, from every source, and no more than them is read."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from starloom.errors import RunError
from starloom.model.config import ModelConfig
from starloom.model.model import initial_state
from train_jobs.parallel.layers import TensorSlice, parameter
from train_jobs.parallel.pipeline import Exported
from train_jobs.parallel.weights import EMBEDDING, Files, Fresh, Weights, own_part

SHAPE = ModelConfig(layers=2, hidden=32, heads=4, vocabulary=301, context=16)
COLUMNS, ROWS = 8192, 8192  # of a tensor of 256 MiB


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(initial_state(SHAPE, 3), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def held(name: str, shape: tuple[int, ...], cut: int | None, rank: int) -> torch.Tensor:
    return parameter(name, shape, cut, TensorSlice(rank, 2, None))


def test_parts_of_a_model_folder_are_those_of_fresh_weights(folder: Path) -> None:
    names = {
        "transformer.h.1.attn.q.weight": ((32, 32), 0),
        "transformer.h.1.attn.kv.bias": ((16,), None),
        "transformer.h.0.mlp.c_proj.weight": ((32, 128), 1),
        EMBEDDING: ((302, 32), 0),
    }
    with Files([folder]) as files:
        for name, (shape, cut) in names.items():
            for rank in (0, 1):
                wanted, fresh = (
                    own_part(Weights(source, SHAPE), name, held(name, shape, cut, rank), rank, 2)
                    for source in (files, Fresh(SHAPE, 3))
                )
                assert torch.equal(wanted, fresh), (name, rank)
        last = own_part(Weights(files, SHAPE), EMBEDDING, held(EMBEDDING, (302, 32), 0, 1), 1, 2)
    assert torch.equal(last[:150], initial_state(SHAPE, 3)[EMBEDDING][151:])
    assert last[150:].tolist() == [[0.0] * 32]  # the padding


def test_fused_projection_is_made_whole_again_for_export() -> None:
    weights = Exported(Weights(Fresh(SHAPE, 3), SHAPE), SHAPE)
    wanted = initial_state(SHAPE, 3)
    assert list(weights) == list(wanted)
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(("rank", "new"), [(0, 0), (1, 9)])
def test_ids_that_the_vocabulary_lacks_begin_as_the_mean(folder: Path, rank: int, new: int) -> None:
    longer = SHAPE.model_copy(update={"vocabulary": 310})
    with Files([folder]) as files:
        part = own_part(Weights(files, longer), EMBEDDING, held(EMBEDDING, (310, 32), 0, rank), rank, 2)
    embedding = initial_state(SHAPE, 3)[EMBEDDING]
    kept = embedding[155 * rank : 155 * (rank + 1)]
    assert torch.equal(part[: len(kept)], kept)
    assert len(part) - len(kept) == new
    torch.testing.assert_close(part[len(kept) :], embedding.mean(0).expand(new, -1))


def test_other_shape_of_model_and_values_that_are_not_finite_are_refused(tmp_path: Path, folder: Path) -> None:
    name = "transformer.h.0.ln_1.bias"
    with Files([folder]) as files:
        with pytest.raises(RunError, match=r"has the shape \(32,\), this model's is \(64,\)"):
            own_part(files, name, held(name, (64,), None, 0), 0, 1)
        with pytest.raises(RunError, match=r"no tensor transformer.h.5.ln_1.bias is in the files"):
            files.shape("transformer.h.5.ln_1.bias")
    state = initial_state(SHAPE, 3)
    state[name][3] = float("nan")
    save_file(state, tmp_path / "damaged.safetensors")
    with Files([tmp_path / "damaged.safetensors"]) as files, pytest.raises(RunError, match="not finite"):
        own_part(Weights(files, SHAPE), name, held(name, (32,), None, 0), 0, 1)


def _resident(kind: str) -> int:
    """Bytes of this process: VmHWM, all at most, with mapped files; RssAnon, its own memory now."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{kind}:")[1].split()[0]) << 10


def _read_quarters(path: str, send: "multiprocessing.connection.Connection") -> None:
    before = _resident("VmHWM"), _resident("RssAnon")
    with Files([Path(path)]) as files:
        rows = files.read("large", 0, ROWS // 4, ROWS // 2)
        assert rows.sum() == rows.numel()
        peak = _resident("VmHWM") - before[0]
        columns = files.read("large", 1, COLUMNS // 4, COLUMNS // 2)
        assert columns[:, ::1024].sum() == columns.numel() // 1024
        send.send((peak, _resident("RssAnon") - before[1]))


def test_reading_a_quarter_maps_a_quarter_and_copies_nothing(tmp_path: Path) -> None:
    save_file({"large": torch.ones(ROWS, COLUMNS), "other stage": torch.ones(ROWS, COLUMNS)}, tmp_path / "a")
    receive, send = multiprocessing.Pipe(duplex=False)
    reader = multiprocessing.get_context("spawn").Process(target=_read_quarters, args=(str(tmp_path / "a"), send))
    reader.start()
    reader.join(60)
    assert receive.poll(1)
    peak, copied = receive.recv()
    quarter = COLUMNS * ROWS  # 4 bytes each
    assert 0.9 * quarter < peak < 1.4 * quarter
    # a column range shares its pages with the other ranks' of the node, in the page cache; its own memory it needs not
    assert copied < 0.2 * quarter
