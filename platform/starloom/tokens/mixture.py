"""StarCoder's mixture: every language at its natural share, some of them weighed up or down."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from starloom.errors import UserError
from starloom.kinds import SPLITS
from starloom.tokens.dataset import ShardGroup
from starloom.tokens.shard import TokenShard


def group_of(stem: Path) -> str:
    """The language or source of a shard that was packed with ``groups``; empty for one that was not."""
    return "" if stem.parent.name in SPLITS else unquote(stem.parent.name)


def weighted_groups(shards: Sequence[TokenShard], factors: Mapping[str, float], context: int) -> list[ShardGroup]:
    """A group per language or source, weighing its tokens times its factor (1 where none is given, 0 leaves it out).

    Raises:
        UserError: a factor is negative or names no group of these shards.
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
    weighted = []
    for name, members in sorted(groups.items()):
        long_enough = tuple(shard for shard in members if len(shard.tokens) > context)
        tokens = sum(len(shard.tokens) for shard in long_enough)
        if long_enough and factors.get(name, 1.0) > 0:
            weighted.append(ShardGroup(long_enough, tokens * factors.get(name, 1.0)))
    return weighted
