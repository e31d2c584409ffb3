"""Fill-in-the-middle on documents, cut in characters (Bavarian et al. 2022; BigCode's Megatron-LM, gpt_dataset.py).

Unlike theirs, every draw is a function of (seed, sample): a resumed run draws the same.
"""

import numpy as np
from pydantic import Field

from starloom.config import Config
from starloom.tokenizer import END_OF_TEXT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX
from starloom.tokens.encoder import Encoder

METADATA = ("<reponame>", "<filename>", "<gh_stars>")  # what stands before a file (data_jobs.documents)


class FimConfig(Config):
    """How often a document is rearranged, and how often suffix-first."""

    rate: float = Field(0.5, ge=0, le=1)
    spm_rate: float = Field(0.5, ge=0, le=1)


def rearrange(ids: np.ndarray, encoder: Encoder, fim: FimConfig, generator: np.random.Generator) -> np.ndarray:
    """One sequence of ids [length], each document in it (split at end-of-text) rearranged with probability `fim.rate`.

    PSM: prefix-token p suffix-token s middle-token m. SPM: prefix-token suffix-token s middle-token p m. A piece
    whose bytes are no whole UTF-8 text (cut inside a character by the window) is left as it is. The result has the
    type of `ids` and may be longer or shorter: another cut of the text gives other tokens.
    """
    end = encoder.tokenizer.special(END_OF_TEXT)
    cuts = np.flatnonzero(ids == end)
    parts, start = [], 0
    for cut in [*cuts.tolist(), len(ids)]:
        piece = ids[start:cut]
        if len(piece):
            parts.append(_rearranged(piece, encoder, fim, generator))
        if cut < len(ids):
            parts.append(ids[cut : cut + 1])
        start = cut + 1
    return np.concatenate(parts) if parts else ids


def _rearranged(piece: np.ndarray, encoder: Encoder, fim: FimConfig, generator: np.random.Generator) -> np.ndarray:
    # all draws are made whatever happens, so that one document's fate does not shift the next one's
    chance, order, first, second = generator.random(4)
    if chance >= fim.rate:
        return piece
    head = _head(piece, encoder)
    if head is None:
        return piece
    body = piece[head:]
    try:
        text = encoder.tokenizer.decode_bytes(body.tolist()).decode("utf-8")
    except UnicodeDecodeError:
        return piece
    low, high = sorted((int(first * (len(text) + 1)), int(second * (len(text) + 1))))
    arranged = _arranged(encoder, text[:low], text[low:high], text[high:], suffix_first=order < fim.spm_rate)
    return np.concatenate([piece[:head], arranged.astype(piece.dtype)])


def _head(piece: np.ndarray, encoder: Encoder) -> int | None:
    """Where a file's text begins, behind its metadata; None for a document of another structure, which stays whole.

    The metadata end with a line break of their own behind the last field, also where the window begins among them.
    """
    tokenizer = encoder.tokenizer
    at = np.flatnonzero(np.isin(piece, list(tokenizer.special_ids.values())))
    if not len(at):
        return 0
    fields = [tokenizer.special_ids.get(name) for name in METADATA]
    if not np.isin(piece[at], [number for number in fields if number is not None]).all():
        return None
    (line_break,) = encoder.encode(["\n"])
    last = int(at[-1]) + 1
    ends = last + np.flatnonzero(piece[last:] == line_break[0])
    return int(ends[0]) + 1 if len(line_break) == 1 and len(ends) else None


def _arranged(encoder: Encoder, prefix: str, middle: str, suffix: str, *, suffix_first: bool) -> np.ndarray:
    before, between, after = encoder.encode([prefix, middle, suffix])
    opening, gap, filling = (
        np.array([encoder.tokenizer.special(name)]) for name in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)
    )
    if suffix_first:
        return np.concatenate([opening, gap, after, filling, before, between])
    return np.concatenate([opening, before, gap, after, filling, between])
