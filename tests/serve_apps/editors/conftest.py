"""The API on a socket of this process, for what the server gives out to editors."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serve_apps.api.gate import GateConfig
from tests.models import tiny_tokenizer, write_tiny_model
from tests.serve_apps.api.conftest import Running, Serve, running


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a window of 2,048 tokens."""
    return write_tiny_model(
        tmp_path_factory.mktemp("editors") / "tiny", tiny_tokenizer(size=300), hidden=64, context=2048
    )


@pytest.fixture
def serve(small: Path) -> Iterator[Serve]:
    """Servers with gates of their own."""
    with ExitStack() as stack:

        def start(gate: GateConfig | None = None) -> Running:
            return stack.enter_context(running(small, gate or GateConfig(), None, {}))

        yield start
