"""``starloom serve RUN_OR_MODEL``: a model over HTTP, on Ray Serve."""

import argparse
import json
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starloom import storage
from starloom.artifact import Artifact, finished
from starloom.errors import UserError
from starloom.ports import free_port

MODEL_KIND = "model"


def main(argv: Sequence[str]) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="starloom serve", description="Serve a model over HTTP.")
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", nargs="+", help="run roots or model folders; NAME=... names one"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-keys", metavar="FILE", help="lines of name:key; requests must carry one of the keys")
    parser.add_argument("--requests-per-minute", type=int, help="of each key")
    parser.add_argument(
        "--weights", choices=("float32", "int8"), default="float32", help="int8 is faster and less exact"
    )
    parser.add_argument(
        "--evaluations", metavar="FOLDER", help="serve /v1/evaluations and /leaderboard, kept in FOLDER"
    )
    arguments = parser.parse_args(list(argv))
    named = [_named(location) for location in arguments.model]
    folders = [folder for _, folder in named]
    values: dict[str, Any] = {
        "models": [
            {"name": name, "folder": str(folder.resolve()), "engine": {"weights": arguments.weights}}
            for name, folder in named
        ],
        "gate": {"requests_per_minute": arguments.requests_per_minute, "keys": _keys(arguments.api_keys)},
    }
    with serving_config(values, host=arguments.host, port=arguments.port) as url:
        body = json.dumps({"model": named[0][0], "prompt": "def fibonacci(n):", "max_tokens": 32})
        print(f"serving {', '.join(map(str, folders))} at {url} (a page to try it: {url}/)")
        if arguments.evaluations:
            from serve_apps.evaluation.service import deploy

            deploy(arguments.evaluations, url)
            print(f"evaluations at {url}/v1/evaluations, leaderboard at {url}/leaderboard")
        print(f"curl {url}/v1/completions -H 'Content-Type: application/json' -d '{body}'", flush=True)
        # Ray's own handler of SIGTERM aborts the process: ours replaces it once Ray has started
        asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: asked.set())
        asked.wait()
    return 0


def _named(text: str) -> tuple[str, Path]:
    """The name that requests use, and the folder: a run's or a model folder's own name unless NAME= gives another."""
    name, equals, location = text.rpartition("=")
    return name if equals else Path(location.rstrip("/")).name, model_folder(location)


def _keys(path: str | None) -> dict[str, str]:
    from serve_apps.deployment import keys_of

    if path is None:
        return {}
    try:
        return keys_of(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--api-keys {path}: {error.strerror}; give a file of name:key lines") from None


def model_folder(location: str) -> Path:
    """The folder of a model or adapter: `location` itself, or the newest finished model of a run.

    Raises:
        UserError: there is neither.
    """
    if any(storage.exists(storage.join(location, name)) for name in ("config.json", "adapter_config.json")):
        return storage.local_copy(location)
    newest: tuple[float, Artifact] | None = None
    for step in storage.folders(location):
        for artifact in finished(location, step):
            filesystem, path = storage.filesystem_of(artifact.path("manifest.json"))
            written = filesystem.modified(path).timestamp()
            if artifact.kind == MODEL_KIND and (newest is None or written >= newest[0]):
                newest = written, artifact
    if newest is None:
        raise UserError(f"{location}: is no model folder and holds no finished model; run the recipe first")
    return newest[1].local("model")


@contextmanager
def serving(folder: str | Path, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Deploy a model folder on the current Ray, yield its URL, take it down. Port 0 is any free one.

    Raises:
        UserError: the folder holds no model, or the port is in use.
    """
    with serving_config({"models": [{"folder": str(Path(folder).resolve())}]}, port, host) as url:
        yield url


@contextmanager
def serving_config(values: dict[str, Any], port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """The same for a whole `ServingConfig`.

    Raises:
        UserError: the config is wrong, a folder holds no model, or the port is in use.
    """
    from ray import serve

    from serve_apps.adapters import base_folder
    from serve_apps.deployment import application
    from starloom.cluster import connect
    from starloom.model.folder import read_config

    made = application(values)
    for model in values["models"]:
        read_config(base_folder(Path(model["folder"])))  # a wrong folder is told before anything is started
    port = _free_port(host, port)
    connect()
    serve.start(http_options={"host": host, "port": port})
    try:
        serve.run(made, name="starloom", route_prefix="/")
        yield f"http://{host}:{port}"
    finally:
        serve.shutdown()


def _free_port(host: str, port: int) -> int:
    if port == 0:
        return free_port(host)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port} on {host}: {error.strerror}; choose another with --port") from None
        return port
