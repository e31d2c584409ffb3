"""The leaderboard: its numbers, and its pages in a headless browser at desktop and phone width."""

import csv
import io
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serve_apps.evaluation.sampling import Sample
from serve_apps.evaluation.store import DONE, About, EvaluationRequest, Store, StoredRun
from serve_apps.leaderboard.board import as_csv, as_json, build, win_rates
from serve_apps.leaderboard.pages import board_page, run_page, size

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1280, 390)  # a desktop and a phone
MODELS = {"starcoderbase-1b": 0.15, "starcoderbase-15b": 0.31, "<b>evil & long-named model of somebody</b>": 0.02}


def finished_run(store: Store, model: str, name: str, score: float, speed: float | None = None) -> StoredRun:
    """A run as the service leaves it."""
    about = About(parameters=15_500_000_000 if "15b" in model else None, licence="OpenRAIL-M", sequence_length=8192)
    run = store.create(EvaluationRequest(benchmark=name, about=about))
    run.add_sample(Sample("HumanEval/0", 0, "    return <b>1</b>\n"))
    run.add_verdict({"task_id": "HumanEval/0", "sample": 0, "status": "failed", "detail": "no", "passed": False})
    settings = {"temperature": 0.2, "top_p": 0.95, "max_tokens": 512, "seed": 0, "cpu_seconds": 5.0, "isolated": True}
    result = {
        "model": model,
        "benchmark": name,
        "pass_at_k": {"1": score},
        "interval_95": {"1": [max(0.0, score - 0.03), score + 0.03]},
        "n": 20,
        "tasks": 164,
        "statuses": {"failed": 1},
        "settings": settings,
    }
    run.write("results.json", result)
    if speed:
        run.write("throughput.json", {"1": speed / 8, "50": speed})
    run.set_state(DONE)
    return run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    for number, (model, score) in enumerate(MODELS.items()):
        finished_run(made, model, "humaneval", score, 1000.0 / (number + 1))
        finished_run(made, model, "multiple-rs", score / 2)
    made.create(EvaluationRequest(benchmark="mbpp"))  # unfinished: not on the board
    return made


def test_board_ranks_by_win_rate_and_shows_finished_runs_alone(store: Store) -> None:
    board = build(store.runs())
    assert board.benchmarks == ("humaneval", "multiple-rs")
    assert [row.model for row in board.rows][:2] == ["starcoderbase-15b", "starcoderbase-1b"]
    first = board.rows[0]
    assert (first.win_rate, first.average) == (3.0, pytest.approx(0.2325))
    assert (first.parameters, first.licence, first.throughput_50) == (15_500_000_000, "OpenRAIL-M", 500.0)


def test_later_run_takes_the_place_of_an_earlier_one(store: Store) -> None:
    run = finished_run(store, "starcoderbase-1b", "humaneval", 0.5)
    (row,) = [row for row in build(store.runs()).rows if row.model == "starcoderbase-1b"]
    assert (row.cells["humaneval"].score, row.cells["humaneval"].run) == (0.5, run.id)
    assert row.throughput_50 == 1000.0  # measured before, still known


def test_win_rate_is_the_mean_of_ranks_and_ties_share_the_better() -> None:
    scores = {"a": {"x": 0.9, "y": 0.1}, "b": {"x": 0.5, "y": 0.1}, "c": {"x": 0.1}}
    assert win_rates(scores) == {"a": 3.0, "b": 2.5, "c": 1.0}


def test_exports_hold_what_the_page_shows(store: Store) -> None:
    board = build(store.runs())
    lines = list(csv.DictReader(io.StringIO(as_csv(board))))
    assert [line["model"] for line in lines] == [row.model for row in board.rows]
    assert float(lines[0]["humaneval"]) == 0.31
    models = as_json(board)["models"]
    assert models[0]["scores"]["multiple-rs"]["tasks"] == 164
    assert models[0]["throughput_50"] == 500.0


def test_pages_escape_what_models_write(store: Store) -> None:
    page = board_page(build(store.runs()))
    assert "<b>evil" not in page
    assert "&lt;b&gt;evil &amp; long-named" in page
    run = run_page(store.runs()[0])
    assert "return &lt;b&gt;1" in run
    assert "has_close_elements" in run  # the prompt
    assert "cpu_seconds" in run


def test_empty_board_tells_how_to_start(tmp_path: Path) -> None:
    assert "POST /v1/evaluations" in board_page(build(Store(tmp_path).runs()))


def test_sizes_read_as_people_write_them() -> None:
    assert [size(n) for n in (None, 15_500_000_000, 164_000_000, 4_000, 7)] == ["–", "15.5B", "164M", "4K", "7"]


@pytest.fixture
def site(store: Store, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "site"
    folder.mkdir()
    probe = """<script>
addEventListener("load", () => {
  const rows = () => [...document.querySelectorAll("#board tbody tr")].filter(row => !row.hidden);
  const models = () => rows().map(row => row.cells[0].textContent);
  const seen = {wide: document.documentElement.scrollWidth, screen: innerWidth, first: models()};
  const heads = [...document.querySelectorAll("#board th button")];
  heads[2].click(); seen.falling = models(); heads[2].click(); seen.rising = models();
  const box = document.getElementById("filter"); box.value = "15B"; box.dispatchEvent(new Event("input"));
  seen.filtered = models(); seen.dots = document.querySelectorAll("circle.dot").length;
  top.document.body.dataset.seen = JSON.stringify(seen);
});
</script>"""
    (folder / "board.html").write_text(board_page(build(store.runs())) + probe)
    (folder / "run.html").write_text(run_page(store.runs()[0]))
    for width in WIDTHS:  # a frame, since a headless window is never as narrow as a phone
        for page in ("board", "run"):
            frame = f'<iframe src="{page}.html" style="border: 0; width: {width}px; height: 860px"></iframe>'
            (folder / f"{page}-{width}.html").write_text(f"<!doctype html><body style='margin: 0'>{frame}</body>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def browse(*arguments: str) -> str:
    """Headless Chromium's standard output."""
    assert CHROMIUM is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=3000"]
    return subprocess.run([CHROMIUM, *flags, *arguments], capture_output=True, text=True, timeout=120).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", WIDTHS)
def test_board_sorts_filters_and_fits_the_screen(site: str, tmp_path: Path, width: int) -> None:
    import html
    import json
    import re

    window = f"--window-size={max(width, 500)},860"
    text = browse(window, "--dump-dom", f"{site}/board-{width}.html")
    found = re.search(r'data-seen="([^"]*)"', text)
    assert found is not None, text[:2000]
    seen = json.loads(html.unescape(found.group(1)))
    assert seen["screen"] == width
    assert seen["wide"] <= width  # only the table's own box scrolls sideways
    assert seen["first"][0] == "starcoderbase-15b"
    assert seen["falling"] == seen["rising"][::-1]
    assert seen["filtered"] == ["starcoderbase-15b"]
    assert seen["dots"] == 3
    for page in ("board", "run"):
        picture = tmp_path / f"{page}-{width}.png"
        browse(window, f"--screenshot={picture}", f"{site}/{page}-{width}.html")
        assert picture.stat().st_size > 5000
