"""``starloom serve RUN_OR_MODEL``: a model over HTTP, on Ray Serve."""

import argparse
import json
import os
import secrets
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serve_apps.api.keys import KEYS_VARIABLE, check_reach, keys_of, read_keys
from serve_apps.hosting import index_of, model_folder, serving_config
from starloom import storage
from starloom.config import parse_value, validate
from starloom.errors import UserError
from starloom.kinds import Attribution

EVALUATIONS = "evaluations"  # the user that the evaluations are to the model beside them


def main(argv: Sequence[str]) -> int:
    """Serve until interrupted.

    Raises:
        UserError: the index that is named is none, or another corpus's than the model's.
    """
    arguments = _parser().parse_args(list(argv))
    check_reach(arguments.host, arguments.open, bool(arguments.api_keys or os.environ.get(KEYS_VARIABLE)))
    read_keys(arguments.api_keys)  # what is wrong with them is told before anything is started
    named = [_named(location) for location in arguments.model]
    folders = [folder for _, folder in named]
    values: dict[str, Any] = {
        "models": [
            {"name": name, "folder": folder, "engine": _engine(arguments.engine, arguments.weights)}
            for name, folder in named
        ],
        "replicas": _replicas(arguments.replicas),
        "gate": {
            "requests_per_minute": arguments.requests_per_minute,
            "keys_file": str(Path(arguments.api_keys).resolve()) if arguments.api_keys else None,
            "open": arguments.open,
            "allow_origins": arguments.allow_origin,
        },
    }
    location = _split(arguments.model[0])[1]
    index = _index(arguments.index, location)
    if arguments.ignore and index is None:
        raise UserError(f"--ignore {arguments.ignore[0]}: nothing is looked up; name an index with --index")
    if index is not None:
        values["attribution"] = {"index": index.artifact.folder, "ignore": arguments.ignore}
    # where keys are asked for, the evaluations have one of their own for the model beside them
    own = secrets.token_urlsafe(32) if arguments.evaluations and _keys_are_asked_for(values) else None
    people = dict(values["gate"])
    if own is not None:
        values["gate"] = {**people, "keys": {own: EVALUATIONS}}
    with serving_config(values, host=arguments.host, port=arguments.port) as url:
        body = json.dumps({"model": named[0][0], "prompt": "def fibonacci(n):", "max_tokens": 32})
        print(f"serving {', '.join(map(str, folders))} at {url} (a page to try it: {url}/)")
        print(f"plugins for VS Code, JupyterLab, Vim, Neovim and Emacs: {url}/editors/")
        if index is not None:
            print(f"look code and people up at {url}/search, or POST {url}/overlap")
        if arguments.evaluations:
            _deploy_evaluations(arguments, url, own, people)
            print(f"evaluations at {url}/v1/evaluations, leaderboard at {url}/leaderboard")
        print(f"curl {url}/v1/completions -H 'Content-Type: application/json' -d '{body}'", flush=True)
        # Ray's own handler of SIGTERM aborts the process: ours replaces it once Ray has started
        asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: asked.set())
        asked.wait()
    return 0


def _index(asked: str | None, model: str) -> Attribution | None:
    """The index that is asked for, or the run's own; one of another corpus is left alone where nobody asked for it."""
    try:
        found = index_of(asked or model, model)
    except UserError as error:
        if asked:
            raise
        print(f"completions are not looked up: {error}")
        return None
    if asked and found is None:
        raise UserError(f"--index {asked}: holds no index; run the recipe with a step data_jobs.index")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="starloom serve", description="Serve a model over HTTP.")
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", nargs="+", help="run roots or model folders; NAME=... names one"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--open", action="store_true", help="serve other machines without keys, and mean it")
    parser.add_argument("--api-keys", metavar="FILE", help="lines of name:key; requests must carry one of the keys")
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN",
        help="pages of it may ask from a browser: https://host, or * for every one; repeatable",
    )  # fmt: skip
    parser.add_argument("--requests-per-minute", type=int, help="of each key")
    parser.add_argument(
        "--weights",
        choices=("auto", "float32", "bfloat16", "int8"),
        help="int8 is the fastest and the least exact; auto, the default, is bfloat16 where the processor multiplies "
        "it or the weights lose nothing by it, and else float32",
    )
    parser.add_argument(
        "--engine", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of each model's engine, such as threads=4, cache_tokens=65536 or kind=vllm; repeatable",
    )  # fmt: skip
    parser.add_argument("--replicas", default="1", metavar="N[..M]", help="how many, or up to M as the load asks")
    parser.add_argument("--index", metavar="RUN_OR_INDEX", help="look completions up in it (default: the run's own)")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="NAME", help="an owner or owner/repo that is no answer"
    )
    parser.add_argument("--allow", metavar="TOML", help="endpoints, data and corpora that evaluations may name")
    parser.add_argument(
        "--evaluations", metavar="FOLDER", help="serve /v1/evaluations and /leaderboard, kept in FOLDER"
    )
    return parser


def _engine(settings: Sequence[str], weights: str | None) -> dict[str, Any]:
    """The settings of an engine; whether there are such is looked at where they are used."""
    made: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (name and equals):
            raise UserError(f"--engine {setting}: write NAME=VALUE, such as threads=4")
        made[name] = parse_value(value)
    if weights is not None or made.get("kind", "local") == "local":
        made.setdefault("weights", weights or "auto")
    return made


def _replicas(text: str) -> dict[str, int]:
    least, dots, most = text.partition("..")
    if not least.isascii() or not least.isdigit() or (dots and not (most.isascii() and most.isdigit())):
        raise UserError(f"--replicas {text}: write a number, or two with .. between, such as 1..4")
    if int(most or least) < int(least) or not int(least):
        raise UserError(f"--replicas {text}: write one or more, and the larger number last")
    return {"at_least": int(least), "at_most": int(most or least)}


def _keys_are_asked_for(values: dict[str, Any]) -> bool:
    return bool(values["gate"]["keys_file"] or os.environ.get(KEYS_VARIABLE))


def _deploy_evaluations(arguments: argparse.Namespace, url: str, own: str | None, gate: dict[str, Any]) -> None:
    """The evaluations and the leaderboard, behind the keys of the people who may use the model."""
    from serve_apps.evaluation.service import ServiceConfig
    from serve_apps.evaluations import allowed_from, deploy

    keys = keys_of(os.environ.get(KEYS_VARIABLE, ""))
    settings = {"root": arguments.evaluations, "default_url": url, "key": own, "gate": {**gate, "keys": keys}}
    deploy(validate(ServiceConfig, {**settings, "allowed": allowed_from(arguments.allow)}, where="serve"))


def _named(text: str) -> tuple[str, str]:
    """The name that requests use (a run's or a model folder's own unless NAME= gives another), and the path or URL.

    What is there by its whole text is meant as it is: ``runs/lr=3e-4`` is a folder, not a name.
    """
    name, location = _split(text)
    return name or Path(location.rstrip("/")).name, model_folder(location)


def _split(text: str) -> tuple[str, str]:
    """The name that is given, if one is, and the location."""
    name, equals, location = text.partition("=")
    if equals and "/" not in name and not storage.exists(text):
        return name, location
    return "", text
