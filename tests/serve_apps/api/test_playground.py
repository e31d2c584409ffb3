"""The page in headless Chromium, driven over chromedriver's own protocol (W3C WebDriver)."""

import base64
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from starloom.ports import free_port
from tests.serve_apps.api.conftest import Running, Serve

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER, BROWSER = shutil.which("chromedriver"), next(filter(None, map(shutil.which, BROWSERS)), None)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
pytestmark = pytest.mark.skipif(not (DRIVER and BROWSER), reason="no Chromium with its driver; see `make system`")


class Page:
    """A browser's window."""

    def __init__(self, driver_url: str, profile: Path) -> None:
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1200,800",
        ]
        options = {"binary": BROWSER, "args": [*arguments, f"--user-data-dir={profile}"]}
        self._client = httpx.Client(base_url=driver_url, timeout=60)
        made = self._client.post("/session", json={"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        assert made.status_code == 200, made.text
        self._session = f"/session/{made.json()['value']['sessionId']}"

    def _do(self, what: str, **body: Any) -> Any:
        done = self._client.post(f"{self._session}/{what}", json=body)
        assert done.status_code == 200, done.text
        return done.json()["value"]

    def open(self, url: str) -> None:
        """Go to a page."""
        self._do("url", url=url)

    def run(self, script: str) -> Any:
        """The value of a script in the page."""
        return self._do("execute/sync", script=script, args=[])

    def click(self, selector: str) -> None:
        """As a user does."""
        element = self._do("element", using="css selector", value=selector)[ELEMENT]
        self._do(f"element/{element}/click")

    def wait(self, script: str) -> Any:
        """Until a script's value is true."""
        until = time.monotonic() + 20
        while not (value := self.run(script)):
            assert time.monotonic() < until, script
            time.sleep(0.02)
        return value

    def screenshot(self) -> bytes:
        """PNG."""
        return base64.b64decode(self._client.get(f"{self._session}/screenshot").json()["value"])

    def close(self) -> None:
        """End the browser."""
        self._client.delete(self._session)
        self._client.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    port = free_port()
    driver = subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    _until(lambda: httpx.get(f"{url}/status").json()["value"]["ready"])
    made = Page(url, tmp_path_factory.mktemp("profile"))
    yield made
    made.close()
    driver.terminate()
    driver.wait(timeout=10)


def _until(ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            if ready():
                return
        except httpx.TransportError:
            assert time.monotonic() < until
        time.sleep(0.05)


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
    _until(lambda: not server.engine.load.running)
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
