"""The Serve deployment: HTTP ingress and engines in one replica.

``serve deploy`` takes it by ``serve_apps.deployment:application`` with a `ServingConfig` as arguments, as
``serve_apps/deploy.yaml`` shows. A changed config is rolled out replica by replica; a replica that leaves finishes
what it has begun.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import FastAPI
from pydantic import Discriminator, Field, Tag, model_validator
from ray import serve

from serve_apps.api.figures import Fleet, Totals
from serve_apps.api.gate import GateConfig
from serve_apps.api.keys import KEYS_VARIABLE, keys_of
from serve_apps.api.prompts import FimOrder
from serve_apps.api.rates import Rates, SharedLimiter
from serve_apps.api.service import Served, Service
from serve_apps.api.traces import in_files_alone
from serve_apps.attributor import Attributor
from serve_apps.autoscaling import CACHE_USE, OCCUPANCY
from serve_apps.engine.cores import cores_at_hand
from serve_apps.engine.engine import Adapted, EngineConfig, LocalEngine
from serve_apps.engine.request import Engine
from serve_apps.engine.vllm_engine import VllmConfig, start_vllm
from serve_apps.routing import PrefixRouter
from serve_apps.segments import Elsewhere, Here, spread
from starloom.artifact import Artifact
from starloom.config import Config, validate
from starloom.errors import RunError, UserError
from starloom.fetched import local_copy
from starloom.kinds import Attribution
from starloom.tokenizer import TOKENIZER_FILE, TOKENIZER_SETTINGS, CodeTokenizer

# beyond what engines queue, so that they refuse and not the proxy, and beyond what a crowd of half-sent requests holds
ONGOING = 2048
SWITCH_SECONDS = 0.001  # for so long the engine's thread waits for a loop that is busy (Python's default: 0.005)
HEALTH_SECONDS = 2.0  # between two looks; Serve replaces a replica after the third bad one (its default: ten)
REPORTED_SECONDS = 11.0  # replicas report every ten seconds


def _kind(engine: Any) -> str:
    kind = engine.get("kind", "local") if isinstance(engine, dict) else getattr(engine, "kind", "local")
    return str(kind)


AnyEngine = Annotated[Annotated[EngineConfig, Tag("local")] | Annotated[VllmConfig, Tag("vllm")], Discriminator(_kind)]


class ModelSettings(Config):
    """A folder of a model or a LoRA adapter under a name (none: the folder's), and the order of infilling.

    Without `fim_order` it is that of the model's config.json, or else PSM, which every model of Starloom has learnt.
    """

    folder: str
    name: str | None = None
    engine: AnyEngine = EngineConfig()
    fim_order: FimOrder | None = None

    @property
    def shown(self) -> str:
        """The name that requests use."""
        return self.name or Path(self.folder).resolve().name


class Replicas(Config):
    """Bounds of the number of replicas, for how long the load must ask for more or fewer, and the cores of each.

    `cpus` is what a replica asks the cluster for; its engines take the threads that they are told.
    """

    at_least: int = Field(1, ge=1)
    at_most: int = Field(1, ge=1)
    seconds_before_more: float = Field(10, ge=0)
    seconds_before_fewer: float = Field(300, ge=0)
    cpus: float = Field(1, ge=0)

    def autoscaling(self) -> dict[str, Any]:
        """Serve's settings."""
        return {
            "min_replicas": self.at_least,
            "max_replicas": max(self.at_least, self.at_most),
            "upscale_delay_s": self.seconds_before_more,
            "downscale_delay_s": self.seconds_before_fewer,
            "look_back_period_s": REPORTED_SECONDS,
            "policy": {"policy_function": "serve_apps.autoscaling:replicas_for_load"},
        }


class AttributionConfig(Config):
    """The index that completions are looked up in, and whose files are no answer."""

    index: str  # the folder of an artifact of kind attribution
    ignore: tuple[str, ...] = ()  # owners and repositories, such as the team's own
    segments_per_replica: int | None = Field(None, ge=1)  # none: all of them in the replicas of the models


class ServingConfig(Config):
    """What a replica serves and to whom. Keys may come from STARLOOM_API_KEYS too: ``name:key,name:key``."""

    models: tuple[ModelSettings, ...] = Field(min_length=1)
    gate: GateConfig = GateConfig()
    deadline_seconds: float | None = Field(None, gt=0)
    attribution: AttributionConfig | None = None
    replicas: Replicas = Replicas()

    @property
    def gpus(self) -> int:
        """That a replica asks for; its models share them."""
        ours = [one.engine for one in self.models if isinstance(one.engine, EngineConfig)]
        cards = [one.tensor_parallel for one in ours if one.device == "cuda"]
        return max((*(one.devices for one in self._vllm), *cards), default=0)

    @property
    def _vllm(self) -> list[VllmConfig]:
        return [model.engine for model in self.models if isinstance(model.engine, VllmConfig)]

    @model_validator(mode="after")
    def _share_a_memory(self) -> "ServingConfig":
        shares = sum(one.memory_share for one in self._vllm if one.devices)
        if shares > 1:
            raise ValueError(f"memory_share: all models' come to {shares:g}; they share a GPU's memory, 1 in all")
        return self


class Completions:
    """All models of the config behind all dialects."""

    def __init__(
        self, values: dict[str, Any], segments: Sequence[Any] = (), rates: Any = None, totals: Any = None
    ) -> None:
        """Beside the values: handles of what holds an index, of `Rates` and of `Totals`, where there are any."""
        import torch

        config = validate(ServingConfig, values, where="serving")
        in_files_alone()
        torch.set_num_threads(cores_at_hand())
        sys.setswitchinterval(SWITCH_SECONDS)
        if len({settings.shown for settings in config.models}) < len(config.models):
            raise UserError("serving.models: two models have one name; give each a name of its own")
        models = {served.name: served for served in served_models(config.models)}
        keys = config.gate.keys | keys_of(os.environ.get(KEYS_VARIABLE, ""))
        self._gate = config.gate.model_copy(update={"keys": keys})
        self._limiter = None if rates is None else SharedLimiter(rates)
        self._fleet = None if totals is None else Fleet(totals, serve.get_replica_context().replica_id.unique_id)
        self._awaited = Elsewhere(segments) if segments else None
        self._service = Service(models, config.deadline_seconds, _attributor(config.attribution, self._awaited))

    async def check_health(self) -> None:
        """Serve replaces a replica that raises, and sends it requests once this has returned for the first time.

        Raises:
            RunError: an engine does not get on with its work.
            AwayError: a part of the index ended before it has ever answered.
        """
        if self._awaited is not None:
            await self._awaited.ready()
            self._awaited = None
        failed = self._service.failed()
        if failed:
            raise RunError(failed)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `replicas_for_load` counts on: the busiest model's."""
        engines = (served.engine for served in self._service.models.values())
        loads = [(one.engine if isinstance(one, Adapted) else one).load for one in engines]
        return {
            OCCUPANCY: max((load.running + load.waiting) / load.places for load in loads),
            CACHE_USE: max(load.cache_use for load in loads),
        }

    def __serve_build_asgi_app__(self) -> FastAPI:
        from serve_apps.api.app import create_app
        from serve_apps.api.overlap import router

        attributor = self._service.attributor
        more = [router(attributor)] if attributor else []
        return create_app(self._service, self._gate, more, self._limiter, self._fleet)


Replica = serve.deployment(
    max_ongoing_requests=ONGOING,
    graceful_shutdown_timeout_s=30,
    health_check_period_s=HEALTH_SECONDS,
    logging_config={"enable_access_log": False},  # /metrics tells more, for less time
)(serve.ingress()(Completions))


def application(arguments: dict[str, Any]) -> serve.Application:
    """The Serve application of a `ServingConfig`, as ``serve deploy`` takes it, checked before anything is started.

    Raises:
        UserError: the config is wrong, or would let everyone in without saying so.
    """
    gate = validate(ServingConfig, arguments, where="serving").gate
    if not (gate.keys or gate.keys_file or gate.open or os.environ.get(KEYS_VARIABLE)):
        raise UserError("serving.gate: whoever reaches the server could use it; give keys_file, or say open: true")
    return unguarded(arguments)


def unguarded(arguments: dict[str, Any]) -> serve.Application:
    """The same for a server whose reach has been looked at, or is this machine.

    Raises:
        UserError: the config is wrong.
    """
    config = validate(ServingConfig, arguments, where="serving")
    values = config.model_dump(mode="json", exclude={"replicas"})  # more replicas are no other replicas
    several = max(config.replicas.at_least, config.replicas.at_most) > 1
    routed: dict[str, Any] = {"request_router_config": {"request_router_class": PrefixRouter}} if several else {}
    scaled = Replica.options(
        name="Completions",
        autoscaling_config=config.replicas.autoscaling(),
        ray_actor_options={"num_cpus": config.replicas.cpus, "num_gpus": config.gpus},
        **routed,
    )
    asked = config.attribution
    together = asked.segments_per_replica if asked else None
    segments = spread(asked.index, together) if asked and together else []
    per_minute = config.gate.requests_per_minute
    rates = None if per_minute is None else Rates.bind(per_minute)
    return scaled.bind(values, segments, rates, Totals.bind() if several else None)


def _attributor(config: AttributionConfig | None, elsewhere: Elsewhere | None) -> Attributor | None:
    if config is None:
        return None
    view = Attribution(Artifact.open(config.index))
    return Attributor(view.artifact.fingerprint, elsewhere or Here(view), config.ignore)


@dataclass(frozen=True)
class _Read:
    """What a model's folder says of how it is served."""

    settings: ModelSettings
    folder: Path
    base: Path
    tokenizer: CodeTokenizer
    ends: frozenset[int]

    @property
    def sharing(self) -> tuple[str, ...]:
        """The same for those that may share an engine."""
        return (
            str(self.base.resolve()),
            self.settings.engine.model_dump_json(),
            self.tokenizer.json_text,
            str(self.ends),
        )

    def served(self, engine: Engine) -> Served:
        """The model behind that engine."""
        template = _chat_template(self.folder) or _chat_template(self.base)
        order = self.settings.fim_order or _fim_order(self.base)
        return Served(self.settings.shown, engine, self.tokenizer, order, template)


def _read(settings: ModelSettings) -> _Read:
    from starloom.model.adapter import base_folder
    from starloom.model.folder import read_ends
    from starloom.tokenizer import load_tokenizer

    folder = local_copy(settings.folder)
    base = base_folder(folder)
    # an adapter may come with a tokenizer and a template of its own
    tokenizer = load_tokenizer(folder if (folder / TOKENIZER_FILE).is_file() else base)
    return _Read(settings, folder, base, tokenizer, frozenset(read_ends(folder) or read_ends(base)))


def served_models(models: Sequence[ModelSettings]) -> list[Served]:
    """Each behind an engine of its own, or behind one that it shares with its base and the base's other adapters.

    They share one where settings and tokenizers are the same: adapters are added to products of the rows of requests.

    Raises:
        UserError: a folder is damaged, or an adapter is to be served by vLLM.
    """
    read = [_read(settings) for settings in models]
    together: dict[tuple[str, ...], list[_Read]] = {}
    for one in read:
        if isinstance(one.settings.engine, EngineConfig):
            together.setdefault(one.sharing, []).append(one)
    engines: dict[int, Engine] = {}
    for group in together.values():
        if len({one.folder.resolve() for one in group}) == len(group) > 1:
            engines |= {id(one): engine for one, engine in _shared(group)}
    return [one.served(engines.get(id(one)) or _engine(one)) for one in read]


def _shared(group: Sequence[_Read]) -> list[tuple[_Read, Engine]]:
    """Those of a group that one engine serves; none where there is no more than one."""
    from starloom.model.adapter import is_adapter, read_low_rank
    from starloom.model.folder import read_model
    from starloom.model.model import MATRICES

    first = group[0]
    model, config = read_model(first.base), first.settings.engine
    assert isinstance(config, EngineConfig)
    changes = {id(one): read_low_rank(one.folder, model) if is_adapter(one.folder) else {} for one in group}
    added = tuple(f".{name}.weight" for name in MATRICES)
    able = [one for one in group if all(name.endswith(added) for name in changes[id(one)])]
    adapters = [one for one in able if is_adapter(one.folder)]
    if len(able) < 2:
        return []
    engine = LocalEngine(model, first.tokenizer, config, first.ends, [changes[id(one)] for one in adapters])
    return [(one, Adapted(engine, adapters.index(one) if one in adapters else -1)) for one in able]


def _engine(read: _Read) -> Engine:
    from starloom.model.adapter import read_adapted
    from starloom.model.folder import read_config

    folder, config = read.folder, read.settings.engine
    if isinstance(config, VllmConfig):
        if read.base != folder:
            raise UserError(f"{folder}: adapters are served by the engine of kind 'local' only; merge it for vLLM")
        return start_vllm(folder, read.tokenizer, config, read_config(folder).context, read.ends)
    return LocalEngine(read_adapted(folder), read.tokenizer, config, read.ends)


def _chat_template(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not (folder / TOKENIZER_SETTINGS).is_file():
        return None
    config = json.loads((folder / TOKENIZER_SETTINGS).read_text(encoding="utf-8"))
    template: str | None = config.get("chat_template")
    return template


def _fim_order(folder: Path) -> FimOrder:
    order = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("fim_order", "psm")
    if order not in get_args(FimOrder):
        raise UserError(f"{folder / 'config.json'}: fim_order = {order!r}; use one of {', '.join(get_args(FimOrder))}")
    return "spm" if order == "spm" else "psm"
