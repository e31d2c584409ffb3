"""The extension of VS Code: its parts by node's own test runner, the whole in VS Code's workbench in a browser."""

import json
import shutil
import subprocess
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

import serve_apps.editors
from serve_apps.editors.packages import extension_script, vsix
from starloom import __version__
from tests.serve_apps.editors.browsers import HERE, driven, needed
from tests.serve_apps.editors.stub import stub

EDITORS = Path(serve_apps.editors.__file__).parent


def extension(folder: Path) -> Path:
    """The extension as the package holds it, unpacked."""
    with zipfile.ZipFile(BytesIO(vsix())) as archive:
        archive.extractall(folder)
    return folder / "extension"


def test_core_passes_its_own_tests() -> None:
    if shutil.which("node") is None:
        pytest.skip("node: not installed; make system does it")
    done = subprocess.run(
        ["node", "--test", str(EDITORS / "core")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_package_has_the_same_bytes_each_time_and_the_version() -> None:
    first = vsix()
    vsix.cache_clear()
    assert vsix() == first
    assert json.loads((EDITORS / "vscode" / "package.json").read_text())["version"] == __version__
    assert "require(" not in extension_script().replace('require("vscode")', "").replace('require("child_process")', "")


def test_every_setting_and_command_is_described_and_used() -> None:
    described = json.loads((EDITORS / "vscode" / "package.json").read_text())["contributes"]
    script = extension_script()
    for name in described["configuration"]["properties"]:
        assert f'setting("{name.removeprefix("starloom.")}"' in script, name
    for one in described["commands"]:
        assert f'"{one["command"]}":' in script, one


def test_vsce_packs_the_same_extension(tmp_path: Path) -> None:
    needed()
    folder = extension(tmp_path)
    (folder / "LICENSE").write_text("Apache-2.0")
    command = ["node", str(HERE / "node_modules/@vscode/vsce/vsce"), "package", "--no-dependencies", "-o", "made.vsix"]
    done = subprocess.run(
        [*command, "--allow-missing-repository"], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(folder / "made.vsix") as theirs, zipfile.ZipFile(BytesIO(vsix())) as ours:
        assert theirs.read("extension/extension.js") == ours.read("extension/extension.js")
        assert set(ours.namelist()) - {"extension/README.md"} <= set(theirs.namelist())


def test_workbench_shows_and_takes_suggestions_and_tells_where_code_comes_from(tmp_path: Path) -> None:
    needed()
    with stub(delay=0.01) as server:
        steps = driven("vscode.mjs", server.url, str(extension(tmp_path)))
    assert len(steps) == 14
