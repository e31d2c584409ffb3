"""Completions and chat answers from any OpenAI-compatible URL, with retries where they make sense."""

import json
import re
import threading
import time
from dataclasses import dataclass
from typing import Any

from starloom.errors import RunError, UserError, one_line

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
FEW_STOPS = 4  # what OpenAI's own API takes; the rest is cut here
# how servers say that a prompt does not fit: OpenAI, vLLM, TGI, llama.cpp, SGLang, Ollama and this product
_LENGTH = re.compile(
    r"context[ _-]?(?:length|window|size)|maximum context|max(?:imum)?[ _-]?(?:model|input|sequence|total)[ _-]?len"
    r"|max_model_len|too many (?:input )?tokens|\b(?:prompt|input|inputs|context|sequence|messages?|request)\b.{0,60}"
    r"\btoo (?:long|large)|longer than the (?:model|context)"
    r"|(?:tokens?|prompt|input|inputs)\b.{0,80}\bexceeds?\b|exceeds?\b.{0,60}\b(?:tokens|context|length)"
    r"|fits? (?:in )?the context",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Generation:
    """How to sample."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


class TooLong(Exception):  # noqa: N818 - a fact about a prompt, not a failure
    """The prompt does not fit the model; the endpoint's words are the message."""


class Endpoint:
    """A model behind ``URL/v1/completions`` and ``/v1/chat/completions``. Safe to use from several threads.

    `key` is sent as a bearer token and kept nowhere. A server that takes no `seed`, or no more than four stops, is
    asked again without; `adapted` says so. Any other refused request is an error with the server's words: it would be
    refused for every task.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 300.0,
        attempts: int = 5,
    ) -> None:
        import httpx

        self.url = url.rstrip("/").removesuffix("/v1")
        self.adapted: set[str] = set()
        self.answered_as: set[str] = set()
        self._attempts = attempts
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(timeout=timeout, limits=httpx.Limits(max_connections=256), headers=headers)
        self._lock = threading.Lock()
        try:
            self.model = model or self._only_model()
        except BaseException:
            self.close()
            raise

    def _only_model(self) -> str:
        listed = self._ask("GET", "/v1/models", None).get("data")
        names = (
            [row["id"] for row in listed if isinstance(row, dict) and "id" in row] if isinstance(listed, list) else []
        )
        if not names:
            raise RunError(f"{self.url}/v1/models lists no model; name one with --model")
        if len(names) > 1:
            raise UserError(f"{self.url} serves {', '.join(map(str, names[:8]))}; name one with --model")
        return str(names[0])

    def complete(
        self, prompt: str | list[int], generation: Generation, stops: tuple[str, ...], suffix: str | None = None
    ) -> str:
        """The text that follows the prompt, a text or ids (or fills the gap before `suffix`).

        Raises:
            TooLong: the prompt does not fit the model.
            RunError: the request is refused, or there is no usable answer after all attempts.
        """
        body: dict[str, Any] = {"prompt": prompt, **self._settings(generation, stops)}
        if suffix is not None:
            body["suffix"] = suffix
        choice = self._choice(self._asked("/v1/completions", body), "/v1/completions")
        return self._text(choice.get("text"), "/v1/completions: the answer holds no choices[0].text")

    def chat(self, messages: list[dict[str, str]], generation: Generation) -> str:
        """The answer to a conversation; raises as `complete`."""
        body = {"messages": messages, **self._settings(generation, ())}
        message = self._choice(self._asked("/v1/chat/completions", body), "/v1/chat/completions").get("message")
        content = message.get("content") if isinstance(message, dict) else None
        return self._text(content, "/v1/chat/completions: the answer holds no choices[0].message.content")

    def completion_tokens(self, prompt: str, generation: Generation) -> int:
        """How many tokens the endpoint says it has made for a prompt; `RunError` when it does not say."""
        usage = self._asked("/v1/completions", {"prompt": prompt, **self._settings(generation, ())}).get("usage")
        if not isinstance(usage, dict) or not isinstance(usage.get("completion_tokens"), int):
            raise RunError(f"{self.url}/v1/completions: the answer holds no usage.completion_tokens")
        return int(usage["completion_tokens"])

    def _settings(self, generation: Generation, stops: tuple[str, ...]) -> dict[str, Any]:
        return {
            "model": self.model,
            "max_tokens": generation.max_tokens,
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "seed": generation.seed,
            **({"stop": list(stops)} if stops else {}),
        }

    def _asked(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        while True:
            sent = self._adapt(body)
            try:
                answer = self._ask("POST", path, sent)
            except _RefusedError as refused:
                if not self._learn(refused.words, sent):
                    raise refused.error(self.url + path) from None
                continue
            named = answer.get("model")
            if isinstance(named, str) and named != self.model:
                with self._lock:
                    self.answered_as.add(named)
            return answer

    def _adapt(self, body: dict[str, Any]) -> dict[str, Any]:
        sent = dict(body)
        if "seed" in self.adapted:
            del sent["seed"]
        if "stop" in self.adapted and "stop" in sent:
            sent["stop"] = sent["stop"][:FEW_STOPS]
        return sent

    def _learn(self, words: str, sent: dict[str, Any]) -> bool:
        """Whether a refusal names something that can be left out, and has not been yet."""
        for name, left in (("seed", "seed" in sent), ("stop", len(sent.get("stop") or ()) > FEW_STOPS)):
            if left and re.search(rf"\b{name}", words, re.IGNORECASE):
                with self._lock:
                    self.adapted.add(name)
                return True
        return False

    def _choice(self, answer: dict[str, Any], path: str) -> dict[str, Any]:
        try:
            choice = answer["choices"][0]
        except (KeyError, IndexError, TypeError):
            choice = None
        if not isinstance(choice, dict):
            raise RunError(f"{self.url}{path}: the answer holds no choices[0]")
        return choice

    def _text(self, found: Any, problem: str) -> str:
        if not isinstance(found, str):
            raise RunError(f"{self.url}{problem}")
        return found

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        import httpx

        problem, pause = "", 0.0
        for attempt in range(self._attempts):
            if attempt:
                usual = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
                time.sleep(min(LONGEST_PAUSE_SECONDS, max(usual, pause)))
            try:
                response = self._client.request(method, self.url + path, json=body)
            except (httpx.UnsupportedProtocol, httpx.InvalidURL):
                raise UserError(f"{self.url}: is no URL; give one such as http://127.0.0.1:8000") from None
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in RETRIED:
                problem, pause = f"HTTP {response.status_code}: {_words(response.text)}", _retry_after(response.headers)
                continue
            if response.status_code >= 300:
                raise self._refusal(response.status_code, _words(response.text), path)
            try:
                answer = response.json()
            except ValueError:
                kind = response.headers.get("content-type", "no content type")
                problem = f"the answer is not JSON ({kind}; cut off?)"
                continue
            if isinstance(answer, dict):
                return answer
            problem = "the answer is no JSON object"
        raise RunError(f"{self.url}{path}: no usable answer in {self._attempts} attempts; the last: {problem}")

    def _refusal(self, status: int, words: str, path: str) -> Exception:
        if status == 413 or (status in (400, 422) and _LENGTH.search(words)):
            return TooLong(words or f"HTTP {status}")
        if status in (400, 422):
            return _RefusedError(status, words)
        remedy = ""
        if status in (401, 403):
            remedy = "; give a key with --api-key-file or in STARLOOM_API_KEY"
        elif status == 404 and "chat" in words and "chat" not in path:
            remedy = "; ask with --chat"
        return RunError(f"{self.url}{path}: HTTP {status}: {words}{remedy}")

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


class _RefusedError(Exception):
    """A request that the server does not take as it is."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words

    def error(self, where: str) -> RunError:
        """The error for the user."""
        return RunError(f"{where}: HTTP {self.status}: {self.words}")


def _words(text: str) -> str:
    """What a server says, in one line: the message of an error as OpenAI has it. An HTML page is no words."""
    if text.lstrip()[:1] == "<":
        return "an HTML page"
    try:
        said = json.loads(text)
        said = said["error"] if isinstance(said.get("error"), (dict, str)) else said
        return one_line(said if isinstance(said, str) else said["message"])
    except (ValueError, KeyError, AttributeError):
        return one_line(text)


def _retry_after(headers: Any) -> float:
    value = headers.get("retry-after", "")
    return float(value) if value.isdigit() else 0.0
