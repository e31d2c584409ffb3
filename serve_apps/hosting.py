"""A model on Serve as a context: deployed, answering at a URL, taken down."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starloom import storage
from starloom.artifact import Artifact, newest
from starloom.errors import UserError
from starloom.fetched import local_copy
from starloom.kinds import Attribution, Model, check_index
from starloom.ports import free_port, usable_port


def model_folder(location: str) -> str:
    """The path or URL of a model or adapter: `location` itself, or the newest finished model of a run.

    Raises:
        UserError: there is neither.
    """
    if any(storage.exists(storage.join(location, name)) for name in ("config.json", "adapter_config.json")):
        return storage.normalize(location)
    found = newest(location, Model.kind)
    if found is None:
        raise UserError(f"{location}: is no model folder and holds no finished model; run the recipe first")
    return Model(found).location


def index_of(location: str, model: str) -> Attribution | None:
    """The index of a run, or an index itself; None where a run has none of the corpus that the model learnt from.

    Raises:
        UserError: the location is an index of another corpus than the model's.
    """
    if storage.exists(storage.join(location, "manifest.json")):
        found: Artifact | None = Artifact.open(location)
    else:
        found = newest(location, Attribution.kind)
    if found is None:
        return None
    view, learnt = Attribution(found), newest(model, Model.kind)
    if learnt is not None:
        check_index(view, learnt)
    return view


@contextmanager
def serving(folder: str | Path, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Deploy a model folder (a path or URL) on the current Ray, yield its URL, take it down. Port 0 is any free one.

    Raises:
        UserError: the folder holds no model, or the port is in use.
    """
    with serving_config({"models": [{"folder": storage.normalize(str(folder))}]}, port, host) as url:
        yield url


@contextmanager
def serving_config(values: dict[str, Any], port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Deploy a whole `ServingConfig` on the current Ray, yield its URL, take it down. Port 0 is any free one.

    Raises:
        UserError: the config is wrong, a folder holds no model, or the port is in use.
    """
    from ray import serve

    from serve_apps.deployment import unguarded
    from starloom.cluster import connect
    from starloom.model.adapter import base_folder
    from starloom.model.folder import read_config

    made = unguarded(values)
    for model in values["models"]:
        read_config(base_folder(local_copy(model["folder"])))  # a wrong folder is told before anything is started
    port = free_port(host) if port == 0 else usable_port(host, port)
    connect()
    serve.start(http_options={"host": host, "port": port})
    try:
        serve.run(made, name="starloom", route_prefix="/")
        yield f"http://{host}:{port}"
    finally:
        serve.shutdown()
