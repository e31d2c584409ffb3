"""The number of replicas that a load asks for."""

from types import SimpleNamespace

import pytest

from serve_apps.autoscaling import replicas_for_load


@pytest.mark.parametrize(
    ("occupancy", "cache", "current", "wanted"),
    [
        ([0.0], [0.0], 1, 1),
        ([0.8], [0.1], 1, 1),
        ([0.9], [0.1], 1, 2),
        ([4.0], [0.1], 1, 5),
        ([0.2], [1.0], 1, 2),
        ([0.3, 0.3], [0.1, 0.2], 2, 1),
        ([0.8, 0.1], [0.1, 0.8], 2, 2),
        ([0.9], [0.1], 2, 3),
        ([], [], 1, 1),
    ],
)
def test_replicas_follow_queue_and_cache(occupancy: list[float], cache: list[float], current: int, wanted: int) -> None:
    told = {"occupancy": dict(enumerate(occupancy)), "cache_use": dict(enumerate(cache))}
    context = SimpleNamespace(aggregated_metrics=told, current_num_replicas=current)
    assert replicas_for_load(context)[0] == wanted
