"""The plugin of JupyterLab, from its wheel, in a real JupyterLab."""

import json
import os
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from serve_apps.editors.packages import wheel, wheel_name
from starloom.ports import free_port
from tests.patience import PATIENCE
from tests.serve_apps.editors.browsers import ROOT, driven, needed
from tests.serve_apps.editors.stub import stub

BIN = ROOT / ".venv-clients" / "bin"
TOKEN = "t0ken"


def installed(folder: Path) -> dict[str, str]:
    """The wheel, installed into a folder; the environment in which JupyterLab finds it."""
    name, made = wheel_name(), wheel()
    (folder / name).write_bytes(made)
    target = folder / "installed"
    command = [BIN / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target]
    subprocess.run([*command, folder / name], check=True, timeout=PATIENCE)
    return {
        "PYTHONPATH": str(target),
        "JUPYTER_PATH": str(target / "share" / "jupyter"),
        "JUPYTER_CONFIG_PATH": str(target / "etc" / "jupyter"),
    }


@contextmanager
def jupyter_lab(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """A JupyterLab of its own; yields its address."""
    port = free_port("127.0.0.1")
    own = {name: str(folder / name.lower()) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    command = [
        BIN / "jupyter-lab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        f"--IdentityProvider.token={TOKEN}",
    ]
    work = folder / "work"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*map(str, command), f"--ServerApp.root_dir={work}"],
            env={**os.environ, **own, "IPYTHONDIR": str(folder / "ipython"), **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=work,
        )
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/api?token={TOKEN}", timeout=5).close()
                break
            except (URLError, OSError):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def notebook(*cells: str) -> str:
    """A notebook of code cells."""
    made = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "execution_count": None, "outputs": [], "source": text}
        for n, text in enumerate(cells)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


def test_wheel_is_pure_has_both_parts_and_the_same_bytes_each_time() -> None:
    name, made = wheel_name(), wheel()
    assert name == "starloom_jupyter-0.1.0-py3-none-any.whl"
    wheel.cache_clear()
    assert wheel() == made
    with zipfile.ZipFile(BytesIO(made)) as archive:
        names = set(archive.namelist())
        share = "starloom_jupyter-0.1.0.data/data/share/jupyter/labextensions/starloom/"
        assert {share + "package.json", share + "static/remoteEntry.js", "starloom_jupyter/__init__.py"} <= names
        assert "require(" not in archive.read(share + "static/remoteEntry.js").decode()


@pytest.mark.slow
def test_lab_shows_and_takes_suggestions_and_tells_where_code_comes_from(tmp_path: Path) -> None:
    needed()
    if not (BIN / "jupyter-lab").exists():
        pytest.skip("jupyterlab: not installed; make clients does it")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "fib.py").write_text("def fib(n):\n")
    (tmp_path / "work" / "nb.ipynb").write_text(notebook("seed = 41", ""))
    with stub(delay=0.01, key="k3y") as server:
        environment = {**installed(tmp_path), "STARLOOM_URL": server.url, "STARLOOM_API_KEY": "k3y"}
        with jupyter_lab(tmp_path, environment) as url:
            steps = driven("jupyter.mjs", server.url, url, TOKEN)
    assert len(steps) == 5
