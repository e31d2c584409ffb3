import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash

from data_jobs.near_duplicates import kernel

TEXTS = ["one two three four five six seven", "", "a b", "übergröße x_1 y-2 z\tq(r) s;t" * 5, "same " * 40]


def texts(values: list[str]) -> kernel.Texts:
    return kernel.Texts.of(pa.array(values, pa.large_string()))


@pytest.mark.parametrize(("seed", "count"), [(1, 256), (7, 64)])
def test_sketches_equal_datasketch_bit_for_bit(seed: int, count: int) -> None:
    ours = kernel.sketches(texts(TEXTS), ngram=5, count=count, seed=seed)
    for text, sketch in zip(TEXTS, ours, strict=True):
        theirs = MinHash(num_perm=count, seed=seed, scheme="affine32", hashfunc=lambda shingle: int(shingle))
        for shingle in kernel.shingle_hashes(text.encode(), 5):
            theirs.update(int(shingle) & 0xFFFFFFFF)
        assert sketch.tolist() == theirs.hashvalues.tolist()


def test_band_hashes_are_equal_exactly_where_sketches_are() -> None:
    base = "alpha beta gamma delta epsilon zeta eta theta iota kappa " * 3
    values = [base, base + "tail", "quite another text with more than five words"]
    bands = kernel.sign(texts(values), ngram=5, count=60, seed=1, bands=20, rows=3).bands
    sketches = kernel.sketches(texts(values), ngram=5, count=60, seed=1).reshape(3, 20, 3)
    for first in range(3):
        for second in range(3):
            same = (sketches[first] == sketches[second]).all(axis=1)
            assert (bands[first] == bands[second]).tolist() == same.tolist()


def test_shingles_split_at_everything_but_ascii_word_characters() -> None:
    assert len(kernel.shingle_hashes(b"a b-c.d(e", 5)) == 1
    assert len(kernel.shingle_hashes(b"a b c d", 5)) == 0
    assert kernel.shingle_hashes(b"a b c d e", 5).tolist() == kernel.shingle_hashes(b"\ta+b+c+d+e;", 5).tolist()
    assert kernel.shingle_hashes(b"a b c d e", 5).tolist() != kernel.shingle_hashes(b"b a c d e", 5).tolist()


def test_jaccard_of_shingle_sets_equals_pythons_sets() -> None:
    values = ["a b c d e f g h", "a b c d e f g z", "a b c d e f g h", "q"]
    sets, offsets = kernel.shingle_sets(texts(values), np.arange(4), 3)
    parts = [sets[offsets[n] : offsets[n + 1]] for n in range(4)]
    words = [value.split() for value in values]
    grams = [{tuple(line[n : n + 3]) for n in range(len(line) - 2)} for line in words]
    for a in range(3):
        for b in range(3):
            expected = len(grams[a] & grams[b]) / len(grams[a] | grams[b])
            assert kernel.jaccard(parts[a], parts[b]) == pytest.approx(expected)


def test_sliced_arrow_column_is_read_at_its_own_offset() -> None:
    column = pa.array(["skip me over please now", *TEXTS], pa.large_string())
    whole = kernel.sketches(texts(TEXTS), ngram=5, count=32, seed=1)
    sliced = kernel.sketches(kernel.Texts.of(column[1:]), ngram=5, count=32, seed=1)
    assert whole.tolist() == sliced.tolist()
