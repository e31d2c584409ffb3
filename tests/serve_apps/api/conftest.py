"""The API on a socket of this process, over a tiny random model: its engine can be looked into."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from serve_apps.api import overlap
from serve_apps.api.app import create_app
from serve_apps.api.gate import GateConfig
from serve_apps.api.service import Served, Service
from serve_apps.attributor import Attributor
from serve_apps.engine.engine import EngineConfig, LocalEngine
from serve_apps.segments import Here
from starloom.artifact import Artifact
from starloom.kinds import Attribution
from starloom.model.folder import read_model
from starloom.tokenizer import load_tokenizer
from tests.models import tiny_tokenizer, write_tiny_model


@dataclass(frozen=True)
class Running:
    """A server, and what is behind it."""

    url: str
    port: int
    engine: LocalEngine
    folder: Path


Serve = Callable[..., Running]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("api")
    return write_tiny_model(path / "tiny", tiny_tokenizer(size=300), hidden=64, context=4096)


@contextmanager
def running(
    folder: Path,
    gate: GateConfig,
    deadline: float | None,
    engine_settings: dict[str, object],
    template: str | None = None,
    index: str | None = None,
) -> Iterator[Running]:
    settings = {"cache_tokens": 16384, "threads": 1, **engine_settings}
    tokenizer = load_tokenizer(folder)
    engine = LocalEngine(read_model(folder), tokenizer, EngineConfig.model_validate(settings))
    view = Attribution(Artifact.open(index)) if index else None
    attributor = Attributor(view.artifact.fingerprint, Here(view)) if view else None
    service = Service({"tiny": Served("tiny", engine, tokenizer, chat_template=template)}, deadline, attributor)
    more = [overlap.router(attributor)] if attributor else []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        port = int(listening.getsockname()[1])
        server = uvicorn.Server(
            uvicorn.Config(create_app(service, gate, more), log_level="warning", timeout_graceful_shutdown=2)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Running(f"http://127.0.0.1:{port}", port, engine, folder)
        server.should_exit = True
        thread.join()
    engine.close()


@pytest.fixture
def serve(tiny: Path) -> Iterator[Serve]:
    """Servers with settings of their own."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(
            gate: GateConfig | None = None,
            deadline: float | None = None,
            template: str | None = None,
            **engine: object,
        ) -> Running:
            return stack.enter_context(running(tiny, gate or GateConfig(), deadline, engine, template))

        yield start


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Running]:
    """One server for the tests of a module."""
    with running(tiny, GateConfig(), None, {}) as made:
        yield made
