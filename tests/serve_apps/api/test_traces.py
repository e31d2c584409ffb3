"""A request is followed by its id from the client to the engine."""

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve_apps.api.gate import GateConfig
from serve_apps.api.traces import LOG, trace_of
from tests.patience import PATIENCE
from tests.serve_apps.api.conftest import Serve


class Kept(logging.Handler):
    """What the log was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(json.loads(record.getMessage()))

    def of(self, trace: str) -> dict[str, Any]:
        """The line about a request: it comes when the engine has let go of it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = [one for one in self.told if one["request"] == trace]
            if found:
                (line,) = found
                return line
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    kept, level = Kept(), LOG.level
    LOG.addHandler(kept)
    LOG.setLevel(logging.INFO)
    yield kept
    LOG.removeHandler(kept)
    LOG.setLevel(level)


@pytest.mark.parametrize(
    ("headers", "trace"),
    [
        (
            {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
            "0af7651916cd43dd8448eb211c80319c",
        ),
        ({"traceparent": "00-aa-bb-01", "x-request-id": "mine"}, "aa"),
        ({"traceparent": "nonsense", "x-request-id": "mine"}, "mine"),
        ({"x-request-id": "m" * 999}, "m" * 128),
        ({}, ""),
    ],
)
def test_trace_is_w3cs_or_the_request_id(headers: dict[str, str], trace: str) -> None:
    assert trace_of(headers) == trace


def test_each_answer_has_a_line_that_tells_how_long_and_nothing_that_was_written(serve: Serve, log: Kept) -> None:
    server = serve(GateConfig(keys={"s3cret": "ann"}))
    body = {"prompt": "def secret_name", "max_tokens": 5, "temperature": 0, "ignore_eos": True}
    headers = {"Authorization": "Bearer s3cret", "X-Request-Id": "one"}
    assert httpx.post(f"{server.url}/v1/completions", json=body, headers=headers).status_code == 200
    line = log.of("one")
    assert {name: line[name] for name in ("user", "model", "finish", "tokens")} == {
        "user": "ann", "model": "tiny", "finish": "length", "tokens": 5,
    }  # fmt: skip
    assert 0 <= line["began"] <= line["first_token"] <= line["ended"]
    assert line["prompt_tokens"] > 0
    assert "secret_name" not in json.dumps(log.told)


def test_a_client_that_goes_away_leaves_a_line_too(serve: Serve, log: Kept) -> None:
    server = serve()
    body = {"prompt": "def f", "max_tokens": 4000, "temperature": 0, "ignore_eos": True, "stream": True}
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json=body, headers={"X-Request-Id": "gone"}, timeout=PATIENCE
    ) as answer:
        next(answer.iter_lines())
    line = log.of("gone")
    assert line["finish"] == "gone"
    assert 0 < line["tokens"] < 4000
