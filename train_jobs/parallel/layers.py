"""GPTBigCode's layers, cut along the tensor axis; with one tensor rank they are the plain layers.

Every parameter carries `logical`, its name in checkpoints, and `cut`, the axis it is cut along (None: replicated).
K and V belong to one head that all query heads share: every rank holds them whole and computes them before the
tensor-parallel copy, and their results pass through it, so that their gradients cover all query heads.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from starloom.errors import RunError
from starloom.model.attention import Backend, attend
from starloom.model.config import ModelConfig
from train_jobs.config import LoraConfig
from train_jobs.layout import Recompute, padded_vocabulary
from train_jobs.parallel.collectives import (
    Group,
    copy_to_group,
    gather_from_sequence,
    reduce_from_group,
    scatter_to_sequence,
)
from train_jobs.parallel.deepspeed_internals import mark_cut
from train_jobs.parallel.documents import Documents
from train_jobs.parallel.draws import Draws, Samples, Site, drop, mask_key
from train_jobs.parallel.output_loss import output_loss


@dataclass(frozen=True)
class MicroBatch:
    """What layers ask about the micro batch that is in the forward pass, beside their input."""

    draws: Draws = field(default_factory=Draws)
    documents: Documents = field(default_factory=lambda: Documents(None))

    def advance(self) -> None:
        """The next one comes."""
        self.draws.advance()
        self.documents.advance()


@dataclass(frozen=True)
class TensorSlice:
    """This process's place on the tensor axis."""

    rank: int
    size: int
    group: Group
    sequence: bool = False  # states between the tensor-parallel regions are cut along the sequence

    def enter(self, x: Tensor) -> Tensor:
        """[batch, own part of the sequence, width] to the whole sequence, for products with cut weights."""
        return (gather_from_sequence if self.sequence else copy_to_group)(x, self.group)

    def leave(self, x: Tensor) -> Tensor:
        """Partial results [batch, sequence, width], summed, to this rank's part of the sequence."""
        return (scatter_to_sequence if self.sequence else reduce_from_group)(x, self.group)

    def shared(self, held: Tensor) -> Tensor:
        """A whole parameter, of its own [shape], used on a part of the sequence: the ranks' gradients are summed."""
        return copy_to_group(held, self.group) if self.sequence else held

    def part(self, whole: Tensor, axis: int) -> Tensor:
        """[..., own part, ...] of what is made for the whole sequence, [..., sequence, ...], along an axis."""
        return whole.chunk(self.size, dim=axis)[self.rank] if self.sequence else whole


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
        """[batch, sequence] ids to [batch, own part of the sequence, hidden]."""
        local = ids - self.first
        outside = (local < 0) | (local >= self.width)
        found = F.embedding(local.masked_fill(outside, 0), self.weight).masked_fill(outside.unsqueeze(-1), 0.0)
        return self.place.leave(found)


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
            place.enter(x),
            embedding.weight,
            targets,
            shares,
            first=embedding.first,
            real=self.vocabulary,
            group=place.group,
        )


class PositionEmbedding(nn.Module):
    """Adds learned positions."""

    def __init__(self, config: ModelConfig, place: TensorSlice, source: MicroBatch | None = None) -> None:
        super().__init__()
        self.weight = parameter("transformer.wpe.weight", (config.context, config.hidden), None, place)
        self.place, self.dropout, self.source = place, config.dropout, source or MicroBatch()

    def forward(self, x: Tensor) -> Tensor:
        """[batch, sequence, hidden] to the same shape."""
        segments = self.source.documents.current
        weight = self.place.shared(self.weight)
        length = x.shape[1] * (self.place.size if self.place.sequence else 1)
        added = weight[:length].unsqueeze(0) if segments is None else F.embedding(segments.positions, weight)
        x = x + self.place.part(added, 1)
        samples = self.source.draws.samples if self.training and self.dropout else ()
        return dropped(x, self.dropout, samples, 0, "embedding", self.place) if samples else x


def dropped(x: Tensor, rate: float, samples: Samples, layer: int, site: Site, place: TensorSlice) -> Tensor:
    """Dropout of [batch, own part of the sequence, hidden]: the masks are those of the whole sequence."""
    parts, part = (place.size, place.rank) if place.sequence else (1, 0)
    return drop(x, rate, samples, layer, site, parts=parts, part=part)


class Norm(nn.Module):
    """Layer norm, replicated."""

    def __init__(self, config: ModelConfig, place: TensorSlice, name: str) -> None:
        super().__init__()
        self.weight = parameter(f"{name}.weight", (config.hidden,), None, place)
        self.bias = parameter(f"{name}.bias", (config.hidden,), None, place)
        self.place, self.epsilon = place, config.norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] to the same shape."""
        weight, bias = self.place.shared(self.weight), self.place.shared(self.bias)
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.epsilon)


class LowRank(nn.Module):
    """A change of a matrix [outputs, inputs] by the product of two thin ones, named as peft names them."""

    def __init__(self, name: str, outputs: int, inputs: int, lora: LoraConfig, place: TensorSlice) -> None:
        super().__init__()
        self.scale = lora.alpha / lora.rank
        self.down = parameter(f"{name}.lora_A.weight", (lora.rank, inputs), None, place)
        self.up = parameter(f"{name}.lora_B.weight", (outputs, lora.rank), None, place)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]: what is added to the matrix's product."""
        return F.linear(F.linear(x, self.down), self.up) * self.scale


def _changes(config: ModelConfig, name: str, lora: LoraConfig, place: TensorSlice) -> dict[str, nn.Module]:
    """The adapters of a block's matrices, by what a module may be called."""
    h = config.hidden
    widths = {
        "attn.c_attn": (h + 2 * config.head_dim, h),
        "attn.c_proj": (h, h),
        "mlp.c_fc": (config.inner, h),
        "mlp.c_proj": (h, config.inner),
    }
    return {
        target.replace(".", "_"): LowRank(f"{name}.{target}", *widths[target], lora, place) for target in lora.targets
    }


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
        source: MicroBatch | None = None,
        lora: LoraConfig | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.recompute, self.backend = recompute, backend
        if compiled:  # one graph for the block's own shapes; a second one where the samples are cut
            self._whole = torch.compile(self._whole, fullgraph=True, dynamic=False)  # type: ignore[method-assign]
        self.number, self.source = number, source or MicroBatch()
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
        self.changes = nn.ModuleDict(_changes(config, name, lora, place) if lora else {})

    def forward(self, x: Tensor) -> Tensor:
        """[batch, sequence, hidden] to the same shape."""
        # handed down, so that the backward pass of this micro batch draws for it and not for the one of that moment
        samples = self.source.draws.samples if self.training and self.dropout else ()
        segments = self.source.documents.current
        mask = None if segments is None else segments.mask
        if self.recompute == "block":
            return self._again(self._whole, x, samples, mask)
        return self._whole(x, samples, mask)

    def _whole(self, x: Tensor, samples: Samples, mask: Tensor | None) -> Tensor:
        x = x + self._attention(self.ln_1(x), samples, mask)
        return x + self._feed_forward(self.ln_2(x), samples)

    def _again(self, function: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
        # every mask has a seed of its own: there is no random state to restore
        made: Tensor = checkpoint(function, x, *others, use_reentrant=False, preserve_rng_state=False)
        return made

    def _attention(self, x: Tensor, samples: Samples, mask: Tensor | None) -> Tensor:
        place = self.place
        shared = F.linear(x, place.shared(self.kv_weight), place.shared(self.kv_bias))
        query = F.linear(place.enter(x), self.q_weight, self.q_bias)
        if "attn_c_attn" in self.changes:
            changes = self.changes["attn_c_attn"](x)
            query, shared = query + changes[..., : query.shape[-1]], shared + changes[..., query.shape[-1] :]
        key, value = place.enter(shared).split(self.head_dim, dim=2)
        batch, length, _ = query.shape
        query = query.view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        mixed = self._mixed(query, key.unsqueeze(1), value.unsqueeze(1), samples, mask)
        joined = mixed.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim)
        out = place.leave(F.linear(joined, self.out_weight)) + place.shared(self.out_bias)
        out = self._changed("attn_c_proj", joined, out)
        return dropped(out, self.dropout, samples, self.number, "projection", place) if samples else out

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor, samples: Samples, mask: Tensor | None) -> Tensor:
        if not samples:
            return attend(query, key, value, 0.0, self.backend, mask)
        parts = []
        for row, sample in enumerate(samples):
            # the kernels draw by themselves, from the generator of the process
            torch.manual_seed(mask_key(sample, self.number, "attention", self.place.rank))
            part = (query[row : row + 1], key[row : row + 1], value[row : row + 1])
            parts.append(attend(*part, self.dropout, self.backend, None if mask is None else mask[row : row + 1]))
        return torch.cat(parts)

    def _feed_forward(self, x: Tensor, samples: Samples) -> Tensor:
        place = self.place
        inner = F.linear(place.enter(x), self.up_weight, self.up_bias)
        inner = self._changed("mlp_c_fc", x, inner)
        down = self._again(self._down, inner) if self.recompute == "selective" else self._down(inner)
        out = place.leave(down) + place.shared(self.down_bias)
        return dropped(out, self.dropout, samples, self.number, "feed-forward", place) if samples else out

    def _down(self, inner: Tensor) -> Tensor:
        active = F.gelu(inner, approximate=self.gelu_form)
        return self._changed("mlp_c_proj", active, F.linear(active, self.down_weight))

    def _changed(self, target: str, x: Tensor, y: Tensor) -> Tensor:
        return y + self.changes[target](x) if target in self.changes else y
