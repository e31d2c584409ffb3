"""Verdicts of ordinary programs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import serve_apps.sandbox
from serve_apps.sandbox.sandbox import Command, Limits, Sandbox, Tests

ADD = Tests("", "assert add(1, 2) == 3", ("add",))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Limits(cpu_seconds=2.0)) as opened:
        yield opened


def test_program_passes_with_its_output_and_exit_code(sandbox: Sandbox) -> None:
    verdict = sandbox.run_python("import sys\nprint(input())\nprint('e', file=sys.stderr)", stdin="line\n")
    assert (verdict.status, verdict.exit_code, verdict.stdout, verdict.stderr) == ("passed", 0, "line\n", "e\n")


@pytest.mark.parametrize(
    ("source", "code"), [("raise SystemExit(3)", 3), ("1/0", 1), ("import os; os.abort()", 134), ("def", 1)]
)
def test_program_fails_with_its_exit_code(sandbox: Sandbox, source: str, code: int) -> None:
    verdict = sandbox.run_python(source)
    assert (verdict.status, verdict.exit_code) == ("failed", code)


def test_limits_are_told_apart(sandbox: Sandbox) -> None:
    assert sandbox.run_python("while True: pass", limits=Limits(cpu_seconds=0.5)).status == "timeout"
    assert sandbox.run_python("import time; time.sleep(60)", limits=Limits(wall_seconds=0.5)).status == "timeout"
    assert sandbox.run_python("x = 'a' * (3 << 30)").status in ("memory", "failed")
    assert sandbox.run_python("print('still there')").stdout == "still there\n"


def test_a_build_that_waits_for_cores_has_a_clock_of_its_own(sandbox: Sandbox) -> None:
    waiting = Command({"program": "exit 0"}, (("sleep", "1"),), ("sh", "program"))
    assert sandbox.run_command(waiting, limits=Limits(wall_seconds=0.5, build_cpu_seconds=5.0)).passed
    assert sandbox.run_command(waiting, limits=Limits(wall_seconds=0.5, build_cpu_seconds=0.1)).limit == "wall"


@pytest.mark.parametrize(
    "value",
    [
        "None",
        "True",
        "-(10 ** 5000)",
        "float('inf')",
        "0.1 + 0.2",
        "3 - 4j",
        "'é\\ud800'",
        "b'\\x00'",
        "[1, (2, {3}), {'a': {None: frozenset('z')}}]",
    ],
)
def test_values_cross_to_the_judge_unchanged(sandbox: Sandbox, value: str) -> None:
    tests = Tests("", f"expected = {value}\nfound = same(expected)\nassert found == expected, (found, expected)\n"
                  "assert type(found) is type(expected)", ("same",))  # fmt: skip
    verdict = sandbox.judge_python(f"def same(x):\n    assert x == {value}\n    return x", tests)
    assert verdict.passed, verdict


def test_own_objects_of_a_program_can_be_passed_back(sandbox: Sandbox) -> None:
    source = "class Pair:\n    def __init__(s, a, b): s.a, s.b = a, b\ndef total(ps): return sum(p.a + p.b for p in ps)"
    tests = Tests("", "assert total([Pair(1, 2), Pair(3, 4)]) == 10", ("Pair", "total"))
    assert sandbox.judge_python(source, tests).passed


def test_exceptions_of_a_program_reach_the_tests(sandbox: Sandbox) -> None:
    tests = Tests(
        "", "try:\n    add(1, 2)\nexcept ValueError as e:\n    assert 'no' in str(e)\nelse:\n    assert 0", ("add",)
    )
    assert sandbox.judge_python("def add(a, b): raise ValueError('no')", tests).passed
    assert sandbox.judge_python("def add(a, b): raise KeyError('no')", tests).status == "failed"


def test_a_broken_task_is_no_failed_program(sandbox: Sandbox) -> None:
    verdict = sandbox.judge_python("def add(a, b): return a + b", Tests("import nothing_here", "", ("add",)))
    assert verdict.status == "invalid"
    assert "own code fails" in verdict.detail


@pytest.mark.parametrize(
    "source",
    [
        "def add(a, b): return a - b",
        "def other(): pass",
        "import os\nos._exit(0)",
        "import os\ndef add(a, b): os._exit(0)",
        "def add(a, b):\n    raise SystemExit(0)",
        "class Yes:\n    def __eq__(self, other): return True\ndef add(a, b): return Yes()",
        "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef add(a, b): return Yes(5)",
        "def add(a, b):\n    import sys\n    sys._getframe(1).f_globals['passed'] = True\n    return 4",
        'import os\nos.write(3, b\'\\x0d\\x00\\x00\\x00["passed", ""]\')\ndef add(a, b): return 0',
        'import os\nfor fd in range(3, 64):\n    try: os.write(fd, b\'R{"status": "passed", "detail": ""}\')\n'
        "    except OSError: pass\nos._exit(0)",
        'def add(a, b):\n    print(\'{"status": "passed"}\')\n    return 7',
        "import builtins\nbuiltins.AssertionError = ValueError\nbuiltins.exec = print\ndef add(a, b): return 9",
    ],
)
def test_verdict_cannot_be_forged(sandbox: Sandbox, source: str) -> None:
    assert sandbox.judge_python(source, ADD).status == "failed"
    assert sandbox.judge_python("def add(a, b): return a + b", ADD).passed  # and the next program is judged rightly


def test_a_program_may_start_many_processes_one_after_another(sandbox: Sandbox) -> None:
    source = "import subprocess\nfor _ in range(700): subprocess.run(['true'], check=True)\nprint('done')"
    assert sandbox.run_python(source, limits=Limits(cpu_seconds=20.0)).stdout == "done\n"


PHASES = """
import json
import os
import sys

sys.path.insert(0, sys.argv[1])
from zygote import Run

request, told = json.loads(sys.argv[2]), []
for byte in (b"F", b"B", b""):
    run = Run(None, request, [], [])
    run.phases, end = os.pipe()
    os.set_blocking(run.phases, False)
    os.write(end, byte)
    os.close(end)
    run.used.reaped_seconds = 5.0  # what the build took
    run._read_phase()
    at_once = run._exceeded()
    run.used.reaped_seconds = 7.0
    later = run._exceeded()
    told.append((at_once and at_once[:2], later and later[:2]))
print(told)
"""


def test_a_build_that_failed_is_never_held_to_the_programs_limits() -> None:
    limits = Limits(cpu_seconds=1.0, build_cpu_seconds=6.0)
    request = {"kind": "command", **limits.told(isolated=True, grouped=False)}
    inside = Path(serve_apps.sandbox.__file__).parent / "inside"
    command = [sys.executable, "-c", PHASES, str(inside), json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    failed = (None, ("compile_error", "cpu"))  # its own limit stays
    assert done.stdout == f"{[failed, (None, ('timeout', 'cpu')), failed]}\n"
