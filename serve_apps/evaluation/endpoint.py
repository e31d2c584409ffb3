"""Completions from any OpenAI-compatible URL, with retries where they make sense."""

import time
from dataclasses import dataclass
from typing import Any

from starloom.errors import RunError, UserError, one_line

FIRST_PAUSE_SECONDS = 1.0
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Generation:
    """How to sample."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


class TooLong(Exception):  # noqa: N818 - a fact about a prompt, not a failure
    """The endpoint refuses the prompt; its words are the message."""


class Endpoint:
    """A model behind ``URL/v1/completions``. Safe to use from several threads."""

    def __init__(self, url: str, model: str | None = None, *, timeout: float = 300.0, attempts: int = 5) -> None:
        import httpx

        self.url = url.rstrip("/").removesuffix("/v1")
        self._attempts = attempts
        self._client = httpx.Client(timeout=timeout, limits=httpx.Limits(max_connections=64))
        self.model = model or self._only_model()

    def _only_model(self) -> str:
        listed = self._ask("GET", "/v1/models", None).get("data")
        if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict) or "id" not in listed[0]:
            raise RunError(f"{self.url}/v1/models lists no model; name one with --model")
        return str(listed[0]["id"])

    def complete(self, prompt: str, generation: Generation, stops: tuple[str, ...], suffix: str | None = None) -> str:
        """The text that follows the prompt (or fills the gap before `suffix`).

        Raises:
            TooLong: the endpoint refuses the request as it is.
            RunError: no usable answer after all attempts.
        """
        answer = self._answer(prompt, generation, stops, suffix)
        try:
            text = answer["choices"][0]["text"]
        except (KeyError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise RunError(f"{self.url}/v1/completions: the answer holds no choices[0].text")
        return text

    def completion_tokens(self, prompt: str, generation: Generation) -> int:
        """How many tokens the endpoint says it has made for a prompt; `RunError` when it does not say."""
        usage = self._answer(prompt, generation, (), None).get("usage")
        if not isinstance(usage, dict) or not isinstance(usage.get("completion_tokens"), int):
            raise RunError(f"{self.url}/v1/completions: the answer holds no usage.completion_tokens")
        return int(usage["completion_tokens"])

    def _answer(
        self, prompt: str, generation: Generation, stops: tuple[str, ...], suffix: str | None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": generation.max_tokens,
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "seed": generation.seed,
            "stop": list(stops),
        }
        if suffix is not None:
            body["suffix"] = suffix
        return self._ask("POST", "/v1/completions", body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        import httpx

        problem = ""
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(min(30.0, FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)))
            try:
                response = self._client.request(method, self.url + path, json=body)
            except (httpx.UnsupportedProtocol, httpx.InvalidURL):
                raise UserError(f"{self.url}: is no URL; give one such as http://127.0.0.1:8000") from None
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in RETRIED:
                problem = f"HTTP {response.status_code}"
                continue
            if response.status_code >= 400:
                message = one_line(response.text)
                if response.status_code in (400, 413, 422):
                    raise TooLong(message)
                raise RunError(f"{self.url}{path}: HTTP {response.status_code}: {message}")
            try:
                answer = response.json()
            except ValueError:
                problem = "the answer is not JSON (cut off?)"
                continue
            if isinstance(answer, dict):
                return answer
            problem = "the answer is no JSON object"
        raise RunError(f"{self.url}{path}: no usable answer in {self._attempts} attempts; the last: {problem}")

    def close(self) -> None:
        """Close its connections."""
        self._client.close()
