"""The engine against transformers' generate, under mixtures; blocks, stop strings, sampling."""

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import GPTBigCodeForCausalLM

from data_jobs.tokenization import train_bpe
from serve_apps.engine.blocks import BlockPool
from serve_apps.engine.engine import EngineConfig, LocalEngine
from serve_apps.engine.request import Event, Overloaded, Request, Sampling
from serve_apps.engine.text import TextStream
from starloom.model.config import ModelConfig
from starloom.model.folder import read_model, write_model
from starloom.model.model import initial_state
from starloom.tokenizer import load_tokenizer

SHAPE = ModelConfig(layers=3, hidden=48, heads=4, vocabulary=300, context=128, init_std=0.3)
GREEDY = Sampling(max_tokens=24, temperature=0.0, ignore_end=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    (path / "tokenizer.json").write_text(train_bpe(iter(["def f(x):\n    return x + 1\n"] * 50), 290).json_text)
    write_model(path / "m", SHAPE, initial_state(SHAPE, 5), tokenizer=path / "tokenizer.json", card="")
    return path / "m"


@pytest.fixture
def engine(folder: Path) -> Iterator[LocalEngine]:
    config = EngineConfig(block_size=4, cache_tokens=256, batch=4, prefill_chunk=7, queue=40)
    made = LocalEngine(read_model(folder), load_tokenizer(folder), config)
    yield made
    made.close()


def _start(engine: LocalEngine, prompt: list[int], sampling: Sampling) -> tuple[Request, queue.Queue[Event]]:
    events: queue.Queue[Event] = queue.Queue()
    request = Request(prompt, sampling, events.put)
    engine.submit(request)
    return request, events


def _tokens(events: queue.Queue[Event]) -> list[int]:
    tokens = []
    while True:
        event = events.get(timeout=30)
        tokens += [event.token] if event.token is not None else []
        if event.finish:
            return tokens


def test_greedy_under_mixture_and_cancellation_equals_transformers(folder: Path, engine: LocalEngine) -> None:
    theirs = GPTBigCodeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(0)
    shared = torch.randint(20, 280, (30,)).tolist()
    prompts = [shared[: 5 + n] + torch.randint(20, 280, (3 * n + 1,)).tolist() for n in range(12)]
    for _ in range(2):  # the second time most of each prompt is found in the cache
        started = [_start(engine, prompt, GREEDY) for prompt in prompts]
        started[3][0].cancel()
        for number, (prompt, (_, events)) in enumerate(zip(prompts, started, strict=True)):
            ours = _tokens(events)
            wanted = theirs.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None)
            expected = wanted[0, len(prompt) :].tolist()
            assert ours == (expected[: len(ours)] if number == 3 else expected)
    assert engine.free_blocks == 64


def test_sampling_same_seed_in_company_gives_the_same_tokens(engine: LocalEngine) -> None:
    sampling = Sampling(max_tokens=20, temperature=0.9, top_p=0.95, seed=7, ignore_end=True)
    alone = _tokens(_start(engine, [30, 31, 32], sampling)[1])
    crowd = [_start(engine, [40 + n, 50, 60], GREEDY) for n in range(3)]
    assert _tokens(_start(engine, [30, 31, 32], sampling)[1]) == alone
    assert all(len(_tokens(events)) == 24 for _, events in crowd)


def test_full_queue_refuses_and_later_serves(engine: LocalEngine) -> None:
    accepted = []
    with pytest.raises(Overloaded):
        for _ in range(200):
            accepted.append(_start(engine, [33, 34], Sampling(max_tokens=100, temperature=0.0, ignore_end=True)))
    for request, _ in accepted:
        request.cancel()
    for _, events in accepted:
        _tokens(events)
    assert len(_tokens(_start(engine, [33, 34], GREEDY)[1])) == 24


def test_prompt_beyond_the_window_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(ValueError, match="128 tokens"):
        _start(engine, [30] * 120, GREEDY)


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
