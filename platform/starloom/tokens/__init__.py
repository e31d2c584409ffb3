"""Token shards: their format, samples that are functions of (seed, i), and fill-in-the-middle."""

from starloom.tokens.dataset import Sample, ShardGroup, TokenDataset
from starloom.tokens.encoder import Encoder
from starloom.tokens.fim import FimConfig
from starloom.tokens.mixture import weighted_groups
from starloom.tokens.shard import TokenShard, TokenShardWriter

__all__ = [
    "Encoder",
    "FimConfig",
    "Sample",
    "ShardGroup",
    "TokenDataset",
    "TokenShard",
    "TokenShardWriter",
    "weighted_groups",
]
