"""Telling people, or what they run, that a run has ended: a command, a URL."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from starloom.errors import UserError, one_line
from starloom.recipe import AtEnd, Recipe

PATIENCE_SECONDS: Final = 30.0
PAUSE_SECONDS: Final = (1.0, 4.0)


@dataclass(frozen=True)
class End:
    """How a run ended; `text` is a line for people, under the name that chat services read."""

    run: str
    recipe: str
    root: str
    outcome: str  # succeeded, failed, stopped
    message: str
    seconds: float
    text: str


@contextmanager
def told_at_end(recipe: Recipe, run: str, say: Callable[[str], None]) -> Iterator[None]:
    """Tell how what is done within it ended, to whom `at_end` names; that nobody could be told is said, and no more."""
    url = url_of(recipe.at_end)
    began = time.monotonic()

    def tell(outcome: str, message: str = "") -> None:
        seconds = round(time.monotonic() - began, 1)
        text = f"starloom {recipe.name}: {outcome} after {seconds:.0f} s" + (f": {message}" if message else "")
        end = End(run, recipe.name, recipe.root, outcome, message, seconds, text)
        for complaint in (*_run(recipe.at_end.command, end), *_post(url, end)):
            say(f"at_end: {complaint}")

    try:
        yield
    except KeyboardInterrupt:
        tell("stopped")
        raise
    except Exception as error:
        tell("failed", one_line(error))
        raise
    tell("succeeded")


def url_of(at_end: AtEnd) -> str:
    """The URL that is told; empty where there is none.

    Raises:
        UserError: the variable that holds it is not set.
    """
    if not at_end.url_variable:
        return at_end.url
    if not os.environ.get(at_end.url_variable):
        raise UserError(f"at_end.url_variable = {at_end.url_variable!r}: that variable is not set; set it, or give url")
    return os.environ[at_end.url_variable]


def _run(command: tuple[str, ...], end: End) -> Iterator[str]:
    """Run the command with the end in its environment; yields what went wrong."""
    if not command:
        return
    told = {f"STARLOOM_{name.upper()}": str(value) for name, value in asdict(end).items()}
    try:
        subprocess.run(command, env={**os.environ, **told}, check=True, timeout=PATIENCE_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        yield one_line(error)


def _post(url: str, end: End) -> Iterator[str]:
    """Send the end as JSON, again where nobody answered; yields what went wrong, not the URL: it may be a secret."""
    if not url:
        return
    body = json.dumps(asdict(end)).encode()
    for pause in (*PAUSE_SECONDS, None):
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):
                return
        except (urllib.error.URLError, OSError, ValueError) as error:
            complaint = f"the URL was not told: {one_line(error)}"
        if pause is None:
            yield complaint
        else:
            time.sleep(pause)
