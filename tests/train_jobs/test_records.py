"""What a run tells about itself: Ray's metrics and their dashboard, TensorBoard, and where a step's time goes."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from tests.patience import PATIENCE
from train_jobs.loop.records import GAUGES, RayGauges, peak_flops

DASHBOARD = Path(__file__).parents[2] / "platform/dashboards/training.json"


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"ray_(\w+)", target["expr"])
    }
    assert shown == set(GAUGES)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_measuring_the_peak_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    peak = peak_flops(threads=1)
    assert torch.equal(torch.get_rng_state(), state)  # a measurement that moved the seed would change the run
    assert 1e8 < peak < 1e17


@pytest.mark.slow
def test_ray_exports_the_gauges_with_their_tags(ray_cluster: str) -> None:
    import ray

    gauges = RayGauges(run="model-0123", rank=3)
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + PATIENCE
    while True:
        gauges.set("starloom_train_loss", 2.5)
        gauges.set("starloom_train_part_seconds", 0.75, part="forward")
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith("ray_starloom_train_") and 'run="model-0123"' in line]
        if len(found) == 2 or time.monotonic() > deadline:
            break
        time.sleep(1)
    values = {line.split("{")[0]: line for line in found}
    assert set(values) == {"ray_starloom_train_loss", "ray_starloom_train_part_seconds"}
    assert values["ray_starloom_train_loss"].endswith(" 2.5")
    assert 'part="forward"' in values["ray_starloom_train_part_seconds"]
    assert all('rank="3"' in line for line in found)
