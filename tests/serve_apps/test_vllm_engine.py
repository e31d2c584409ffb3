"""The vLLM adapter over a stand-in that gives tokens as vLLM would; vLLM itself needs a GPU."""

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve_apps.deployment import Completions
from serve_apps.engine.request import Event, Overloaded, Request, Sampling, Scored
from serve_apps.engine.vllm_engine import VllmConfig, VllmEngine, engine_arguments, sampling_arguments, scored_tokens
from starloom.errors import UserError
from starloom.tokenizer import CodeTokenizer, load_tokenizer

TEXT = "def f(x):\n    return 'é'\n"


class Spelling:
    """Gives the ids of TEXT over and over, two at a time; a prompt of one token makes it wait, of two fail."""

    device, precision = "cuda", "bfloat16"

    def __init__(self, tokenizer: CodeTokenizer) -> None:
        self.ids, self.aborted = tokenizer.encode(TEXT), list[str]()

    async def generate(self, name: str, prompt: list[int], sampling: Sampling) -> AsyncIterator[list[Scored]]:
        try:
            if len(prompt) == 2:
                raise RuntimeError("out of memory")
            while True:
                if len(prompt) == 1:
                    await asyncio.sleep(60)
                for place in range(0, len(self.ids), 2):
                    await asyncio.sleep(0)
                    yield [Scored(token, -1.0) for token in self.ids[place : place + 2]]
        finally:
            self.aborted.append(name)

    def close(self) -> None:
        self.aborted.append("all")


@pytest.fixture
def tokenizer(tiny_models: tuple[Path, Path]) -> CodeTokenizer:
    return load_tokenizer(tiny_models[0])


@pytest.fixture
def engine(tokenizer: CodeTokenizer) -> Iterator[VllmEngine]:
    made = VllmEngine(Spelling(tokenizer), tokenizer, VllmConfig(kind="vllm", batch=1, queue=1), 128)
    yield made
    made.close()


def _asked(engine: VllmEngine, prompt: list[int], sampling: Sampling, **more: float) -> tuple[Request, queue.Queue]:
    events: queue.Queue[Event] = queue.Queue()
    request = Request(prompt, sampling, events.put, **more)
    engine.submit(request)
    return request, events


def _all(events: queue.Queue[Event]) -> list[Event]:
    found = [events.get(timeout=10)]
    while not found[-1].finish:
        found.append(events.get(timeout=10))
    return found


def test_tokens_become_text_until_a_stop_string_or_the_length(engine: VllmEngine, tokenizer: CodeTokenizer) -> None:
    size = len(tokenizer.encode(TEXT))
    whole = _all(_asked(engine, [5] * 3, Sampling(max_tokens=size))[1])
    assert ("".join(event.text for event in whole), whole[-1].finish, len(whole)) == (TEXT, "length", size)
    stopped = _all(_asked(engine, [5] * 3, Sampling(max_tokens=100, stop=("return",)))[1])
    assert ("".join(event.text for event in stopped), stopped[-1].finish) == ("def f(x):\n    ", "stop")
    assert engine.counters.generated == len(whole) + len(stopped)


def test_cancelled_late_and_failed_requests_are_aborted_and_told(engine: VllmEngine) -> None:
    request, events = _asked(engine, [5], Sampling())
    request.cancel()
    assert [event.finish for event in _all(events)] == ["cancelled"]
    late = _asked(engine, [5], Sampling(), deadline=time.monotonic() + 0.05)[1]
    assert [event.finish for event in _all(late)] == ["deadline"]
    assert [event.finish for event in _all(_asked(engine, [5, 5], Sampling())[1])] == ["error"]
    assert _all(_asked(engine, [5] * 3, Sampling(max_tokens=2))[1])[-1].finish == "length"
    work = engine.counters
    assert (work.cancelled_requests, work.late_requests, work.failed_requests) == (1, 1, 1)


def test_too_many_or_too_long_requests_are_refused_and_closing_ends_the_rest(tokenizer: CodeTokenizer) -> None:
    spelling = Spelling(tokenizer)
    engine = VllmEngine(spelling, tokenizer, VllmConfig(kind="vllm", batch=1, queue=1), 128)
    waiting = [_asked(engine, [5], Sampling())[1] for _ in range(2)]
    assert (engine.load.running, engine.load.waiting) == (1, 1)
    with pytest.raises(Overloaded):
        _asked(engine, [5], Sampling())
    with pytest.raises(ValueError, match="window of 128"):
        _asked(engine, [5] * 100, Sampling(max_tokens=29))
    time.sleep(0.1)
    engine.close()
    assert [_all(events)[-1].finish for events in waiting] == ["cancelled"] * 2
    assert sorted(spelling.aborted) == ["all", "request-0", "request-1"]


def test_arguments_and_tables_in_vllms_words(tmp_path: Path) -> None:
    told = sampling_arguments(Sampling(max_tokens=7, temperature=0.5, top_k=3, ignore_end=True, stop=("x",)))
    assert (told["max_tokens"], told["top_k"], told["ignore_eos"], told["detokenize"]) == (7, 3, True, False)
    assert "stop" not in told
    config = VllmConfig.model_validate({"kind": "vllm", "tensor_parallel": 2})
    made = engine_arguments(tmp_path, config, 8192)
    assert (made["model"], made["tensor_parallel_size"], made["max_model_len"]) == (str(tmp_path), 2, 8192)
    table = {4: SimpleNamespace(logprob=-2.0), 9: SimpleNamespace(logprob=-0.5)}
    assert scored_tokens([4], [table], 1) == [Scored(4, -2.0, ((9, -0.5),))]


def test_without_vllm_one_line_says_how_to_install_it(tiny_models: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"pip install 'starloom\[vllm\]'"):
        Completions({"models": [{"folder": str(tiny_models[0]), "engine": {"kind": "vllm"}}]})
