"""What every engine has to do, asked of one: ``python engine_contract.py local|vllm FOLDER`` prints its answers.

Runs in the environment that the engine is installed in; `test_vllm_engine` compares what two of them say.
"""

import json
import queue
import sys
import time
from pathlib import Path
from typing import Any

from serve_apps.engine.grammar import Grammar
from serve_apps.engine.request import Engine, Event, Request, Sampling
from starloom.model.folder import read_config, read_ends, read_model
from starloom.tokenizer import CodeTokenizer, load_tokenizer
from tests.patience import PATIENCE

PROMPT = "def f(x):\n    return"
GREEDY = Sampling(max_tokens=12, temperature=0.0)
CONTEXT = 512


def made(kind: str, folder: Path, tokenizer: CodeTokenizer) -> Engine:
    """The engine of that kind."""
    if kind == "local":
        from serve_apps.engine.engine import EngineConfig, LocalEngine

        return LocalEngine(read_model(folder), tokenizer, EngineConfig(threads=1), read_ends(folder))
    from serve_apps.engine.vllm_engine import VllmConfig, start_vllm

    context = read_config(folder).context
    return start_vllm(folder, tokenizer, VllmConfig(kind="vllm", dtype="float32"), context, read_ends(folder))


class Asked:
    """One request and its events."""

    def __init__(self, engine: Engine, prompt: list[int], sampling: Sampling) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.request = Request(prompt, sampling, self.events.put)
        engine.prepare(sampling)
        engine.submit(self.request)

    def all(self) -> list[Event]:
        """Until the last."""
        found = [self.events.get(timeout=PATIENCE)]
        while not found[-1].finish:
            found.append(self.events.get(timeout=PATIENCE))
        return found


def told(events: list[Event]) -> dict[str, Any]:
    """What can be compared: ids, text, reason, and scores to three digits."""
    scored = [event.scored for event in events if event.scored]
    prompt = next((event.prompt for event in events if event.prompt), ())
    return {
        "ids": [one.token for one in scored],
        "text": "".join(event.text for event in events),
        "finish": events[-1].finish,
        "scores": [round(one.logprob, 3) for one in scored],
        "prompt": [round(one.logprob, 3) for one in prompt],
        "top": [[token for token, _ in one.top] for one in scored],
    }


def contract(engine: Engine, tokenizer: CodeTokenizer) -> dict[str, Any]:
    """Everything that is asked."""
    ids = tokenizer.encode(PROMPT)
    letter = tokenizer.encode("q")[0]
    end = tokenizer.special("<fim_pad>")  # the end of a turn, as generation_config.json names it

    def said(**changes: Any) -> dict[str, Any]:
        return told(Asked(engine, ids, Sampling(**{**vars(GREEDY), **changes})).all())

    plain = said()
    found = {
        "plain": plain,
        "echo": said(max_tokens=1, prompt_logprobs=True),
        "top": said(top_logprobs=3),
        "stop": said(stop=(plain["text"][2:4],)),
        "bias": said(bias=((letter, 100.0),), max_tokens=4),
        "stop ids": said(bias=((letter, 100.0),), stop_ids=frozenset({letter})),
        "min tokens": said(bias=((0, 100.0),), min_tokens=5),
        "end of a turn": said(bias=((end, 100.0),)),
        "regex": said(grammar=Grammar("regex", "[ab]{3}")),
        "json": said(grammar=Grammar("json", '{"enum": [{"a": 1}]}'), max_tokens=30),
        "lines": said(bias=((tokenizer.encode("\n")[0], 100.0),), max_lines=2, max_tokens=20),
        "length": said(max_tokens=CONTEXT - len(ids), ignore_end=True)["finish"],
    }
    long = ids * (300 // len(ids))  # beyond a block of vLLM's CPU build
    Asked(engine, long, GREEDY).all()
    again = Asked(engine, long, GREEDY).all()
    gone = Asked(engine, ids, Sampling(max_tokens=100, temperature=0.0, ignore_end=True))
    gone.events.get(timeout=PATIENCE)
    gone.request.cancel()
    last = gone.all()[-1].finish
    until = time.monotonic() + PATIENCE
    while engine.load.running and time.monotonic() < until:
        time.sleep(0.05)
    return {
        **found,
        "cached": again[-1].cached > len(long) // 3,
        "cancelled": last,
        "idle": engine.load.running,
        "failure": engine.failure,
        "cache use": 0 <= engine.load.cache_use <= 1,
    }


if __name__ == "__main__":
    kind, where = sys.argv[1], Path(sys.argv[2])
    code = load_tokenizer(where)
    engine = made(kind, where, code)
    try:
        print(json.dumps(contract(engine, code)))
    finally:
        engine.close()
