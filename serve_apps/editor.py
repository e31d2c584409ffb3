"""``starloom editor NAME``: how an editor takes its plugin from a server; ``starloom editor check``: what works."""

import argparse
import asyncio
import os
import subprocess
from collections.abc import Sequence

from serve_apps.editors.checks import Tried, try_shapes
from serve_apps.editors.installation import EDITORS, installations

KEY_VARIABLE = "STARLOOM_API_KEY"


def main(argv: Sequence[str]) -> int:
    """Print, or run, the installation of an editor's plugin, or try what editors send.

    Raises:
        UserError: there is no server at the address.
    """
    arguments = _parser().parse_args(list(argv))
    url = arguments.url.rstrip("/")
    if arguments.name == "check":
        return 0 if asyncio.run(try_shapes(url, os.environ.get(KEY_VARIABLE, ""), _report)) else 1
    one = installations(url)[arguments.name]
    if arguments.run:
        code = subprocess.run(["sh", "-c", one.shell], check=False).returncode
        if code:
            return 1
    else:
        print(one.shell)
    print(f"\nin {one.where}:\n{one.settings}\n\nthe key, where the server asks for one: {one.key}")
    return 0


def _report(tried: Tried) -> None:
    print(f"{'FAILED' if tried.fault else 'ok':<7} {tried.shape:<20} {tried.fault or tried.told}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starloom editor",
        description="Put the plugin into an editor, or try what editors send against a server.",
    )
    parser.add_argument("name", choices=(*EDITORS, "check"), help="an editor, or check: one request of each shape")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server; its key is in STARLOOM_API_KEY")
    parser.add_argument("--run", action="store_true", help="run the line instead of printing it")
    return parser
