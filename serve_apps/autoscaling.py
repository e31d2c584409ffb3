"""How many replicas the load asks for: a policy for Ray Serve's autoscaler.

``serve deploy`` takes it as ``policy: {policy_function: "serve_apps.autoscaling:replicas_for_load"}``.
"""

import math
from collections.abc import Mapping
from typing import Any

FULL = 0.8  # of an engine's batch or blocks: beyond, requests wait soon
OCCUPANCY, CACHE_USE = "occupancy", "cache_use"


def replicas_for_load(context: Any) -> tuple[float, dict[str, Any]]:
    """As many replicas as keep each one's batch and its KV cache at most `FULL`; Serve's `AutoscalingContext` in.

    Every replica reports its occupancy (running and waiting requests over the places of the batch) and its share of
    blocks in use: a queue of short requests asks for more replicas, and so do few long ones. Serve applies bounds and
    delays to the answer.
    """
    told: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
    occupancy, cache = told.get(OCCUPANCY, {}), told.get(CACHE_USE, {})
    pressure = sum(max(occupancy[replica], cache.get(replica, 0.0)) for replica in occupancy)
    silent = context.current_num_replicas - len(occupancy)  # those that start have not reported: they are needed
    return max(1, math.ceil(pressure / FULL - 1e-9) + max(0, silent)), {}
