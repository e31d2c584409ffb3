"""Compiled loops over the bytes of many files at once: words, n-grams, MinHash, bands, shingle sets, Jaccard.

Words are runs of ``[A-Za-z0-9_]`` (StarCoder's split); an n-gram's hash is 64 bits wide. Its low half, as in
``datasketch.MinHash(scheme="affine32")``, goes through MurmurHash3's finalizer and then through ``a * h + b`` modulo
2^32 for every permutation, so the sketches are datasketch's own, bit for bit.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import pyarrow as pa

_WORD = np.zeros(256, dtype=np.bool_)
for _character in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_":
    _WORD[_character] = True
_SPACE = np.zeros(256, dtype=np.bool_)
for _character in b" \t\r\n\f\v":
    _SPACE[_character] = True

_compiled = numba.njit(cache=True, nogil=True)


@dataclass(frozen=True)
class Texts:
    """A column of texts as one buffer: text i is data[offsets[i]:offsets[i + 1]]."""

    data: np.ndarray  # uint8
    offsets: np.ndarray  # int64

    @classmethod
    def of(cls, column: pa.ChunkedArray | pa.Array) -> "Texts":
        """Take over Arrow's buffers of a large_string column; nothing is copied for a single chunk."""
        array: Any = column
        if isinstance(column, pa.ChunkedArray):  # a single chunk is taken as it is: combine_chunks would copy it
            array = column.chunk(0) if column.num_chunks == 1 else column.cast(pa.large_string()).combine_chunks()
        array = array.cast(pa.large_string())
        _, offsets, data = array.buffers()
        bounds = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
        content = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)
        return cls(content, bounds)

    def __len__(self) -> int:
        return len(self.offsets) - 1


@lru_cache(maxsize=8)
def permutations(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Datasketch's multipliers and addends, uint32 each."""
    from datasketch import MinHash

    a, b = MinHash(num_perm=count, seed=seed, scheme="affine32").permutations
    return np.ascontiguousarray(a, dtype=np.uint32), np.ascontiguousarray(b, dtype=np.uint32)


@_compiled
def _mix64(value):  # type: ignore[no-untyped-def]
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@_compiled
def _mix32(value):  # type: ignore[no-untyped-def]
    # numba widens uint32 arithmetic to 64 bits: every step is cut back to 32
    value = np.uint32(value ^ (value >> np.uint32(16)))
    value = np.uint32(value * np.uint32(0x85EBCA6B))
    value = np.uint32(value ^ (value >> np.uint32(13)))
    value = np.uint32(value * np.uint32(0xC2B2AE35))
    return np.uint32(value ^ (value >> np.uint32(16)))


@_compiled
def _shingle(data, start, end, ngram, word, out):  # type: ignore[no-untyped-def]
    """Write the hash of every n-gram of words to `out` (half the bytes and two long); returns (n-grams, words).

    Unsigned counters spare the checks for negative indices.
    """
    words = _word_hashes(data, np.uint64(start), np.uint64(end), word, out)
    ring = np.zeros(ngram, dtype=np.uint64)
    base = np.uint64(0x9E3779B97F4A7C15)
    leaving = np.uint64(1)  # base ** ngram: the weight of the word that leaves the n-gram
    for _ in range(ngram):
        leaving *= base
    value = np.uint64(0)
    one, last = np.uint64(1), np.uint64(ngram - 1)
    slot = np.uint64(0)
    written = np.uint64(0)
    for n in range(words):
        hashed = _mix64(out[n])
        # a rolling polynomial over the words, modulo 2^64
        value = value * base + hashed - ring[slot] * leaving
        ring[slot] = hashed
        slot = slot + one if slot < last else np.uint64(0)
        if n >= last:
            out[written] = _mix64(value)  # at n or before it: no word is overwritten that is still to be read
            written += one
    return np.int64(written), np.int64(words)


@_compiled
def _word_hashes(data, start, end, word, out):  # type: ignore[no-untyped-def]
    """FNV-1a of every word, without a branch that depends on the text: mispredicted ones took half of the time."""
    nothing = np.uint64(0xCBF29CE484222325)
    one = np.uint64(1)
    current, inside, count = nothing, np.uint64(0), np.uint64(0)
    for at in range(start, end):
        belongs = np.uint64(word[data[at]])
        out[count] = current
        count += inside & (one - belongs)
        mask = np.uint64(0) - belongs
        current = (((current ^ np.uint64(data[at])) * np.uint64(0x100000001B3)) & mask) | (nothing & ~mask)
        inside = belongs
    out[count] = current
    return count + inside


@_compiled
def _low(shingle):  # type: ignore[no-untyped-def]
    return _mix32(np.uint32(shingle & np.uint64(0xFFFFFFFF)))


@_compiled
def _sketch(shingles, a, b, out):  # type: ignore[no-untyped-def]
    """out[k] = min over shingles of a[k] * h + b[k] modulo 2^32."""
    out[:] = np.uint32(0xFFFFFFFF)
    at = 0
    while at + 4 <= len(shingles):  # four at once: a, b and out are loaded and stored once for all of them
        first, second = _low(shingles[at]), _low(shingles[at + 1])
        third, fourth = _low(shingles[at + 2]), _low(shingles[at + 3])
        for k in range(len(a)):
            early = min(np.uint32(a[k] * first + b[k]), np.uint32(a[k] * second + b[k]))
            late = min(np.uint32(a[k] * third + b[k]), np.uint32(a[k] * fourth + b[k]))
            out[k] = min(out[k], min(early, late))
        at += 4
    while at < len(shingles):
        value = _low(shingles[at])
        for k in range(len(a)):
            out[k] = min(out[k], np.uint32(a[k] * value + b[k]))
        at += 1


@_compiled
def _sign(data, offsets, ngrams, word, space, a, b, rows, bands, words, normal):  # type: ignore[no-untyped-def]
    longest = 0
    for n in range(len(offsets) - 1):
        longest = max(longest, offsets[n + 1] - offsets[n])
    scratch = np.empty(longest // 2 + 2, dtype=np.uint64)
    sketch = np.empty(len(a), dtype=np.uint32)
    for n in range(len(offsets) - 1):
        start, end = offsets[n], offsets[n + 1]
        count, words[n] = _shingle(data, start, end, ngrams[n], word, scratch)
        normal[n] = 0
        if words[n] < ngrams[n]:
            state = np.uint64(0xCBF29CE484222325)
            for at in range(start, end):
                if not space[data[at]]:
                    state = (state ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
            normal[n] = _mix64(state)
        _sketch(scratch[:count], a, b, sketch)
        for band in range(bands.shape[1]):
            value = np.uint64(0x9E3779B97F4A7C15)
            for row in range(rows):
                value = _mix64(value ^ np.uint64(sketch[band * rows + row])) + np.uint64(0x9E3779B97F4A7C15)
            bands[n, band] = value


@dataclass(frozen=True)
class Signatures:
    """What is known of each file without its text."""

    bands: np.ndarray  # uint64 [files, bands]
    words: np.ndarray  # int64 [files]
    normal: np.ndarray  # uint64 [files]: hash of the text without white space; 0 unless it has fewer words than n


def sign(texts: Texts, *, ngram: int | np.ndarray, count: int, seed: int, bands: int, rows: int) -> Signatures:
    """Band hashes, word counts and white-space-free hashes of every text.

    `ngram` is one number for all, or int64 [files].
    """
    a, b = permutations(count, seed)
    size = len(texts)
    result = Signatures(np.empty((size, bands), np.uint64), np.empty(size, np.int64), np.empty(size, np.uint64))
    offsets = texts.offsets
    ngrams = np.ascontiguousarray(np.broadcast_to(np.asarray(ngram, dtype=np.int64), size))
    _sign(texts.data, offsets, ngrams, _WORD, _SPACE, a, b, rows, result.bands, result.words, result.normal)
    return result


@_compiled
def _sketches(data, offsets, ngram, word, a, b, out):  # type: ignore[no-untyped-def]
    for n in range(len(offsets) - 1):
        scratch = np.empty((offsets[n + 1] - offsets[n]) // 2 + 2, dtype=np.uint64)
        count, _ = _shingle(data, offsets[n], offsets[n + 1], ngram, word, scratch)
        _sketch(scratch[:count], a, b, out[n])


def sketches(texts: Texts, *, ngram: int, count: int, seed: int) -> np.ndarray:
    """The MinHash values themselves, uint32 [files, count], as ``datasketch.MinHash.hashvalues`` has them."""
    a, b = permutations(count, seed)
    out = np.empty((len(texts), count), dtype=np.uint32)
    _sketches(texts.data, texts.offsets, ngram, _WORD, a, b, out)
    return out


def shingle_hashes(text: bytes, ngram: int) -> np.ndarray:
    """The hashes of a text's n-grams of words, uint64 [n-grams], in order, repeats included."""
    data = np.frombuffer(text, dtype=np.uint8)
    out = np.empty(len(data) // 2 + 2, dtype=np.uint64)
    count, _ = _shingle(data, 0, len(data), ngram, _WORD, out)
    return out[:count]


def shingle_sets(texts: Texts, wanted: np.ndarray, ngram: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct n-gram hashes of the wanted texts, one after the other, and their int64 offsets.

    `ngram` is one for all or one for each of `wanted`.
    """
    sets = []
    for number, words in zip(wanted, np.broadcast_to(np.asarray(ngram), len(wanted)), strict=True):
        start, end = int(texts.offsets[number]), int(texts.offsets[number + 1])
        out = np.empty((end - start) // 2 + 2, dtype=np.uint64)
        count, _ = _shingle(texts.data, start, end, words, _WORD, out)
        sets.append(np.unique(out[:count]))
    offsets = np.zeros(len(sets) + 1, dtype=np.int64)
    np.cumsum([len(one) for one in sets], out=offsets[1:])
    return (np.concatenate(sets) if sets else np.empty(0, np.uint64)), offsets


@_compiled
def jaccard(left, right):  # type: ignore[no-untyped-def]
    """|A ∩ B| / |A ∪ B| of two sorted arrays of distinct values; two empty sets are equal."""
    if len(left) == 0 and len(right) == 0:
        return 1.0
    i = j = common = 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            common += 1
            i += 1
            j += 1
        elif left[i] < right[j]:
            i += 1
        else:
            j += 1
    return common / (len(left) + len(right) - common)


@_compiled
def _jaccards(sets, offsets, places, out):  # type: ignore[no-untyped-def]
    for n in range(len(places)):
        a, b = places[n, 0], places[n, 1]
        out[n] = jaccard(sets[offsets[a] : offsets[a + 1]], sets[offsets[b] : offsets[b + 1]])


def jaccards(sets: np.ndarray, offsets: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`jaccard` of many pairs, float64: set i is sets[offsets[i]:offsets[i + 1]], `places` is int64 [pairs, 2]."""
    out = np.empty(len(places), dtype=np.float64)
    _jaccards(sets, offsets, places, out)
    return out
