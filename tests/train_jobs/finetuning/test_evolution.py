"""Instructions evolve through a real HTTP endpoint that fails now and then; a broken run goes on where it was."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from starloom.errors import RunError, UserError
from starloom.step import run_step
from train_jobs.evolve import STEP, EvolveConfig

pytestmark = pytest.mark.slow

Reply = Callable[[str, int], str | int]  # (prompt, number of the request) to a text or a status


@contextmanager
def endpoint(reply: Reply) -> Iterator[tuple[str, list[str]]]:
    """A server of /v1/chat/completions; yields its URL and the prompts that it was asked."""
    asked: list[str] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            with lock:
                asked.append(prompt)
                number = len(asked)
            said = reply(prompt, number)
            status, value = (said, {}) if isinstance(said, int) else (200, {"choices": [choice(said)]})
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


def choice(text: str) -> dict[str, object]:
    return {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}


def model(prompt: str, number: int) -> str:
    """Makes every task longer by a word that depends on it, and answers with code."""
    if prompt.startswith("Rewrite"):
        task = prompt.split("Task:\n")[1]
        return f"{task} It must also handle case {len(task)}."
    return f"```python\nprint({len(prompt)})\n```"


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    lines = [{"instruction": f"Write a function that returns the number {word}."} for word in ("one", "two", "one")]
    path = tmp_path / "seeds.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def config(seeds: Path, url: str, **changes: object) -> EvolveConfig:
    return EvolveConfig(instructions=[str(seeds)], url=url, model="any", rounds=2, at_once=2, **changes)


def test_instructions_get_harder_round_by_round_and_are_answered(seeds: Path, tmp_path: Path) -> None:
    with endpoint(model) as (url, _):
        made = run_step(STEP, config(seeds, url), root=str(tmp_path / "root"), name="evolved")
    lines = [json.loads(line) for line in made.read_text("conversations.jsonl").splitlines()]
    assert [(line["origin"], line["round"]) for line in lines] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert lines[4]["messages"][0]["content"].count("It must also handle") == 2
    assert lines[4]["messages"][1]["content"].startswith("```python")
    assert made.manifest.counts.dropped == {"duplicate": 1}


def test_broken_run_asks_only_for_what_it_lacks(seeds: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    broken = lambda prompt, number: 500 if number > 3 else model(prompt, number)  # noqa: E731 - two of a kind
    switch = {"reply": broken}
    with endpoint(lambda prompt, number: switch["reply"](prompt, number)) as (url, asked):
        settings = config(seeds, url, attempts=1)
        with pytest.raises(RunError, match="run again to go on from here"):
            run_step(STEP, settings, root=root, name="evolved")
        switch["reply"] = model
        before = len(asked)
        made = run_step(STEP, settings, root=root, name="evolved")
        assert len(asked) - before == 10 - 3  # four harder instructions and six answers, three of which were there
    assert made.manifest.counts.rows_out == 6


def test_server_that_fails_now_and_then_is_asked_again(seeds: Path, tmp_path: Path) -> None:
    with endpoint(lambda prompt, number: 503 if number % 4 == 1 else model(prompt, number)) as (url, asked):
        made = run_step(STEP, config(seeds, url), root=str(tmp_path / "root"), name="evolved")
    assert made.manifest.counts.rows_out == 6
    assert len(asked) > 10


def test_useless_answers_are_counted_and_no_answer_at_all_is_an_error(seeds: Path, tmp_path: Path) -> None:
    def unhelpful(prompt: str, number: int) -> str:
        return "Sorry, I cannot help." if prompt.startswith("Rewrite") else ""

    with endpoint(unhelpful) as (url, _), pytest.raises(RunError, match='"refused": 2, "no_answer": 2'):
        run_step(STEP, config(seeds, url), root=str(tmp_path / "root"), name="evolved")


def test_refused_key_is_told_in_one_line(seeds: Path, tmp_path: Path) -> None:
    with endpoint(lambda prompt, number: 401) as (url, _), pytest.raises(UserError, match=r"key in \$OPENAI_API_KEY"):
        run_step(STEP, config(seeds, url), root=str(tmp_path / "root"), name="evolved")
