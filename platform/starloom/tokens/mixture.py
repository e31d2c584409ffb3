"""StarCoder's mixture: every language at its natural share, some of them weighed up or down."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote

from starloom.errors import UserError
from starloom.kinds import SPLITS
from starloom.tokens.dataset import ShardGroup
from starloom.tokens.shard import TokenShard


def group_of(stem: Path) -> str:
    """The language or source of a shard that was packed with ``groups``; empty for one that was not."""
    return "" if stem.parent.name in SPLITS else unquote(stem.parent.name)


@dataclass(frozen=True)
class Portion:
    """A language or source of a mixture; one that is left out has a reason."""

    name: str  # empty: tokens that were packed without groups
    shards: tuple[TokenShard, ...]
    factor: float
    reason: str = ""

    @property
    def tokens(self) -> int:
        """All of them."""
        return sum(shard.size for shard in self.shards)

    @property
    def weight(self) -> Fraction:
        """Of its samples: its tokens times its factor; 0 where it is left out."""
        return Fraction(0) if self.reason else self.tokens * Fraction(str(self.factor))


def mixture(shards: Sequence[TokenShard], factors: Mapping[str, float], context: int) -> list[Portion]:
    """The languages or sources of the shards by name, each at its tokens times its factor (1 where none is given).

    Without factors nothing is left out, for all is one stream; with them each is a stream of its own, which must hold
    one sample of `context` tokens and the one after it.

    Raises:
        UserError: a factor is negative or names none of them.
    """
    groups: dict[str, list[TokenShard]] = {}
    for shard in shards:
        groups.setdefault(group_of(shard.stem), []).append(shard)
    for name, factor in factors.items():
        if name not in groups:
            known = ", ".join(sorted(group for group in groups if group)) or "none: pack with groups = 'language'"
            raise UserError(f"weights.{name}: no tokens of that group; there are {known}")
        if factor < 0:
            raise UserError(f"weights.{name} = {factor:g}: must not be negative")
    portions = []
    for name, members in sorted(groups.items()):
        portion = Portion(name, tuple(members), factors.get(name, 1.0))
        reason = ""
        if factors and portion.factor == 0:
            reason = "weight 0"
        elif factors and portion.tokens <= context:
            reason = f"shorter than a sample of {context + 1:,} tokens"
        portions.append(replace(portion, reason=reason))
    return portions


def weighted_groups(shards: Sequence[TokenShard], factors: Mapping[str, float], context: int) -> list[ShardGroup]:
    """What a data set draws from: one stream without factors, else one for each `mixture` portion that is in it.

    Raises:
        UserError: a factor is negative or names no group of these shards.
    """
    portions = mixture(shards, factors, context)
    if not factors:
        return [ShardGroup(tuple(shards))]
    return [ShardGroup(portion.shards, portion.weight) for portion in portions if portion.weight]


def mixture_lines(portions: Sequence[Portion], trained: int, most: int = 12) -> Iterator[str]:
    """A table of tokens, share and epochs of a run over `trained` tokens, and what is left out and why.

    The largest shares come first; after `most` of them one line tells of the others.
    """
    total = sum((portion.weight for portion in portions), Fraction(0))
    inside = sorted((p for p in portions if p.weight), key=lambda p: (-p.weight, p.name))
    yield f"{'group':<24} {'tokens':>17} {'share':>9} {'epochs':>8}"

    def line(name: str, tokens: int, share: Fraction) -> str:
        return f"{name:<24} {tokens:>17,} {float(share):>9.4%} {float(trained * share / tokens):>8.2f}"

    for portion in inside[:most]:
        yield line(portion.name or "(all)", portion.tokens, portion.weight / total)
    rest = inside[most:]
    if rest:
        tokens = sum(portion.tokens for portion in rest)
        yield line(f"{len(rest)} more", tokens, sum((portion.weight for portion in rest), Fraction(0)) / total)
    for portion in portions:
        if portion.reason:
            yield f"left out: {portion.name or '(all)'}, {portion.tokens:,} tokens: {portion.reason}"
