"""Attribution over HTTP: the request of llm-vscode as it sends it, completions that tell, the page in a browser."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from serve_apps.api.dialects import openai as dialect
from serve_apps.hosting import serving_config
from tests.browser import browsing, needs_browser
from tests.indexes import BLEND as CODE
from tests.indexes import write_index
from tests.models import tiny_tokenizer, write_tiny_model
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

ODD = "const marked = list.filter((one) => one.state > 0 && one.name !== '<b>');\nreturn marked.length + 41;\n"
ODD_PATH = "it's \"a\" <img src=x onerror=document.title='bad'>.js"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attributed")
    return write_tiny_model(path / "tiny", tiny_tokenizer())


@pytest.fixture(scope="module")
def without(ray_cluster: str, folder: Path) -> tuple[str, httpx.Response, httpx.Response]:
    """Of a server without an index: what the model writes after "def f", greedily, and two answers."""
    with serving_config({"models": [{"folder": str(folder)}]}) as base:
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none")
        answer = client.completions.create(model="tiny", prompt="def f", max_tokens=90, temperature=0)
        refused = httpx.post(f"{base}/v1/completions", json={"prompt": "x", "attribution": "report"})
        return answer.choices[0].text, refused, httpx.post(f"{base}/overlap", json={"document": "x"})


@pytest.fixture(scope="module")
def copied(without: tuple[str, httpx.Response, httpx.Response]) -> str:
    """What the model writes: it stands in the corpus too."""
    return without[0]


@pytest.fixture(scope="module")
def index(copied: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An artifact of three files, one of which has what the model writes."""
    files = [
        ("ann/mix", "blend.py", ["MIT"], CODE),
        ("bob/own", "f.py", [], f"# made by bob\ndef f{copied}\n"),
        ("cat/odd", ODD_PATH, ["Apache-2.0"], ODD),
    ]
    return write_index(tmp_path_factory.mktemp("index"), [files])


@pytest.fixture(scope="module")
def url(ray_cluster: str, folder: Path, index: str) -> Iterator[str]:
    gate = {"keys": {"secret": "ann"}, "open_paths": ["/overlap"]}
    values = {"models": [{"folder": str(folder)}], "attribution": {"index": index}, "gate": gate}
    with serving_config(values) as base:
        yield base


HEADERS = {"Authorization": "Bearer secret"}


def test_the_request_of_llm_vscode_gets_spans(url: str) -> None:
    # what its extension sends: a window around the cursor, no key
    window = "import os\n\n" + CODE + "\n\nprint(1)\n"
    answer = httpx.post(f"{url}/overlap", json={"document": window})
    assert answer.status_code == 200
    found = answer.json()
    assert found["spans"] == [[10, 11 + len(CODE) + 1]] or window[slice(*found["spans"][0])].strip() == CODE.strip()
    file = found["matches"][0]["files"][0]
    assert (file["repository"], file["path"], file["lines"], file["licenses"]) == (
        "ann/mix",
        "blend.py",
        [1, 5],
        ["MIT"],
    )
    half = httpx.post(f"{url}/overlap", content=json.dumps({"document": "\ud83d" + CODE}))
    assert half.status_code == 200
    assert half.json()["spans"]


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        ("[]", 400, "document"),
        ("{", 400, "no JSON"),
        ('{"document": 1}', 400, "document"),
        (json.dumps({"document": "x" * 100_001}), 413, "100,000"),
        (json.dumps({"document": "x", "more": 1}), 400, "'more' is not known"),
    ],
)
def test_documents_that_are_none_are_told(url: str, content: str, status: int, told: str) -> None:
    answer = httpx.post(f"{url}/overlap", content=content)
    assert answer.status_code == status
    assert told in answer.text


def test_completions_tell_where_they_stand(url: str, copied: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)
    ask = {"model": "tiny", "prompt": "def f", "max_tokens": 90, "temperature": 0}
    plain = client.completions.create(**ask)
    assert "attribution" not in plain.choices[0].model_extra
    told = client.completions.create(**ask, extra_body={"attribution": "report"}).choices[0]
    assert told.text == copied
    match = told.model_extra["attribution"]["matches"][0]
    assert match["span"][0] == 0
    assert len(copied.rstrip()) <= match["span"][1] <= len(copied)
    assert match["files"][0]["repository"] == "bob/own"
    assert match["licenses"] == {"none": 1}
    chunks = list(client.completions.create(**ask, stream=True, extra_body={"attribution": "report"}))
    assert "".join(chunk.choices[0].text for chunk in chunks) == copied
    assert chunks[-1].choices[0].model_extra["attribution"]["matches"][0]["span"] == match["span"]
    for stream in (False, True):
        blocked = client.completions.create(**ask, stream=stream, extra_body={"attribution": "block"})
        choices = [chunk.choices[0] for chunk in blocked] if stream else blocked.choices
        assert "".join(choice.text for choice in choices) == ""
        assert choices[-1].finish_reason == "content_filter"
        assert choices[-1].model_extra["attribution"]["matches"][0]["files"][0]["path"] == "f.py"


def test_people_look_themselves_up_and_metrics_count(url: str) -> None:
    assert httpx.get(f"{url}/corpus", params={"owner": "ann"}).status_code == 401
    found = httpx.get(f"{url}/corpus", params={"owner": "ann"}, headers=HEADERS).json()
    assert found["repositories"][0]["repo_name"] == "ann/mix"
    assert httpx.get(f"{url}/corpus", headers=HEADERS).status_code == 400
    assert "starloom:attribution_requests_total" in httpx.get(f"{url}/metrics").text
    assert httpx.post(f"{url}/overlap?key=secret", json={"document": "x"}).status_code == 200


def test_without_an_index_the_wish_is_refused(without: tuple[str, httpx.Response, httpx.Response]) -> None:
    _, refused, missing = without
    assert (refused.status_code, "no index" in refused.text) == (400, True)
    assert missing.status_code == 404


def test_a_wish_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="report"):
        dialect.CompletionBody.model_validate({"prompt": "x", "attribution": "perhaps"})


def test_the_very_bytes_that_llm_vscode_sends_are_answered_as_it_reads_them(url: str) -> None:
    """Recorded from the fetch of Node 20, which the extension calls; it merges spans and counts UTF-16 units."""
    recorded = (Path(__file__).parent / "recordings/llm-vscode-overlap.http").read_bytes()
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(recorded)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
        spans = json.loads(answer.read())["spans"]
    sent = json.loads(recorded.partition(b"\r\n\r\n")[2])["document"].encode("utf-16-le")
    marked = [sent[2 * first : 2 * end].decode("utf-16-le") for first, end in spans]
    assert [text.strip() for text in marked] == [CODE.strip()]


@needs_browser
def test_the_page_marks_code_and_looks_people_up(url: str, tmp_path: Path) -> None:
    with browsing(tmp_path) as page:
        page.open(f"{url}/search")
        page.run("document.getElementById('key').value = 'secret'")
        mine = json.dumps("// \U0001f600 mine\n" + ODD)
        page.run(f"document.getElementById('document').value = {mine}")
        page.click("#ask")
        page.wait("return document.querySelector('#matches code')")
        assert page.run("return document.querySelector('#matches code').textContent") == f"cat/odd/{ODD_PATH}"
        marked = page.run("return [...document.querySelectorAll('#marked mark')].map((e) => e.textContent).join('|')")
        assert marked.strip() == ODD.strip()
        assert page.run("return document.title") != "bad"
        page.run("document.getElementById('name').value = 'https://github.com/Ann/mix.git'")
        page.click("#find")
        page.wait("return document.querySelector('#found table')")
        assert "blend.py" in page.run("return document.getElementById('found').textContent")
        for width in (1400, 390):
            page.size(width, 900)
            assert page.run("return document.documentElement.scrollWidth <= window.innerWidth"), width
