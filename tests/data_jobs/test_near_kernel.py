import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

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
    column = texts(values)
    bands = kernel.sign(column, kernel.Reading.plain(column, 5), count=60, seed=1, bands=20, rows=3).bands
    sketches = kernel.sketches(column, ngram=5, count=60, seed=1).reshape(3, 20, 3)
    for first in range(3):
        for second in range(3):
            same = (sketches[first] == sketches[second]).all(axis=1)
            assert (bands[first] == bands[second]).tolist() == same.tolist()


def shingles(text: str, ngram: int = 5) -> list[int]:
    found: list[int] = kernel.shingle_hashes(text.encode(), ngram).tolist()
    return found


def test_words_are_parted_by_blanks_and_by_what_is_formatting() -> None:
    assert len(shingles("a b,c.d(e")) == 1
    assert len(shingles("a b c d")) == 0
    assert shingles("a b c d e") == shingles("\t(a, b) { c; 'd' [e] }")
    assert shingles("a b c d e") != shingles("b a c d e")


def test_operators_are_words() -> None:
    assert shingles("x = a + b") != shingles("x = a - b")
    assert shingles("a == b || c") == shingles("a==b||c")
    assert len(shingles("a += b -> c")) == 1
    assert len(shingles("-" * 70 + "\na b c d")) == 1


def test_words_are_those_of_every_script() -> None:
    assert len(shingles("größe über ähnlich für schön")) == 1
    assert shingles("größe über ähnlich für schön") != shingles("gr\u00fc\u00dfe über ähnlich für schön")
    assert len(shingles("длина строки не может быть")) == 1
    assert len(shingles("这是一个中文文档")) == 4  # a character is a word
    assert len(shingles("日本語の文書です")) == 4
    assert shingles("用户登录系统") != shingles("数据备份方案")
    assert len(shingles("a b c d é")) == len(shingles("a b c d e"))


@given(st.text(alphabet="ab_1 +-=<.\n()'", max_size=60), st.integers(1, 6))
def test_text_with_one_wide_character_is_taken_apart_as_without(text: str, ngram: int) -> None:
    plain = shingles(text + " ", ngram)
    assert shingles(text + " \u3002", ngram) == plain  # an ideographic full stop parts words, and makes the text wide


@given(st.text(max_size=80), st.integers(1, 4))
def test_words_of_any_text_are_those_of_the_table(text: str, ngram: int) -> None:
    classes = kernel.character_classes()
    words: list[str] = []
    before = 0
    for character in text:
        kind = int(classes[ord(character)])
        if kind and (kind != before or kind == 3):
            words.append("")
        if kind:
            words[-1] += character
        before = kind
    grams = [tuple(words[n : n + ngram]) for n in range(max(0, len(words) - ngram + 1))]
    found = shingles(text, ngram)
    assert len(found) == len(grams)
    assert len(set(found)) == len(set(grams))


def test_texts_of_another_salt_have_nothing_in_common() -> None:
    column = texts(["one two three four five six"] * 2)
    reading = kernel.Reading(column.offsets[:-1].copy(), np.full(2, 5), np.array([0, 7], dtype=np.uint64))
    sets, offsets = kernel.shingle_sets(column, np.arange(2), reading)
    assert kernel.jaccard(sets[: offsets[1]], sets[offsets[1] :]) == 0.0
    assert len(set(kernel.normal_hashes(column, np.arange(2), reading).tolist())) == 2


def test_jaccard_of_shingle_sets_equals_pythons_sets() -> None:
    values = ["a b c d e f g h", "a b c d e f g z", "a b c d e f g h", "q"]
    column = texts(values)
    sets, offsets = kernel.shingle_sets(column, np.arange(4), kernel.Reading.plain(column, 3))
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
