"""Serving beside CTranslate2 and transformers, all on the same 164M GPTBigCode weights in fp32.

`make bench-serve`. What is timed: decoding at batch 1 and 8 after a prompt of 256 tokens, prefill, prompt-lookup
speculation where the answer repeats the prompt but for every tenth token, a repeated prompt with a changed last line,
and 16 streaming HTTP clients against the bare engine.
"""

import asyncio
import json
import queue
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from serve_apps.engine.engine import EngineConfig, LocalEngine
from serve_apps.engine.request import Event, Request, Sampling
from serve_apps.serve import serving_config
from starloom.model.folder import read_model
from starloom.tokenizer import load_tokenizer
from tests.benchmarks.harness import BENCH, cores, ensure_environment, finish, measured_bandwidth, table
from tests.benchmarks.serve_models import SHAPE, model_folder, random_prompt

PROMPT, NEW, CLIENTS = 256, 64, 16
GREEDY = Sampling(max_tokens=NEW, temperature=0.0, ignore_end=True)
SOAK_SECONDS = 60.0
PEERS = ("ctranslate2==4.8.0", "setuptools<81")


def started(folder: Path, **settings: Any) -> LocalEngine:
    """The engine of a folder."""
    return LocalEngine(read_model(folder), load_tokenizer(folder), EngineConfig.model_validate(settings))


class Timed:
    """One request: its tokens and when each came."""

    def __init__(self, engine: LocalEngine, prompt: list[int], sampling: Sampling) -> None:
        self.began = time.perf_counter()
        self.times: list[float] = []
        self.ids: list[int] = []
        self._events: queue.Queue[tuple[float, Event]] = queue.Queue()
        engine.submit(Request(prompt, sampling, lambda event: self._events.put((time.perf_counter(), event))))

    def wait(self) -> "Timed":
        """Until it has ended."""
        while True:
            at, event = self._events.get(timeout=600)
            if event.scored is not None:
                self.times.append(at)
                self.ids.append(event.scored.token)
            if event.finish:
                assert event.finish == "length", event
                return self


def together(engine: LocalEngine, prompts: list[list[int]], sampling: Sampling) -> list[Timed]:
    """Several requests at once."""
    return [one.wait() for one in [Timed(engine, prompt, sampling) for prompt in prompts]]


def decode_rate(engine: LocalEngine, batch: int) -> float:
    """Tokens per second while all of `batch` requests decode; the best of three."""
    best = 0.0
    for number in range(3):
        done = together(engine, [random_prompt(PROMPT, 100 * number + n) for n in range(batch)], GREEDY)
        since = max(one.times[0] for one in done)
        until = min(one.times[-1] for one in done)
        made = sum(sum(since < at <= until for at in one.times) for one in done)
        best = max(best, made / (until - since))
    return best


def prefill_rate(engine: LocalEngine) -> float:
    """Prompt tokens per second until the first token; the best of five new prompts."""
    one = replace(GREEDY, max_tokens=1)
    done = [Timed(engine, random_prompt(PROMPT, 900 + n), one).wait() for n in range(5)]
    return PROMPT / min(timed.times[0] - timed.began for timed in done)


def cached_share(engine: LocalEngine) -> float:
    """Time to first token of a prompt of 1,024 tokens with a new last line of 12, over that of the first prompt."""
    one = replace(GREEDY, max_tokens=1)
    shares = []
    for number in range(3):
        prompt = random_prompt(1024, 40 + number)
        first = Timed(engine, prompt, one).wait()
        again = Timed(engine, prompt[:-12] + random_prompt(12, 50 + number), one).wait()
        shares.append((again.times[0] - again.began) / (first.times[0] - first.began))
    return sorted(shares)[1]


def speculation(folder: Path) -> tuple[float, float]:
    """Tokens per second without and with drafts, where nine of ten tokens repeat the prompt; answers are equal."""
    plain = started(folder, drafts=0)
    walk = Timed(plain, random_prompt(4), replace(GREEDY, max_tokens=700)).wait().ids
    text, length = walk[-512:], 96
    for place in range(5, len(text) - 4, 10):
        text[place] = random_prompt(1, place)[0]

    def rate(engine: LocalEngine) -> tuple[float, list[int]]:
        runs = [Timed(engine, text, replace(GREEDY, max_tokens=length)).wait() for _ in range(3)]
        return max((length - 1) / (one.times[-1] - one.times[0]) for one in runs), runs[0].ids

    without, expected = rate(plain)
    plain.close()
    drafting = started(folder)
    with_drafts, ids = rate(drafting)
    drafting.close()
    assert ids == expected, "speculation changed the answer"
    return without, with_drafts


def transformers_rates(folder: Path) -> dict[str, float]:
    """transformers' generate on the same weights."""
    import torch
    from transformers import GPTBigCodeForCausalLM

    torch.set_num_threads(cores())
    model = GPTBigCodeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def seconds(batch: int, new: int) -> float:
        ids = torch.tensor([random_prompt(PROMPT, n) for n in range(batch)])
        begun = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False
            )
        return time.perf_counter() - begun

    seconds(1, 2)
    first = {batch: min(seconds(batch, 1) for _ in range(2)) for batch in (1, 8)}
    rates = {f"decode_b{batch}": batch * (NEW - 1) / (seconds(batch, NEW) - first[batch]) for batch in (1, 8)}
    return {**rates, "prefill": PROMPT / first[1]}


def ctranslate2_rates(folder: Path) -> dict[str, Any]:
    """CTranslate2 in an environment of its own, which borrows torch and transformers for the conversion."""
    import torch

    python = ensure_environment("ctranslate2", PEERS)
    script = Path(__file__).parent / "peers" / "ctranslate2_serve.py"
    out = folder.parent / "ctranslate2"
    arguments = [str(folder), str(out), json.dumps(random_prompt(PROMPT)), str(NEW), str(cores())]
    borrowed = str(Path(torch.__file__).parents[1])
    done = subprocess.run(
        [str(python), str(script), *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": borrowed, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": str(cores())},
    )
    if done.returncode:
        sys.exit(f"CTranslate2 failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


async def _client(host: str, port: int, body: bytes) -> int:
    """A streamed request; how many tokens came."""
    received = await _answer(host, port, body)
    assert b"data: [DONE]" in received, received[:500]
    return received.count(b'"text": "')  # several events may share a chunk


async def _answer(host: str, port: int, body: bytes) -> bytes:
    """What a completion request over a socket is answered with, head and all."""
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    await writer.drain()
    received = await reader.read()
    writer.close()
    return received


def http_rate(url: str, new: int) -> float:
    """Tokens per second of 16 clients that stream."""
    host, port = url.removeprefix("http://").split(":")

    async def all_clients(round_number: int) -> float:
        bodies = [
            {"prompt": random_prompt(32, 1000 * round_number + n), "max_tokens": new, "temperature": 0}
            | {"stream": True, "ignore_eos": True, "logprobs": 0}
            for n in range(CLIENTS)
        ]
        begun = time.perf_counter()
        counts = await asyncio.gather(*(_client(host, int(port), json.dumps(body).encode()) for body in bodies))
        assert counts == [new] * CLIENTS, counts
        return CLIENTS * new / (time.perf_counter() - begun)

    return max(asyncio.run(all_clients(number)) for number in range(3))


def engine_rate(engine: LocalEngine, new: int) -> float:
    """The same requests without HTTP."""
    best = 0.0
    for number in range(3):
        begun = time.perf_counter()
        prompts = [random_prompt(32, 1000 * number + n) for n in range(CLIENTS)]
        together(engine, prompts, replace(GREEDY, max_tokens=new))
        best = max(best, CLIENTS * new / (time.perf_counter() - begun))
    return best


@dataclass
class Soaked:
    """What 64 clients met: answers, refusals with and without Retry-After, and everything else."""

    served: int = 0
    refused: int = 0
    refused_without_retry: int = 0
    lost: int = 0
    megabytes_at_half: float = 0.0
    megabytes_at_end: float = 0.0


def soaked(url: str, seconds: float) -> Soaked:
    """64 clients ask again and again, on a queue of 32; the replica's memory at half time and at the end."""
    host, port = url.removeprefix("http://").split(":")
    result = Soaked()

    async def client(number: int, until: float) -> None:
        turn = 0
        while time.monotonic() < until:
            turn += 1
            body = {"prompt": random_prompt(32, 64 * turn + number), "max_tokens": 8, "stream": bool(turn % 2)}
            text = json.dumps(body | {"ignore_eos": True}).encode()
            try:
                answer = await asyncio.wait_for(_answer(host, int(port), text), 60)
            except (OSError, TimeoutError):
                answer = b""
            status = answer[9:12]
            result.served += status == b"200" and (b"[DONE]" in answer or b'"usage"' in answer)
            result.refused += status in (b"429", b"503")
            result.refused_without_retry += status in (b"429", b"503") and b"retry-after" not in answer.lower()
            result.lost += status not in (b"200", b"429", b"503")
            if status in (b"429", b"503"):
                await asyncio.sleep(1)  # as Retry-After says

    async def everyone() -> None:
        until = time.monotonic() + seconds
        work = asyncio.gather(*(client(number, until) for number in range(64)))
        await asyncio.sleep(seconds / 2)
        result.megabytes_at_half = _replica_megabytes()
        await work
        result.megabytes_at_end = _replica_megabytes()

    asyncio.run(everyone())
    return result


def _replica_megabytes() -> float:
    mine = psutil.Process().children(recursive=True)
    replicas = [child for child in mine if "ServeReplica:starloom" in " ".join(child.cmdline())]
    return sum(child.memory_info().rss for child in replicas) / 1e6


def told(name: str, value: Any) -> Any:
    """A result as soon as it is there: the whole takes minutes."""
    print(f"{name}: {value}", flush=True)
    return value


def main() -> None:
    """Measure all, print the tables and the figures."""
    folder, circles = (model_folder(BENCH / "serve", circles=flag) for flag in (False, True))
    theirs = {"CTranslate2": told("CTranslate2", ctranslate2_rates(folder))}
    theirs["transformers"] = told("transformers", transformers_rates(folder))
    limit = measured_bandwidth() / (4 * SHAPE.parameters)
    engine = started(folder, drafts=0)
    work: dict[str, Callable[[], float]] = {
        "decode_b1": lambda: decode_rate(engine, 1),
        "decode_b8": lambda: decode_rate(engine, 8),
        "prefill": lambda: prefill_rate(engine),
    }
    ours = {name: told(name, measure()) for name, measure in work.items()}
    same = Timed(engine, random_prompt(PROMPT), GREEDY).wait().ids == theirs["CTranslate2"]["answer"]
    share, bare = cached_share(engine), engine_rate(engine, NEW)
    engine.close()
    small = started(folder, drafts=0, weights="int8")
    int8 = {name: decode_rate(small, batch) for name, batch in (("decode_b1", 1), ("decode_b8", 8))}
    small.close()
    without, drafted = told("speculation", speculation(circles))
    settings = {"models": [{"folder": str(folder), "engine": {"drafts": 0, "queue": 32}}]}
    with serving_config(settings) as url:
        http = told("HTTP", http_rate(url, NEW))
        soak = told("64 clients", soaked(url, SOAK_SECONDS))
    rows = [[name, *(rates[key] for key in work)] for name, rates in (("starloom", ours), *theirs.items())]
    rows.append(["starloom, int8 weights", int8["decode_b1"], int8["decode_b8"], ""])
    rows.append(["limit of memory, fp32", limit, "", ""])
    print(table("tokens per second", ["engine", "decode, batch 1", "decode, batch 8", "prefill of 256"], rows))
    others = [
        ["greedy answer equal to CTranslate2's", str(same)],
        ["editing, without and with speculation, tokens/s", f"{without:.1f}, {drafted:.1f}"],
        ["first token of a known prompt with a new last line, share of the first time", share],
        ["64 clients for 60 s: served, refused, lost", f"{soak.served}, {soak.refused}, {soak.lost}"],
        ["16 clients over HTTP and bare engine, tokens/s", f"{http:.1f}, {bare:.1f}"],
    ]
    print(table("and", ["what", "measured"], others))
    peer = theirs["CTranslate2"]
    figures = {
        "decode_b1_over_ctranslate2": ours["decode_b1"] / peer["decode_b1"],
        "decode_b8_over_ctranslate2": ours["decode_b8"] / peer["decode_b8"],
        "decode_b1_bandwidth_share": ours["decode_b1"] / limit,
        "decode_b8_over_transformers": ours["decode_b8"] / theirs["transformers"]["decode_b8"],
        "prefill_over_ctranslate2": ours["prefill"] / peer["prefill"],
        "speculation_speedup": drafted / without,
        "cached_first_token_share": share,
        "http_share_at_16": http / bare,
        "greedy_equals_ctranslate2": int(same),
        "soak_served": soak.served,
        "soak_refused": soak.refused,
        "soak_refused_without_retry": soak.refused_without_retry,
        "soak_lost": soak.lost,
        "soak_growth_mb": soak.megabytes_at_end - soak.megabytes_at_half,
    }
    finish("serve", {name: round(value, 4) for name, value in figures.items()}, packages=("fastapi", "uvicorn"))


if __name__ == "__main__":
    main()
