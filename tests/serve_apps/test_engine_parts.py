"""Blocks, stop strings, drafts and the choice of a token, each by itself."""

import os
from pathlib import Path

import numpy as np
import pytest

from serve_apps.engine.blocks import BlockPool
from serve_apps.engine.cores import cores_at_hand
from serve_apps.engine.pieces import Scores
from serve_apps.engine.request import Sampling
from serve_apps.engine.sampling import choose
from serve_apps.engine.speculation import PromptLookup
from serve_apps.engine.text import TextStream


def test_block_pool_shares_full_blocks_and_keeps_one_token_to_compute() -> None:
    pool = BlockPool(count=5, size=4)
    table, known = pool.acquire(range(8), 9) or ([], -1)
    assert known == 0
    pool.publish(range(8), table)
    again, known = pool.acquire(range(8), 9) or ([], -1)
    assert known == 4
    assert again[0] == table[0]
    assert pool.acquire(range(8), 9) is None
    pool.release(table)
    pool.release(again)
    assert pool.free == 5


def test_text_stream_holds_split_characters_and_possible_stops() -> None:
    stream = TextStream(("\nend",))
    first, second = "é".encode()[:1], "é".encode()[1:]
    assert stream.feed(b"a" + first) == "a"
    assert stream.feed(second + b"\ne") == "é"
    assert stream.feed(b"x") == "\nex"
    assert stream.feed(b"b\nen") == "b"
    assert stream.feed(b"d tail") == ""
    assert stream.stopped


def test_lookup_drafts_what_followed_last_time_and_trusts_it_more_when_it_holds() -> None:
    lookup = PromptLookup(most=8)
    lookup.extend([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2, 3, 4])
    assert lookup.draft(8) == [5, 6]
    lookup.learn(2, 2)
    assert lookup.draft(8) == [5, 6, 7, 8]
    assert lookup.draft(1) == [5]
    lookup.extend([99])
    assert lookup.draft(8) == []


def _frequencies(logits: np.ndarray, sampling: Sampling, draws: int = 4000) -> np.ndarray:
    wide = logits[None].astype(np.float32)
    scores = Scores(wide, wide.argmax(1), np.log(np.exp(wide).sum(1)))
    ids = list(range(draws))  # the position decides the draw: another prefix length, another number
    drawn = [choose(scores, 0, sampling, 0, ids[:n]).token for n in range(draws)]
    return np.bincount(drawn, minlength=len(logits)) / draws


def test_sampling_follows_temperature_top_p_and_top_k() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    assert np.abs(_frequencies(logits, Sampling()) - [0.5, 0.3, 0.15, 0.05]).max() < 0.03
    assert np.abs(_frequencies(logits, Sampling(top_p=0.75)) - [0.625, 0.375, 0, 0]).max() < 0.03
    assert np.abs(_frequencies(logits, Sampling(top_k=2)) - [0.625, 0.375, 0, 0]).max() < 0.03
    squared = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    assert np.abs(_frequencies(logits, Sampling(temperature=0.5)) - squared / squared.sum()).max() < 0.03


def test_top_p_over_a_flat_distribution_reaches_beyond_the_likeliest_thousand() -> None:
    assert (_frequencies(np.zeros(5000), Sampling(top_p=0.9), 3000)[1024:] > 0).any()


def test_typical_sampling_keeps_what_is_as_surprising_as_expected() -> None:
    # the entropy is 1.14 nats: 0.3 (1.20) is nearest, then 0.5 (0.69)
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    assert _frequencies(logits, Sampling(typical_p=0.2), 50).tolist() == [0, 1, 0, 0]
    assert np.abs(_frequencies(logits, Sampling(typical_p=0.7)) - [0.625, 0.375, 0, 0]).max() < 0.03
    assert _frequencies(logits, Sampling(typical_p=0.7, top_p=0.5), 50).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "350000 100000", "a/b/cpu.max": "150000 100000"}, 1),
        ("0::/\n", {"cpu.max": "99900000 100000"}, 999),
        (
            "4:cpu,cpuacct:/a\n1:memory:/x\n",
            {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"},
            1,
        ),
        ("4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 999),
        ("0::/elsewhere\n", {}, 999),
    ],
)
def test_cores_are_those_of_the_container(tmp_path: Path, line: str, files: dict[str, str], cores: int) -> None:
    (tmp_path / "own").write_text(line)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    found = cores_at_hand(tmp_path / "groups", tmp_path / "own")
    assert found == min(cores, len(os.sched_getaffinity(0)))
    assert cores_at_hand(tmp_path / "groups", tmp_path / "none") == len(os.sched_getaffinity(0))
