"""What Ollama's clients ask of the models that are there: `/api/tags`, `/api/show`, `/api/ps`, `/api/version`."""

import datetime
from typing import Any

from fastapi import APIRouter

from serve_apps.api.chat import named_in
from serve_apps.api.fields import Fields
from serve_apps.api.service import Served, Service

PRECISIONS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "Q8_0"}
VERSION = "0.6.4"  # of the dialect: editors switch features on it
ARCHITECTURE = "gpt_bigcode"


class ShowBody(Fields):
    """/api/show; `name` is what older clients send."""

    HARMLESS = frozenset({"verbose"})
    REFUSED = {"system": (), "template": (), "options": ()}
    model: str | None = None
    name: str | None = None


def router(service: Service) -> APIRouter:
    """The routes; each answers HEAD too, by which clients look whether somebody is there."""
    api = APIRouter(tags=["Ollama"])

    @api.head("/", include_in_schema=False)
    @api.head("/api/tags", include_in_schema=False)
    @api.head("/api/version", include_in_schema=False)
    async def there() -> None:
        """Somebody is there."""

    @api.get("/api/tags")
    async def tags() -> dict[str, Any]:
        """What is served."""
        return {"models": [_listed(served) for served in service.models.values()]}

    @api.get("/api/ps")
    async def running() -> dict[str, Any]:
        """What is loaded, which is all that is served, for ever."""
        loaded = {"expires_at": _text(datetime.datetime.max), "size_vram": 0}
        models = service.models.values()
        return {"models": [{**_listed(one), **loaded, "context_length": one.engine.context} for one in models]}

    @api.post("/api/show")
    async def show(body: ShowBody) -> dict[str, Any]:
        """What a model is and can."""
        served = service.model(body.model or body.name)
        return {**_shown(served), "modified_at": _text(service.since)}

    @api.get("/api/version")
    async def version() -> dict[str, str]:
        """The dialect's."""
        return {"version": VERSION}

    def _listed(served: Served) -> dict[str, Any]:
        names = {"name": served.name, "model": served.name}
        return {**names, "modified_at": _text(service.since), "size": 0, "digest": "", "details": _details(served)}

    return api


def _shown(served: Served) -> dict[str, Any]:
    template = served.chat_template or "{{ .Prompt }}"
    can = ["completion", *(["insert"] if served.prompts.infills else [])]
    can += ["tools"] if "tools" in named_in(template) else []
    return {
        "license": "",
        "modelfile": f"FROM {served.name}\n",
        "parameters": "",
        "template": template,
        "details": _details(served),
        "model_info": {
            "general.architecture": ARCHITECTURE,
            f"{ARCHITECTURE}.context_length": served.engine.context,
            "tokenizer.ggml.model": "gpt2",
        },
        "capabilities": can,
    }


def _details(served: Served) -> dict[str, Any]:
    precision = served.engine.precision
    return {
        "format": "safetensors",
        "family": ARCHITECTURE,
        "families": [ARCHITECTURE],
        "parameter_size": "",
        "quantization_level": PRECISIONS.get(precision, precision.upper()),
        "parent_model": "",
    }


def _text(moment: datetime.datetime) -> str:
    return moment.replace(tzinfo=None).isoformat() + "Z"
