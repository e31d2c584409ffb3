"""Serving on GPUs: our engine beside vLLM, on the same random weights of the 1.1B shape, in bfloat16.

Needs this repository and the wheels of `starloom[serve]`; vLLM's build for the card in an environment of its own:

    python -m tests.benchmarks.bench_serve_gpu --vllm ENVIRONMENT/bin/python
    python -m tests.benchmarks.bench_serve_gpu --tensor-parallel 2    # the model cut over two cards
    python -m tests.benchmarks.bench_serve_gpu --dry     # the same code on a CPU at toy size, without vLLM

Prompts have 256 tokens and answers 64: decoding at batch 1, 8 and 32, whole requests, prefill. The share of the card's
memory tells how near decoding at batch 1 is to reading the weights once for each token.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from tests.benchmarks.bench_serve import GREEDY, PROMPT, Timed, our_rates, started, vllm_rates
from tests.benchmarks.harness import finish, table
from tests.benchmarks.serve_models import CARD, TOY, model_folder, random_prompt

READ = 1 << 30  # bytes


def main() -> None:
    """Measure, print a table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="a toy on the CPU, to see that the script runs")
    parser.add_argument("--vllm", type=Path, metavar="PYTHON", help="the interpreter of an environment that has vLLM")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="cut the model over so many cards")
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        parser.error("no GPU here; --dry runs a toy on the CPU")
    parts = options.tensor_parallel
    settings = {"kernels": "torch", "device": "cpu" if options.dry else "cuda", "tensor_parallel": parts}
    precision = "float32" if options.dry else "bfloat16"
    with tempfile.TemporaryDirectory(prefix="bench-serve-gpu-") as place:
        folder = model_folder(Path(place), TOY if options.dry else CARD)
        sides = {"starloom": our_rates(folder, precision, **settings)}
        figures = {f"card_{name}": rate for name, rate in sides["starloom"].items()}
        if options.vllm:
            sides["vLLM"] = vllm_rates(options.vllm, folder, precision, parts)
            figures |= {
                f"card_{name}_over_vllm": rate / sides["vLLM"][name] for name, rate in sides["starloom"].items()
            }
        if not options.dry:
            read = 2 * CARD.parameters / parts * sides["starloom"]["decode_b1"]
            figures |= {"card_decode_b1_bandwidth_share": read / bandwidth(), "card_same_tokens": same_tokens(folder)}
    names = list(sides["starloom"])
    rows = [[name, *(f"{rates[key]:,.0f}" for key in names)] for name, rates in sides.items()]
    print(table("tokens per second, prompts of 256, 64 new", ["engine", *names], rows))
    finish("serve_gpu", {name: round(value, 4) for name, value in figures.items()})


def bandwidth() -> float:
    """Bytes a second that the card reads, the best of ten passes over `READ` bytes."""
    values = torch.ones(READ // 2, dtype=torch.bfloat16, device="cuda")
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    best = float("inf")
    for _ in range(10):
        began.record()
        values.max()
        ended.record()
        torch.cuda.synchronize()
        best = min(best, began.elapsed_time(ended) / 1e3)
    return READ / best


def same_tokens(folder: Path) -> int:
    """How many tokens of an answer of 64 are the processor's own, in fp32 on both, before the first other one."""
    answers = []
    for device in ("cpu", "cuda"):
        engine = started(folder, drafts=0, weights="float32", kernels="torch", device=device)
        answers.append(Timed(engine, random_prompt(PROMPT), GREEDY).wait().ids)
        engine.close()
    return next(
        (place for place, (one, other) in enumerate(zip(*answers, strict=True)) if one != other), len(answers[0])
    )


if __name__ == "__main__":
    main()
