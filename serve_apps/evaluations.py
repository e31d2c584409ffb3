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

from serve_apps.evaluation.service import Evaluations
from serve_apps.leaderboard.app import Leaderboard
from starloom.cluster import connect
from starloom.errors import guarded
from starloom.ports import usable_port


def deploy(root: str | Path, default_url: str | None) -> None:
    """Put the evaluations and the leaderboard on the running Serve; its HTTP address stays as it is."""
    folder = str(Path(root).resolve())
    evaluations = Evaluations.bind(folder, default_url)  # type: ignore[attr-defined]
    serve.run(evaluations, name="evaluations", route_prefix="/v1/evaluations")
    serve.run(Leaderboard.bind(folder), name="leaderboard", route_prefix="/leaderboard")  # type: ignore[attr-defined]


@contextmanager
def evaluating(
    root: str | Path, default_url: str | None = None, host: str = "127.0.0.1", port: int = 8001
) -> Iterator[str]:
    """Start Serve with the evaluations and the leaderboard, yield the URL, take it all down.

    Raises:
        UserError: the port is in use.
    """
    usable_port(host, port)
    connect()
    serve.start(http_options={"host": host, "port": port})
    try:
        deploy(root, default_url)
        yield f"http://{host}:{port}"
    finally:
        serve.shutdown()


def command(argv: Sequence[str]) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m serve_apps.evaluations", description=__doc__)
    parser.add_argument("--root", required=True, help="folder that keeps the evaluations")
    parser.add_argument("--url", help="the model to evaluate where a request names none")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    arguments = parser.parse_args(list(argv))
    with evaluating(arguments.root, arguments.url, arguments.host, arguments.port) as url:
        print(f"evaluations at {url}/v1/evaluations, leaderboard at {url}/leaderboard", flush=True)
        asked = threading.Event()
        stop: Callable[..., None] = lambda *_: asked.set()  # noqa: E731
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        asked.wait()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: command(sys.argv[1:])))
