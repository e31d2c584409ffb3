"""How a corpus row becomes a document: text and special tokens, drawn from (seed, id) alone.

Source: StarCoder (Li et al. 2023), section 3.5 and the field notes of its data work: each of repository, file name
and stars stands before a file with probability 0.2, each on its own draw; stars come in buckets.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from starloom.config import Config
from starloom.tokenizer import END_OF_TEXT

STAR_BUCKETS = ((0, "0"), (10, "1-10"), (100, "10-100"), (1000, "100-1000"))


class DocumentConfig(Config):
    """What stands before a file's text."""

    metadata_rate: float = Field(0.2, ge=0, le=1)


@dataclass(frozen=True)
class Special:
    """A control token in a document."""

    token: str


def render(row: Mapping[str, Any], seed: int, options: DocumentConfig) -> list[str | Special]:
    """The pieces of one document in order, end-of-text last; strings are encoded as text."""
    draws = [draw(seed, row["id"], name) for name in ("repository", "path", "stars")]
    fields: list[str | Special] = []
    if draws[0] < options.metadata_rate:
        fields += [Special("<reponame>"), row["repo_name"]]
    if draws[1] < options.metadata_rate:
        fields += [Special("<filename>"), row["path"]]
    if draws[2] < options.metadata_rate and row["stars"] is not None:
        fields += [Special("<gh_stars>"), star_bucket(row["stars"])]
    head = [*fields, "\n"] if fields else []
    return [*head, row["content"], Special(END_OF_TEXT)]


def draw(seed: int, key: str, purpose: str) -> float:
    """A number in [0, 1) that depends on its three arguments alone."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def star_bucket(stars: int) -> str:
    """StarCoder's five classes of popularity."""
    return next((name for limit, name in STAR_BUCKETS if stars <= limit), "1000+")
