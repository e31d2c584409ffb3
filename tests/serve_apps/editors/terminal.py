"""An editor in a real terminal: keys into it, the screen read back, as a person sees it."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import PATIENCE


def needed(*programs: str) -> None:
    """Skip the test without these programs."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed; make system does it")


class Terminal:
    """A session of tmux."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def tmux(self, *words: str) -> str:
        """One command of tmux."""
        command = ["tmux", "-L", self._socket, "-f", "/dev/null", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def keys(self, *names: str) -> None:
        """Keys by their names: Tab, Enter, C-Right."""
        self.tmux("send-keys", *names)

    def type(self, text: str, delay: float = 0.0) -> None:
        """Characters as they are."""
        for part in text if delay else [text]:
            self.tmux("send-keys", "-l", part)
            time.sleep(delay)

    def screen(self, *, colours: bool = False) -> str:
        """What is seen."""
        return self.tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def until(self, part: str, *, gone: bool = False, seconds: float = PATIENCE) -> str:
        """The screen once `part` is on it, or off it."""
        end = time.monotonic() + seconds
        while (part in (seen := self.screen())) == gone:
            assert time.monotonic() < end, f"{'still' if gone else 'never'} on the screen: {part!r}\n{seen}"
            time.sleep(0.01)
        return seen

    def settled(self, seconds: float = 0.3) -> str:
        """The screen once it has stayed the same for a while."""
        seen, since = self.screen(), time.monotonic()
        while time.monotonic() - since < seconds:
            time.sleep(0.02)
            if (now := self.screen()) != seen:
                seen, since = now, time.monotonic()
        return seen


@contextmanager
def terminal(
    command: str, folder: Path, environment: Mapping[str, str] = {}, columns: int = 150, rows: int = 24
) -> Iterator[Terminal]:
    """A command in a terminal of its own, in a folder."""
    one = Terminal(f"starloom-{os.getpid()}-{time.monotonic_ns()}")
    settings = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
    one.tmux(
        "new-session", "-d", "-x", str(columns), "-y", str(rows), "-c", str(folder), *settings,
        f"env LC_ALL=C.UTF-8 TERM=screen-256color {command}",
    )  # fmt: skip
    one.tmux("set-option", "-s", "escape-time", "0")
    try:
        yield one
    finally:
        one.tmux("kill-server")
