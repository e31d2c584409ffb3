"""The compiled encoder against `tokenizers`: the same ids for any text, or none at all."""

import json
import random
from functools import cache

import numpy as np
import pytest

from starloom.tokenizer import SPECIAL_TOKENS, CodeTokenizer
from starloom.tokens.bpe import LONGEST_PIECE, CompiledEncoder

ALPHABETS = (
    "abcdefgXYZ_0123456789(){}[]'\"<>=+-*/#.,:; \t\n",
    " \t\n\r\u00a0\u2003\u3000\x0b1a.'",
    "'stdmlvre LV 1s",
    "añéßøжшώ漢字かなحرف١٢३½Ⅷ²😀👍🏽\u200d\u0301 .\n",
)
EDGES = (
    "", " ", "  ", "\n", "a", " a", "  a", "1", " 1", "  1", "12", "a1b", "'s", "''s", " 's", "it's",
    "we'll've", "don'T", "<|endoftext|> <fim_prefix>",
    "\t\tif x:\n\n\n    y", "a \n b", "x  ", "x \n", "  \n 1", "\u00a0a", " \u00a0a", "a\x00b",
)  # fmt: skip


def samples() -> list[str]:
    generator = random.Random(5)
    mixed = "".join(ALPHABETS)
    made = ["".join(generator.choices(generator.choice((*ALPHABETS, mixed)), k=n % 200)) for n in range(2000)]
    return [*EDGES, *made]


@cache
def trained(vocabulary: int) -> CodeTokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    levels = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(levels)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(samples()[::2], trainer)
    return CodeTokenizer(tokenizer.to_str())


@pytest.mark.parametrize("vocabulary", [275, 400, 3000])
def test_ids_are_those_of_tokenizers_for_any_text_also_from_the_second_time_on(vocabulary: int) -> None:
    tokenizer = trained(vocabulary)
    encoder = CompiledEncoder.of(tokenizer)
    texts = samples()
    for _ in range(2):
        found = encoder.encode(texts)
        for text, ids in zip(texts, found, strict=True):
            assert ids is not None
            assert ids.tolist() == tokenizer.encode(text), text


def test_full_table_of_pieces_begins_again_and_changes_no_id() -> None:
    tokenizer = trained(400)
    plain = CompiledEncoder.of(tokenizer)
    small = CompiledEncoder(
        plain.byte_ids,
        plain.keys,
        plain.values,
        slots=np.zeros((64, 3), np.uint64),
        seen=np.empty(2000, np.uint8),
        seen_ids=np.empty(1500, np.uint32),
    )
    texts = samples()
    for ours, theirs in zip(small.encode(texts), plain.encode(texts), strict=True):
        assert ours is not None
        assert theirs is not None
        assert ours.tolist() == theirs.tolist()
    assert int(small.used[2]) <= 33


def test_text_with_a_very_long_piece_or_a_character_without_a_class_is_left_out_alone() -> None:
    tokenizer = trained(400)
    longest = "=" * LONGEST_PIECE
    unassigned = "x = '\u0378'"  # unassigned in every version of Unicode so far
    found = CompiledEncoder.of(tokenizer).encode(["a b", "x " + longest + "=", longest, unassigned, "c d"])
    assert [ids is None for ids in found] == [False, True, False, True, False]
    for text, ids in zip(("a b", longest, "c d"), (found[0], found[2], found[4]), strict=True):
        assert ids is not None
        assert ids.tolist() == tokenizer.encode(text)


def test_tokenizer_that_is_no_plain_byte_level_bpe_is_refused() -> None:
    content = json.loads(trained(275).json_text)
    other = {**content, "model": {**content["model"], "ignore_merges": True}}
    with pytest.raises(ValueError, match="no plain BPE"):
        CompiledEncoder.of(CodeTokenizer(json.dumps(other)))
    del content["model"]["vocab"]["Ġ"]
    with pytest.raises(ValueError, match="no id for the byte"):
        CompiledEncoder.of(CodeTokenizer(json.dumps(content)))
