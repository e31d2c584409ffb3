"""What editors send, one request of each shape, tried against a server."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

from starloom.errors import UserError

CLIENT: Final = "check/0.1.0"
SECONDS: Final = 60
LONG: Final = "value = 1\n" * 20_000  # longer than any window that is served on a laptop
CODE: Final = {"prompt": "def add(a, b):\n    ", "max_tokens": 8, "temperature": 0}


@dataclass(frozen=True)
class Tried:
    """A shape and what came of it; `fault` is empty where it works, `told` says more."""

    shape: str
    fault: str
    told: str


class CheckError(Exception):
    """A shape does not work."""


class Server:
    """A server as an editor sees it."""

    def __init__(self, url: str, key: str, client: httpx.AsyncClient) -> None:
        self._url, self._client = url.rstrip("/"), client
        self._headers = {"X-Starloom-Client": CLIENT, **({"Authorization": f"Bearer {key}"} if key else {})}

    async def ask(self, path: str, body: dict[str, Any] | None = None, *, timeout: float = SECONDS) -> httpx.Response:
        """The answer.

        Raises:
            CheckError: there is none, or a refusal.
            httpx.ReadTimeout: it has not come in time.
        """
        method = "GET" if body is None else "POST"
        try:
            answer = await self._client.request(
                method, self._url + path, json=body, headers=self._headers, timeout=timeout
            )
        except httpx.ReadTimeout:
            raise
        except httpx.HTTPError as error:
            raise CheckError(f"no answer from {self._url}: {error or type(error).__name__}") from None
        if answer.is_error:
            raise CheckError(f"{answer.status_code}: {_message(answer)}")
        return answer

    async def text(self, body: dict[str, Any]) -> str:
        """A completion's text.

        Raises:
            CheckError: there is none.
        """
        answer = await self.ask("/v1/completions", {**CODE, **body})
        try:
            return str(answer.json()["choices"][0]["text"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise CheckError("the answer holds no completion") from None


def _message(answer: httpx.Response) -> str:
    try:
        told = answer.json()
    except ValueError:
        return answer.reason_phrase or "no JSON"
    error = told.get("error", told.get("detail", told)) if isinstance(told, dict) else told
    return str(error.get("message", error) if isinstance(error, dict) else error)


async def try_shapes(url: str, key: str, report: Callable[[Tried], None]) -> bool:
    """Try every shape, report each; whether all work.

    Raises:
        UserError: the address is none, or is no Starloom server's.
    """
    async with httpx.AsyncClient() as client:
        server = Server(url, key, client)
        try:
            cards = (await server.ask("/v1/models")).json()["data"]
            card = dict(cards[0])
        except (CheckError, httpx.ReadTimeout, httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"{url}: {error or 'no answer in time'}; give the address of a Starloom server") from None
        report(Tried("models", "", f"{card['id']}, a window of {card.get('max_model_len')} tokens"))
        fine = True
        for shape, (needs, work) in SHAPES.items():
            if needs and not card.get(needs):
                report(Tried(shape, "", f"not offered: {MISSING[needs]}"))
                continue
            started, fault, told = time.perf_counter(), "", ""
            try:
                told = await work(server)
            except (CheckError, httpx.ReadTimeout) as error:
                fault = str(error) or f"nothing within {SECONDS} seconds"
            report(Tried(shape, fault, f"{told}{'; ' if told else ''}{time.perf_counter() - started:.2f} s"))
            fine = fine and not fault
        return fine


async def _whole(server: Server) -> str:
    return repr((await server.text({}))[:40])


async def _gap(server: Server) -> str:
    return repr((await server.text({"prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n"}))[:40])


async def _long(server: Server) -> str:
    """The cursor at the end of a file that is longer than the window."""
    await server.text({"prompt": LONG, "suffix": ""})
    return ""


async def _context(server: Server) -> str:
    others = [{"filename": "lib.py", "text": "def twice(x):\n    return 2 * x\n<fim_middle>"}]
    await server.text({"suffix": "", "extra_context": others, "filepath": "a.py", "language": "python", "max_lines": 1})
    return ""


async def _stream(server: Server) -> str:
    answer = await server.ask("/v1/completions", {**CODE, "stream": True})
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    if not lines or lines[-1] != "data: [DONE]":
        raise CheckError("the stream has no end")
    return f"{len(lines) - 1} pieces"


async def _hang_up(server: Server) -> str:
    """Whoever hangs up ends the work: the server's count of cancelled requests grows."""
    before = await _cancelled(server)
    try:
        await server.ask("/v1/completions", {**CODE, "prompt": LONG, "suffix": "", "max_tokens": 512}, timeout=0.05)
    except httpx.ReadTimeout:
        for _ in range(50):
            if await _cancelled(server) > before:
                return "the work was ended"
            await asyncio.sleep(0.1)
        raise CheckError("the server goes on computing") from None
    return "answered before it could be tried"


async def _cancelled(server: Server) -> float:
    text = (await server.ask("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("starloom:cancelled_requests_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def _attribution(server: Server) -> str:
    told = (await server.ask("/overlap", {"document": CODE["prompt"], "offsets": "utf-16"})).json()
    return f"{len(told['matches'])} passages"


async def _chat(server: Server) -> str:
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    return repr((await server.ask("/v1/chat/completions", body)).json()["choices"][0]["message"]["content"][:40])


async def _event(server: Server) -> str:
    await server.ask("/v1/events", {"type": "view", "completion_id": "check", "characters": 0, "language": "python"})
    return ""


SHAPES: Final[dict[str, tuple[str, Callable[[Server], Awaitable[str]]]]] = {
    "completion": ("", _whole),
    "gap": ("infilling", _gap),
    "end of a long file": ("", _long),
    "other files": ("extra_context", _context),
    "stream": ("", _stream),
    "hang-up": ("", _hang_up),
    "attribution": ("attribution", _attribution),
    "chat": ("chat", _chat),
    "event": ("", _event),
}
MISSING: Final = {
    "infilling": "the model has no fill-in-the-middle tokens",
    "extra_context": "the server takes no other files",
    "attribution": "start the server with --index RUN",
    "chat": "the model has no chat template",
}
