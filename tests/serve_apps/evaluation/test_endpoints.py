"""Evaluations of stand-in endpoints, end to end: canonical solutions, broken ones, endpoints that fail."""

import json
from pathlib import Path
from typing import Any

import pytest

from serve_apps.evaluate import command
from serve_apps.evaluation import endpoint as endpoint_module
from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.endpoint import Endpoint, Generation, TooLong
from serve_apps.evaluation.sampling import Asked, places, sample_seed, samples
from serve_apps.evaluation.scores import pass_at_k, reported_k, score
from starloom.errors import RunError, UserError
from tests.serve_apps.evaluation.stand_in import stand_in

pytestmark = pytest.mark.slow

TASKS = benchmark("humaneval").tasks(None)
CANONICAL = {task.prompt: str(task.record["canonical_solution"]) for task in TASKS}
GREEDY = Generation(0.0, 1.0, 64, 0)


def canonical(body: dict[str, Any]) -> str:
    """HumanEval's own solution, and then more than was asked for."""
    return CANONICAL[body["prompt"]] + "\nprint('the stops cut this')\n1/0"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_PAUSE_SECONDS", 0.001)


def test_canonical_solutions_score_one_and_broken_ones_zero(tmp_path: Path) -> None:
    results = []
    for name, answer in (("right", canonical), ("wrong", lambda body: "    return None\n")):
        with stand_in(answer) as model:
            assert command([model.url, "--output", str(tmp_path / name), "--n", "1"]) == 0
        results.append(json.loads((tmp_path / name / "results.json").read_text()))
    assert [result["pass_at_k"] for result in results] == [{"1": 1.0}, {"1": 0.0}]
    assert results[0]["interval_95"]["1"] == [0.977113, 1.0]
    assert results[1]["interval_95"]["1"] == [0.0, 0.022887]
    assert results[0]["tasks"] == 164
    assert results[0]["settings"]["temperature"] == 0.2
    rows = [json.loads(line) for line in (tmp_path / "wrong" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 164
    assert all(row["status"] == "failed" and row["detail"] for row in rows)


def test_two_runs_with_one_seed_write_the_same_bytes(tmp_path: Path) -> None:
    with stand_in(lambda body: "    return 1\n" if body["seed"] % 2 else CANONICAL[body["prompt"]]) as model:
        for name in ("one", "two"):
            command([model.url, "--tasks", "6", "--n", "3", "--seed", "5", "--output", str(tmp_path / name)])
    for file in ("results.json", "samples.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert 0 < json.loads((tmp_path / "one" / "results.json").read_text())["pass_at_k"]["1"] < 1


@pytest.mark.usefixtures("no_waiting")
def test_endpoint_that_fails_for_a_while_is_asked_again() -> None:
    with stand_in(lambda body: "text", [500, 503, b'{"choices": [{"te', 429]) as model:
        endpoint = Endpoint(model.url)
        assert endpoint.complete("p", GREEDY, ()) == "text"
        assert len(model.requests) == 5
        endpoint.close()


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("fault", [500, b"not json", b'{"choices": []}', b'{"choices": [{"text": null}]}'])
def test_endpoint_that_goes_on_failing_is_no_wrong_score(fault: int | bytes) -> None:
    with stand_in(lambda body: "text", [fault] * 9) as model:
        endpoint = Endpoint(model.url)
        with pytest.raises(RunError, match=r"/v1/completions"):
            list(samples(Asked(endpoint), places(TASKS[:1], 1), GREEDY))
        endpoint.close()


@pytest.mark.usefixtures("no_waiting")
def test_endpoint_that_is_not_there_and_one_that_is_no_url() -> None:
    with pytest.raises(RunError, match="no usable answer"):
        Endpoint("http://127.0.0.1:9", "m").complete("p", GREEDY, ())
    with pytest.raises(UserError, match="is no URL"):
        Endpoint("ftp:/x", "m").complete("p", GREEDY, ())


def test_refused_prompts_count_as_failed_and_are_named() -> None:
    with stand_in(lambda body: "text", [(400, "maximum context length is 64 tokens")]) as model:
        endpoint = Endpoint(model.url)
        with pytest.raises(TooLong):
            endpoint.complete("p", GREEDY, ())
        (sample,) = samples(Asked(endpoint), places(TASKS[:1], 1), GREEDY, room=lambda prompt: 3)
        assert sample.refused
        endpoint.close()


def test_slow_endpoint_ends_in_an_error(no_waiting: None) -> None:
    import time

    with stand_in(lambda body: time.sleep(0.5) or "late") as model:
        endpoint = Endpoint(model.url, timeout=0.05, attempts=2)
        with pytest.raises(RunError, match="no usable answer in 2 attempts"):
            endpoint.complete("p", GREEDY, ())
        endpoint.close()


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"), [(5, 0, 1, 0.0), (5, 5, 1, 1.0), (4, 1, 2, 0.5), (10, 3, 1, 0.3), (3, 1, 3, 1.0)]
)
def test_pass_at_k_is_the_unbiased_estimator(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(expected)


def test_scores_have_intervals_that_hold_them_and_are_the_same_twice() -> None:
    correct = [0, 1, 2, 3, 4] * 8
    one, two = score(correct, 4, 1), score(correct, 4, 1)
    assert one == two
    assert one.low < one.value == 0.5 < one.high
    assert reported_k(50) == [1, 10]
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(3, 4, 1)


def test_seeds_differ_by_task_and_sample_and_not_by_order() -> None:
    seeds = {sample_seed(0, task, number) for task in ("a", "b") for number in range(50)}
    assert len(seeds) == 100
    assert sample_seed(0, "a", 7) == sample_seed(0, "a", 7) != sample_seed(1, "a", 7)


def test_any_benchmark_runs_from_its_file(tmp_path: Path) -> None:
    record = {"task_id": 11, "text": "Add.", "test_list": ["assert add(1, 2) == 3"]}
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(record))
    with stand_in(lambda body: "def add(a, b):\n    return a + b\n") as model:
        words = ["--benchmark", "mbpp", "--data", str(tmp_path / "mbpp.jsonl"), "--output", str(tmp_path / "out")]
        assert command([model.url, *words]) == 0
    summary = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (summary["pass_at_k"], summary["n"], summary["settings"]["max_tokens"]) == ({"1": 1.0, "10": 1.0}, 15, 512)
