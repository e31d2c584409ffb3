"""HTTP clients of the serving benchmark: streams that are timed, and a crowd that is refused at times."""

import asyncio
import json
import time
from dataclasses import dataclass

import psutil

from tests.benchmarks.serve_models import random_prompt


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


def http_rate(url: str, prompts: list[list[int]], new: int) -> float:
    """Tokens per second of clients that stream, one for each prompt."""
    host, port = url.removeprefix("http://").split(":")
    options = {"max_tokens": new, "temperature": 0, "stream": True, "ignore_eos": True, "logprobs": 0}

    async def all_clients() -> float:
        bodies = [json.dumps({"prompt": prompt, **options}).encode() for prompt in prompts]
        begun = time.perf_counter()
        counts = await asyncio.gather(*(_client(host, int(port), body) for body in bodies))
        assert counts == [new] * len(prompts), counts
        return len(prompts) * new / (time.perf_counter() - begun)

    return asyncio.run(all_clients())


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
