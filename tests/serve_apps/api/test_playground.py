"""The page in headless Chromium."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_apps.api.gate import GateConfig
from tests.browser import Page, browsing, needs_browser, until
from tests.serve_apps.api.conftest import Running, Serve

pytestmark = needs_browser
TAB, ESCAPE, CONTROL, RIGHT, NULL = "\ue004", "\ue00c", "\ue009", "\ue014", "\ue000"
GHOST = "return document.querySelector('.ghost')?.textContent ?? ''"
CODE = "return document.getElementById('code').value"
COUNT = (
    "window.asked = 0; const real = window.fetch; "
    "window.fetch = (...given) => { window.asked++; return real(...given); }"
)
FUNCTION = (
    "const code = document.getElementById('code'); code.value = 'def f(x):\\n    \\n\\nf(1)\\n'; "
    "code.setSelectionRange(14, 14)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile")) as made:
        yield made


def _opened(page: Page, url: str, **settings: Any) -> None:
    """The page with these settings, and without suggestions that nobody asked for."""
    page.open(url)
    page.wait("return document.getElementById('model').value")
    page.run("document.getElementById('auto').checked = false")
    for name, value in {"stop_text": "", **settings}.items():
        page.run(f"document.getElementById('{name}').value = {value!r}")


def _suggested(page: Page) -> str:
    """A suggestion of a random model, which has characters to type."""
    page.run("document.getElementById('code').focus()")
    page.click("#complete")
    page.wait("return document.getElementById('count').textContent !== '–' && document.getElementById('stop').disabled")
    return str(page.run(GHOST))


def test_suggestion_is_a_ghost_that_tab_takes_and_undo_takes_back(page: Page, server: Running) -> None:
    _opened(page, server.url)
    before = page.run(CODE)
    ghost = _suggested(page)
    assert ghost
    assert page.run(CODE) == before
    assert page.run("return document.getElementById('seen').textContent") == f"{before}{ghost}\n"
    assert page.run("return document.getElementById('first').textContent").endswith(" ms")
    assert "of 4,096 tokens" in page.run("return document.getElementById('used').textContent")
    assert page.run("return document.querySelectorAll('#tokens span').length") > 0
    page.keys("#code", TAB)
    assert page.run(CODE) == before + ghost
    assert page.run(GHOST) == ""
    page.keys("#code", f"{CONTROL}z{NULL}")
    assert page.run(CODE) == before
    page.keys("#code", TAB)  # nothing is shown: it indents
    assert page.run(CODE) == before + "    "


def test_suggestion_is_dropped_and_taken_by_the_word(page: Page, server: Running) -> None:
    _opened(page, server.url)
    before = page.run(CODE)
    assert _suggested(page)
    page.keys("#code", ESCAPE)
    assert (page.run(GHOST), page.run(CODE)) == ("", before)
    ghost = _suggested(page)
    page.keys("#code", f"{CONTROL}{RIGHT}{NULL}")
    taken = page.run(CODE)[len(before) :]
    assert taken
    assert taken + page.run(GHOST) == ghost


def test_suggestion_comes_by_itself_stands_before_the_rest_and_typing_it_asks_nobody(
    page: Page, server: Running
) -> None:
    _opened(page, server.url, max_tokens=30)
    page.run(FUNCTION)
    page.run("document.getElementById('auto').checked = true")
    page.keys("#code", "x")
    ghost = page.wait(GHOST)
    page.wait("return document.getElementById('stop').disabled")
    ghost = page.run(GHOST)
    seen = page.run("return document.getElementById('seen').textContent")
    assert seen == f"def f(x):\n    x{ghost}\n\nf(1)\n\n"
    page.run(COUNT)
    if ghost[0].isascii() and ghost[0].isprintable() and len(ghost) > 1:  # keys that can be typed
        page.keys("#code", ghost[0])
        assert page.run(GHOST) == ghost[1:]
        assert page.run("return window.asked") == 0


def test_alternatives_are_chosen_among(page: Page, server: Running) -> None:
    _opened(page, server.url, max_tokens=8, seed=3)
    page.click("#more")
    page.wait("return document.querySelectorAll('#alternatives button').length > 1")
    first = page.run(GHOST)
    page.run("document.querySelectorAll('#alternatives button')[1].click()")
    assert page.run(GHOST) not in ("", first)


def test_curl_line_asks_what_the_page_asks(page: Page, server: Running) -> None:
    _opened(page, server.url, max_tokens=4)
    page.click("#curl")
    line = page.wait("return document.getElementById('copied').dataset.text")
    body = line.partition(" -d '")[2].removesuffix("'").replace("'\\''", "'")
    answer = httpx.post(f"{server.url}/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert line.startswith(f"curl {server.url}/v1/completions -H 'Content-Type: application/json'")


def test_stop_ends_generation_on_the_server(page: Page, server: Running) -> None:
    _opened(page, server.url, max_tokens=3800, max_lines=10000)
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
    assert page.run("return document.getElementById('stop').disabled")


def test_error_of_the_server_is_shown_and_a_key_mends_it(page: Page, serve: Serve) -> None:
    server = serve(GateConfig(keys={"open": "ann"}))
    page.open(server.url)
    assert "API key" in page.wait("return document.getElementById('error').textContent")
    page.run("const key = document.getElementById('key'); key.value = 'open'; key.dispatchEvent(new Event('change'))")
    page.wait("return document.getElementById('model').value")
    assert page.run("return document.getElementById('error').textContent") == ""


def test_chat_is_there_for_chat_models_alone(page: Page, server: Running, serve: Serve) -> None:
    _opened(page, server.url)
    assert page.run("return document.getElementById('to_chat').hidden")
    chat = serve(template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    _opened(page, chat.url)
    page.click("#to_chat")
    page.keys("#say", "hello\n")
    page.wait("return document.querySelectorAll('.turn').length === 2 && document.getElementById('stop').disabled")
    assert page.run("return document.querySelector('.turn.user').textContent") == "hello"
    assert page.run("return document.querySelectorAll('.turn')[1].textContent")


def test_page_reads_at_390_pixels(page: Page, server: Running, tmp_path: Path) -> None:
    page.size(390, 844)
    _opened(page, server.url)
    assert _suggested(page)
    assert page.run("return document.documentElement.scrollWidth") <= page.run("return window.innerWidth")
    image = page.screenshot()
    Path(os.environ.get("PLAYGROUND_SCREENSHOT", tmp_path / "playground.png")).write_bytes(image)
    assert len(image) > 10_000
    page.size(1200, 800)
