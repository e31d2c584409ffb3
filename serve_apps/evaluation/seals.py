"""Seals: a program of a completion and its tests has passed only when its tests came to their end.

An exit code alone says less: `exit(0)` in a completion ends the program before a test has run. So the last thing that
the tests do is to print a seal, a number drawn for this run. A completion that is written against this very harness
can still read its own file or binary and print the seal itself; one that merely ends early, or guesses, cannot.
Python's functions need none of this: their tests run where the program does not reach (`inside/calls.py`).
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ending:
    """How tests of a language end: `last` matches from the place of one more statement; `%s` in it is the seal."""

    statement: str
    last: str = r"\s*\Z"


_ONE_BRACE, _TWO_BRACES = r"\}\s*\Z", r"\}\s*\}\s*\Z"
# forms of MultiPL-E and HumanEvalPack
ENDINGS: Mapping[str, Ending] = {
    "C++": Ending('__builtin_puts("\\n%s");', _ONE_BRACE),
    "Go": Ending('fmt.Println("\\n%s")', _ONE_BRACE),
    "Java": Ending('System.out.println("\\n%s");', _TWO_BRACES),
    "Rust": Ending('println!("\\n%s");', _ONE_BRACE),
    "C#": Ending('System.Console.WriteLine("\\n%s");', _TWO_BRACES),
    "D": Ending('import std.stdio : writeln; writeln("\\n%s");', _ONE_BRACE),
    "JavaScript": Ending('console.log("\\n%s");'),
    "TypeScript": Ending('console.log("\\n%s");'),
    "PHP": Ending('echo "\\n%s\\n";'),
    "Perl": Ending('print "\\n%s\\n";'),
    "R": Ending('cat("\\n%s\\n")'),
    "Julia": Ending('println("\\n%s")'),
    "Python": Ending('print("\\n%s")'),
    # the runner's exit code has to stay the script's, and a test's last statement the last
    "Lua": Ending('print("\\n%s")', r"end\s*os\.exit\([^\n]*\)\s*\Z"),
    "Ruby": Ending('puts "\\n%s"', r"end\s*end\s*\Z"),
    "Bash": Ending("{ ended=$?; printf '\\n%%s\\n' %s; exit $ended; }"),
}


@dataclass(frozen=True)
class Sealed:
    """A source that prints `seal` when its tests have come to their end."""

    source: str
    seal: str


def sealed(language: str, source: str) -> Sealed | None:
    """The source with a new seal as its last statement; None where the language, or this file, has no known ending."""
    ending = ENDINGS.get(language)
    found = re.search(ending.last, source) if ending else None
    if ending is None or found is None:
        return None
    seal = f"sealed-{secrets.token_hex(16)}"
    statement = ending.statement % seal
    return Sealed(f"{source[: found.start()]}\n{statement}\n{source[found.start() :].lstrip()}", seal)
