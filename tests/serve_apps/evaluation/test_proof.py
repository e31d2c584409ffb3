"""A benchmark proves itself: its solutions pass, wrong ones fail, what cannot be judged here counts for nobody."""

import json
from pathlib import Path
from typing import Any

import pytest

from serve_apps.evaluate import command
from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.missing import missing
from serve_apps.evaluation.proof import check, prove
from serve_apps.sandbox.jobs import JudgedPython, Program, run_jobs
from serve_apps.sandbox.sandbox import Limits, Tests
from starloom.errors import RunError, UserError
from tests.serve_apps.evaluation.stand_in import stand_in

pytestmark = pytest.mark.slow

# as MBPP's own records: a set-up that uses the solution's class, a function named as a builtin, a local with its name
MBPP = [
    {
        "task_id": 600,
        "text": "Value of a node.",
        "code": "class Node:\n    def __init__(self, v): self.v, self.next = v, None\ndef value(n): return n.v\n",
        "test_setup_code": "root = Node(1)\nroot.next = Node(2)",
        "test_list": ["assert value(root) == 1", "assert value(root.next) == 2"],
    },
    {
        "task_id": 601,
        "text": "Add.",
        "code": "def sum(a, b):\n    return a + b\n",
        "test_setup_code": "",
        "test_list": ["assert sum(1, 3) == 4"],
    },
    {
        "task_id": 602,
        "text": "Double.",
        "code": "def double(x):\n    return 2 * x\n",
        "test_setup_code": "def shown(double):\n    return double",
        "test_list": ["assert double(2) == 4", "assert [shown(double) for double in [1]] == [1]"],
    },
]
PLUS = {
    "task_id": "Own/0",
    "prompt": 'def half(x):\n    """Half of a number."""\n',
    "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "contract": "    assert x >= 0 # $_CONTRACT_$\n",
    "test": "\ndef check(candidate):\n    assert candidate(2) == 1\n",
    "base_input": [[2]],
    "plus_input": [[5], [3.5], [100]],
    "atol": 0,
}
SLOW = "def add(a, b):\n    x = 0\n    while x < 12_000_000: x += 1\n    return a + b\n"


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def checked(name: str, data: str) -> tuple[int, int, int, int, tuple[str, ...]]:
    chosen = benchmark(name)
    found = check(chosen, chosen.tasks(data), run_jobs, Limits())
    return found.passed, found.references, found.rejected, found.mutants, found.exceptions


def test_mbpp_as_it_is_written_passes_and_ends(tmp_path: Path) -> None:
    assert checked("mbpp", write(tmp_path / "d.jsonl", *MBPP)) == (3, 3, 9, 9, ())


def test_a_task_that_cannot_be_judged_ends_no_run_and_counts_for_nobody(tmp_path: Path, capsys: Any) -> None:
    broken = MBPP[1] | {"task_id": 603, "test_setup_code": "import not_installed_here"}
    data = write(tmp_path / "d.jsonl", *MBPP[:2], broken)
    with stand_in(lambda body: next(str(r["code"]) for r in MBPP if str(r["text"]) in body["prompt"])) as model:
        words = [model.url, "--benchmark", "mbpp", "--data", data, "--n", "2", "--output", str(tmp_path / "out")]
        assert command(words) == 0
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (result["tasks"], result["pass_at_k"]["1"], result["statuses"]) == (2, 1.0, {"invalid": 2, "passed": 4})
    reason = "not_installed_here is not installed; pip install not_installed_here"
    assert result["invalid"] == {"MBPP/603": reason}
    shown = capsys.readouterr().out
    assert f"invalid, not counted: 1 tasks such as MBPP/603: {reason}" in shown
    assert "of 2 tasks; 1 invalid tasks are not counted" in shown
    with stand_in(lambda body: "") as model, pytest.raises(RunError, match="no task could be judged"):
        command([model.url, "--benchmark", "mbpp", "--data", write(tmp_path / "e.jsonl", broken), "--n", "1"])


def test_inputs_of_the_plus_sets_are_tests(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", PLUS)
    assert checked("humanevalplus", data)[:4] == (1, 1, 3, 3)
    chosen = benchmark("humanevalplus")
    (task,) = chosen.tasks(data)
    right, base, near, off = run_jobs(
        [
            chosen.job(task, text)
            for text in (
                "    return x * 0.5\n",
                "    return 1 if x == 2 else 0\n",
                "    return x / 2 + 1e-9\n",
                "    return x / 2 + 1e-3\n",
            )
        ],
        Limits(),
    )
    assert [v.status for v in (right, base, near, off)] == ["passed", "failed", "passed", "failed"]
    contract = PLUS | {"plus_input": [[-1]]}
    assert checked("humanevalplus", write(tmp_path / "e.jsonl", contract))[0] == 0


@pytest.mark.parametrize(
    ("name", "record", "complaint"),
    [
        ("humaneval", PLUS, "it is benchmark humanevalplus"),
        ("humanevalplus", {k: v for k, v in PLUS.items() if k != "plus_input"}, "it is benchmark humaneval"),
        ("humanevalplus", {k: v for k, v in PLUS.items() if k != "canonical_solution"}, "lacks its canonical_solution"),
        ("mbppplus", {"task_id": "Mbpp/2", "plus_input": [[1]]}, "MbppPlus-OriginFmt"),
    ],
)
def test_data_of_another_benchmark_are_refused(
    tmp_path: Path, name: str, record: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        benchmark(name).tasks(write(tmp_path / "d.jsonl", record))


def test_mbppplus_has_all_tasks_and_mbpp_its_test_split(tmp_path: Path) -> None:
    records = [MBPP[1] | {"task_id": number} for number in (2, 11, 510, 511, 800)]
    data = write(tmp_path / "d.jsonl", *records)
    assert [task.id for task in benchmark("mbpp").tasks(data)] == ["MBPP/11", "MBPP/510"]
    assert len(benchmark("mbppplus").tasks(data)) == 5


def test_a_task_whose_solution_is_slow_has_the_time_that_it_takes(tmp_path: Path) -> None:
    record = MBPP[1] | {"code": SLOW, "test_list": ["assert add(1, 2) == 3"]}
    chosen = benchmark("mbpp")
    (task,) = chosen.tasks(write(tmp_path / "d.jsonl", record))
    proof = prove(chosen, [task], run_jobs)
    job = chosen.job(task, SLOW)
    strict = Limits(cpu_seconds=0.1)
    (alone, budgeted) = run_jobs([job, proof.job(task, job)], strict)
    assert (alone.status, budgeted.status) == ("timeout", "passed")


def test_a_solution_that_fails_makes_its_task_invalid_and_check_says_so(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "d.jsonl", MBPP[0], MBPP[1] | {"code": "def sum(a, b): return a - b"})
    assert command(["--check", "mbpp", "--data", data]) == 1
    shown = capsys.readouterr().out
    assert "1 of 2 references passed, 3 of 3 mutants rejected (2 tasks)" in shown
    assert "MBPP/601: its own solution: failed: AssertionError" in shown
    assert command(["--check", "mbpp", "--data", write(tmp_path / "e.jsonl", MBPP[0])]) == 0


def test_what_a_task_needs_is_told_before_any_model_is_asked(tmp_path: Path) -> None:
    record = {
        "name": "HumanEval_0_f",
        "language": "js",
        "prompt": "const md5 = require('js-md5-not-here');\nfunction f(x){\n",
        "tests": "const assert = require('node:assert');\nfunction test() {\n  assert.deepEqual(f(1),1);\n}\n\ntest();",
        "stop_tokens": ["\nfunction"],
    }
    data = write(tmp_path / "d.jsonl", record)
    with stand_in(lambda body: "  return x\n}\n") as model:
        with pytest.raises(RunError, match="js-md5-not-here is not installed; npm install --global js-md5-not-here"):
            command([model.url, "--benchmark", "multiple-js", "--data", data, "--n", "1"])


def test_a_language_without_its_tools_is_invalid() -> None:
    (verdict,) = run_jobs([Program("Swift", "print(1)")], Limits())
    assert verdict.status in ("invalid", "passed")
    if verdict.status == "invalid":
        assert "swiftc is not installed; https://swift.org/install" in verdict.detail


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("No module named 'sklearn.svm'", "sklearn.svm is not installed; pip install scikit-learn"),
        ("fatal error: boost/any.hpp: No such file or directory", "apt-get install libboost-dev"),
        ("fatal error: openssl/md5.h: No such file or directory", "apt-get install libssl-dev"),
        ("Error: Cannot find module 'js-md5'", "npm install --global js-md5"),
        (
            'no required module provides package github.com/stretchr/testify/assert: go.mod file not found',
            "apt-get install golang-github-stretchr-testify-dev",
        ),
        ("error[E0463]: can't find crate for `md5`", "the crate md5"),
        ("Can't locate Test/Deep.pm in @INC", "cpan Test::Deep"),
        ("lua5.4: program.lua:1: module 'luaunit' not found:", "luarocks install luaunit"),
        ("cannot load such file -- test/unit (LoadError)", "gem install test-unit"),
    ],
)  # fmt: skip
def test_remedies(words: str, told: str) -> None:
    found = missing(words)
    assert found is not None
    assert told in found


def test_words_without_a_missing_thing_have_no_remedy() -> None:
    assert missing("AssertionError: 1 != 2") is None


def test_numpy_is_there_for_tests_that_compare_with_it() -> None:
    compared = "assert np.allclose(f(3), [0.5, 1.0, 1.5])\nassert f(1).dtype == float"
    tests = Tests("import numpy as np", compared, ("f",))
    source = "import numpy as np\ndef f(n): return np.arange(1, n + 1) / 2"
    (verdict,) = run_jobs([JudgedPython(source, tests)], Limits())
    assert verdict.passed, verdict
