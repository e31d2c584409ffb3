"""`starloom evaluate` against endpoints of every kind, saved completions, and runs that were cut off."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve_apps.evaluate import KEY_VARIABLE, UNFINISHED, command
from serve_apps.evaluation import endpoint as endpoint_module
from serve_apps.evaluation.answers import answered
from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.benchmarks.benchmark import Task
from starloom.errors import RunError, StarloomError, UserError
from tests.serve_apps.evaluation.stand_in import stand_in

pytestmark = pytest.mark.slow

TASKS = benchmark("humaneval").tasks(None)[:6]
SOLUTIONS = {task.prompt: str(task.record["canonical_solution"]) for task in TASKS}
WORDS = ["--n", "1", "--tasks", "6"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def solution(body: dict[str, Any]) -> str:
    """The right completion of a prompt, or of the prompt in a question; every third one is wrong."""
    if "messages" in body:
        found = [prompt for prompt in SOLUTIONS if prompt.rstrip() in body["messages"][-1]["content"]]
        prompt = found[0]
    else:
        prompt = body["prompt"]
    number = list(SOLUTIONS).index(prompt)
    return SOLUTIONS[prompt] if number % 3 else "    return 'wrong'\n"


def prompt_of(body: dict[str, Any]) -> str:
    return next(prompt for prompt in SOLUTIONS if prompt.rstrip() in body["messages"][-1]["content"])


def evaluated(url: str, folder: Path, *words: str) -> tuple[dict[str, Any], list[str]]:
    """The result, and how each sample ended."""
    assert command([url, *WORDS, "--output", str(folder), *words]) == 0
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return json.loads((folder / "results.json").read_text()), [row["status"] for row in rows]


EXPECTED = ["failed", "passed", "passed"] * 2
ANSWERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "the function in a fence": lambda body: f"Sure!\n\n```python\n{prompt_of(body)}{solution(body)}```\nThis works.",
    "the function after an example": lambda body: (
        f"Use it so:\n```\n>>> 1\n```\nHere it is:\n```py\n{prompt_of(body)}{solution(body)}\n```\n"
    ),
    "the body alone": lambda body: f"```\n{solution(body)}\n```",
    "the body without its indentation": lambda body: f"```python\n{solution(body).lstrip()}```",
    "no fence": lambda body: f"{prompt_of(body)}{solution(body)}",
    "prose and no fence": lambda body: f"Here is the function.\n\n{prompt_of(body)}{solution(body)}",
    "a fence that does not end": lambda body: f"```python\n{prompt_of(body)}{solution(body)}",
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_chat_answer_gets_the_verdict_of_the_same_completion(tmp_path: Path, kind: str) -> None:
    with stand_in(solution) as model:
        _, completed = evaluated(model.url, tmp_path / "completions")
    with stand_in(ANSWERS[kind]) as model:
        result, chatted = evaluated(model.url, tmp_path / "chat", "--chat", "--system", "You write code.")
    assert completed == chatted == EXPECTED
    assert set(model.paths) == {"/v1/chat/completions"}
    assert model.requests[0]["messages"][0] == {"role": "system", "content": "You write code."}
    assert result["settings"]["chat"] is True
    assert result["settings"]["system"] == "You write code."


@pytest.mark.parametrize("answer", ["echo", "fence"])
def test_a_completion_that_is_an_answer_is_taken_as_one(tmp_path: Path, answer: str) -> None:
    def whole(body: dict[str, Any]) -> str:
        text = body["prompt"] + solution(body)
        return text if answer == "echo" else f"```python\n{text}```\nThis solves it."

    with stand_in(whole) as model:
        assert evaluated(model.url, tmp_path)[1] == EXPECTED


JAVA = "class Problem {\n    public static long add(long a, long b) {\n"
OTHERS = [
    (
        "Java",
        JAVA,
        "    }\n    public static void main(String[] a) { }\n}\n",
        f"import java.util.*;\n{JAVA}        return a + b;\n    }}\n}}\n",
        "        return a + b;\n",
        "import java.util.*;\n",
    ),
    (
        "C++",
        "#include<x.h>\nlong add(long a, long b) {\n",
        "}\nint main() {\n}\n",
        "#include<x.h>\nlong one() { return 1; }\n\nlong add(long a, long b) {\n  return a + b;\n}\n\nint main() { }\n",
        "  return a + b;\n",
        "long one() { return 1; }\n",
    ),
    (
        "Rust",
        "fn add(a: isize, b: isize) -> isize {\n",
        "}\n\nfn main() {\n}\n",
        "fn add(a: isize, b: isize) -> isize {\n    if a > 0 {\n    }\n    a + b\n}\n\nfn main() { }\n",
        "    if a > 0 {\n    }\n    a + b\n",
        "",
    ),
    (
        "JavaScript",
        "// Add.\nfunction add(a, b){\n",
        "const assert = require('node:assert');\n",
        "function add(a, b) {\n  return a + b;\n}\n",
        "  return a + b;\n}\n",
        "",
    ),
]


@pytest.mark.parametrize(("language", "prompt", "tests", "code", "completion", "before"), OTHERS)
def test_answers_in_other_languages(
    language: str, prompt: str, tests: str, code: str, completion: str, before: str
) -> None:
    task = Task("t", prompt, (), record={"tests": tests}, language=language)
    found = answered(task, f"```\n{code}```")
    assert (found.completion, found.before) == (completion, before)


STOPS = "Invalid 'stop': array too long. Expected an array with maximum length 4"
ADAPTED = [
    ("stop", STOPS, lambda body: len(body.get("stop", ())) > 4),
    ("seed", "Unrecognized request argument supplied: seed", lambda body: "seed" in body),
]


@pytest.mark.parametrize(("name", "words", "refused"), ADAPTED)
def test_what_an_endpoint_does_not_take_is_left_out_and_told(
    tmp_path: Path, name: str, words: str, refused: Callable[[dict[str, Any]], bool]
) -> None:
    with stand_in(solution, refuse=lambda body, key: (400, words) if refused(body) else None) as model:
        result, statuses = evaluated(model.url, tmp_path)
    assert statuses == EXPECTED
    assert result["left_out"] == [name]


REFUSALS = [
    (400, "model not found", "model not found"),
    (422, "temperature: must be 0", "temperature: must be 0"),
    (401, "no key", "STARLOOM_API_KEY"),
    (404, "This is a chat model and not supported in the v1/completions endpoint.", "ask with --chat"),
    (400, "This model's maximum context length is 8 tokens", "refused every prompt"),
    (413, "", "refused every prompt"),
    (302, "<html>log in</html>", "an HTML page"),
]


@pytest.mark.parametrize(("status", "words", "complaint"), REFUSALS)
def test_an_endpoint_that_refuses_everything_gives_no_score(
    tmp_path: Path, status: int, words: str, complaint: str
) -> None:
    with stand_in(solution, refuse=lambda body, key: (status, words) if body else None) as model:
        with pytest.raises(RunError, match=re.escape(complaint)):
            command([model.url, *WORDS, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "results.json").exists()


def test_prompts_that_do_not_fit_are_refused_one_by_one(tmp_path: Path) -> None:
    longest = max(SOLUTIONS, key=len)

    def refuse(body: dict[str, Any], key: str) -> tuple[int, str] | None:
        return (400, "Input is too long: it exceeds the context window") if body.get("prompt") == longest else None

    with stand_in(solution, refuse=refuse) as model:
        result, statuses = evaluated(model.url, tmp_path)
    assert statuses.count("refused") == 1
    assert result["statuses"]["refused"] == 1


def test_key_is_sent_and_kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    refuse = lambda body, key: None if key == "Bearer secret-key-1" else (401, "no key")  # noqa: E731
    (tmp_path / "key").write_text("secret-key-1\n")
    with stand_in(solution, refuse=refuse) as model:
        evaluated(model.url, tmp_path / "file", "--api-key-file", str(tmp_path / "key"))
        monkeypatch.setenv(KEY_VARIABLE, "secret-key-1")
        evaluated(model.url, tmp_path / "variable")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "key")
    assert b"secret-key-1" not in written
    assert "secret-key-1" not in "".join(capsys.readouterr())
    (tmp_path / "empty").write_text("")
    for name, complaint in (("empty", "is empty"), ("nowhere", "No such file")):
        with pytest.raises(UserError, match=complaint):
            command(["http://127.0.0.1:9", "--api-key-file", str(tmp_path / name)])


def test_models_are_named_and_a_lie_is_told(tmp_path: Path) -> None:
    with stand_in(solution, models=("embedder", "coder"), answers_as="other-7b") as model:
        with pytest.raises(UserError, match=r"embedder, coder; name one with --model"):
            command([model.url, *WORDS])
        result, _ = evaluated(model.url, tmp_path, "--model", "coder")
    assert (result["model"], result["answered_as"]) == ("coder", ["other-7b"])
    with stand_in(solution, models=()) as model, pytest.raises(RunError, match="lists no model"):
        command([model.url, *WORDS])


def test_result_names_all_that_it_rests_on(tmp_path: Path) -> None:
    with stand_in(solution) as model:
        result, _ = evaluated(model.url, tmp_path, "--seed", "7", "--wall-seconds", "30")
    assert result["endpoint"] == model.url
    assert (result["benchmark"], result["model"], result["tasks"], result["n"]) == ("humaneval", "stand-in", 6, 1)
    assert result["settings"] == {
        "temperature": 0.2, "top_p": 0.95, "max_tokens": 512, "seed": 7, "chat": False, "cpu_seconds": 5.0,
        "wall_seconds": 30.0, "isolated": True,
    }  # fmt: skip
    assert result["data"]["tasks_of"] == [6, 164]
    assert len(result["data"]["sha256"]) == 64
    assert set(result["versions"]) == {"starloom", "python"}
    assert (result["invalid"], result["remarks"]) == ({}, {})


def test_an_evaluation_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    """The endpoint dies after four answers; the next run asks for the two that are missing alone."""
    counted: list[str] = []

    def dying(body: dict[str, Any]) -> str:
        counted.append(body["prompt"])
        return solution(body)

    words = [*WORDS, "--output", str(tmp_path), "--concurrency", "1"]
    mended: list[bool] = []
    gone = lambda body, key: (400, "gone") if body and len(counted) >= 4 and not mended else None  # noqa: E731
    with stand_in(dying, refuse=gone) as model:
        with pytest.raises(RunError, match="gone"):
            command([model.url, *words])
        assert len((tmp_path / UNFINISHED / "samples.jsonl").read_text().splitlines()) == 4
        mended.append(True)
        for other in ([model.url, *words, "--seed", "1"], [f"{model.url}/v1", *words]):
            with pytest.raises(RunError, match="other settings"):
                command(other)
        model.requests.clear()
        assert command([model.url, *words]) == 0
        assert len(model.requests) == 2
    assert not (tmp_path / UNFINISHED).exists()
    with stand_in(solution) as model:
        evaluated(model.url, tmp_path / "at once")
    assert (tmp_path / "samples.jsonl").read_bytes() == (tmp_path / "at once" / "samples.jsonl").read_bytes()


def saved(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return ["--generations", str(path), "--tasks", "6"]


@pytest.mark.parametrize("name", ["g.jsonl", "g.jsonl.gz", "g.parquet"])
@pytest.mark.parametrize("key", ["completion", "solution", "answer"])
def test_saved_completions_get_the_verdicts_of_drawn_ones(tmp_path: Path, name: str, key: str) -> None:
    rows = []
    for task in reversed(TASKS):
        body = {"prompt": task.prompt}
        text = solution(body) + "\nprint('the stops cut this')\n1/0"
        if key == "solution":
            text = task.prompt + solution(body)
        elif key == "answer":
            text = f"So:\n```python\n{task.prompt}{solution(body)}```"
        rows += [{"task_id": task.id, key: text}] * 2
    assert command([*saved(tmp_path / name, rows), "--output", str(tmp_path / "out"), "--model", "elsewhere"]) == 0
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (result["model"], result["n"], result["pass_at_k"]["1"]) == ("elsewhere", 2, pytest.approx(4 / 6))
    assert result["generations"]["file"] == name
    assert result["settings"] == {"cpu_seconds": 5.0, "wall_seconds": 60.0, "isolated": True}


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"task_id": "HumanEval/0"}], "needs task_id and a text"),
        ([{"task_id": "HumanEval/0", "completion": 1}], "needs task_id and a text"),
        ([{"task_id": "HumanEval/0", "completion": "", "answer": ""}], "needs task_id and a text"),
        ([{"task_id": "Other/0", "completion": ""}], "is none of the benchmark's"),
        ([{"task_id": "HumanEval/0", "completion": ""}], "5 tasks have no row, such as HumanEval/1"),
        ([{"task_id": t.id, "completion": ""} for t in [*TASKS, TASKS[0]]], "different numbers"),
    ],
)
def test_saved_completions_of_another_form_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        command(saved(tmp_path / "g.jsonl", rows))


def test_two_evaluations_are_compared_task_by_task(tmp_path: Path, capsys: Any) -> None:
    with stand_in(solution) as model:
        evaluated(model.url, tmp_path / "one")
    with stand_in(lambda body: SOLUTIONS[body["prompt"]]) as model:
        evaluated(model.url, tmp_path / "two")
    capsys.readouterr()
    assert command(["--compare", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("6 tasks in both: 66.7 % and 100.0 %; the second is better on 2, worse on 0")
    assert lines[1:] == ["  better: HumanEval/0 (0 % → 100 %)", "  better: HumanEval/3 (0 % → 100 %)"]
    with pytest.raises(UserError, match=r"holds no samples\.jsonl"):
        command(["--compare", str(tmp_path), str(tmp_path / "two")])


def test_model_and_generations_exclude_each_other(tmp_path: Path) -> None:
    for words in ([], ["http://127.0.0.1:9", "--generations", "g.jsonl"]):
        with pytest.raises(UserError, match="name a model folder"):
            command(words)
    (tmp_path / "g.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="is no Parquet file"):
        command(["--generations", str(tmp_path / "g.parquet")])


def test_benchmarks_are_listed_with_what_they_need(capsys: Any) -> None:
    assert command(["--benchmarks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 60
    (line,) = [line for line in lines if line.startswith("multiple-rs ")]
    assert all(word in line for word in ("161", "Rust", "rustc", "nuprl/MultiPL-E"))


def test_a_chat_model_fills_no_gap(tmp_path: Path) -> None:
    record = {"task_id": "F/0", "entry_point": "f", "prompt": "def f():\n", "suffix": "    return x\n",
              "canonical_solution": "    x = 1\n", "test": "def check(f):\n    assert f() == 1\n"}  # fmt: skip
    (tmp_path / "d.jsonl").write_text(json.dumps(record))
    words = ["--benchmark", "infilling-single-line", "--data", str(tmp_path / "d.jsonl")]
    with stand_in(lambda body: "    x = 1\n") as model:
        with pytest.raises(StarloomError, match="fills no gap"):
            command([model.url, "--chat", *words])
        assert command([model.url, *words]) == 0
