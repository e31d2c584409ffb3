"""Requests that schemathesis makes up from the API's own OpenAPI page: none may break the server."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from tests.patience import PATIENCE
from tests.serve_apps.api.conftest import Running

pytestmark = pytest.mark.slow

LONG = ("max_tokens", "max_completion_tokens", "n_predict")  # long answers are slow, not wrong


def test_no_request_that_schemathesis_makes_up_breaks_the_server(server: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    tried: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation, statuses = found.ok(), tried.setdefault(found.ok().label, set())

        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            if isinstance(case.body, dict):
                case.body |= {
                    name: 20 for name in LONG if isinstance(case.body.get(name), int) and case.body[name] > 20
                }
            answer = case.call_and_validate(checks=[not_a_server_error], timeout=PATIENCE)
            statuses.add(answer.status_code)  # noqa: B023 - called in the same turn

        check()
    assert {200, 400} <= tried["POST /v1/completions"]
    assert len(tried) > 18
    assert httpx.get(f"{server.url}/health").status_code == 200
