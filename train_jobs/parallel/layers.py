"""GPTBigCode's layers, cut along the tensor axis; with one tensor rank they are the plain layers.

Every parameter carries `logical`, its name in checkpoints, and `cut`, the axis it is cut along (None: replicated).
K and V belong to one head that all query heads share: every rank holds them whole and computes them before the
tensor-parallel copy, and their results pass through it, so that their gradients cover all query heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from starloom.errors import RunError
from starloom.model.attention import Backend, attend
from starloom.model.config import ModelConfig
from train_jobs.layout import Recompute, padded_vocabulary
from train_jobs.parallel.collectives import Group, copy_to_group, reduce_from_group
from train_jobs.parallel.deepspeed_internals import mark_cut
from train_jobs.parallel.draws import Draws, Samples, drop, mask_key
from train_jobs.parallel.output_loss import output_loss


@dataclass(frozen=True)
class TensorSlice:
    """This process's place on the tensor axis."""

    rank: int
    size: int
    group: Group


def parameter(logical: str, shape: tuple[int, ...], cut: int | None, place: TensorSlice) -> nn.Parameter:
    """An empty parameter of this rank's shape, marked for checkpoints and for DeepSpeed's norm."""
    local = tuple(size // place.size if axis == cut else size for axis, size in enumerate(shape))
    made = nn.Parameter(torch.empty(local))
    made.logical, made.cut = logical, cut  # type: ignore[attr-defined]
    if cut is not None and place.size > 1:
        mark_cut(made)
    return made


class TokenEmbedding(nn.Module):
    """Rows of the vocabulary are cut; the same weight is the output layer (tied)."""

    def __init__(self, config: ModelConfig, place: TensorSlice) -> None:
        super().__init__()
        rows = padded_vocabulary(config.vocabulary, place.size)
        self.place, self.width = place, rows // place.size
        self.first = place.rank * self.width
        self.weight = parameter("transformer.wte.weight", (rows, config.hidden), 0, place)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, sequence] ids to [batch, sequence, hidden]."""
        local = ids - self.first
        outside = (local < 0) | (local >= self.width)
        found = F.embedding(local.masked_fill(outside, 0), self.weight).masked_fill(outside.unsqueeze(-1), 0.0)
        return reduce_from_group(found, self.place.group)


class Output:
    """The model's end: the tied embedding's weight as the output layer, and the loss.

    It belongs to the forward pass. DeepSpeed clears the gradients of bf16 when the backward pass enters the stage by
    its output: what a loss outside of it had given the tied weight by then would be lost.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.vocabulary = config.vocabulary
        self.labels: tuple[Tensor, Tensor] | None = None

    def take(self, labels: tuple[Tensor, Tensor]) -> None:
        """What the next pass is held against: targets, int64 [batch, sequence], and what each counts, fp32 likewise."""
        self.labels = labels

    def loss(self, embedding: TokenEmbedding, x: Tensor) -> Tensor:
        """Cross-entropy, nats, a scalar, of the states [batch, sequence, hidden]: the tied layer's forward function.

        Raises:
            RunError: there are no labels.
        """
        if self.labels is None:
            raise RunError("a batch without labels came to the output layer")
        (targets, shares), self.labels = self.labels, None
        place = embedding.place
        return output_loss(
            copy_to_group(x, place.group),
            embedding.weight,
            targets,
            shares,
            first=embedding.first,
            real=self.vocabulary,
            group=place.group,
        )


class PositionEmbedding(nn.Module):
    """Adds learned positions."""

    def __init__(self, config: ModelConfig, place: TensorSlice, draws: Draws | None = None) -> None:
        super().__init__()
        self.weight = parameter("transformer.wpe.weight", (config.context, config.hidden), None, place)
        self.dropout, self.draws = config.dropout, draws or Draws()

    def forward(self, x: Tensor) -> Tensor:
        """[batch, sequence, hidden] to the same shape."""
        x = x + self.weight[: x.shape[1]]
        return drop(x, self.dropout, self.draws.samples, 0, "embedding") if self.training and self.dropout else x


class Norm(nn.Module):
    """Layer norm, replicated."""

    def __init__(self, config: ModelConfig, place: TensorSlice, name: str) -> None:
        super().__init__()
        self.weight = parameter(f"{name}.weight", (config.hidden,), None, place)
        self.bias = parameter(f"{name}.bias", (config.hidden,), None, place)
        self.epsilon = config.norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] to the same shape."""
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.epsilon)


class ParallelBlock(nn.Module):
    """One transformer block: query heads and the feed-forward's inner width are cut.

    `recompute` says what the backward pass makes again instead of keeping it: nothing, the inner activation of the
    feed-forward (its largest tensor and its cheapest), or all but the block's input.
    """

    def __init__(
        self,
        config: ModelConfig,
        place: TensorSlice,
        number: int,
        recompute: Recompute = "none",
        backend: Backend = "sdpa",
        draws: Draws | None = None,
    ) -> None:
        super().__init__()
        self.recompute, self.backend = recompute, backend
        self.number, self.draws = number, draws or Draws()
        name, h, d = f"transformer.h.{number}", config.hidden, config.head_dim
        self.place, self.dropout, self.gelu_form = place, config.dropout, config.gelu_form
        self.heads, self.head_dim = config.heads // place.size, d
        self.ln_1 = Norm(config, place, f"{name}.ln_1")
        self.q_weight = parameter(f"{name}.attn.q.weight", (h, h), 0, place)
        self.q_bias = parameter(f"{name}.attn.q.bias", (h,), 0, place)
        self.kv_weight = parameter(f"{name}.attn.kv.weight", (2 * d, h), None, place)
        self.kv_bias = parameter(f"{name}.attn.kv.bias", (2 * d,), None, place)
        self.out_weight = parameter(f"{name}.attn.c_proj.weight", (h, h), 1, place)
        self.out_bias = parameter(f"{name}.attn.c_proj.bias", (h,), None, place)
        self.ln_2 = Norm(config, place, f"{name}.ln_2")
        self.up_weight = parameter(f"{name}.mlp.c_fc.weight", (config.inner, h), 0, place)
        self.up_bias = parameter(f"{name}.mlp.c_fc.bias", (config.inner,), 0, place)
        self.down_weight = parameter(f"{name}.mlp.c_proj.weight", (h, config.inner), 1, place)
        self.down_bias = parameter(f"{name}.mlp.c_proj.bias", (h,), None, place)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, sequence, hidden] to the same shape."""
        # handed down, so that the backward pass of this micro batch draws for it and not for the one of that moment
        samples = self.draws.samples if self.training and self.dropout else ()
        return self._again(self._whole, x, samples) if self.recompute == "block" else self._whole(x, samples)

    def _whole(self, x: Tensor, samples: Samples) -> Tensor:
        x = x + self._attention(self.ln_1(x), samples)
        return x + self._feed_forward(self.ln_2(x), samples)

    def _again(self, function: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
        # every mask has a seed of its own: there is no random state to restore
        made: Tensor = checkpoint(function, x, *others, use_reentrant=False, preserve_rng_state=False)
        return made

    def _attention(self, x: Tensor, samples: Samples) -> Tensor:
        batch, length, _ = x.shape
        group = self.place.group
        key, value = copy_to_group(F.linear(x, self.kv_weight, self.kv_bias), group).split(self.head_dim, dim=2)
        query = F.linear(copy_to_group(x, group), self.q_weight, self.q_bias)
        query = query.view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        mixed = self._mixed(query, key.unsqueeze(1), value.unsqueeze(1), samples)
        joined = mixed.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim)
        out = reduce_from_group(F.linear(joined, self.out_weight), group) + self.out_bias
        return drop(out, self.dropout, samples, self.number, "projection") if samples else out

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor, samples: Samples) -> Tensor:
        if not samples:
            return attend(query, key, value, 0.0, self.backend)
        parts = []
        for row, sample in enumerate(samples):
            # the kernels draw by themselves, from the generator of the process
            torch.manual_seed(mask_key(sample, self.number, "attention", self.place.rank))
            part = (query[row : row + 1], key[row : row + 1], value[row : row + 1])
            parts.append(attend(*part, self.dropout, self.backend))
        return torch.cat(parts)

    def _feed_forward(self, x: Tensor, samples: Samples) -> Tensor:
        group = self.place.group
        inner = F.linear(copy_to_group(x, group), self.up_weight, self.up_bias)
        down = self._again(self._down, inner) if self.recompute == "selective" else self._down(inner)
        out = reduce_from_group(down, group) + self.down_bias
        return drop(out, self.dropout, samples, self.number, "feed-forward") if samples else out

    def _down(self, inner: Tensor) -> Tensor:
        return F.linear(F.gelu(inner, approximate=self.gelu_form), self.down_weight)
