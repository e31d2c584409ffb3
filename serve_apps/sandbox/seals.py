"""Seals: a completion with its tests in one file has passed only when the tests came to their end.

An exit code alone says less. `exit(0)` in a completion ends the program before a test has run; and the test libraries
of some languages end with exit code 0 when tests fail. So the last thing that the tests do is to print a seal, a number
drawn for this run, and what a language's library says of failures is read too. A completion that is written against
this very harness can read its own file or binary and print the seal itself: that is what `controls.py` finds. Swift,
Dart and Ada have no seal; their verdicts say so. Python's functions need none of this: their tests run where the
program does not reach (`inside/peer.py`).
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from serve_apps.sandbox.sandbox import Verdict

TESTS_FAILED = "a test failed"
NO_SEAL = "passed without a seal: its language, or this file, has no known ending"


@dataclass(frozen=True)
class Ending:
    """How tests of a language end.

    `last` matches their end, which becomes `form`: `@rest@` in it is what was matched, `@seal@` the seal. `complaint`
    matches what is printed to stderr when a test fails although the exit code is 0.
    """

    form: str
    last: str = r"\s*\Z"
    complaint: str = ""


_ONE_BRACE, _TWO_BRACES = r"\}\s*\Z", r"\}\s*\}\s*\Z"
# The forms are those of MultiPL-E and HumanEvalPack, and so are the complaints of Racket, Scala and C#
ENDINGS: Mapping[str, Ending] = {
    "C": Ending('__builtin_puts("\\n@seal@");\n@rest@', _ONE_BRACE),
    "C++": Ending('__builtin_puts("\\n@seal@");\n@rest@', _ONE_BRACE),
    "Go": Ending('fmt.Println("\\n@seal@")\n@rest@', _ONE_BRACE),
    "Java": Ending('System.out.println("\\n@seal@");\n@rest@', _TWO_BRACES),
    "Rust": Ending('println!("\\n@seal@");\n@rest@', _ONE_BRACE),
    "C#": Ending('System.Console.WriteLine("\\n@seal@");\n@rest@', _TWO_BRACES, complaint="Fail"),
    "Scala": Ending('println("\\n@seal@")\n@rest@', _TWO_BRACES, complaint=r"\S"),
    # D's unit tests run in the place of main
    "D": Ending('import std.stdio : writeln; writeln("\\n@seal@");\n@rest@', r"\}\s*(?:void main\(\)\s*\{\s*\})?\s*\Z"),
    "JavaScript": Ending('\nconsole.log("\\n@seal@")\n'),
    "TypeScript": Ending('\nconsole.log("\\n@seal@")\n'),
    "PHP": Ending('\necho "\\n@seal@\\n";\n'),
    "Perl": Ending('\nprint "\\n@seal@\\n";\n'),
    "R": Ending('\ncat("\\n@seal@\\n")\n'),
    "Julia": Ending('\nprintln("\\n@seal@")\n'),
    "Python": Ending('\nprint("\\n@seal@")\n'),
    "Racket": Ending('\n(display "\\n@seal@\\n")\n', complaint=r"\S"),
    "Clojure": Ending(
        '(when (clojure.test/successful? @rest@) (println "\\n@seal@"))', r"\(run-test test-humaneval\)\s*\Z"
    ),
    "Elixir": Ending('IO.puts("\\n@seal@")\n@rest@', r"[ \t]*end\s*end\s*\Z"),
    "OCaml": Ending('print_string "\\n@seal@\\n"; @rest@', r"\(\)\s*\Z"),
    "Haskell": Ending('  putStrLn "\\n@seal@"\n@rest@', r"[ \t]*pure \(\)\s*\Z"),
    # the runner's exit code has to stay the script's, and a test's last statement the last
    "Lua": Ending('print("\\n@seal@")\n@rest@', r"end\s*os\.exit\([^\n]*\)\s*\Z"),
    "Ruby": Ending('puts "\\n@seal@"\n@rest@', r"[ \t]*end\s*end\s*\Z"),
    "Bash": Ending("\n{ ended=$?; printf '\\n%s\\n' @seal@; exit $ended; }\n"),
}


@dataclass(frozen=True)
class Sealed:
    """A source that prints `seal` when its tests have come to their end."""

    source: str
    seal: str


def sealed(language: str, source: str) -> Sealed | None:
    """The source with a new seal in its last statement; None where the language, or this file, has no known ending."""
    ending = ENDINGS.get(language)
    found = re.search(ending.last, source) if ending else None
    if ending is None or found is None:
        return None
    seal = f"sealed-{secrets.token_hex(16)}"
    form = ending.form.replace("@seal@", seal).replace("@rest@", found.group())
    return Sealed(source[: found.start()] + form, seal)


def without_complaint(language: str, verdict: Verdict) -> Verdict:
    """The verdict, or a failure where the language's tests complained on stderr and ended with exit code 0."""
    ending = ENDINGS.get(language)
    if verdict.passed and ending and ending.complaint and re.search(ending.complaint, verdict.stderr):
        return replace(verdict, status="failed", detail=TESTS_FAILED)
    return verdict
