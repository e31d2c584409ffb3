"""Programs of every language whose toolchain is here, and the tool that runs a file of them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve_apps.sandbox.jobs import Program
from serve_apps.sandbox.sandbox import Limits, Sandbox
from serve_apps.sandbox.toolchains import LANGUAGES, language, present_folders, toolchain, toolchain_table
from starloom.errors import UserError
from tests.patience import PATIENCE
from tests.serve_apps.evaluation.tested_files import TESTED

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Programs:
    """A program that prints 42 and one that fails while it runs."""

    good: str
    bad: str


PROGRAMS = {
    "Python": Programs("print(42)", "assert False"),
    "C": Programs(
        '#include <stdio.h>\nint main(void) { puts("42"); return 0; }',
        "#include <stdlib.h>\nint main(void) { abort(); }",
    ),
    "C++": Programs(
        "#include <iostream>\nint main() { std::cout << 42; }", "#include <cassert>\nint main() { assert(0); }"
    ),
    "Java": Programs(
        "import org.javatuples.*;\nclass Problem { public static void main(String[] a) {\n"
        "  assert Pair.with(4, 2).equals(new Pair<Integer, Integer>(4, 2));\n"
        '  System.out.println("" + Triplet.with(1, 4, 2).getValue1() + 2); } }',
        "class Problem { public static void main(String[] a) { assert 1 == 2; } }",
    ),
    "JavaScript": Programs("console.log(42)", "require('assert')(false)"),
    "TypeScript": Programs("let x: number = 42; console.log(x)", "throw new Error('no')"),
    "Go": Programs(
        'package p_test\nimport ("fmt"; "testing")\nfunc TestP(t *testing.T) { fmt.Println(42) }',
        'package p_test\nimport "testing"\nfunc TestP(t *testing.T) { t.Fatal("no") }',
    ),
    "Rust": Programs('fn main() { println!("42"); }', "fn main() { assert_eq!(1, 2); }"),
    "PHP": Programs("<?php echo 42;", "<?php throw new Exception('no');"),
    "Ruby": Programs("puts 42", "raise 'no'"),
    "Perl": Programs("print 42;", "die 'no';"),
    "Lua": Programs("print(42)", "error('no')"),
    "R": Programs("cat(42)", "stopifnot(FALSE)"),
    "Bash": Programs("echo 42", "set -e\nfalse"),
    "Racket": Programs("#lang racket\n(display 42)", "#lang racket\n(error 'no)"),
    "OCaml": Programs("print_int 42", "assert false"),
    "Haskell": Programs("main = print 42", "main = error []"),
    "Julia": Programs("println(42)", "@assert false"),
    "C#": Programs(
        'class P { static void Main() { System.Console.Write("42"); } }',
        'class P { static void Main() { throw new System.Exception("no"); } }',
    ),
    "D": Programs("import std.stdio; void main() { writeln(42); }", "void main() { assert(false); }"),
    "Scala": Programs(
        "object Problem { def main(a: Array[String]) = println(42) }",
        "object Problem { def main(a: Array[String]) = assert(false) }",
    ),
    "Clojure": Programs("(println 42)", "(assert false)"),
    "Elixir": Programs("IO.puts(42)", 'raise "no"'),
    "Ada": Programs(
        'with Ada.Text_IO;\nprocedure Main is\nbegin\n   Ada.Text_IO.Put_Line ("42");\nend Main;\n',
        "procedure Main is\nbegin\n   pragma Assert (False);\nend Main;\n",
    ),
}
BROKEN = {
    "C": "int main(void) { return x; }",
    "C++": "int main() { return x; }",
    "Java": "class Problem { int x = ; }",
    "TypeScript": "let x: = 3",
    "Go": "package p_test\nfunc TestP(t *testing.T) {}",
    "Rust": "fn main() { let x: i32 = y; }",
}
PRESENT = [name for name in PROGRAMS if toolchain(language(name)).present]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(folders=present_folders()) as opened:
        yield opened


@pytest.mark.parametrize("name", PRESENT)
def test_language_passes_and_fails_by_the_exit_code(sandbox: Sandbox, name: str) -> None:
    good = Program(name, PROGRAMS[name].good).run(sandbox, Limits())
    assert (good.status, good.stdout.split()[:1]) == ("passed", ["42"]), good
    bad = Program(name, PROGRAMS[name].bad).run(sandbox, Limits())
    assert bad.status == "failed", bad
    assert bad.exit_code != 0


@pytest.mark.parametrize("name", [name for name in BROKEN if name in PRESENT])
def test_language_tells_a_program_that_does_not_compile(sandbox: Sandbox, name: str) -> None:
    verdict = Program(name, BROKEN[name]).run(sandbox, Limits())
    assert verdict.status == "compile_error"
    assert verdict.stderr


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("JavaScript", "while (true) {}"),
        ("C++", "int main() { volatile int x = 0; while (true) x = x + 1; }"),
        ("Bash", "while true; do :; done"),
        ("Bash", "f() { f | f & }; f; while true; do :; done"),
        ("JavaScript", "const x = []; while (true) x.push(new Float64Array(1 << 20).fill(1))"),
    ],
)
def test_programs_of_other_languages_keep_to_the_limits(sandbox: Sandbox, name: str, source: str) -> None:
    if name not in PRESENT:
        assert "missing" in toolchain_table()
        return
    verdict = Program(name, source, timeout=1.0).run(sandbox, Limits(memory_megabytes=512))
    assert verdict.status in ("timeout", "memory", "failed"), verdict
    assert sandbox.run_python("print(1)").stdout == "1\n"


@pytest.mark.parametrize("name", [name for name in TESTED if name in PRESENT])
def test_file_with_tests_passes_only_when_they_came_to_their_end(sandbox: Sandbox, name: str) -> None:
    known = TESTED[name]
    good = Program(name, known.file.replace("@", known.good), tests_last=True).run(sandbox, Limits())
    assert good.status == "passed", good
    assert "sealed-" not in good.stdout
    wrong = Program(name, known.file.replace("@", known.wrong), tests_last=True).run(sandbox, Limits())
    assert wrong.status == "failed", wrong
    assert wrong.detail != "the program ended before its tests did" or name == "Clojure", wrong
    early = Program(name, known.file.replace("@", known.early), tests_last=True).run(sandbox, Limits())
    assert early.exit_code == 0, early
    assert (early.status, early.detail) == ("failed", "the program ended before its tests did"), early


def test_seal_is_found_behind_much_output(sandbox: Sandbox) -> None:
    verdict = Program("Bash", "yes | head -c 200000", tests_last=True).run(sandbox, Limits())
    assert verdict.passed
    assert len(verdict.stdout) == Limits().output_bytes


def test_toolchains_table_has_a_line_for_every_language_and_a_remedy_for_each_missing() -> None:
    lines = toolchain_table().splitlines()
    assert len(lines) == len(LANGUAGES) + 1
    for known, line in zip(LANGUAGES, lines, strict=False):
        assert known.name in line
        assert toolchain(known).present or known.install in line


def test_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'cobol' is unknown.*Python"):
        language("cobol")


def test_execute_writes_a_verdict_for_every_program_in_order(tmp_path: Path) -> None:
    lines = [
        {"id": "good", "language": "python", "program": "print(input())", "stdin": "hello"},
        {"id": 2, "language": "bash", "program": "echo out; echo err >&2; exit 7"},
        {"id": "slow", "language": "py", "program": "while True: pass", "timeout": 0.3},
        {"id": "long", "language": "python", "program": "print('x' * 10**6)"},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    found = execute(tmp_path)
    assert found.returncode == 0, found.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["good", 2, "slow", "long"]
    assert [row["status"] for row in rows] == ["passed", "failed", "timeout", "passed"]
    assert (rows[0]["stdout"], rows[1]["stdout"], rows[1]["stderr"], rows[1]["exit_code"]) == (
        "hello\n",
        "out\n",
        "err\n",
        7,
    )
    assert len(rows[3]["stdout"]) == 16384
    assert rows[2]["cpu_seconds"] >= 0.3
    assert set(rows[0]) == {"id", "status", "exit_code", "stdout", "stderr", "cpu_seconds", "wall_seconds"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{oops", ":1: is not JSON"),
        ('{"id": 1, "language": "python"}', "'program' is missing"),
        ('\n{"id": 1, "language": "cobol", "program": ""}', "'cobol' is unknown"),
        ("[1]", "is not an object"),
        ('{"id": 1, "language": "python", "program": "", "timeout": -1}', "timeout"),
    ],
)
def test_execute_names_the_bad_line_and_writes_nothing(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "in.jsonl").write_text(text)
    found = execute(tmp_path)
    assert found.returncode == 2
    assert complaint in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "out.jsonl").exists()


def execute(folder: Path) -> subprocess.CompletedProcess[str]:
    """The tool on in.jsonl of a folder."""
    words = ["--input", str(folder / "in.jsonl"), "--output", str(folder / "out.jsonl")]
    return subprocess.run(
        [sys.executable, "-m", "serve_apps.evaluation.execute", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
