"""Where the parts of logical tensors come from: fresh weights, a model folder, a checkpoint.

A process asks for what it holds, a range of rows or columns of the tensors of its own stage, and no more is read: files
are mapped into memory, and the pages of other ranges are never touched. Weights of 15 billion parameters in fp32 are
62 GB, which 8 processes of a node cannot each hold.
"""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from starloom.errors import RunError
from starloom.model.config import ModelConfig
from starloom.model.model import initial_shapes, initial_tensor, named_generator
from train_jobs.config import LoraConfig

EMBEDDING = "transformer.wte.weight"
MEAN_ROWS = 8192  # of an embedding, at a time


_LOW_RANK = re.compile(r"\.lora_[AB]\.weight$")


def is_low_rank(name: str) -> bool:
    """Whether a weight is an adapter's, by its logical name."""
    return bool(_LOW_RANK.search(name))


class Source(Protocol):
    """Logical tensors by name."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's shape; `RunError` when there is none of this name."""
        ...

    def read(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """A range of an axis: [stop - start, ...] or [..., stop - start]; it may be a view of a file."""
        ...


class Files:
    """Tensors of safetensors files, read where and when they are asked for; use it as a context."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._open = ExitStack()
        self._held: dict[str, Any] = {}
        try:
            for path in paths:
                file = self._open.enter_context(safe_open(path, framework="pt"))
                self._held.update(dict.fromkeys(file.keys(), file))
        except (OSError, SafetensorError) as error:
            self._open.close()
            raise RunError(f"{path}: cannot be read: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._held.clear()
        self._open.close()

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Source`.

        Raises:
            RunError: there is no tensor of this name.
        """
        if name not in self._held:
            raise RunError(f"no tensor {name} is in the files; the model or the checkpoint is another one's")
        return tuple(self._held[name].get_slice(name).get_shape())

    def read(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """[stop - start, ...] or [..., stop - start]; see `Source`."""
        whole = self._held[name].get_slice(name)
        part: Tensor = whole[start:stop] if axis == 0 else whole[:, start:stop]
        return part


class Fresh:
    """Weights that depend on the seed alone; one tensor at a time is made whole."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self._config, self._seed, self._shapes = config, seed, initial_shapes(config)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Source`."""
        return self._shapes[name]

    def read(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """[stop - start, ...] or [..., stop - start]; see `Source`."""
        return initial_tensor(self._config, self._seed, name).narrow(axis, start, stop - start)


class Adapters:
    """Fresh low-rank changes beside a source of the weights: as in peft, they change nothing at first."""

    def __init__(self, source: Source, config: ModelConfig, lora: LoraConfig, seed: int) -> None:
        self._source, self._config, self._lora, self._seed = source, config, lora, seed

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Source`."""
        if not is_low_rank(name):
            return self._source.shape(name)
        outputs, inputs = initial_shapes(self._config)[_LOW_RANK.sub(".weight", name)]
        return (self._lora.rank, inputs) if ".lora_A." in name else (outputs, self._lora.rank)

    def read(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """[stop - start, ...] or [..., stop - start]; see `Source`."""
        if not is_low_rank(name):
            return self._source.read(name, axis, start, stop)
        whole = torch.zeros(self.shape(name))
        if ".lora_A." in name:
            bound = whole.shape[1] ** -0.5  # Kaiming's uniform draw with a = √5
            place = list(initial_shapes(self._config)).index(_LOW_RANK.sub(".weight", name))
            whole.uniform_(-bound, bound, generator=named_generator(self._seed, name, place))
        return whole.narrow(axis, start, stop - start)


class Weights:
    """transformers' names read as ours: q and kv are ranges of the fused projection.

    Ids that the model's vocabulary lacks begin as the mean of its others; values must be finite.
    """

    def __init__(self, source: Source, config: ModelConfig) -> None:
        self._source, self._config = source, config
        self._known = source.shape(EMBEDDING)[0]

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Source`."""
        theirs = self._source.shape(_theirs(name))
        if ".attn.kv." in name:
            return (2 * self._config.head_dim, *theirs[1:])
        if ".attn.q." in name:
            return (self._config.hidden, *theirs[1:])
        return (self._config.vocabulary, *theirs[1:]) if name == EMBEDDING else theirs

    def read(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """[stop - start, ...] or [..., stop - start]; see `Source`."""
        theirs = _theirs(name)
        if name == EMBEDDING and stop > self._known:
            return self._lengthened(start, stop)
        first = self._config.hidden if ".attn.kv." in name and axis == 0 else 0
        return _finite(theirs, self._source.read(theirs, axis, first + start, first + stop))

    def _lengthened(self, start: int, stop: int) -> Tensor:
        new = self._mean().expand(stop - max(start, self._known), -1)
        if start >= self._known:
            return new
        return torch.cat([self.read(EMBEDDING, 0, start, self._known).float(), new])

    def _mean(self) -> Tensor:
        total = torch.zeros(self._config.hidden, dtype=torch.float64)
        for start in range(0, self._known, MEAN_ROWS):
            rows = self._source.read(EMBEDDING, 0, start, min(start + MEAN_ROWS, self._known))
            total += rows.double().sum(dim=0)
        return (total / self._known).float()


def own_part(source: Source, name: str, held: Tensor, rank: int, size: int) -> Tensor:
    """What this tensor rank of `size` holds of a logical tensor; zeros after the vocabulary, where it is padded.

    The part is [rows / size, ...] or [rows, columns / size], whichever axis is cut.

    Raises:
        RunError: the source's tensor has another shape than this model's.
    """
    axis = held.cut  # type: ignore[attr-defined]
    local = tuple(getattr(held, "ds_shape", held.shape))  # ZeRO-3 holds a piece and remembers the shape
    shape = source.shape(name)
    wanted = tuple(n * size if along == axis else n for along, n in enumerate(local))
    padded = tuple(max(n, local[axis] * size) if along == axis == 0 else n for along, n in enumerate(shape))
    if padded != wanted:
        raise RunError(f"{name} has the shape {shape}, this model's is {wanted}; it belongs to another shape of model")
    along = axis or 0
    width = local[along]
    start = rank * width if axis is not None else 0
    stop = min(start + width, shape[along])
    if stop == start + width:
        return source.read(name, along, start, stop)
    padded_part = torch.zeros((width, *shape[1:]))
    if start < stop:
        padded_part[: stop - start] = source.read(name, along, start, stop)
    return padded_part


def _theirs(name: str) -> str:
    return name.replace(".attn.q.", ".attn.c_attn.").replace(".attn.kv.", ".attn.c_attn.")


def _finite(name: str, part: Tensor) -> Tensor:
    if not torch.isfinite(part).all():
        raise RunError(f"{name} holds values that are not finite; the model is damaged")
    return part
