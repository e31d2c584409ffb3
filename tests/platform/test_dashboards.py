"""Dashboards show what the code tells; Prometheus takes its settings and every expression; one command starts it."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from starloom import metrics
from starloom.ports import free_port
from tests.patience import PATIENCE

FOLDER = Path(__file__).parents[2] / "platform" / "dashboards"
BOARDS = sorted(FOLDER.glob("*.json"))


def panels(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["panels"]


def expressions(path: Path) -> list[str]:
    return [target["expr"] for panel in panels(path) for target in panel["targets"]]


@pytest.mark.parametrize(
    ("board", "told"), [("data", {**metrics.PROGRESS, **metrics.DONE}), ("evaluation", metrics.EVALUATION)]
)
def test_a_dashboard_shows_every_metric_and_no_other(board: str, told: dict[str, str]) -> None:
    shown = {name for one in expressions(FOLDER / f"{board}.json") for name in re.findall(r"ray_(\w+)", one)}
    assert shown == set(told)


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_dashboards_are_whole(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["uid"] == f"starloom-{path.stem}"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["type"] in ("stat", "timeseries", "bargauge", "heatmap", "gauge", "table")
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["datasource"]["uid"] == "${datasource}"
    corners = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len(set(corners)) == len(corners)


def test_the_folder_starts_and_prometheus_takes_every_expression(tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus here")
    port = free_port()
    environment = {**os.environ, "STARLOOM_PROMETHEUS": f"127.0.0.1:{port}"}
    with (tmp_path / "log").open("w") as log:
        started = subprocess.Popen(
            ["bash", str(FOLDER / "start.sh"), str(tmp_path / "kept")], env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers(f"http://127.0.0.1:{port}/-/ready"):
            assert started.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        for path in BOARDS:
            for one in expressions(path):
                query = re.sub(r"\$__rate_interval|\$__interval", "1m", re.sub(r"\$\w+(?=\")", ".*", one))
                words = urllib.parse.urlencode({"query": query})
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/api/v1/query?{words}", timeout=PATIENCE
                ) as answer:
                    assert json.load(answer)["status"] == "success", one
        while "starloom" not in _pools(port):  # it looks for targets in its own time
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(timeout=PATIENCE)
    assert not _answers(f"http://127.0.0.1:{port}/-/ready")


def _pools(port: int) -> set[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets?state=any", timeout=PATIENCE) as answer:
        return {target["scrapePool"] for target in json.load(answer)["data"]["activeTargets"]}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_ray_exports_what_steps_tell(ray_cluster: str) -> None:
    import ray

    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + PATIENCE
    found: list[str] = []
    while len(found) < 2 and time.monotonic() < deadline:
        metrics.progress("some part", 3, 8, 4096)
        metrics.tell("starloom_done_dropped", 7, recipe="r", step="s", reason="some reason")
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        found = [
            line
            for line in lines
            if ('part="some part"' in line and "shards_done" in line) or 'reason="some reason"' in line
        ]
        time.sleep(1)
    assert [line.rsplit(" ", 1)[1] for line in sorted(found)] == ["7.0", "3.0"]
