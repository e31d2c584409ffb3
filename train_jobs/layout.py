"""How a model is spread: pipeline × data × tensor ranks, checked against its shape. Imports no torch."""

from typing import Literal

from pydantic import Field

from starloom.config import Config
from starloom.errors import UserError
from starloom.model.config import ModelConfig

# what the backward pass makes again instead of keeping it: nothing, the feed-forward's inner activation, whole blocks
Recompute = Literal["none", "selective", "block"]


ROWS = 128  # of the output layer, on each tensor rank: multiples of it


class Layout(Config):
    """Numbers of ranks along the three axes; tensor ranks are neighbours, then data, then pipeline."""

    pipeline: int = Field(1, ge=1)
    tensor: int = Field(1, ge=1)
    data: int = Field(1, ge=1)

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.pipeline * self.tensor * self.data

    def check(self, model: ModelConfig, global_batch: int, micro_batch: int) -> None:
        """`UserError` in one line when the layout divides neither the model nor the batch."""
        if model.layers % self.pipeline:
            raise UserError(
                f"layers = {model.layers} does not divide into layout.pipeline = {self.pipeline} stages; "
                f"use a multiple of {self.pipeline}"
            )
        if model.heads % self.tensor:
            raise UserError(
                f"heads = {model.heads} does not divide into layout.tensor = {self.tensor} ranks; "
                f"use a multiple of {self.tensor}"
            )
        rows = self.data * micro_batch
        if global_batch % rows:
            raise UserError(
                f"global_batch = {global_batch} is no multiple of layout.data × micro_batch = {rows}; change one"
            )


def padded_vocabulary(vocabulary: int, tensor: int) -> int:
    """The least multiple of 128 rows a rank that holds the vocabulary: products of other widths are slow on GPUs.

    The padding is never predicted nor counted.
    """
    return -(-vocabulary // (ROWS * tensor)) * ROWS * tensor
