"""A deterministic stand-in for the server: one answer per end of a prompt, a log of what came and of who hung up."""

import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.patience import PATIENCE

ANSWERS = {  # the end of the text before the cursor -> the answer
    "def add(a, b):\n    ": "return a + b\n",
    "def add(a, b):\n    ret": "urn a + b\n",
    "def fib(n):\n    ": "if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n",
    "def fib(n):\n": "    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n",
    "print(": "add(1, 2))",
    "x = [": "1, 2, 3]",
    "slow = ": "1",
    "größe = ": "'naïve ☃'",
    "go:\n\t": "a\tb\n\treturn",
    "import nu": "mpy as np",
    "copied = ": "quicksort(items[1:pivot]) + [items[pivot]] + quicksort(items[pivot + 1:])",
}
KNOWN = ANSWERS["copied = "]
SLOW_SECONDS = 3.0
UNITS = {"utf-8": "utf-8", "utf-16": "utf-16-le", "code-points": "utf-32-le"}
SIZES = {"utf-8": 1, "utf-16": 2, "code-points": 4}
FILE = {"repository": "example/algorithms", "path": "sort/quick.py", "lines": [12, 12], "licenses": ["MIT"], "id": "1"}
CARD = {"id": "stub", "object": "model", "max_model_len": 2048, "infilling": True, "extra_context": True}


class Stub(ThreadingHTTPServer):
    """The server; `seen` is the log, `refusal` (status, body, headers) answers everything else instead."""

    daemon_threads = True

    def __init__(self, key: str = "", delay: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key, self.delay = key, delay
        self.seen: list[dict[str, Any]] = []
        self.refusal: tuple[int, str, dict[str, str]] | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self, path: str = "/v1/completions") -> list[dict[str, Any]]:
        """Requests of a path."""
        return [one for one in list(self.seen) if one["path"] == path]

    def hung_up(self) -> int:
        """Requests that their client gave up."""
        return sum(one.get("cancelled", False) for one in list(self.seen))

    def until(self, true: Any, seconds: float = PATIENCE) -> None:
        """Wait for something of the log."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.seen
            time.sleep(0.01)


@contextmanager
def stub(**settings: Any) -> Iterator[Stub]:
    """A stub on a free port."""
    server = Stub(**settings)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, status: int, text: str, kind: str = "application/json", **more: str) -> None:
        data = text.encode()
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), **more}
        if "Origin" in self.headers:
            headers["Access-Control-Allow-Origin"] = self.headers["Origin"]
            headers["Access-Control-Allow-Headers"] = "authorization, content-type, x-starloom-client"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_OPTIONS(self) -> None:
        """A browser asks whether it may."""
        self._answer(200, "")

    def do_GET(self) -> None:
        """The model's card; ``/_seen`` is the log."""
        if self.path == "/_seen":
            self._answer(200, json.dumps(self.server.seen))
        else:
            self._served(None)

    def do_POST(self) -> None:
        """A completion, a look-up, a count; ``/_refuse`` and ``/_key`` set what they are named after."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/_refuse":
            self.server.refusal = None if body is None else (body[0], body[1], body[2])
            self._answer(200, "{}")
        elif self.path == "/_key":
            self.server.key = body
            self._answer(200, "{}")
        else:
            self._served(body)

    def _served(self, body: dict[str, Any] | None) -> None:
        seen = {"path": self.path, "body": body, "client": self.headers.get("X-Starloom-Client"), "at": time.time()}
        self.server.seen.append(seen)
        authorization = self.headers.get("Authorization", "")
        if self.server.refusal:
            status, text, headers = self.server.refusal
            self._answer(status, text, **{"kind": "application/json", **headers})
        elif self.server.key and authorization != f"Bearer {self.server.key}":
            self._answer(401, json.dumps({"error": {"message": "the API key is missing or unknown"}}))
        elif self.path == "/v1/completions" and body is not None:
            self._complete(body, seen)
        elif self.path == "/v1/chat/completions" and body is not None:
            pieces = ["Say ", "it ", f"in {len(body['messages'])} words."]
            events = [json.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in pieces]
            self._answer(200, "".join(f"data: {one}\n\n" for one in [*events, "[DONE]"]), "text/event-stream")
        elif self.path == "/overlap" and body is not None:
            self._answer(200, json.dumps(_overlap(body["document"], body["offsets"])))
        else:
            self._answer(200, json.dumps({"data": [{**CARD, "attribution": True, "chat": True}]}))

    def _complete(self, body: dict[str, Any], seen: dict[str, Any]) -> None:
        prompt = body["prompt"]
        text = next((ANSWERS[end] for end in sorted(ANSWERS, key=len, reverse=True) if prompt.endswith(end)), "")
        if self._gone(SLOW_SECONDS if prompt.endswith("slow = ") else self.server.delay):
            seen["cancelled"] = True
            self.close_connection = True
            return
        seen["answered"] = time.time()
        told = {"id": f"cmpl-{len(self.server.seen)}", "choices": [{"index": 0, "text": text, "finish_reason": "stop"}]}
        self._answer(200, json.dumps(told))

    def _gone(self, seconds: float) -> bool:
        """Wait; whether the client has hung up meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            readable, _, _ = select.select([self.connection], [], [], min(0.01, max(0, until - time.monotonic())))
            try:
                if readable and not self.connection.recv(1, socket.MSG_PEEK):
                    return True
            except OSError:
                return True
        return False


def _overlap(document: str, offsets: str) -> dict[str, Any]:
    at = document.find(KNOWN)
    if at < 0:
        return {"spans": [], "matches": []}
    unit, size = UNITS[offsets], SIZES[offsets]
    start, end = (len(document[:place].encode(unit, "surrogatepass")) // size for place in (at, at + len(KNOWN)))
    match = {"span": [start, end], "kind": "exact", "count": 1, "licenses": {"MIT": 1}, "files": [FILE]}
    return {"spans": [[start, end]], "matches": [match]}
