"""Training samples as a function of (seed, i): windows of the token stream in an order that is computed, not stored.

Opening costs a file size per shard, whatever the number of tokens; every data-parallel rank opens the same data set
and takes the sample numbers that are its own. Fill-in-the-middle is part of the function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from starloom.errors import UserError
from starloom.tokenizer import CodeTokenizer
from starloom.tokens.encoder import Encoder
from starloom.tokens.fim import FimConfig, rearrange
from starloom.tokens.permutation import Permutation, mix
from starloom.tokens.shard import TokenShard

BLEND_BLOCK = 1000  # samples over which the shares of the groups are exact


@dataclass(frozen=True)
class Sample:
    """`tokens` has context + 1 ids: the model sees all but the last and predicts all but the first."""

    tokens: np.ndarray


@dataclass(frozen=True)
class ShardGroup:
    """A group of shards with a weight, for example one language."""

    shards: tuple[TokenShard, ...]
    weight: float = 1.0


class TokenDataset:
    """``dataset[i]`` for any i >= 0; the epochs follow one another without end, each in an order of its own."""

    def __init__(
        self,
        groups: Sequence[ShardGroup],
        *,
        context: int,
        seed: int,
        tokenizer: CodeTokenizer | None = None,
        fim: FimConfig | None = None,
    ) -> None:
        """Groups with positive weights; `fim` needs the `tokenizer`.

        Raises:
            UserError: a group is shorter than one window, or all weights are zero.
        """
        assert fim is None or tokenizer is not None
        self.context, self.seed, self.fim = context, seed, fim
        self._encoder = Encoder.of(tokenizer) if tokenizer is not None else None
        self.groups = [_Windows(group.shards, context) for group in groups if group.weight > 0]
        weights = [group.weight for group in groups if group.weight > 0]
        if not self.groups:
            raise UserError("the token data set has no group with a positive weight")
        for number, windows in enumerate(self.groups):
            if windows.count == 0:
                raise UserError(
                    f"group {number} of the token data set has fewer than {context + 1} tokens in every shard; "
                    "lower the context or add data"
                )
        self.shares = _block_shares(weights)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`: context + 1 ids as int64."""
        group, turn = self._place(index)
        windows = self.groups[group]
        epoch, position = divmod(turn, windows.count)
        order = Permutation(windows.count, mix(self.seed ^ mix(epoch * 1_000_003 + group)))
        window = order(position)
        tokens = windows.read(window, self.context + 1)
        if self.fim is not None and self.fim.rate > 0 and self._encoder is not None:
            generator = np.random.Generator(np.random.Philox(key=[self.seed & (1 << 64) - 1, index]))
            arranged = rearrange(tokens, self._encoder, self.fim, generator)
            if len(arranged) < self.context + 1:
                # another split of the same text can be shorter: fill up with what follows in the stream
                missing = self.context + 1 - len(arranged)
                arranged = np.concatenate([arranged, windows.read_after(window, self.context + 1, missing)])
            tokens = arranged[: self.context + 1]
        return Sample(np.asarray(tokens, dtype=np.int64))

    def _place(self, index: int) -> tuple[int, int]:
        """Which group sample `index` comes from, and the how-many-eth sample of that group it is."""
        if len(self.groups) == 1:
            return 0, index
        block, position = divmod(index, BLEND_BLOCK)
        order = _block_order(tuple(self.shares), mix(self.seed ^ mix(block)))
        group = int(order[position])
        return group, block * self.shares[group] + int(np.count_nonzero(order[:position] == group))


@lru_cache(maxsize=64)
def _block_order(shares: tuple[int, ...], key: int) -> np.ndarray:
    order = np.repeat(np.arange(len(shares)), shares)
    return np.random.Generator(np.random.Philox(key=[key, 0])).permutation(order)


def _block_shares(weights: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `BLEND_BLOCK`, in proportion to the weights (largest remainders)."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * BLEND_BLOCK
    shares = np.maximum(np.floor(exact).astype(int), 1)
    for number in np.argsort(-(exact - np.floor(exact)), kind="stable"):
        if shares.sum() >= BLEND_BLOCK:
            break
        shares[number] += 1
    while shares.sum() > BLEND_BLOCK:
        shares[int(np.argmax(shares))] -= 1
    return [int(share) for share in shares]


class _Windows:
    """The windows of several shards under one numbering; no window crosses from one shard into the next."""

    def __init__(self, shards: Sequence[TokenShard], context: int) -> None:
        self.shards = [shard for shard in shards if len(shard.tokens) > context]
        self.context = context
        counts = [(len(shard.tokens) - 1) // context for shard in self.shards]
        self.ends = np.cumsum(counts, dtype=np.int64)
        self.count = int(self.ends[-1]) if counts else 0

    def read(self, window: int, length: int) -> np.ndarray:
        """`length` ids from the window's start."""
        shard, start = self._locate(window)
        return np.asarray(shard.tokens[start : start + length])

    def read_after(self, window: int, skipped: int, length: int) -> np.ndarray:
        """`length` ids from `skipped` after the window's start, from the shard's beginning again past its end."""
        shard, start = self._locate(window)
        return np.take(shard.tokens, range(start + skipped, start + skipped + length), mode="wrap")

    def _locate(self, window: int) -> tuple[TokenShard, int]:
        number = int(np.searchsorted(self.ends, window, side="right"))
        before = int(self.ends[number - 1]) if number else 0
        return self.shards[number], (window - before) * self.context
