"""The page in headless Chromium."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Page, browsing, needs_browser, until
from tests.serve_apps.api.conftest import Running, Serve

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile")) as made:
        yield made


def test_completion_is_streamed_in_at_the_cursor_and_taken_back(page: Page, server: Running, tmp_path: Path) -> None:
    page.open(server.url)
    assert page.wait("return document.getElementById('model').value") == "tiny"
    before = page.run("return document.getElementById('code').value")
    page.click("#complete")
    page.wait("return document.getElementById('count').textContent !== '–'")
    after = page.run("return document.getElementById('code').value")
    cursor = page.run("return document.getElementById('code').selectionStart")
    start = before.index("    ") + 4
    assert after.startswith(before[:start])
    assert after.endswith(before[start:])
    assert after[start:cursor] == after[start : len(after) - len(before[start:])] != ""
    assert page.run("return document.getElementById('first').textContent").endswith(" ms")
    image = page.screenshot()
    Path(os.environ.get("PLAYGROUND_SCREENSHOT", tmp_path / "playground.png")).write_bytes(image)
    assert len(image) > 10_000
    page.click("#undo")
    assert page.run("return document.getElementById('code').value") == before


def test_stop_ends_generation_on_the_server(page: Page, server: Running) -> None:
    page.open(server.url)
    page.wait("return document.getElementById('model').value")
    page.run("document.getElementById('max_tokens').value = 3800")
    page.run(  # a random model may end its answer any time
        "const real = window.fetch; window.fetch = (url, options) => real(url, options?.body ? "
        "{...options, body: JSON.stringify({...JSON.parse(options.body), ignore_eos: true})} : options)"
    )
    cancelled = server.engine.counters.cancelled_requests
    page.click("#complete")
    page.wait("return document.getElementById('first').textContent !== '–'")
    page.click("#stop")
    until(lambda: not server.engine.load.running)
    assert server.engine.counters.cancelled_requests == cancelled + 1
    assert not page.run("return document.getElementById('complete').disabled")


def test_error_of_the_server_is_shown_and_a_key_mends_it(page: Page, serve: Serve) -> None:
    from serve_apps.api.gate import GateConfig

    server = serve(GateConfig(keys={"open": "ann"}))
    page.open(server.url)
    assert "API key" in page.wait("return document.getElementById('error').textContent")
    page.run("const key = document.getElementById('key'); key.value = 'open'; key.dispatchEvent(new Event('change'))")
    page.wait("return document.getElementById('model').value")
    assert page.run("return document.getElementById('error').textContent") == ""
