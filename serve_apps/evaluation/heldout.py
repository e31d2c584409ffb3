"""Bits per byte of held-out files under a model, beside gzip and xz on the same bytes.

Records with parts (issues, commits, notebooks) are measured as training sees them: their text between control tokens.
The bits are of all tokens, the bytes of the text alone.
"""

import gzip
import hashlib
import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starloom.errors import UserError
from starloom.kinds import HeldoutDocument
from starloom.records import render
from starloom.records import texts as texts_of
from starloom.tokenizer import END_OF_TEXT, load_tokenizer
from starloom.tokens.encoder import Encoder

if TYPE_CHECKING:
    import numpy as np

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Window:
    """Tokens `start:end` of a document's ids; the first `context` of them are only read, the rest are scored."""

    document: int
    start: int
    end: int
    context: int


def within_budget(documents: Sequence[HeldoutDocument], most_bytes: int | None) -> list[HeldoutDocument]:
    """Whole files in a fixed order up to about `most_bytes`: at least one, spread over the corpus.

    Files are taken in the order of their digests, so that a small budget is a sample and not one repository.
    """
    ordered = sorted(
        (document for document in documents if text_of(document)),
        key=lambda d: hashlib.sha256(f"{d.repo_name}\0{d.path}\0{d.content}".encode()).digest(),
    )
    chosen: list[HeldoutDocument] = []
    total = 0
    for document in ordered:
        size = len(text_of(document).encode())
        if most_bytes is None or not chosen or total + size <= most_bytes:
            chosen.append(document)
            total += size
    return chosen


def text_of(document: HeldoutDocument) -> str:
    """A document's text as training sees it, without control tokens."""
    return "".join(texts_of(document.kind, document.content))


def windows(length: int, document: int, context: int) -> list[Window]:
    """Cover `length` ids: the first window scores all of its own, later ones half, with the other half before them."""
    found = [Window(document, 0, min(length, context), 0)]
    step = context // 2
    while found[-1].end < length:
        end = min(length, found[-1].end + step)
        found.append(Window(document, end - context, end, context - (end - found[-1].end)))
    return found


def bits(model_folder: str | Path, documents: Sequence[HeldoutDocument]) -> "np.ndarray":
    """Bits that the model needs for each document, from end-of-text through its last token: float64 [documents].

    Windows are the model's context with at least half of it before each scored token (the start of a file aside).
    """
    import numpy as np
    import torch
    from torch.nn import functional as F

    from starloom.model.adapter import read_adapted

    model, tokenizer = read_adapted(model_folder), load_tokenizer(model_folder)
    encoder = Encoder.of(tokenizer)
    end, context = tokenizer.special(END_OF_TEXT), model.config.context
    ids = [[end, *encoder.encode_pieces(render(one.kind, one.content)).tolist()] for one in documents]
    # one length after another: a batch holds windows of equal length, so nothing is padded
    plan = sorted(
        (window for number, tokens in enumerate(ids) for window in windows(len(tokens), number, context + 1)),
        key=lambda w: (w.end - w.start, w.document, w.start),
    )
    needed = np.zeros(len(documents))
    first = 0
    while first < len(plan):
        length = plan[first].end - plan[first].start
        last = first
        while (
            last < len(plan) and plan[last].end - plan[last].start == length and (last - first) * length < BATCH_TOKENS
        ):
            last += 1
        batch, first = plan[first:last], last
        if length < 2:
            continue
        rows = torch.tensor([ids[w.document][w.start : w.end] for w in batch])
        with torch.inference_mode():
            logits = model(rows[:, :-1]).float()
            nats = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(batch), -1)
        for window, row in zip(batch, nats.double(), strict=True):
            needed[window.document] += float(row[max(0, window.context - 1) :].sum()) / math.log(2)
    return needed


def measure(model_folder: str | Path, documents: Sequence[HeldoutDocument]) -> dict[str, object]:
    """Bits per byte of the model, of ``gzip -9`` and of ``xz -9`` on the same files concatenated, and by language.

    Concatenated is the kindest way for the compressors: they see all earlier files. Files without a language are the
    language "".

    Raises:
        UserError: there is no document.
    """
    if not documents:
        raise UserError("the tokens hold no held-out file; raise the held-out share of the packing step")
    needed = bits(model_folder, documents)
    texts = [text_of(document).encode() for document in documents]
    sizes, joined = [len(text) for text in texts], b"".join(texts)
    languages: dict[str, dict[str, float]] = {}
    for language in sorted({document.language or "" for document in documents}):
        chosen = [n for n, document in enumerate(documents) if (document.language or "") == language]
        size = sum(sizes[n] for n in chosen)
        languages[language] = {
            "bits_per_byte": round(float(sum(needed[n] for n in chosen)) / size, 5),
            "bytes": size,
            "files": len(chosen),
        }
    return {
        "bits_per_byte": round(float(needed.sum()) / len(joined), 5),
        "gzip": round(8 * len(gzip.compress(joined, 9, mtime=0)) / len(joined), 5),
        "xz": round(8 * len(lzma.compress(joined, preset=9)) / len(joined), 5),
        "bytes": len(joined),
        "files": len(documents),
        "compressed_as": "all files concatenated",
        "languages": languages,
    }
