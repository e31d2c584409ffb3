"""Each benchmark: a right completion passes, a wrong one fails, a broken file is told by its line."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_apps.evaluation.benchmarks import MODULES, benchmark, benchmarks
from serve_apps.evaluation.benchmarks.benchmark import EXPLANATION, Task, cut
from serve_apps.evaluation.benchmarks.mbpp import names_under_test
from serve_apps.sandbox.jobs import run_jobs
from serve_apps.sandbox.sandbox import Limits, Sandbox
from serve_apps.sandbox.toolchains import language, present_folders, toolchain
from starloom.errors import UserError

LIMITS = Limits(cpu_seconds=5.0, wall_seconds=10.0)
DATA = Path(__file__).with_name("data")  # its README tells where they come from
PUBLISHED = benchmark("infilling-single-line")

MBPP = {
    "task_id": 11,
    "text": "Write a function that adds.",
    "test_setup_code": "import math",
    "test_list": ["assert add(1, 2) == 3", "assert math.isclose(add(0.1, 0.2), 0.3)"],
}
SHELL = {
    "name": "HumanEval_0_echo",
    "language": "sh",
    "prompt": "#!/bin/bash\n# Say it again.\necho_it() {\n",
    "tests": '}\n\ncandidate() {\n    echo_it "$@"\n}\n\nset -e\n[[ $(candidate "a") = "a" ]]\n',
    "stop_tokens": ["\n}"],
}
INFILLING = {
    "task_id": "SingleLineInfilling/HumanEval/0/L0",
    "entry_point": "double",
    "prompt": "def double(x):\n",
    "suffix": "    return y\n",
    "canonical_solution": "    y = 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
}
PACK = {
    "task_id": "Python/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "declaration": "def double(x):\n",
    "docstring": "Twice x.",
    "canonical_solution": "    return 2 * x\n",
    "buggy_solution": "    return 3 * x\n",
    "test": "def check(double):\n    assert double(3) == 6\n\ncheck(double)",
    "entry_point": "double",
}
PACK_JS = PACK | {
    "task_id": "JavaScript/0",
    "prompt": "// Twice x.\nconst double = (x) => {\n",
    "declaration": "const double = (x) => {\n",
    "canonical_solution": "  return 2 * x;\n}\n",
    "test": "const t = () => { console.assert(double(3) === 6) }\nt()\n",
}
PACK_JAVA = PACK | {
    "task_id": "Java/0",
    "prompt": "import java.util.*;\n\nclass Solution {\n    // Twice x.\n    public int twice(int x) {\n",
    "declaration": "class Solution {\n    public int twice(int x) {\n",
    "canonical_solution": "        return 2 * x;\n    }\n}\n",
    "test": "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n"
    "        if (s.twice(3) != 6) {\n            throw new AssertionError();\n        }\n    }\n}\n",
}
DS = {
    "prompt": "import numpy as np\nA:\n<code>\n",
    "metadata": {"library": "Numpy"},
    "code_context": "import numpy as np\ndef test_execution(solution):\n    place = {'np': np}\n"
    "    exec(solution, place)\n    assert place['result'].tolist() == [1, 2]\n",
}
# benchmark, record, right completion, wrong completion
CASES = [
    ("mbpp", MBPP, "def add(a, b):\n    return a + b\n", "def add(a, b):\n    return a - b\n"),
    ("multiple-sh", SHELL, '  echo "$1"\n', "  echo no\n"),
    ("infilling-single-line", INFILLING, "    y = x + x\n", "    y = x\n"),
    ("santacoder-fim", INFILLING, "y = 2 * x", "y = x * 2"),
    ("humanevalsynthesize-python", PACK, "    return x + x\n", "    return x\n"),
    ("humanevalfix-python", PACK, "    return x + x\n", "    return 3 * x\n"),
    ("humanevalexplain-python", PACK, "    return x + x\n", "    pass\n"),
    ("humanevalsynthesize-js", PACK_JS, "  return x + x\n}\n", "  return x\n}\n"),
    ("humanevalsynthesize-java", PACK_JAVA, "        return x + x;\n    }\n}\n", "        return x;\n    }\n}\n"),
    ("ds1000", DS, "result = np.arange(1, 3)", "result = np.arange(3)"),
]


@pytest.mark.parametrize(("name", "record", "right", "wrong"), CASES, ids=[case[0] for case in CASES])
def test_benchmark_tells_right_from_wrong(
    tmp_path: Path, name: str, record: dict[str, Any], right: str, wrong: str
) -> None:
    short = name.rpartition("-")[2]
    if short in ("js", "java") and not toolchain(language(short)).present:
        pytest.skip(f"no toolchain of {short}")
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(record) + "\n")
    chosen = benchmark(name)
    (task,) = chosen.tasks(str(path))
    verdicts = run_jobs([chosen.job(task, completion) for completion in (right, wrong)], Limits(), workers=1)
    assert [verdict.status for verdict in verdicts] == ["passed", "failed"], verdicts


def test_fix_prompt_shows_the_bug_and_explain_prompt_the_words(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps(PACK))
    fix, explain = (
        benchmark(f"humaneval{k}-python").tasks(str(tmp_path / "data.jsonl"))[0] for k in ("fix", "explain")
    )
    assert "return 3 * x" in fix.prompt
    assert fix.prompt.endswith("Fix bugs in double.\n\ndef double(x):\n")
    assert explain.first.startswith("def double(x):\n    return 2 * x\n")
    assert "at most 8 characters" in explain.first
    assert EXPLANATION in explain.prompt
    assert "Twice x." not in explain.prompt
    assert explain.prompt.endswith("def double(x):\n")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"task_id": 1', ":1: is not JSON"),
        ('{"task_id": 1}', ":1: lacks the field 'test_list'"),
        ('{"task_id": 1, "test_list": []}', ":1: has no tests"),
        ("\n\n", "holds no task"),
    ],
)
def test_broken_file_is_told_by_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(UserError, match=complaint):
        benchmark("mbpp").tasks(str(tmp_path / "data.jsonl"))


def test_every_benchmark_has_its_own_name_and_unknown_ones_are_refused() -> None:
    names = [
        known.name
        for module in MODULES
        for known in importlib.import_module(f"serve_apps.evaluation.benchmarks.{module}").BENCHMARKS
    ]
    assert len(names) == len(set(names)) == len(benchmarks()) >= 60
    with pytest.raises(UserError, match="unknown"):
        benchmark("humanevil")


def test_own_benchmark_is_found_by_module_and_attribute() -> None:
    assert benchmark("serve_apps.evaluation.benchmarks.mbpp:BENCHMARKS")[0].name == "mbpp"  # type: ignore[index]
    with pytest.raises(UserError, match="nowhere"):
        benchmark("nowhere:BENCHMARK")


NAMES = [
    ("", "import re\nfor case in cases():\n    assert set(f(Pair(case))) == {re.sub('a', 'b', x) for x in g}",
     ("Pair", "cases", "f", "g")),
    ("def sum(a, b): pass", "assert sum(1, 2) == 3", ("sum",)),
    ("def f(): pass", "def test():\n    f = 1\n    return f\nassert f() == 1", ("f",)),
    ("def f(): pass\nclass Node: pass\nLIMIT = 3\nimport re", "r = Node(LIMIT)\nassert f(r)", ("LIMIT", "Node", "f")),
    ("def f(): pass", "f = lambda: 1\nassert f() == 1", ()),
    ("def f(): pass", "for n in range(3):\n    assert [f(x) for x in range(n)] == []", ("f",)),
    ("def f(", "assert f() == 1", ()),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "tests", "names"), NAMES)
def test_names_of_the_tested_code_are_read_from_its_reference(
    reference: str, tests: str, names: tuple[str, ...]
) -> None:
    assert names_under_test(reference, tests) == names


def test_completion_is_cut_at_its_first_stop() -> None:
    assert cut("a\nprint(1)\ndef f", ("\ndef", "\nprint")) == "a"
    assert cut("a", ("\ndef",)) == "a"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(folders=present_folders()) as opened:
        yield opened


@pytest.mark.parametrize("task", PUBLISHED.tasks(str(DATA / "infilling.jsonl")), ids=lambda task: task.id)
def test_canonical_middle_of_published_infilling_passes(task: Task, sandbox: Sandbox) -> None:
    assert PUBLISHED.job(task, task.record["canonical_solution"]).run(sandbox, LIMITS).status == "passed"
