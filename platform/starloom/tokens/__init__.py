"""Token shards: their format, samples that are functions of (seed, i), and fill-in-the-middle."""

from starloom.tokens.dataset import Part, Sample, TokenDataset
from starloom.tokens.fim import FimConfig
from starloom.tokens.mixture import weighted_parts
from starloom.tokens.shard import TokenShard, TokenShardWriter

__all__ = ["FimConfig", "Part", "Sample", "TokenDataset", "TokenShard", "TokenShardWriter", "weighted_parts"]
