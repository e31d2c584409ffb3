"""A line of the replica's log for each answer: who asked, how long it took, how much; nothing that was written."""

import json
import logging
import time
from collections.abc import Mapping
from typing import Final

from serve_apps.engine.request import Event, Request

# below Serve's own: into the replica's log, which the dashboard shows
LOG: Final = logging.getLogger("ray.serve.answers")
_TRACEPARENT_PARTS: Final = 4
_LONGEST: Final = 128


def trace_of(headers: Mapping[str, str]) -> str:
    """The id by which whoever asks knows the request: the trace of W3C's ``traceparent``, else ``X-Request-Id``.

    Serve's proxy makes one up where a client has none, and sends it back.
    """
    parts = headers.get("traceparent", "").split("-")
    found = parts[1] if len(parts) >= _TRACEPARENT_PARTS and parts[1] else headers.get("x-request-id", "")
    return found[:_LONGEST]


def in_files_alone() -> None:
    """Keep the lines off the terminal of whoever started the server: Serve prints its replicas' logs there too."""
    for handler in logging.getLogger("ray.serve").handlers:
        if type(handler) is logging.StreamHandler:  # those to files are kinds of it
            handler.addFilter(lambda record: record.name != LOG.name)


class AnswerLine:
    """What is told of one answer; times are seconds since it was asked for."""

    def __init__(self, model: str, request: Request) -> None:
        self._model, self._request = model, request
        self._started = time.perf_counter()
        self._first: float | None = None
        self._tokens = 0
        self._last: Event | None = None

    def observe(self, event: Event, at: float) -> None:
        """One more event, and when the engine gave it."""
        if event.scored is not None:
            self._tokens += 1
            self._first = at if self._first is None else self._first
        self._last = event

    def write(self) -> None:
        """Write it: the answer has ended, or nobody waits for it any more."""
        last, request = self._last, self._request
        told = {
            "request": request.trace,
            "user": request.user,
            "model": self._model,
            "finish": last.finish if last is not None and last.finish else "gone",
            "prompt_tokens": len(request.prompt),
            "cached_tokens": last.cached if last is not None else 0,
            "tokens": self._tokens,
            "began": self._since(request.began),
            "first_token": self._since(self._first),
            "ended": self._since(time.perf_counter()),
        }
        LOG.info(json.dumps(told))

    def _since(self, at: float | None) -> float | None:
        return None if at is None else round(at - self._started, 4)
