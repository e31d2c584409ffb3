"""A stand-in for a model: an OpenAI-compatible endpoint that returns what a test wants."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StandIn:
    """`answer` makes the text of a prompt; `faults` are answered first, one a request: a status, or raw bytes."""

    answer: Callable[[dict[str, Any]], str]
    faults: list[int | bytes] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""


@contextmanager
def stand_in(answer: Callable[[dict[str, Any]], str], faults: list[int | bytes] | None = None) -> Iterator[StandIn]:
    """Serve on a free port of this machine."""
    model = StandIn(answer, faults or [])
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, json.dumps({"data": [{"id": "stand-in"}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                model.requests.append(body)
                fault = model.faults.pop(0) if model.faults else None
            if isinstance(fault, int):
                self.reply(fault, b'{"error": "told to fail"}')
            elif isinstance(fault, bytes):
                self.reply(200, fault)
            else:
                choice = {"index": 0, "text": model.answer(body), "finish_reason": "stop"}
                self.reply(200, json.dumps({"choices": [choice], "usage": {"completion_tokens": 8}}).encode())

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *values: Any) -> None:  # noqa: A002 - the base class names it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    model.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
