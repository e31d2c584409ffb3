"""Programs of a language run by its own command, without a sandbox: what the sandbox's verdicts are compared with.

For programs of a published data set only.
"""

import re
import subprocess
import tempfile
from pathlib import Path

from serve_apps.sandbox.java import tuple_sources
from serve_apps.sandbox.jobs import Program
from serve_apps.sandbox.toolchains import language, toolchain

# shell lines as MultiPL-E's containers have them, in a folder with the program
COMMANDS = {
    "C++": "g++ -std=c++17 program.cpp -o program && ./program",
    "Go": "go test program_test.go",
    "Java": "javac -encoding UTF8 -d classes -cp tuples Main.java && java -ea -cp classes:tuples Problem",
    "JavaScript": "node program.js",
    "TypeScript": "tsc --target esnext program.ts && node program.js",
    "Lua": "lua5.4 program.lua",
    "PHP": "php program.php",
    "Perl": "perl program.pl",
    "R": "Rscript --vanilla program.r",
    "Ruby": "ruby program.rb",
    "Rust": "{rustc} --edition 2021 -A warnings -o program program.rs && ./program",
    "Bash": "bash program.sh",
}


def passes_by_hand(program: Program, seconds: float) -> bool:
    """Whether the language's own command ends with exit code 0 within so many seconds."""
    known = language(program.language)
    with tempfile.TemporaryDirectory() as folder:
        files = {known.file: program.source, **(tuple_sources() if known.name == "Java" else {})}
        for name, text in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        line = COMMANDS[known.name].format(rustc=toolchain(known).paths.get("rustc"))
        limited = f"ulimit -u 4000 -v unlimited; ulimit -t {int(seconds) + 60}; {line}"
        with subprocess.Popen(
            ["setsid", "-w", "timeout", "-k", "1", str(seconds), "bash", "-c", limited],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as running:
            return running.wait() == 0


RENAMED = {"go_test.go": "go", "ex": "elixir"}


def fenced_code(answer: str) -> str:
    """The code of a chat model's answer: its first fenced block, or all of it."""
    found = re.search(r"```[^\n]*\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    return found.group(1) if found else answer


MAIN = re.compile(r"^.*\b(?:int main|fn main|func main|static void main)\s*\(", re.MULTILINE)


def whole_program(record: dict[str, str], code: str) -> Program:
    """A program of a solution that repeats the prompt, for records with such a solution (`gpt_solution`).

    MultiPL-E's tests begin with the brace that ends the tested function, and bring their own main: the solution is cut
    before its own main, and before the last brace that stands like the one of the tests.
    """
    tests = record["tests"]
    if record["language"] == "php":  # without its own tags: what stands behind ?> would be text, tests and all
        code = "<?php\n" + re.sub(r"<\?php|\?>", "", code)
    if (own := MAIN.search(code)) is not None and MAIN.search(tests):
        code = code[: own.start()]
    brace = re.match(r"[ \t]*}", tests)
    if brace is not None:
        before, found, _ = ("\n" + code).rpartition("\n" + brace.group(0))
        code = before.removeprefix("\n") if found else code
    return Program(RENAMED.get(record["language"], record["language"]), code + "\n" + tests, tests_last=True)
