"""Byte-level BPE as one compiled loop over the bytes of many texts: split, look the piece up, merge when it is new.

The ids are those of `tokenizers` for StarCoder's split (digits one by one, then GPT-2's pattern): the merges and their
order are read from ``tokenizer.json``. Source of the merging: Sennrich et al. 2016; pieces of code repeat so often that
nearly all of them are found among those that were merged before. What the loop does not decide itself (characters newer
than Python's tables, pieces longer than `LONGEST_PIECE`) it leaves to the caller, text by text.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numba
import numpy as np

from starloom.tokenizer import CodeTokenizer, printable_bytes

LONGEST_PIECE = 512  # bytes; merging is quadratic in them
_OTHER, _LETTER, _NUMBER, _SPACE, _UNKNOWN = range(5)
_SPACES = (*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
_TABLED = 0x40000  # the planes beyond hold tags and private characters
_SLOTS = 1 << 19
_PIECE_BYTES, _PIECE_IDS = 1 << 23, 1 << 21
_NONE = np.uint64(0xFFFFFFFFFFFFFFFF)

_compiled = numba.njit(cache=True, nogil=True)


@cache
def _classes() -> np.ndarray:
    """The class of every code point, as the split's pattern sees it."""
    table = np.full(0x110000, _UNKNOWN, dtype=np.uint8)
    by_letter = {"L": _LETTER, "N": _NUMBER}
    for point in range(_TABLED):
        category = unicodedata.category(chr(point))
        if category not in ("Cn", "Cs"):
            table[point] = by_letter.get(category[0], _OTHER)
    table[list(_SPACES)] = _SPACE
    return table


@_compiled
def _class_at(data, at, classes):  # type: ignore[no-untyped-def]
    """Class and width in bytes of the character at `at`; the text is valid UTF-8."""
    first = np.int64(data[at])
    if first < 0x80:
        return classes[first], 1
    if first < 0xE0:
        return classes[(first & 0x1F) << 6 | (np.int64(data[at + 1]) & 0x3F)], 2
    if first < 0xF0:
        low = (np.int64(data[at + 1]) & 0x3F) << 6 | (np.int64(data[at + 2]) & 0x3F)
        return classes[(first & 0x0F) << 12 | low], 3
    low = (np.int64(data[at + 2]) & 0x3F) << 6 | (np.int64(data[at + 3]) & 0x3F)
    return classes[(first & 0x07) << 18 | (np.int64(data[at + 1]) & 0x3F) << 12 | low], 4


@_compiled
def _piece_end(data, at, end, classes):  # type: ignore[no-untyped-def]
    """Where the piece that begins at `at` ends; -1 when a character of it has no known class."""
    byte = data[at]
    if byte == 39 and at + 1 < end:  # 's 'd 'm 't 'll 've 're
        second = data[at + 1]
        if second == 115 or second == 100 or second == 109 or second == 116:
            return at + 2
        if at + 2 < end:
            third = data[at + 2]
            if second == third == 108 or (third == 101 and (second == 118 or second == 114)):
                return at + 3
    kind, width = _class_at(data, at, classes)
    if kind == 2:
        return at + width
    stop = at + width
    if byte == 32 and stop < end:  # one space goes with the letters or signs after it
        after, wide = _class_at(data, stop, classes)
        if after == 1 or after == 0:
            kind = after
            stop += wide
    if kind == 4:
        return -1
    last = at
    following = kind
    while stop < end:
        following, width = _class_at(data, stop, classes)
        if following != kind:
            break
        last = stop
        stop += width
    if kind != 3 or stop == end or following == 2:
        return stop
    if following == 4:
        return -1
    return last if last > at else stop  # the last of several spaces goes with what follows


@_compiled
def _rank(left, right, keys, values):  # type: ignore[no-untyped-def]
    """Rank and id of the merge of two ids as ``rank << 32 | id``; all ones when they do not merge."""
    key = np.uint64(left) << np.uint64(32) | np.uint64(right)
    mask = np.uint64(len(keys) - 1)
    slot = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20) & mask
    while True:
        if keys[slot] == key:
            return values[slot]
        if keys[slot] == np.uint64(0xFFFFFFFFFFFFFFFF):
            return np.uint64(0xFFFFFFFFFFFFFFFF)
        slot = (slot + np.uint64(1)) & mask


@_compiled
def _merge(data, start, stop, byte_ids, keys, values, ids, ranks):  # type: ignore[no-untyped-def]
    """Write the ids of one piece to `ids`; returns how many. The least rank goes first, the leftmost of equals."""
    none = np.uint64(0xFFFFFFFFFFFFFFFF)
    count = stop - start
    for n in range(count):
        ids[n] = byte_ids[data[start + n]]
    for n in range(count - 1):
        ranks[n] = _rank(ids[n], ids[n + 1], keys, values)
    while count > 1:
        best = 0
        for n in range(1, count - 1):
            if ranks[n] < ranks[best]:
                best = n
        if ranks[best] == none:
            break
        ids[best] = np.uint32(ranks[best] & np.uint64(0xFFFFFFFF))
        count -= 1
        for n in range(best + 1, count):
            ids[n] = ids[n + 1]
            ranks[n - 1] = ranks[n]
        if best > 0:
            ranks[best - 1] = _rank(ids[best - 1], ids[best], keys, values)
        if best + 1 < count:
            ranks[best] = _rank(ids[best], ids[best + 1], keys, values)
    return count


@_compiled
def _encode(data, offsets, classes, byte_ids, keys, values, slots, seen, seen_ids, used, out, ends):  # type: ignore[no-untyped-def]
    """Ids of every text, one after the other; ``ends[n]`` is where text n's end, -1 - that when it was left out."""
    mask = np.uint64(len(slots) - 1)
    ids = np.empty(512, dtype=np.uint32)
    ranks = np.empty(512, dtype=np.uint64)
    written = 0
    for n in range(len(offsets) - 1):
        at, end, began, whole = offsets[n], offsets[n + 1], written, True
        while at < end:
            stop = _piece_end(data, at, end, classes)
            if stop < 0 or stop - at > 512:
                whole = False
                break
            length = stop - at
            value = np.uint64(0xCBF29CE484222325)
            for k in range(at, stop):
                value = (value ^ np.uint64(data[k])) * np.uint64(0x100000001B3)
            slot = (value ^ (value >> np.uint64(29))) & mask
            found = False
            while slots[slot, 1] != 0:
                if slots[slot, 0] == value and slots[slot, 1] & np.uint64(0xFFFF) == length:
                    place = np.int64(slots[slot, 1] >> np.uint64(16))
                    found = True
                    for k in range(length):
                        if seen[place + k] != data[at + k]:
                            found = False
                            break
                    if found:
                        break
                slot = (slot + np.uint64(1)) & mask
            if found:
                first = np.int64(slots[slot, 2] >> np.uint64(16))
                for k in range(np.int64(slots[slot, 2] & np.uint64(0xFFFF))):
                    out[written] = seen_ids[first + k]
                    written += 1
            else:
                count = _merge(data, at, stop, byte_ids, keys, values, ids, ranks)
                if used[0] + length > len(seen) or used[1] + count > len(seen_ids) or used[2] * 2 > len(slots):
                    slots[:, :] = 0  # full: begin again, what is frequent is soon back
                    used[:] = 0
                    slot = (value ^ (value >> np.uint64(29))) & mask
                slots[slot, 0] = value
                slots[slot, 1] = np.uint64(used[0]) << np.uint64(16) | np.uint64(length)
                slots[slot, 2] = np.uint64(used[1]) << np.uint64(16) | np.uint64(count)
                for k in range(length):
                    seen[used[0] + k] = data[at + k]
                for k in range(count):
                    seen_ids[used[1] + k] = ids[k]
                    out[written] = ids[k]
                    written += 1
                used[0] += length
                used[1] += count
                used[2] += 1
            at = stop
        if not whole:
            written = began
        ends[n] = written if whole else -1 - written
    return written


@dataclass(frozen=True)
class CompiledEncoder:
    """The tables of one tokenizer, and the pieces that were seen before. Not for two threads at once."""

    byte_ids: np.ndarray  # uint32 [256]
    keys: np.ndarray  # uint64: two ids
    values: np.ndarray  # uint64: rank and id of their merge
    slots: np.ndarray = field(default_factory=lambda: np.zeros((_SLOTS, 3), np.uint64))
    seen: np.ndarray = field(default_factory=lambda: np.empty(_PIECE_BYTES, np.uint8))
    seen_ids: np.ndarray = field(default_factory=lambda: np.empty(_PIECE_IDS, np.uint32))
    used: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))

    @classmethod
    def of(cls, tokenizer: CodeTokenizer) -> "CompiledEncoder":
        """Read vocabulary and merges.

        Raises:
            ValueError: the tokenizer is no byte-level BPE with an id for every byte.
        """
        model: dict[str, Any] = json.loads(tokenizer.json_text)["model"]
        if model.get("type") != "BPE" or model.get("ignore_merges") or model.get("dropout"):
            raise ValueError("the tokenizer is no plain BPE")
        vocabulary: dict[str, int] = model["vocab"]
        try:
            byte_ids = np.array([vocabulary[character] for character in printable_bytes()], dtype=np.uint32)
        except KeyError as error:
            raise ValueError(f"the tokenizer has no id for the byte that it writes {error}") from None
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        size = 1 << max(8, (2 * len(merges)).bit_length())
        keys, values = np.full(size, _NONE, np.uint64), np.full(size, _NONE, np.uint64)
        pairs = np.array([(vocabulary[a], vocabulary[b], vocabulary[a + b]) for a, b in merges], dtype=np.uint64)
        _fill(pairs.reshape(-1, 3), keys, values)
        return cls(byte_ids, keys, values)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray | None]:
        """uint32 ids of each text, as parts of one buffer; None for a text that has to go another way."""
        encoded = [text.encode() for text in texts]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(one) for one in encoded], out=offsets[1:])
        data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        out = np.empty(len(data), dtype=np.uint32)  # an id stands for at least one byte
        ends = np.empty(len(encoded), dtype=np.int64)
        tables = (_classes(), self.byte_ids, self.keys, self.values, self.slots, self.seen, self.seen_ids, self.used)
        written = _encode(data, offsets, *tables, out, ends)
        ids = out[:written].copy()
        stops = np.where(ends < 0, -1 - ends, ends).tolist()
        parts = zip([0, *stops], stops, (ends < 0).tolist(), strict=False)
        return [None if left_out else ids[start:stop] for start, stop, left_out in parts]


@_compiled
def _fill(pairs, keys, values):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(keys) - 1)
    for rank in range(len(pairs)):
        key = pairs[rank, 0] << np.uint64(32) | pairs[rank, 1]
        slot = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20) & mask
        while keys[slot] != np.uint64(0xFFFFFFFFFFFFFFFF) and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] != key:
            keys[slot] = key
            values[slot] = np.uint64(rank) << np.uint64(32) | pairs[rank, 2]
