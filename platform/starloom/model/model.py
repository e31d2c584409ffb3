"""GPTBigCode on one device, in plain PyTorch. Parameter names are those of transformers' `GPTBigCodeForCausalLM`.

K and V are one head that all query heads share; they are never expanded in memory.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starloom.model.attention import Backend, attend
from starloom.model.config import ModelConfig

MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # of a block, in the order of its forward pass


class Attention(nn.Module):
    """Causal multi-query attention; the fused projection holds all query heads, then K, then V."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.head_dim, self.dropout = config.heads, config.head_dim, config.dropout
        self.backend: Backend = "sdpa"
        self.c_attn = nn.Linear(config.hidden, config.hidden + 2 * config.head_dim)
        self.c_proj = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, sequence, hidden] to the same shape."""
        batch, length, hidden = x.shape
        query, key, value = self.c_attn(x).split((hidden, self.head_dim, self.head_dim), dim=2)
        query = query.view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        mixed = attend(query, key.unsqueeze(1), value.unsqueeze(1), dropout, self.backend)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).reshape(batch, length, hidden))
        return F.dropout(out, self.dropout, self.training)


class FeedForward(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.hidden, config.inner)
        self.c_proj = nn.Linear(config.inner, config.hidden)
        self.dropout, self.gelu_form = config.dropout, config.gelu_form

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] to the same shape."""
        return F.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate=self.gelu_form)), self.dropout, self.training)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual connection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden, eps=config.norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.hidden, eps=config.norm_epsilon)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, sequence, hidden] to the same shape."""
        x = x + self.attn(self.ln_1(x))
        residual: Tensor = x + self.mlp(self.ln_2(x))
        return residual


class Transformer(nn.Module):
    """Embeddings, blocks, last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocabulary, config.hidden)
        self.wpe = nn.Embedding(config.context, config.hidden)
        self.dropout = config.dropout
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.hidden, eps=config.norm_epsilon)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, sequence] ids to [batch, sequence, hidden]."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = F.dropout(self.wte(ids) + self.wpe(positions), self.dropout, self.training)
        for block in self.h:
            x = block(x)
        normed: Tensor = self.ln_f(x)
        return normed


class CodeModel(nn.Module):
    """The language model; its output layer is the token embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, sequence] ids to [batch, sequence, vocabulary] logits."""
        return F.linear(self.transformer(ids), self.transformer.wte.weight)

    def loss(self, ids: Tensor) -> Tensor:
        """Mean cross-entropy in nats of predicting ids[:, 1:] from ids[:, :-1]."""
        logits = self(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


@cache
def initial_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights by name, in the model's order."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in CodeModel(config).named_parameters()}


def initial_tensor(config: ModelConfig, seed: int, name: str) -> Tensor:
    """One fresh fp32 weight, a function of (seed, its name): no layout and no order of creation changes it.

    Normal with `init_std`; the projections that write to the residual stream are scaled by 1/sqrt(2·layers) (GPT-2).
    """
    shapes = initial_shapes(config)
    if name.endswith("bias"):
        return torch.zeros(shapes[name])
    if ".ln_" in name:
        return torch.ones(shapes[name])
    scale = 1 / math.sqrt(2 * config.layers) if name.endswith("c_proj.weight") else 1.0
    generator = named_generator(seed, name, list(shapes).index(name))
    return torch.empty(shapes[name]).normal_(0.0, config.init_std * scale, generator=generator)


def named_generator(seed: int, name: str, place: int) -> torch.Generator:
    """Random numbers of one tensor, from (seed, its name, its place among all)."""
    return torch.Generator().manual_seed(seed * 1_000_003 + sum(name.encode()) * 7919 + place)


def initial_state(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """All fresh weights by name, fp32; see `initial_tensor`."""
    return {name: initial_tensor(config, seed, name) for name in initial_shapes(config)}
