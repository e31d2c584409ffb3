"""Compiled loops over the bytes of many files at once: words, n-grams, MinHash, bands, shingle sets, Jaccard.

A word is a run of letters, digits and underscores of any script; a run of operators (``+=``, ``->``), for ``a + b`` is
not ``a - b``; or a single character of a script that has no blanks between words (Han, Kana, Thai, ...): five of them
are an n-gram. Brackets, commas, quotes and blanks only part words: they are a matter of formatting.

An n-gram's hash is 64 bits wide. Its low half, as in ``datasketch.MinHash(scheme="affine32")``, goes through
MurmurHash3's finalizer and then through ``a * h + b`` modulo 2^32 for every permutation, so the sketches are
datasketch's own, bit for bit.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import pyarrow as pa

_OTHER, _WORD, _OPERATOR, _SINGLE = range(4)
_OPERATORS = "+-*/%=<>!&|^~?@"
# scripts without blanks between words: Thai to Tibetan, Khmer, Kana, Han and their extensions
_SINGLES = (
    *((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3040, 0x30FF)),
    *((0x3105, 0x312F), (0x31A0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
)


@lru_cache(maxsize=1)
def character_classes() -> np.ndarray:
    """The class of each code point, uint8 [0x110000]: other, word, operator, single."""
    classes = np.zeros(0x110000, dtype=np.uint8)
    for code in range(0x30000):  # above there are Han and private use alone
        category = unicodedata.category(chr(code))
        if category[0] in "LMN" or category == "Pc":
            classes[code] = _WORD
        elif category == "Sm" or chr(code) in _OPERATORS:
            classes[code] = _OPERATOR
    for first, last in _SINGLES:
        codes = np.arange(first, last + 1)
        classes[codes[(classes[codes] == _WORD) | (codes >= 0x30000)]] = _SINGLE
    return classes


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
def _shingle(data, start, end, ngram, classes, salt, out):  # type: ignore[no-untyped-def]
    """Write the hash of every n-gram of words to `out` (as long as the bytes and two more); returns (n-grams, words).

    Unsigned counters spare the checks for negative indices. Texts of another `salt` have no n-gram in common.
    """
    plain = True
    for at in range(start, end):
        plain &= data[at] < 128
    if plain:
        words = _word_hashes(data, np.uint64(start), np.uint64(end), classes, out)
    else:
        words = _wide_word_hashes(data, start, end, classes, out)
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
            out[written] = _mix64(value ^ salt)  # at n or before it: no word is overwritten that is still to be read
            written += one
    return np.int64(written), np.int64(words)


@_compiled
def _word_hashes(data, start, end, classes, out):  # type: ignore[no-untyped-def]
    """FNV-1a of every word of ASCII, without a branch that depends on the text: mispredictions took half the time."""
    nothing = np.uint64(0xCBF29CE484222325)
    zero, one = np.uint64(0), np.uint64(1)
    current, before, count = nothing, zero, zero
    for at in range(start, end):
        kind = np.uint64(classes[data[at]])
        same, belongs, inside = np.uint64(kind == before), np.uint64(kind != zero), np.uint64(before != zero)
        out[count] = current
        count += inside & (one - same)
        going = zero - same
        state = (current & going) | (nothing & ~going)
        mask = zero - belongs
        current = (((state ^ np.uint64(data[at])) * np.uint64(0x100000001B3)) & mask) | (nothing & ~mask)
        before = kind
    out[count] = current
    return count + np.uint64(before != zero)


@_compiled
def _wide_word_hashes(data, start, end, classes, out):  # type: ignore[no-untyped-def]
    """The same for UTF-8, a character at a time; equal to `_word_hashes` where all is ASCII."""
    nothing = np.uint64(0xCBF29CE484222325)
    current, before, count = nothing, 0, 0
    at = start
    while at < end:
        first = data[at]
        length = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        length = min(length, end - at)
        code = np.int64(first)
        if length > 1:
            code = np.int64(first) & (0xFF >> (length + 1))
            for n in range(1, length):
                code = (code << 6) | (np.int64(data[at + n]) & 0x3F)
        kind = classes[code] if code < len(classes) else 0
        if before != 0 and (kind != before or kind == 3):
            out[count] = current
            count += 1
            current = nothing
        if kind != 0:
            for n in range(length):
                current = (current ^ np.uint64(data[at + n])) * np.uint64(0x100000001B3)
        before = kind
        at += length
    if before != 0:
        out[count] = current
        count += 1
    return np.uint64(count)


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
def _normal(data, start, end, space, salt):  # type: ignore[no-untyped-def]
    """The hash of a text without its white space."""
    state = np.uint64(0xCBF29CE484222325) ^ salt
    for at in range(start, end):
        if not space[data[at]]:
            state = (state ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
    return _mix64(state)


@_compiled
def _sign(data, offsets, starts, ngrams, salts, classes, space, a, b, rows, bands, words, normal):  # type: ignore[no-untyped-def]
    longest = 0
    for n in range(len(offsets) - 1):
        longest = max(longest, offsets[n + 1] - offsets[n])
    scratch = np.empty(longest + 2, dtype=np.uint64)
    sketch = np.empty(len(a), dtype=np.uint32)
    for n in range(len(offsets) - 1):
        start, end = offsets[n], offsets[n + 1]
        count, words[n] = _shingle(data, starts[n], end, ngrams[n], classes, salts[n], scratch)
        normal[n] = 0
        if words[n] < ngrams[n]:
            normal[n] = _normal(data, start, end, space, salts[n])
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


@dataclass(frozen=True)
class Reading:
    """How each text of a column is read: where its n-grams begin, how long they are, and what they are salted with."""

    starts: np.ndarray  # int64 [files]: bytes from the beginning of the column's buffer
    ngrams: np.ndarray  # int64 [files]: words
    salts: np.ndarray  # uint64 [files]

    @classmethod
    def plain(cls, texts: Texts, ngram: int) -> "Reading":
        """From the first byte on, unsalted."""
        size = len(texts)
        return cls(texts.offsets[:-1].copy(), np.full(size, ngram, np.int64), np.zeros(size, np.uint64))


def sign(texts: Texts, reading: Reading, *, count: int, seed: int, bands: int, rows: int) -> Signatures:
    """Band hashes, word counts and white-space-free hashes of every text."""
    a, b = permutations(count, seed)
    size = len(texts)
    result = Signatures(np.empty((size, bands), np.uint64), np.empty(size, np.int64), np.empty(size, np.uint64))
    read = (reading.starts, reading.ngrams, reading.salts, character_classes(), _SPACE)
    _sign(texts.data, texts.offsets, *read, a, b, rows, result.bands, result.words, result.normal)
    return result


@_compiled
def _sketches(data, offsets, ngram, classes, a, b, out):  # type: ignore[no-untyped-def]
    for n in range(len(offsets) - 1):
        scratch = np.empty(offsets[n + 1] - offsets[n] + 2, dtype=np.uint64)
        count, _ = _shingle(data, offsets[n], offsets[n + 1], ngram, classes, np.uint64(0), scratch)
        _sketch(scratch[:count], a, b, out[n])


def sketches(texts: Texts, *, ngram: int, count: int, seed: int) -> np.ndarray:
    """The MinHash values themselves, uint32 [files, count], as ``datasketch.MinHash.hashvalues`` has them."""
    a, b = permutations(count, seed)
    out = np.empty((len(texts), count), dtype=np.uint32)
    _sketches(texts.data, texts.offsets, ngram, character_classes(), a, b, out)
    return out


def shingle_hashes(text: bytes, ngram: int) -> np.ndarray:
    """The hashes of a text's n-grams of words, uint64 [n-grams], in order, repeats included."""
    data = np.frombuffer(text, dtype=np.uint8)
    out = np.empty(len(data) + 2, dtype=np.uint64)
    count, _ = _shingle(data, 0, len(data), ngram, character_classes(), np.uint64(0), out)
    return out[:count]


def shingle_sets(texts: Texts, wanted: np.ndarray, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct n-gram hashes of the wanted texts (int64 [wanted]), one after the other; their int64 offsets."""
    sets = []
    for number in wanted.tolist():
        start, end = int(reading.starts[number]), int(texts.offsets[number + 1])
        out = np.empty(end - start + 2, dtype=np.uint64)
        ngram, salt = reading.ngrams[number], reading.salts[number]
        count, _ = _shingle(texts.data, start, end, ngram, character_classes(), salt, out)
        sets.append(np.unique(out[:count]))
    offsets = np.zeros(len(sets) + 1, dtype=np.int64)
    np.cumsum([len(one) for one in sets], out=offsets[1:])
    return (np.concatenate(sets) if sets else np.empty(0, np.uint64)), offsets


def normal_hashes(texts: Texts, wanted: np.ndarray, reading: Reading) -> np.ndarray:
    """The hash of each wanted text without its white space, uint64 [wanted]: equal where nothing else differs."""
    bounds = ((int(texts.offsets[n]), int(texts.offsets[n + 1]), reading.salts[n]) for n in wanted.tolist())
    return np.array([_normal(texts.data, start, end, _SPACE, salt) for start, end, salt in bounds], dtype=np.uint64)


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
