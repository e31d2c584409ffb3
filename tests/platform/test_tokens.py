import json
import math
import os
import resource
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_jobs.train_tokenizer import train_bpe
from starloom.artifact import ArtifactWriter
from starloom.errors import RunError, UserError
from starloom.tokenizer import CodeTokenizer
from starloom.tokens import Encoder, FimConfig, ShardGroup, TokenDataset, TokenShard, TokenShardWriter, weighted_groups
from starloom.tokens.blend import Blend
from starloom.tokens.encoder import is_compilable
from starloom.tokens.fim import rearrange
from starloom.tokens.permutation import Permutation


@pytest.fixture(scope="module")
def tokenizer() -> CodeTokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from starloom.tokenizer import SPECIAL_TOKENS

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["def add(one, two):\n    return one + two\n"] * 20, trainer)
    return CodeTokenizer(made.to_str())


def shard(folder: Path, name: str, documents: list[np.ndarray], dtype: str = "uint16") -> TokenShard:
    TokenShardWriter(dtype).write(ArtifactWriter(str(folder)), name, documents)
    return TokenShard(folder / name, dtype)


def numbered(folder: Path, name: str, tokens: int, first: int = 0) -> TokenShard:
    return shard(folder, name, [np.arange(first, first + tokens, dtype=np.uint32)], "uint32")


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_shard_gives_back_its_documents(tmp_path: Path, dtype: str) -> None:
    documents = [np.array([1, 2, 3]), np.array([], dtype=np.int64), np.array([65_535])]
    written = shard(tmp_path, "s", documents, dtype)
    assert [written.document(n).tolist() for n in range(written.documents)] == [[1, 2, 3], [], [65_535]]
    assert (tmp_path / "s.bin").stat().st_size == 4 * np.dtype(dtype).itemsize
    assert np.fromfile(tmp_path / "s.idx", "<i8").tolist() == [0, 3, 3, 4]


def test_missing_and_damaged_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.bin"):
        TokenShard(tmp_path / "gone", "uint16").tokens  # noqa: B018
    (tmp_path / "odd.bin").write_bytes(b"abc")
    with pytest.raises(RunError, match="damaged"):
        TokenShard(tmp_path / "odd", "uint16").tokens  # noqa: B018


@pytest.mark.parametrize("size", [1, 2, 3, 17, 1000, 4097])
def test_permutation_visits_each_index_once_and_keys_differ(size: int) -> None:
    order = [Permutation(size, 5)(n) for n in range(size)]
    assert sorted(order) == list(range(size))
    if size > 100:
        assert order != [Permutation(size, 6)(n) for n in range(size)]
        assert order != sorted(order)


def test_one_epoch_covers_each_window_once_and_the_next_has_another_order(tmp_path: Path) -> None:
    shards = tuple(numbered(tmp_path, f"s{n}", 101 + 10 * n, 1000 * n) for n in range(3))
    dataset = TokenDataset([ShardGroup(shards)], context=10, seed=1)
    stream = np.concatenate([shard.tokens for shard in shards])
    assert sum(group.count for group in dataset.groups) == (len(stream) - 1) // 10 == 33
    epochs = [[tuple(dataset[e * 33 + n].tokens) for n in range(33)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    # windows run on from one shard into the next
    assert sorted(epochs[0]) == sorted(tuple(stream[10 * w : 10 * w + 11]) for w in range(33))


def test_shards_shorter_than_a_window_are_trained_too(tmp_path: Path) -> None:
    shards = tuple(numbered(tmp_path, f"s{n}", 7, 7 * n) for n in range(30))
    dataset = TokenDataset([ShardGroup(shards)], context=20, seed=1)
    seen = {int(number) for n in range(10) for number in dataset[n].tokens}
    assert seen == set(range(201))  # all but what is less than a window at the end


def test_a_thousand_shards_are_read_with_few_files_open(tmp_path: Path) -> None:
    shards = tuple(numbered(tmp_path, f"s{n:04d}", 50, 50 * n) for n in range(600))
    dataset = TokenDataset([ShardGroup(shards)], context=49, seed=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 300, hard))
    try:
        assert len({int(dataset[n].tokens[0]) for n in range(600)}) == 600
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_shard_written_anew_is_read_anew(tmp_path: Path) -> None:
    assert numbered(tmp_path, "s", 5).tokens.tolist() == list(range(5))
    assert numbered(tmp_path, "s", 6, 9).tokens.tolist() == list(range(9, 15))


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=300), st.integers(0, 2**63), st.integers(0, 10**6))
def test_every_group_has_its_share_of_any_beginning_of_a_run(weights: list[int], seed: int, length: int) -> None:
    blend = Blend([Fraction(weight) for weight in weights], seed)
    turns = dict.fromkeys(range(len(weights)), -1)
    for index in range(length, length + 300):
        group, turn = blend.place(index)
        share = weights[group] / sum(weights)
        # one sample for each level of the tree
        assert abs(turn - share * index) <= 1 + math.log2(2 * len(weights))
        assert turn > turns[group]
        turns[group] = turn


@pytest.mark.slow
def test_rare_groups_are_drawn_as_often_as_they_are_there_and_all_of_many_are_drawn() -> None:
    places = [Blend([Fraction("0.03")] * 50 + [Fraction(1000)] * 10, 7).place(n)[0] for n in range(100_000)]
    rare = np.bincount(places, minlength=60)[:50]
    assert rare.tolist() == pytest.approx([100_000 * 0.03 / 10_001.5] * 50, abs=1)
    many = Blend([Fraction(1)] * 1500, 7)
    assert {many.place(n) for n in range(3000)} == {(group, turn) for group in range(1500) for turn in (0, 1)}


def test_samples_do_not_depend_on_who_asks_or_in_which_order(tmp_path: Path, tokenizer: CodeTokenizer) -> None:
    text = "def add(one, two):\n    return one + two\n"
    ids = [np.array([*tokenizer.encode(text * n), 0]) for n in range(1, 30)]
    written = shard(tmp_path, "s", ids)

    def opened(seed: int) -> TokenDataset:
        return TokenDataset([ShardGroup((written,))], context=64, seed=seed, tokenizer=tokenizer, fim=FimConfig())

    forwards = [opened(3)[n].tokens.tolist() for n in range(40)]
    backwards = opened(3)
    assert [backwards[n].tokens.tolist() for n in reversed(range(40))] == forwards[::-1]
    assert forwards != [opened(4)[n].tokens.tolist() for n in range(40)]
    assert {len(sample) for sample in forwards} == {65}


def test_weights_decide_how_often_a_part_is_drawn(tmp_path: Path) -> None:
    few, many = numbered(tmp_path, "few", 51), numbered(tmp_path, "many", 5001, 10_000)
    groups = [ShardGroup((few,), Fraction(3, 4)), ShardGroup((many,), Fraction(1, 4))]
    dataset = TokenDataset(groups, context=10, seed=2)
    first = [int(dataset[n].tokens[0]) < 10_000 for n in range(2000)]
    assert np.mean(first) == 0.75
    assert np.mean(first[:100]) == pytest.approx(0.75, abs=0.01)


def test_part_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lower the context"):
        TokenDataset([ShardGroup((numbered(tmp_path, "s", 5),))], context=10, seed=0)


def pieces(ids: list[int], tokenizer: CodeTokenizer) -> tuple[str, str]:
    """The order (PSM or SPM) of a rearranged document, and the text it stands for."""
    prefix, middle, suffix = (tokenizer.special(f"<fim_{name}>") for name in ("prefix", "middle", "suffix"))
    at = {number: ids.index(number) for number in (prefix, middle, suffix)}
    assert ids[0] == prefix

    def decode(part: list[int]) -> bytes:
        return tokenizer.decode_bytes(part)

    tail = decode(ids[at[middle] + 1 :])
    if at[suffix] == 1:
        return "SPM", (tail + decode(ids[2 : at[middle]])).decode()
    head, end = decode(ids[1 : at[suffix]]), decode(ids[at[suffix] + 1 : at[middle]])
    return "PSM", (head + tail + end).decode()


def test_rearranged_documents_keep_their_text_and_both_orders_come_up(tokenizer: CodeTokenizer) -> None:
    text = "def add(one, two):\n    return 'naïve 漢字' + two\n"
    ids = np.array(tokenizer.encode(text))
    orders = {"PSM": 0, "SPM": 0, "plain": 0}
    for seed in range(400):
        made = rearrange(
            ids, Encoder.of(tokenizer), FimConfig(), np.random.Generator(np.random.Philox(key=[9, seed]))
        ).tolist()
        if made == ids.tolist():
            orders["plain"] += 1
            continue
        order, back = pieces(made, tokenizer)
        orders[order] += 1
        assert back == text
    assert orders["plain"] == pytest.approx(200, abs=50)
    assert orders["PSM"] == pytest.approx(100, abs=40)
    assert orders["SPM"] == pytest.approx(100, abs=40)


def test_every_document_of_a_window_draws_for_itself(tokenizer: CodeTokenizer) -> None:
    one = tokenizer.encode("def add(one, two):\n")
    ids = np.array([*one, 0] * 200)
    made = rearrange(ids, Encoder.of(tokenizer), FimConfig(rate=0.5), np.random.Generator(np.random.Philox(key=[1, 1])))
    marks = int((made == tokenizer.special("<fim_middle>")).sum())
    assert marks == pytest.approx(100, abs=30)
    assert int((made == 0).sum()) == 200


def test_hundred_billion_tokens_open_as_one_data_set(tmp_path: Path) -> None:
    shards = []
    for number in range(100):
        stem = tmp_path / f"part-{number:05d}"
        for suffix, size in ((".bin", 2 * 10**9), (".idx", 16)):
            with open(stem.with_name(stem.name + suffix), "wb") as file:
                file.truncate(size)  # sparse: no block is allocated
        shards.append(TokenShard(stem, "uint16"))
    dataset = TokenDataset([ShardGroup(tuple(shards))], context=8192, seed=0)
    sample = dataset[123_456_789].tokens
    assert len(sample) == 8193
    assert sum(group.count for group in dataset.groups) == pytest.approx(10**11 / 8192, rel=1e-3)


def test_weights_of_groups_change_their_share_of_the_samples_and_zero_leaves_one_out(tmp_path: Path) -> None:
    names = {"Python": 0, "C%2B%2B": 100_000, "HTML": 200_000}
    for name in names:
        (tmp_path / "train" / name).mkdir(parents=True)
    shards = [numbered(tmp_path / "train" / name, "part-00000", 4001, first) for name, first in names.items()]

    def shares(factors: dict[str, float]) -> list[float]:
        dataset = TokenDataset(weighted_groups(shards, factors, 40), context=40, seed=0)
        firsts = [int(dataset[n].tokens[0]) // 100_000 for n in range(1000)]
        return [firsts.count(group) / 1000 for group in range(3)]

    assert shares({}) == pytest.approx([1 / 3] * 3, abs=0.01)
    assert shares({"C++": 2.0, "HTML": 0.0}) == pytest.approx([1 / 3, 2 / 3, 0], abs=0.01)
    with pytest.raises(UserError, match=r"weights.Rust: no tokens of that group; there are C\+\+, HTML, Python"):
        weighted_groups(shards, {"Rust": 1.0}, 40)
    with pytest.raises(UserError, match="must not be negative"):
        weighted_groups(shards, {"HTML": -1.0}, 40)


def joined_digits(text: str) -> CodeTokenizer:
    """StarCoder's kind but for its split: digits stay together, and 12 is a token."""
    content = json.loads(train_bpe(iter([text] * 9), 400).json_text)
    content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]
    content["model"]["vocab"]["12"] = len(content["model"]["vocab"])
    content["model"]["merges"] = [["1", "2"], *content["model"]["merges"]]
    return CodeTokenizer(json.dumps(content))


def test_route_is_the_tokenizers_own_and_fill_in_the_middle_takes_it_too() -> None:
    text = "a = 12\nb = 1212\nc = 12 * 12\n"
    tokenizer = joined_digits("".join(f"x{n} = {n * 12} + 12\n" for n in range(100)))
    encoder = Encoder.of(tokenizer)
    assert encoder.route == "tokenizers"
    joined = tokenizer.encode("12")
    assert len(joined) == 1
    ids = np.array(encoder.encode([text])[0])
    assert ids.tolist() == tokenizer.encode(text)
    for seed in range(20):
        draws = np.random.Generator(np.random.Philox(key=[0, seed]))
        made = rearrange(ids, encoder, FimConfig(rate=1.0), draws)
        specials = set(tokenizer.special_ids.values())
        parts = "".join(tokenizer.decode([n]) if n not in specials else "\n" for n in made.tolist())
        for line in parts.split("\n"):
            whole = tokenizer.encode(line)
            assert whole.count(joined[0]) == line.count("12") or "1212" in line
        assert joined[0] in made


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True, "trim_offsets": True}},
        {"added_tokens": [{"id": 9, "content": "def", "special": False}]},
    ],
)
def test_what_the_compiled_loop_does_not_do_goes_through_tokenizers(change: dict[str, object]) -> None:
    content = json.loads(train_bpe(iter(["x = 1\n"] * 9), 300).json_text)
    assert is_compilable(json.dumps(content))
    assert not is_compilable(json.dumps({**content, **change}))


def test_added_tokens_that_are_not_special_have_bytes_of_their_own() -> None:
    content = json.loads(train_bpe(iter(["x = 1\n"] * 9), 300).json_text)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    added = CodeTokenizer(json.dumps(content)).size
    content["added_tokens"].append({"id": added, "content": "日本", **flags})
    tokenizer = CodeTokenizer(json.dumps(content))
    ids = tokenizer.encode("x = 日本")
    assert added in ids
    assert tokenizer.decode_bytes(ids).decode() == "x = 日本"
    assert Encoder.of(tokenizer).encode(["x = 日本"])[0].tolist() == ids


def with_metadata(tokenizer: CodeTokenizer, fields: int, text: str) -> np.ndarray:
    """A file's ids behind so many fields of metadata, as packing writes them."""
    ids: list[int] = []
    for name, value in (("<reponame>", "team/tools"), ("<filename>", "src/add.py"), ("<gh_stars>", "10-100"))[:fields]:
        ids += [tokenizer.special(name), *tokenizer.encode(value)]
    return np.array([*ids, *(tokenizer.encode("\n") if fields else []), *tokenizer.encode(text)])


@pytest.mark.parametrize("fields", [0, 1, 2, 3])
def test_metadata_stay_before_a_rearranged_file(tokenizer: CodeTokenizer, fields: int) -> None:
    text = "\ndef add(one, two):\n    return one + two\n"
    ids = with_metadata(tokenizer, fields, text)
    head = len(ids) - len(tokenizer.encode(text))
    for seed in range(20):
        generator = np.random.Generator(np.random.Philox(key=[9, seed]))
        made = rearrange(ids, Encoder.of(tokenizer), FimConfig(rate=1), generator).tolist()
        assert made[:head] == ids[:head].tolist()
        assert pieces(made[head:], tokenizer)[1] == text


def test_issues_and_commits_stay_whole(tokenizer: CodeTokenizer) -> None:
    ids = np.array([tokenizer.special("<issue_start>"), *tokenizer.encode("a\nb\n")])
    generator = np.random.Generator(np.random.Philox(key=[9, 0]))
    assert rearrange(ids, Encoder.of(tokenizer), FimConfig(rate=1), generator).tolist() == ids.tolist()


def test_ids_with_gaps_have_a_place_each(tokenizer: CodeTokenizer) -> None:
    content = json.loads(tokenizer.json_text)
    content["model"]["vocab"]["def"] = tokenizer.size + 7
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"].append({"id": tokenizer.size + 50, "content": "<far>", **added})
    far = CodeTokenizer(json.dumps(content))
    ids = [*far.encode("def"), far.special("<far>")]
    assert far.size > max(ids) >= tokenizer.size + 7
    assert far.encode_prompt("def<far>") == ids
    assert far.decode_bytes(ids) == b"def<far>"
