"""Evaluations and the leaderboard over what they found, on Ray Serve beside the model.

``python -m serve_apps.evaluations --root runs/team --url http://127.0.0.1:8000``
"""

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ray import serve

from serve_apps.api.gate import GateConfig
from serve_apps.api.keys import check_reach, read_keys
from serve_apps.evaluation.allowed import Allowed
from serve_apps.evaluation.service import Evaluations, ServiceConfig
from serve_apps.leaderboard.app import Leaderboard
from starloom.cluster import connect
from starloom.config import read_toml, validate
from starloom.errors import guarded
from starloom.ports import usable_port


def deploy(config: ServiceConfig) -> None:
    """Put the evaluations and the leaderboard on the running Serve; its HTTP address stays as it is."""
    values = {**config.model_dump(mode="json"), "root": str(Path(config.root).resolve())}
    board = Leaderboard.bind(values["root"], values["gate"])
    serve.run(Evaluations.bind(values), name="evaluations", route_prefix="/v1/evaluations")
    serve.run(board, name="leaderboard", route_prefix="/leaderboard")


@contextmanager
def evaluating(config: ServiceConfig, host: str = "127.0.0.1", port: int = 8001) -> Iterator[str]:
    """Start Serve with the evaluations and the leaderboard, yield the URL, take it all down.

    Raises:
        UserError: the port is in use.
    """
    usable_port(host, port)
    connect()
    serve.start(http_options={"host": host, "port": port})
    try:
        deploy(config)
        yield f"http://{host}:{port}"
    finally:
        serve.shutdown()


def allowed_from(path: str | None) -> Allowed:
    """What requests may name, from a TOML file with tables `urls`, `data` and `corpora`; nothing without one.

    Raises:
        UserError: the file cannot be read or holds something else.
    """
    return validate(Allowed, read_toml(path), where=path) if path is not None else Allowed()


def command(argv: Sequence[str]) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m serve_apps.evaluations", description=__doc__)
    parser.add_argument("--root", required=True, help="folder that keeps the evaluations")
    parser.add_argument("--url", help="the model to evaluate where a request names none")
    parser.add_argument("--api-keys", metavar="FILE", help="lines of name:key; requests must carry one of the keys")
    parser.add_argument("--allow", metavar="TOML", help="endpoints, data and corpora that requests may name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--open", action="store_true", help="serve other machines without keys, and mean it")
    arguments = parser.parse_args(list(argv))
    check_reach(arguments.host, arguments.open, bool(arguments.api_keys))
    read_keys(arguments.api_keys)  # what is wrong with them is told before anything is started
    gate = GateConfig(keys_file=arguments.api_keys and str(Path(arguments.api_keys).resolve()))
    config = ServiceConfig(
        root=arguments.root, default_url=arguments.url, gate=gate, allowed=allowed_from(arguments.allow)
    )
    with evaluating(config, arguments.host, arguments.port) as url:
        print(f"evaluations at {url}/v1/evaluations, leaderboard at {url}/leaderboard", flush=True)
        asked = threading.Event()
        stop: Callable[..., None] = lambda *_: asked.set()  # noqa: E731
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        asked.wait()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: command(sys.argv[1:])))
