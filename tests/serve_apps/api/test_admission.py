"""Keys, sizes, rates, deadlines, refusals under load, and clients that go away."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import psutil
import pytest

from serve_apps.api.gate import GateConfig
from serve_apps.deployment import keys_of
from serve_apps.engine.engine import LocalEngine
from starloom.errors import UserError
from tests.patience import PATIENCE
from tests.serve_apps.api.conftest import Running, Serve

LONG = {"prompt": "def f", "max_tokens": 4000, "temperature": 0, "ignore_eos": True}


def test_wrong_key_is_refused_in_the_dialect_and_the_right_one_served(serve: Serve) -> None:
    server = serve(GateConfig(keys={"s3cret": "ann"}))
    body = {"prompt": "def", "max_tokens": 2}
    refused = httpx.post(f"{server.url}/v1/completions", json=body, headers={"Authorization": "Bearer wrong"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    assert httpx.post(f"{server.url}/api/generate", json=body).json()["error"].startswith("the API key")
    for headers in ({"Authorization": "Bearer s3cret"}, {"X-API-Key": "s3cret"}):
        assert httpx.post(f"{server.url}/v1/completions", json=body, headers=headers).status_code == 200
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert 'vllm:request_success_total{finished_reason="length",key="ann"' in httpx.get(f"{server.url}/metrics").text


def test_keys_are_read_from_pairs_and_nonsense_is_told() -> None:
    assert keys_of("ann:a1\nbob:b:2, ") == {"a1": "ann", "b:2": "bob"}
    with pytest.raises(UserError, match="name:key"):
        keys_of("just-a-key")


def test_large_body_is_refused_announced_or_not(serve: Serve) -> None:
    server = serve(GateConfig(largest_request_bytes=10_000))
    body = json.dumps({"prompt": "x" * 50_000}).encode()
    assert httpx.post(f"{server.url}/v1/completions", content=body).status_code == 413
    chunks = (body[n : n + 1000] for n in range(0, len(body), 1000))
    refused = httpx.post(f"{server.url}/v1/completions", content=chunks)
    assert (refused.status_code, refused.json()["error"]["type"]) == (413, "invalid_request_error")


def test_rate_of_a_key_is_limited_and_another_key_is_not(serve: Serve) -> None:
    server = serve(GateConfig(keys={"a": "ann", "b": "bob"}, requests_per_minute=3))
    body = {"prompt": "def", "max_tokens": 1}

    def status(key: str) -> httpx.Response:
        return httpx.post(f"{server.url}/v1/completions", json=body, headers={"X-API-Key": key})

    assert [status("a").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert int(status("a").headers["Retry-After"]) > 1
    assert status("b").status_code == 200


def _until_idle(engine: LocalEngine) -> float:
    began = time.perf_counter()
    while engine.load.running:
        assert time.perf_counter() - began < 5
        time.sleep(0.001)
    return time.perf_counter() - began


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_client_that_goes_frees_its_blocks_within_100_ms(server: Running, stream: bool) -> None:
    body = json.dumps({**LONG, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head.encode() + b"\r\n\r\n" + body)
        while not server.engine.load.running:
            time.sleep(0.001)
        if stream:
            assert b"200 OK" in client.recv(4096)
    assert _until_idle(server.engine) < 0.1
    assert server.engine.free_blocks == server.engine.blocks


def test_deadline_gives_what_there_is_or_says_when_to_come_again(serve: Serve) -> None:
    server = serve(deadline=30.0, batch=1)
    body = {**LONG, "max_tokens": 3000}
    cut = httpx.post(f"{server.url}/v1/completions", json=body, headers={"X-Deadline-Seconds": "0.2"}, timeout=PATIENCE)
    assert cut.json()["choices"][0]["finish_reason"] == "length"
    assert 0 < cut.json()["usage"]["completion_tokens"] < 3000
    late = httpx.post(f"{server.url}/v1/completions", json=body, headers={"X-Deadline-Seconds": "-1"})
    assert late.status_code == 503
    assert int(late.headers["Retry-After"]) >= 1
    assert httpx.post(f"{server.url}/v1/completions", json=body, headers={"X-Deadline-Seconds": "x"}).status_code == 400


def test_sixty_four_clients_on_a_short_queue_are_served_or_told_when_to_come_again(serve: Serve) -> None:
    server = serve(queue=8, batch=4)

    async def ask(client: httpx.AsyncClient, path: str) -> httpx.Response:
        bodies = {
            "/generate": {"inputs": "def f", "parameters": {"max_new_tokens": 200}},
            "/v1/completions": {"prompt": "def f", "max_tokens": 200, "temperature": 0},
        }
        return await client.post(path, json=bodies[path])

    async def everyone() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, limits=limits) as client:
            paths = ["/v1/completions", "/generate"] * 32
            return await asyncio.gather(*(ask(client, path) for path in paths))

    answers = asyncio.run(everyone())
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(answer.headers["Retry-After"] for answer in answers if answer.status_code == 429)
    assert server.engine.load.running == server.engine.load.waiting == 0
    assert server.engine.free_blocks == server.engine.blocks


def test_slow_reader_and_half_closed_socket_hold_nobody_up(server: Running) -> None:
    body = json.dumps({**LONG, "stream": True, "logprobs": 0}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with (
        socket.create_connection(("127.0.0.1", server.port)) as slow,
        socket.create_connection(("127.0.0.1", server.port)) as half,
    ):
        slow.sendall(head.encode() + b"\r\n\r\n" + body)
        half.sendall(head.encode() + b"\r\n\r\n" + body[:20])
        half.shutdown(socket.SHUT_WR)
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 5}, timeout=PATIENCE)
        assert answer.status_code == 200
    _until_idle(server.engine)


def test_hundred_megabytes_are_refused_without_being_kept(server: Running) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(100):
            yield b"x" * 1_000_000
        yield b'"}'

    before = psutil.Process().memory_info().rss
    with suppress(httpx.WriteError, httpx.RemoteProtocolError):  # the server may close before all has been sent
        assert httpx.post(f"{server.url}/v1/completions", content=body(), timeout=PATIENCE).status_code == 413
    assert psutil.Process().memory_info().rss - before < 50e6
    served = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 2})
    assert served.status_code == 200
