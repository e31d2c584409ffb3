"""The leaderboard: its numbers, and its pages in a headless browser at desktop and phone width."""

import csv
import io
import itertools
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serve_apps.evaluation.compare import compare, sign_test
from serve_apps.evaluation.sampling import Sample
from serve_apps.evaluation.store import DONE, About, EvaluationRequest, Store, StoredRun
from serve_apps.leaderboard.board import as_csv, as_json, build, win_rates
from serve_apps.leaderboard.pages import board_page, run_page, size, task_page
from serve_apps.leaderboard.plot import LINE, label_places, score_ticks
from starloom.errors import NotFoundError, UserError
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1400, 390)  # a desktop and a phone
MODELS = {"starcoderbase-1b": 0.15, "starcoderbase-15b": 0.31, "<b>evil & long-named model of somebody</b>": 0.02}


def finished_run(
    store: Store, model: str, name: str, score: float, speed: float | None = None, tasks: int = 164
) -> StoredRun:
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
        "tasks": tasks,
        "data": {"tasks_of": [tasks, 164]},
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
    assert (first.rank, first.win_rate, first.average) == (1, 1.0, pytest.approx(0.2325))
    assert (first.parameters, first.licence, first.throughput_50) == (15_500_000_000, "OpenRAIL-M", 500.0)


def test_later_run_takes_the_place_of_an_earlier_one(store: Store) -> None:
    run = finished_run(store, "starcoderbase-1b", "humaneval", 0.5)
    (row,) = [row for row in build(store.runs()).rows if row.model == "starcoderbase-1b"]
    assert (row.cells["humaneval"].score, row.cells["humaneval"].run) == (0.5, run.id)
    assert row.throughput_50 == 1000.0  # measured before, still known


def test_win_rate_is_a_rate_and_a_tie_is_half_a_win() -> None:
    scores = {"a": {"x": 0.9, "y": 0.1}, "b": {"x": 0.5, "y": 0.1}, "c": {"x": 0.1}, "d": {"z": 1.0}}
    assert win_rates(scores) == {"a": 0.75, "b": 0.5, "c": 0.0}


def test_part_of_a_benchmark_ranks_with_no_whole_and_never_takes_its_place(store: Store) -> None:
    whole = next(row for row in build(store.runs()).rows if row.model == "starcoderbase-1b")
    finished_run(store, "starcoderbase-1b", "humaneval", 1.0, tasks=1)
    finished_run(store, "newcomer", "humaneval", 1.0, tasks=1)
    board = build(store.runs())
    rows = {row.model: row for row in board.rows}
    assert rows["starcoderbase-1b"] == whole
    assert board.rows[-1].model == "newcomer"
    assert (rows["newcomer"].rank, rows["newcomer"].win_rate, rows["newcomer"].average) == (None, None, None)
    assert rows["newcomer"].cells["humaneval"].partial
    assert "1 of 164 tasks" in board_page(board)
    assert as_json(board)["models"][-1]["scores"]["humaneval"]["partial"] is True


def test_runs_are_compared_task_by_task() -> None:
    first = [{"task_id": str(n), "passed": n < 4, "status": "x"} for n in range(20)]
    second = [{"task_id": str(n), "passed": 3 <= n < 12, "status": "x"} for n in range(1, 20)]
    found = compare(first, [*second, {"task_id": "0", "passed": True, "status": "invalid"}])
    assert (found.tasks, len(found.better), len(found.worse)) == (19, 8, 2)
    assert found.p_value == pytest.approx(0.109375)
    assert "no more than chance" in found.lines()[0]
    assert (sign_test(0, 0), sign_test(1, 0), sign_test(10, 0)) == (1.0, 1.0, pytest.approx(2 / 1024))
    with pytest.raises(UserError, match="no task in common"):
        compare(first, [{"task_id": "other", "passed": True}])


def test_a_runs_page_is_small_and_a_tasks_page_has_its_samples(store: Store) -> None:
    run = store.create(EvaluationRequest(benchmark="humaneval"))
    samples = [Sample(f"HumanEval/{task}", n, "    return 1\n" * 40) for task in range(164) for n in range(200)]
    verdicts = [
        {
            "task_id": s.task,
            "sample": s.number,
            "status": "failed",
            "detail": "AssertionError",
            "passed": s.number % 2 == 0,
        }
        for s in samples
    ]
    (run.folder / "samples.jsonl").write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in samples))
    (run.folder / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts))
    page = run_page(run)
    assert len(page) < 200_000
    assert page.count("100 of 200") == 164
    assert page.index("HumanEval/9<") < page.index("HumanEval/10<")
    assert task_page(run, "HumanEval/7").count("<details") == 200
    with pytest.raises(NotFoundError, match="no samples of task"):
        task_page(run, "HumanEval/999")


def test_labels_do_not_cover_each_other_and_ticks_are_round() -> None:
    for heights in ([100.0] * 5, [290.0, 291.0, 292.0], [20.0, 200.0], [285.0 + n / 10 for n in range(12)]):
        places = sorted(label_places(heights))
        assert all(low + LINE - 1e-6 <= high for low, high in itertools.pairwise(places))
    assert score_ticks(0.31) == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert score_ticks(0.02) == [0.0, 0.01, 0.02]
    assert score_ticks(1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


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
    assert "cpu_seconds" in run_page(store.runs()[0])
    task = task_page(store.runs()[0], "HumanEval/0")
    assert "return &lt;b&gt;1" in task
    assert "has_close_elements" in task  # the prompt


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
  const models = () => rows().map(row => row.cells[1].dataset.value);
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
    return subprocess.run([CHROMIUM, *flags, *arguments], capture_output=True, text=True, timeout=PATIENCE).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", WIDTHS)
def test_board_sorts_filters_and_fits_the_screen(site: str, tmp_path: Path, width: int) -> None:
    import html
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
