"""Training samples as a function of (seed, i): windows of the token stream in an order that is computed, not stored.

Opening costs a file size per shard, whatever the number of tokens; every data-parallel rank opens the same data set
and takes the sample numbers that are its own. Fill-in-the-middle is part of the function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from starloom.errors import UserError
from starloom.tokenizer import CodeTokenizer
from starloom.tokens.blend import Blend
from starloom.tokens.encoder import Encoder
from starloom.tokens.fim import FimConfig, rearrange
from starloom.tokens.permutation import Permutation, mix
from starloom.tokens.shard import TokenShard


@dataclass(frozen=True)
class Sample:
    """`tokens` has context + 1 ids: the model sees all but the last and predicts all but the first."""

    tokens: np.ndarray


@dataclass(frozen=True)
class ShardGroup:
    """A group of shards with a weight, for example one language."""

    shards: tuple[TokenShard, ...]
    weight: Fraction = Fraction(1)


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
        self._given, self._tokenizer = tuple(groups), tokenizer
        self._shorter: dict[int, TokenDataset] = {}
        self._encoder = Encoder.of(tokenizer) if tokenizer is not None else None
        self.groups = [_Windows(group.shards, context) for group in groups if group.weight > 0]
        weights = [group.weight for group in groups if group.weight > 0]
        if not self.groups:
            raise UserError("the token data set has no group with a positive weight")
        for number, windows in enumerate(self.groups):
            if windows.count == 0:
                raise UserError(
                    f"group {number} of the token data set has fewer than {context + 1} tokens; lower the context or "
                    "add data"
                )
        self.blend = Blend(weights, seed)

    def shorter(self, parts: int) -> "TokenDataset":
        """The same tokens in windows of context / parts, in an order of their own.

        Raises:
            UserError: as when it is made.
        """
        if parts == 1:
            return self
        if parts not in self._shorter:
            self._shorter[parts] = TokenDataset(
                self._given, context=self.context // parts, seed=self.seed, tokenizer=self._tokenizer, fim=self.fim
            )
        return self._shorter[parts]

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`: context + 1 ids as int64."""
        group, turn = self.blend.place(index)
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


class _Windows:
    """The windows of several shards, read as one stream in their order: a window may run on into the next shard."""

    def __init__(self, shards: Sequence[TokenShard], context: int) -> None:
        self.shards = [shard for shard in shards if shard.size]
        self.context = context
        self.ends = np.cumsum([shard.size for shard in self.shards], dtype=np.int64)
        self.tokens = int(self.ends[-1]) if self.shards else 0
        self.count = max(0, (self.tokens - 1) // context)

    def read(self, window: int, length: int) -> np.ndarray:
        """`length` ids from the window's start; past the end of the stream from its beginning again."""
        return self._stream(window * self.context, length)

    def read_after(self, window: int, skipped: int, length: int) -> np.ndarray:
        """`length` ids from `skipped` after the window's start, likewise."""
        return self._stream(window * self.context + skipped, length)

    def _stream(self, start: int, length: int) -> np.ndarray:
        pieces = []
        start %= self.tokens
        number = int(np.searchsorted(self.ends, start, side="right"))
        while length > 0:
            shard = self.shards[number]
            first = start - (int(self.ends[number]) - shard.size)
            piece = np.asarray(shard.tokens[first : first + length])
            pieces.append(piece)
            length -= len(piece)
            number = (number + 1) % len(self.shards)
            start = int(self.ends[number]) - self.shards[number].size
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
