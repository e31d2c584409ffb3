"""Headless Chromium, driven over chromedriver's own protocol (W3C WebDriver)."""

import base64
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from starloom.ports import free_port
from tests.patience import PATIENCE

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER, BROWSER = shutil.which("chromedriver"), next(filter(None, map(shutil.which, BROWSERS)), None)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
needs_browser = pytest.mark.skipif(not (DRIVER and BROWSER), reason="no Chromium with its driver; see `make system`")


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
        self._client = httpx.Client(base_url=driver_url, timeout=PATIENCE)
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

    def keys(self, selector: str, text: str) -> None:
        """Type; WebDriver's code points stand for keys without a character."""
        element = self._do("element", using="css selector", value=selector)[ELEMENT]
        self._do(f"element/{element}/value", text=text)

    def wait(self, script: str) -> Any:
        """Until a script's value is true."""
        until = time.monotonic() + PATIENCE
        while not (value := self.run(script)):
            assert time.monotonic() < until, script
            time.sleep(0.02)
        return value

    def size(self, width: int, height: int) -> None:
        """The window's size, of the page itself."""
        self._do("window/rect", width=width, height=height)

    def screenshot(self) -> bytes:
        """PNG."""
        return base64.b64decode(self._client.get(f"{self._session}/screenshot").json()["value"])

    def close(self) -> None:
        """End the browser."""
        self._client.delete(self._session)
        self._client.close()


@contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """A window with a profile of its own."""
    port = free_port()
    driver = subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: httpx.get(f"{url}/status").json()["value"]["ready"])
        made = Page(url, profile)
        try:
            yield made
        finally:
            made.close()
    finally:
        driver.terminate()
        driver.wait(timeout=PATIENCE)


def until(ready: Callable[[], bool]) -> None:
    """Until it is true; a server that does not answer yet is asked again."""
    end = time.monotonic() + PATIENCE
    while True:
        with suppress(httpx.TransportError):
            if ready():
                return
        assert time.monotonic() < end
        time.sleep(0.05)
