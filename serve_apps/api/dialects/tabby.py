"""Tabby's dialect: what its editor extensions ask of a server. Completions come in at OpenAI's path."""

import os
import platform
import uuid
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from serve_apps.api.dialects.dialect import Dialect
from serve_apps.api.errors import Problem
from serve_apps.api.prompts import infilling_prompt, prompt_ids
from serve_apps.api.service import Caller, Service
from serve_apps.engine.request import Sampling
from starloom.tokenizer import END_OF_TEXT

ANSWER_TOKENS = 64


class Segments(BaseModel):
    """The text around the cursor."""

    prefix: str
    suffix: str | None = None
    filepath: str | None = None
    git_url: str | None = None
    clipboard: str | None = None


async def tabby_completion(service: Service, model: str | None, segments: Segments, caller: Caller) -> dict[str, Any]:
    """The likeliest text at the cursor."""
    served = service.model(model)
    room = served.engine.context - ANSWER_TOKENS
    if segments.suffix:
        prompt = infilling_prompt(served.tokenizer, segments.prefix, segments.suffix, room, served.fim_order)
    else:
        prompt = prompt_ids(served.tokenizer, segments.prefix)[-room:] or [served.tokenizer.special(END_OF_TEXT)]
    answer = await service.complete(served, prompt, Sampling(ANSWER_TOKENS, temperature=0.0), caller)
    return {"id": f"cmpl-{uuid.uuid4()}", "choices": [{"index": 0, "text": answer.text}]}


def router(service: Service) -> APIRouter:
    """The routes."""
    api = APIRouter(tags=["Tabby"])

    @api.get("/v1/health")
    @api.post("/v1/health")
    async def health() -> dict[str, Any]:
        """The server's state, as its extensions show it."""
        version = {"build_date": "", "build_timestamp": "", "git_sha": "", "git_describe": "starloom"}
        machine = {"arch": platform.machine(), "cpu_info": platform.processor(), "cpu_count": os.cpu_count()}
        served = service.model(None)
        return {"model": served.name, "device": served.engine.device, **machine, "cuda_devices": [], "version": version}

    @api.get("/v1beta/server_setting")
    async def setting() -> dict[str, bool]:
        """Nothing is sent to anyone."""
        return {"disable_client_side_telemetry": True}

    @api.post("/v1/events", response_model=None)
    async def events(request: Request) -> Response:
        """What users did with completions is taken and not kept."""
        await request.body()
        return Response(status_code=200)

    return api


def _shape(problem: Problem) -> tuple[int, dict[str, Any]]:
    return problem.status, {"error": {"message": problem.message, "type": problem.kind}}


# completions come in at OpenAI's path, and are refused in its words
DIALECT = Dialect("Tabby", router, ("/v1beta/*",), _shape, open_paths=frozenset({"/v1/health"}))
