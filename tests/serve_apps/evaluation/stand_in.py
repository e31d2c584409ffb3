"""A stand-in for a model: an OpenAI-compatible endpoint that returns what a test wants."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = int | bytes | tuple[int, str]


@dataclass
class StandIn:
    """`answer` makes the text of a prompt, or of a conversation's last message.

    `faults` are answered first, one a request: a status, a status with words, or raw bytes. `refuse` may refuse any
    request for what is in it, with words.
    """

    answer: Callable[[dict[str, Any]], str]
    faults: list[Fault] = field(default_factory=list)
    refuse: Callable[[dict[str, Any], str], tuple[int, str] | None] = lambda body, key: None
    models: tuple[str, ...] = ("stand-in",)
    answers_as: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def stand_in(answer: Callable[[dict[str, Any]], str], faults: Sequence[Fault] = (), **more: Any) -> Iterator[StandIn]:
    """Serve on a free port of this machine."""
    model = StandIn(answer, list(faults), **more)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refused = model.refuse({}, self.headers.get("Authorization", ""))
            if refused:
                self.reply(refused[0], json.dumps({"error": {"message": refused[1]}}).encode())
            else:
                self.reply(200, json.dumps({"data": [{"id": name} for name in model.models]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                model.requests.append(body)
                model.paths.append(self.path)
                model.keys.append(self.headers.get("Authorization", ""))
                fault = model.faults.pop(0) if model.faults else None
            fault = fault or model.refuse(body, self.headers.get("Authorization", ""))
            if isinstance(fault, tuple) and fault[1].startswith("<"):
                self.reply(fault[0], fault[1].encode())
            elif isinstance(fault, tuple):
                self.reply(fault[0], json.dumps({"error": {"message": fault[1]}}).encode())
            elif isinstance(fault, int):
                self.reply(fault, b'{"error": "told to fail"}')
            elif isinstance(fault, bytes):
                self.reply(200, fault)
            else:
                text = model.answer(body)
                said = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
                answer = {"choices": [{"index": 0, "finish_reason": "stop", **said}], "usage": {"completion_tokens": 8}}
                named = {"model": model.answers_as} if model.answers_as else {}
                self.reply(200, json.dumps({**answer, **named}).encode())

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
