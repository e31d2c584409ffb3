"""What a server gives out for editors, and what the command line says of them."""

import io
import re
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest

from serve_apps.api.gate import GateConfig
from serve_apps.editor import main
from serve_apps.editors.installation import EDITORS, installations
from serve_apps.editors.packages import emacs_file, vim_archive, vsix, wheel, wheel_name
from starloom.errors import UserError
from tests.serve_apps.api.conftest import Serve
from tests.serve_apps.editors.terminal import needed


def test_page_and_packages_need_no_key_and_all_else_does(serve: Serve) -> None:
    server = serve(GateConfig(keys={"k": "ann"}))
    page = httpx.get(f"{server.url}/editors/")
    assert page.status_code == 200
    for one in installations(server.url).values():
        assert one.title in page.text
    found = set(re.findall(rf"{re.escape(server.url)}/editors/([\w.-]+)", page.text))
    assert found == {"starloom.vsix", wheel_name(), "starloom-vim.tar.gz", "starloom.el"}
    made = {"starloom.vsix": vsix(), wheel_name(): wheel(), "starloom-vim.tar.gz": vim_archive()}
    for name, expected in {**made, "starloom.el": emacs_file()}.items():
        assert httpx.get(f"{server.url}/editors/{name}").content == expected
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    assert httpx.get(f"{server.url}/editors/other").status_code == 401
    missing = httpx.get(f"{server.url}/editors/other", headers={"X-Api-Key": "k"})
    assert (missing.status_code, "no 'other'" in missing.text) == (404, True)


def test_page_names_the_address_that_was_asked_and_no_other_text(serve: Serve) -> None:
    server = serve()
    told = httpx.get(f"{server.url}/editors/", headers={"Host": "code.example.org", "X-Forwarded-Proto": "https"})
    assert "https://code.example.org/editors/starloom.vsix" in told.text
    assert httpx.get(f"{server.url}/editors/", headers={"Host": "<b>"}).status_code == 400


def test_packages_hold_what_their_editors_look_for() -> None:
    with zipfile.ZipFile(io.BytesIO(vsix())) as archive:
        assert {"extension.vsixmanifest", "extension/package.json", "extension/extension.js"} <= set(archive.namelist())
    with tarfile.open(fileobj=io.BytesIO(vim_archive())) as archive:
        assert {"starloom/plugin/starloom.vim", "starloom/doc/starloom.txt"} <= set(archive.getnames())


@pytest.mark.parametrize("name", EDITORS)
def test_command_prints_the_line_and_the_settings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--url", "https://code.example.org/"]) == 0
    told = capsys.readouterr().out
    assert "https://code.example.org/editors/" in told.splitlines()[0]
    assert "https://code.example.org" in told.partition("\n\n")[2]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("vim", ".vim/pack/starloom/start/starloom/plugin/starloom.vim"),
        ("neovim", ".local/share/nvim/site/pack/starloom/start/starloom/plugin/starloom.vim"),
        ("emacs", ".emacs.d/starloom.el"),
    ],
)
def test_line_of_the_page_puts_the_plugin_where_its_editor_looks(
    serve: Serve, name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed("curl", "tar")
    server = serve(GateConfig(keys={"k": "ann"}))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([name, "--url", server.url, "--run"]) == 0
    assert (tmp_path / place).exists()


def test_check_tries_every_shape_that_editors_send(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(GateConfig(keys={"k3y": "ann"}))
    monkeypatch.setenv("STARLOOM_API_KEY", "k3y")
    assert main(["check", "--url", server.url]) == 0
    told = capsys.readouterr().out
    for shape in ("completion", "gap", "end of a long file", "other files", "stream", "hang-up", "event"):
        assert f"ok      {shape}" in told, told
    assert "not offered: start the server with --index RUN" in told
    monkeypatch.setenv("STARLOOM_API_KEY", "wrong")
    with pytest.raises(UserError, match="401: the API key"):
        main(["check", "--url", server.url])
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9: no answer"):
        main(["check", "--url", "http://127.0.0.1:9"])
