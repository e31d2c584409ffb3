"""Serving as it is in the world: a huge prompt beside streams, half-sent requests, typing, busy cores."""

import itertools
import json
import multiprocessing
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx

HELD = 300
WINDOWS = 4  # a file that is typed into is so many windows long
KEYSTROKES = 100


def longest_gap(url: str, megabytes: int) -> float:
    """The longest pause between chunks of a stream, while prompts of so many megabytes are sent, in seconds."""
    times: list[float] = []
    body = {"prompt": "w1 w2 w3", "max_tokens": 400, "temperature": 0, "ignore_eos": True, "stream": True}

    def read() -> None:
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as answer:
            for _ in answer.iter_bytes():
                times.append(time.perf_counter())

    reader = threading.Thread(target=read)
    reader.start()
    while len(times) < 5:
        time.sleep(0.01)
    text = "def f(x):\n    return x\n" * ((megabytes << 20) // 23)
    for more in ({}, {"suffix": ""}, {"suffix": "\n", "max_tokens": 1}):
        httpx.post(f"{url}/v1/completions", json={"prompt": text, "max_tokens": 1, **more}, timeout=60)
    reader.join()
    return max(after - before for before, after in itertools.pairwise(times))


def p95(url: str, requests: int = 60) -> float:
    """Of short requests one after the other, in seconds."""
    seconds = []
    with httpx.Client(timeout=60) as client:
        for number in range(requests):
            began = time.perf_counter()
            body = {"prompt": f"w{number}", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
            client.post(f"{url}/v1/completions", json=body).raise_for_status()
            seconds.append(time.perf_counter() - began)
    return statistics.quantiles(seconds, n=20)[-1]


def p95_beside_half_sent(url: str) -> tuple[float, float]:
    """`p95` without and with half-sent requests held open; the least of three each, in turn."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    free, beside = [], []
    for _ in range(3):
        free.append(p95(url))
        with ExitStack() as held:
            for _ in range(HELD):
                held.enter_context(socket.create_connection(("127.0.0.1", httpx.URL(url).port or 80))).sendall(head)
            beside.append(p95(url))
    return min(free), min(beside)


def typing_hits(url: str, window: int) -> float:
    """Tokens found in the cache over those asked for, while one types at the end of a file of so many windows."""
    text = "x = [1, 2]\n" * (WINDOWS * window // 11)  # the benchmark's tokenizer knows no merges
    found = asked = 0
    for number in range(KEYSTROKES):
        body = {"prompt": text + "x" * number, "suffix": "", "max_tokens": 16, "temperature": 0}
        used = httpx.post(f"{url}/v1/completions", json=body, timeout=120).json()["usage"]
        if number:  # the first has never been seen
            found, asked = found + used["prompt_tokens_details"]["cached_tokens"], asked + used["prompt_tokens"]
    return found / asked


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """So many processes that compute without end, one for each core."""
    spinning = [
        multiprocessing.get_context("spawn").Process(target=_spin, args=(n,), daemon=True) for n in range(count)
    ]
    for one in spinning:
        one.start()
    time.sleep(1)
    try:
        yield
    finally:
        for one in spinning:
            one.terminate()
            one.join()


def _spin(core: int) -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
    while True:
        json.dumps(list(range(1000)))
