"""The vLLM adapter over a stand-in that gives tokens as vLLM would, and beside our engine over vLLM's CPU build."""

import asyncio
import json
import os
import queue
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from serve_apps.deployment import Completions
from serve_apps.engine.request import Event, Overloaded, Request, Sampling, Scored
from serve_apps.engine.vllm_engine import (
    Told,
    VllmConfig,
    VllmEngine,
    engine_arguments,
    sampling_arguments,
    scored_tokens,
)
from starloom.errors import UserError
from starloom.tokenizer import CodeTokenizer, load_tokenizer
from tests.models import tiny_tokenizer, write_tiny_model
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
VLLM = ROOT / ".bench" / "vllm" / "bin" / "python"
TEXT = "def f(x):\n    return 'é'\n"


class Spelling:
    """Gives the ids of TEXT over and over, two at a time; a prompt of one token makes it wait, of two fail."""

    device, precision, cache_use, failure = "cuda", "bfloat16", 0.25, ""

    def __init__(self, tokenizer: CodeTokenizer) -> None:
        self.ids, self.aborted = tokenizer.encode(TEXT), list[str]()

    async def generate(self, name: str, prompt: list[int], sampling: Sampling) -> AsyncIterator[Told]:
        try:
            if len(prompt) == 2:
                raise RuntimeError("out of memory")
            while True:
                if len(prompt) == 1:
                    await asyncio.sleep(60)
                for place in range(0, len(self.ids), 2):
                    await asyncio.sleep(0)
                    yield Told([Scored(token, -1.0) for token in self.ids[place : place + 2]], cached=len(prompt) - 1)
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
    found = [events.get(timeout=PATIENCE)]
    while not found[-1].finish:
        found.append(events.get(timeout=PATIENCE))
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


def test_answer_that_vllm_ends_itself_has_ended(tokenizer: CodeTokenizer) -> None:
    class Ending(Spelling):
        async def generate(self, name: str, prompt: list[int], sampling: Sampling) -> AsyncIterator[Told]:
            yield Told([Scored(token, -1.0) for token in self.ids[:4]])

    engine = VllmEngine(Ending(tokenizer), tokenizer, VllmConfig(kind="vllm"), 128)
    events = _all(_asked(engine, [5, 5, 5], Sampling(max_tokens=50))[1])
    assert ("".join(event.text for event in events), events[-1].finish) == (
        tokenizer.decode(engine._tokens.ids[:4]),
        "end",
    )
    engine.close()


@pytest.mark.slow
@pytest.mark.skipif(not VLLM.exists(), reason="needs vLLM's CPU build, which `make bench-serve` installs for itself")
def test_both_engines_keep_one_contract(tmp_path: Path) -> None:
    code = tiny_tokenizer(size=300)
    folder = write_tiny_model(tmp_path / "m", code, hidden=128, heads=2, context=512)  # its attention wants wide heads
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [0, code.special("<fim_pad>")]}))
    script = ROOT / "tests" / "serve_apps" / "engine_contract.py"
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **settings, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    said = []
    for python, kind in ((sys.executable, "local"), (str(VLLM), "vllm")):
        command = [python, str(script), kind, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        said.append(json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))))
    ours, theirs = said
    for name in ("regex", "json"):  # vLLM scores what its grammar leaves, and writes JSON without blanks
        assert ours.pop(name)["text"].replace(" ", "") == theirs.pop(name)["text"].replace(" ", "")
    assert ours == theirs
    assert (ours["cached"], ours["cancelled"], ours["idle"], ours["failure"]) == (True, "cancelled", 0, "")


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


def test_second_set_of_versions_fits_what_serving_and_vllm_ask_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints-vllm.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = project["optional-dependencies"]
    asked = [Requirement(text) for text in [*project["dependencies"], *extras["serve"], *extras["vllm"]]]
    wrong = {str(one): pinned.get(one.name) for one in asked if not one.specifier.contains(pinned.get(one.name, "0"))}
    assert wrong == {}
