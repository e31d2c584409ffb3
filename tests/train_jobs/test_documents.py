"""Attention that stays inside of documents: a window of several is worth what they are worth alone."""

import pytest
import torch

from starloom.model.config import ModelConfig
from starloom.model.model import CodeModel, initial_state
from train_jobs.config import LengthWarmup
from train_jobs.parallel.documents import Documents, segments_of
from train_jobs.parallel.layers import MicroBatch, Norm, ParallelBlock, PositionEmbedding, TensorSlice, TokenEmbedding
from train_jobs.parallel.pipeline import own_parameters
from train_jobs.parallel.weights import Weights, own_part

END = 0
ALONE = TensorSlice(0, 1, None)


class State:
    """Tensors of a dictionary as a source."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = state

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.state[name].shape)

    def read(self, name: str, axis: int, start: int, stop: int) -> torch.Tensor:
        return self.state[name].narrow(axis, start, stop - start)


def test_segments_begin_with_the_end_of_the_text_before() -> None:
    found = segments_of(torch.tensor([[5, 6, END, 7, 8, END, END, 9]]), END)
    assert found.positions.tolist() == [[0, 1, 0, 1, 2, 0, 0, 1]]
    seen = found.mask[0, 0].sum(dim=1).tolist()
    assert seen == [1, 2, 1, 2, 3, 1, 1, 2]


def test_states_of_a_window_are_those_of_its_documents_alone() -> None:
    config = ModelConfig(layers=3, hidden=32, heads=4, vocabulary=50, context=64)
    source = MicroBatch(documents=Documents(END))
    layers = torch.nn.ModuleList(
        [
            TokenEmbedding(config, ALONE),
            PositionEmbedding(config, ALONE, source),
            *(ParallelBlock(config, ALONE, number, source=source) for number in range(config.layers)),
            Norm(config, ALONE, "transformer.ln_f"),
        ]
    )
    state = initial_state(config.model_copy(update={"init_std": 0.3}), 0)
    weights = Weights(State(state), config)
    for name, held in own_parameters(layers):
        held.data.copy_(own_part(weights, name, held, 0, 1))
    plain = CodeModel(config)
    plain.load_state_dict(state, strict=False)
    generator = torch.Generator().manual_seed(0)
    documents = [
        torch.cat([torch.tensor([END]), torch.randint(1, 50, (length,), generator=generator)]) for length in (7, 1, 20)
    ]
    window = torch.cat(documents).unsqueeze(0)
    source.documents.begin(iter([window]))
    source.advance()
    x = window
    for layer in layers:
        x = layer(x)
    alone = torch.cat([plain.transformer(document.unsqueeze(0)) for document in documents], dim=1)
    torch.testing.assert_close(x, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(x, plain.transformer(window), atol=1e-2)


def test_pieces_grow_in_equal_parts_of_their_share() -> None:
    warmup = LengthWarmup(pieces=8, share=0.6)
    pieces = [warmup.at(step, 100) for step in range(100)]
    assert pieces == [8] * 20 + [4] * 20 + [2] * 20 + [1] * 40


def test_a_micro_batch_that_nobody_announced_is_an_error() -> None:
    from starloom.errors import RunError

    with pytest.raises(RunError, match="begin a step"):
        Documents(END).advance()
