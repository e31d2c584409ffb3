"""The reference of the command line, as the program's own ``--help`` tells it.

``python -m tests.docs.commands`` writes platform/docs/commands.md anew.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from starloom.cli import COMMANDS, DELEGATED
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "platform" / "docs" / "commands.md"
INTRODUCTION = """# Commands

What `starloom COMMAND --help` prints. Exit codes: 0 done, 1 failed while running, 2 wrong input (one line that says
what and how to mend it), 130 interrupted.

Each step is a program too: `python -m data_jobs.curate --config job.toml [--set KEY=VALUE]... [--root URL] [--show]`;
`--show` prints the resolved settings and stops.
"""


def helps() -> dict[str, str]:
    """What each command prints for ``--help``."""
    with ThreadPoolExecutor(2) as pool:
        names = [*COMMANDS, *DELEGATED]
        return dict(zip(names, pool.map(_help, names), strict=True))


def _help(command: str) -> str:
    environment = {**os.environ, "COLUMNS": "110", "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    words = [sys.executable, "-m", "starloom.cli", command, "--help"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout


def page() -> str:
    """The whole page."""
    sections = [f"## starloom {name}\n\n```\n{text.strip()}\n```\n" for name, text in helps().items()]
    return "\n".join([INTRODUCTION, *sections])


def options(text: str) -> set[str]:
    """The options in a text."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
