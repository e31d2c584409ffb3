"""The benchmarks beyond HumanEval's family: right answers pass, wrong ones fail, each told by what its data say."""

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from serve_apps.evaluate import command
from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.proof import check
from serve_apps.sandbox.jobs import edit_similarity, run_jobs
from serve_apps.sandbox.sandbox import Limits
from serve_apps.sandbox.toolchains import language, toolchain
from starloom.errors import UserError
from tests.serve_apps.evaluation.stand_in import stand_in

pytestmark = pytest.mark.slow


def packed(cases: list[dict[str, str]]) -> str:
    """Private tests as LiveCodeBench publishes them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


STDIN = {
    "question_id": "abc1",
    "question_content": "Add two numbers.",
    "contest_date": "2024-09-01T00:00:00",
    "starter_code": "",
    "metadata": "{}",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": packed([{"input": "5 7\n", "output": "12 \n", "testtype": "stdin"}]),
}
FUNCTIONAL = STDIN | {
    "question_id": "lc2",
    "contest_date": "2025-01-15T00:00:00",
    "starter_code": "class Solution:\n    def add(self, a: int, b: List[int]) -> List[int]:\n",
    "metadata": json.dumps({"func_name": "add"}),
    "public_test_cases": json.dumps([{"input": "1\n[2, 3]", "output": "[3, 4]", "testtype": "functional"}]),
    "private_test_cases": packed([{"input": "0\n[]", "output": "[]", "testtype": "functional"}]),
}
BIG = {
    "task_id": "BigCodeBench/0",
    "complete_prompt": 'import json\ndef task_func(x):\n    """Twice x as JSON."""\n',
    "canonical_solution": "    return json.dumps(2 * x)\n",
    "entry_point": "task_func",
    "test": "import unittest\nfrom unittest.mock import patch\nclass TestCases(unittest.TestCase):\n"
    "    def test_twice(self):\n        self.assertEqual(task_func(2), '4')\n"
    "    @patch('json.dumps', return_value='patched')\n    def test_patched(self, made):\n"
    "        self.assertEqual(task_func(2), 'patched')\n",
}
CRUX = {
    "id": "sample_0",
    "code": "def f(a, b):\n    return [x + b for x in a]",
    "input": "[1, 2], 3",
    "output": "[4, 5]",
}
REPO = {
    "context": [{"path": "a.py", "identifier": "A", "snippet": "class A:\n    x = 1"}],
    "import_statement": "from a import A",
    "cropped_code": "def f():\n    a = A()",
    "next_line": "    return a.x",
    "level": "2k",
}
CROSS = {
    "prompt": "import a\n\ndef f():\n    return a.",
    "groundtruth": "start(1)",
    "metadata": {"task_id": "project_cc_python/62"},
    "crossfile_context": {"text": "# a.py\n# def start(n): pass\n"},
}
RUST = {
    "task_id": "Rust/0",
    "prompt": "/* Twice. */\nfn twice(x:i32) -> i32{\n",
    "declaration": "fn twice(x:i32) -> i32{\n",
    "docstring": "Twice.",
    "canonical_solution": "    return 2 * x;\n}\n",
    "buggy_solution": "    return 3 * x;\n}\n",
    "entry_point": "twice",
    "test": "\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_twice() {\n"
    "        assert_eq!(twice(3), 6);\n        assert!(twice(1) == 2);\n    }\n}\n",
}
GO = RUST | {
    "task_id": "Go/0",
    "prompt": "// Twice.\nfunc Twice(x int) []int {\n",
    "declaration": "func Twice(x int) []int {\n",
    "import": 'import (\n    "math"\n    "strings"\n)',
    "test_setup": 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)',
    "canonical_solution": "    return []int{x, int(math.Abs(float64(x)))}\n}\n",
    "buggy_solution": "    return []int{x}\n}\n",
    "test": "func TestTwice(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal([]int{3, 3}, Twice(3))\n}\n",
}
# benchmark, record, right answers, wrong answers
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    (
        "livecodebench",
        STDIN,
        ["a, b = map(int, input().split())\nprint(a + b)"],
        ["print(3)", "a, b = map(int, input().split())\nprint(a * b + 1)", "1 / 0"],
    ),
    (
        "livecodebench",
        FUNCTIONAL,
        ["class Solution:\n    def add(self, a, b: List[int]):\n        return tuple(x + a for x in b)"],
        ["class Solution:\n    def add(self, a, b): return b", "def add(a, b): return [3, 4]", ""],
    ),
    (
        "bigcodebench",
        BIG,
        ["    return json.dumps(x + x)\n"],
        ["    return '4'\n", "    return None\n", "    import os\n    os._exit(0)\n", "    raise SystemExit(0)\n"],
    ),
    ("cruxeval-o", CRUX, [" [4, 5]", "[2 + 2, 5]\nmore"], [" [4]", " f([1, 2], 3)", "", " __import__('os')._exit(0)"]),
    (
        "cruxeval-i",
        CRUX,
        ["[1, 2], 3) == [4, 5]", "[0, 1], b=4)", "(4, 5), 0) == [4, 5]"],
        ["[1], 3) == [4, 5]", "", "1) or [4, 5]", "[], 0) == [4, 5]"],
    ),
    ("repobench-python-cross-file-first", REPO, ["    return a.x"], ["    return a.y", ""]),
    ("crosscodeeval-python", CROSS, ["start(1)"], ["start(2)"]),
    (
        "humanevalsynthesize-rust",
        RUST,
        ["    x + x\n}\n"],
        ["    x\n}\n", "    std::process::exit(0)\n}\n", "    1\n}\nmacro_rules! assert_eq { ($($t:tt)*) => {} }\n"],
    ),
    (
        "humanevalsynthesize-go",
        GO,
        ["    return []int{x, x}\n}\n"],
        ["    return []int{x}\n}\n", "    os.Exit(0)\n    return nil\n}\n"],
    ),
]


def needed(name: str) -> str | None:
    """The tool that a benchmark's language needs and that is not here."""
    short = {"rust": "Rust", "go": "Go"}.get(name.rpartition("-")[2])
    return short if short and not toolchain(language(short)).present else None


@pytest.mark.parametrize(("name", "record", "right", "wrong"), CASES, ids=[f"{c[0]} {n}" for n, c in enumerate(CASES)])
def test_right_answers_pass_and_wrong_ones_fail(
    tmp_path: Path, name: str, record: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    if needed(name):
        pytest.skip(f"no {needed(name)} here")
    (tmp_path / "d.jsonl").write_text(json.dumps(record))
    chosen = benchmark(name)
    (task,) = chosen.tasks(str(tmp_path / "d.jsonl"))
    verdicts = run_jobs([chosen.job(task, text) for text in [*right, *wrong]], Limits())
    if any("testify" in verdict.stderr for verdict in verdicts):
        pytest.skip("no testify here")
    assert [v.passed for v in verdicts] == [True] * len(right) + [False] * len(wrong), verdicts
    assert {v.status for v in verdicts} <= {"passed", "failed", "compile_error"}


@pytest.mark.parametrize(
    "name", ["bigcodebench", "cruxeval-o", "cruxeval-i", "crosscodeeval-python", "humanevalfix-rust"]
)
def test_their_own_solutions_pass_and_mutants_fail(tmp_path: Path, name: str) -> None:
    if needed(name):
        pytest.skip(f"no {needed(name)} here")
    record = next((record for case, record, _, _ in CASES if case.split("-")[0] == name.split("-")[0]), RUST)
    (tmp_path / "d.jsonl").write_text(json.dumps(record))
    chosen = benchmark(name)
    found = check(chosen, chosen.tasks(str(tmp_path / "d.jsonl")), run_jobs, Limits())
    assert (found.passed, found.references, found.exceptions) == (1, 1, ())
    assert found.rejected == found.mutants >= 1


def test_a_window_holds_the_contests_of_its_time(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (STDIN, FUNCTIONAL)))
    data = str(tmp_path / "d.jsonl")
    assert len(benchmark("livecodebench").tasks(data)) == 2
    assert [t.id for t in benchmark("livecodebench-2024-08-to-2025-01").tasks(data)] == ["LiveCodeBench/abc1"]
    assert [t.id for t in benchmark("livecodebench-2025-01").tasks(data)] == ["LiveCodeBench/lc2"]
    with pytest.raises(UserError, match="no contest of that time; theirs: 2024-09-01 to 2025-01-15"):
        benchmark("livecodebench-2026-01").tasks(data)
    with pytest.raises(UserError, match="unknown"):
        benchmark("livecodebench-soon")


def test_data_of_a_benchmark_are_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.getcwd, ()

    evil = STDIN | {"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()}
    (tmp_path / "d.jsonl").write_text(json.dumps(evil))
    chosen = benchmark("livecodebench")
    (task,) = chosen.tasks(str(tmp_path / "d.jsonl"))
    with pytest.raises(UserError, match=r"a pickled posix\.getcwd, which is no text"):
        chosen.job(task, "")


def test_edit_similarity_and_scores_by_group_are_in_the_result(tmp_path: Path) -> None:
    records = [REPO, REPO | {"level": "4k"}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    name = "repobench-python-cross-file-first"
    answers = iter(["    return a.x\nmore", "    return a.y"])
    words = ["--benchmark", name, "--data", str(tmp_path / "d.jsonl"), "--output", str(tmp_path / "out")]
    with stand_in(lambda body: next(answers)) as model:
        assert command([model.url, *words, "--concurrency", "1"]) == 0
        assert (
            model.requests[0]["prompt"]
            == "# Path: a.py\n# class A:\n#     x = 1\n\nfrom a import A\ndef f():\n    a = A()\n"
        )
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert result["pass_at_k"]["1"] == 0.5
    assert result["edit_similarity"] == pytest.approx((1 + 0.9) / 2)
    assert result["pass_at_1_by_group"] == {"2k": 1.0, "4k": 0.0}


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [("", "", 1.0), ("a", "", 0.0), ("abc", "abc", 1.0), ("abcd", "bcde", 0.75), ("kitten", "sitting", 0.615385)],
)
def test_edit_similarity_is_that_of_the_papers(one: str, two: str, expected: float) -> None:
    assert edit_similarity(one, two) == pytest.approx(expected, abs=1e-6)
