"""Tokens per second of an endpoint at batch 1 and 50, as BigCode's leaderboard has them."""

import time
from concurrent.futures import ThreadPoolExecutor

from serve_apps.evaluation.endpoint import Endpoint, Generation

PROMPT = "def quicksort(values):\n"
TOKENS = 64
BATCHES = (1, 50)


def measure_throughput(endpoint: Endpoint) -> dict[str, float]:
    """``{"1": tokens per second, "50": ...}``: as many requests at once, each for 64 tokens, the server's own count.

    An answer may end early; only tokens that came are counted.
    """
    endpoint.completion_tokens(PROMPT, Generation(0.8, 0.95, TOKENS, 0))  # the first request may compile kernels
    return {str(batch): round(_rate(endpoint, batch), 2) for batch in BATCHES}


def _rate(endpoint: Endpoint, batch: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(batch) as pool:
        counts = pool.map(
            lambda seed: endpoint.completion_tokens(PROMPT, Generation(0.8, 0.95, TOKENS, seed)), range(batch)
        )
        tokens = sum(counts)
    return tokens / (time.perf_counter() - started)
