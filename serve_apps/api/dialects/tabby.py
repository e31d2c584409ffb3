"""Tabby's dialect: what its editor extensions ask of a server. Completions come in at OpenAI's path."""

import os
import platform
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from serve_apps.api.dialects.dialect import Dialect
from serve_apps.api.errors import Problem
from serve_apps.api.events import client_of
from serve_apps.api.fields import Fields
from serve_apps.api.prompts import Document, OtherFile
from serve_apps.api.service import Caller, Service
from serve_apps.engine.request import Sampling

ANSWER_TOKENS = 64
Name = Annotated[str, Field(max_length=1024)]


class Snippet(Fields):
    """A piece of another file."""

    HARMLESS = frozenset({"score", "name"})
    filepath: Name = ""
    body: str

    def other(self) -> OtherFile:
        """As the prompt has it."""
        return OtherFile(self.body, self.filepath)


Snippets = Annotated[list[Snippet], Field(max_length=256)]


class Segments(Fields):
    """The text around the cursor, and pieces of other files."""

    HARMLESS = frozenset({"git_url", "clipboard", "notebook_id"})
    REFUSED = {"edit_history": ()}
    prefix: str
    suffix: str | None = None
    filepath: Name | None = None
    declarations: Snippets | None = None
    relevant_snippets_from_changed_files: Snippets | None = None
    relevant_snippets_from_recently_opened_files: Snippets | None = None

    def document(self) -> Document:
        """What changes least stands first: what the code names, then what was opened, then what was changed."""
        kinds = (
            self.declarations,
            self.relevant_snippets_from_recently_opened_files,
            self.relevant_snippets_from_changed_files,
        )
        others = [snippet.other() for kind in kinds for snippet in kind or ()]
        return Document(self.prefix, self.suffix, others, self.filepath or "")


class TabbyBody(Fields):
    """/v1/completions with `segments`."""

    HARMLESS = frozenset({"user", "debug_options", "language"})
    REFUSED = {"mode": ("standard",)}
    model: str | None = None
    segments: Segments
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = Field(None, ge=0, lt=1 << 64)
    max_lines: int | None = Field(None, ge=1, le=10_000)


class EventBody(Fields):
    """/v1/events: what became of a completion. Counted, with how many characters; no text is taken."""

    HARMLESS = frozenset({"completion_id", "choice_index", "view_id", "elapsed", "kind", "select_kind", "user"})
    type: Literal["view", "select", "dismiss"]
    characters: int = Field(0, ge=0, le=1 << 24)
    language: str = Field("", max_length=64)


async def tabby_completion(service: Service, body: TabbyBody, caller: Caller) -> dict[str, Any]:
    """The likeliest text at the cursor, unless a temperature is asked for."""
    served = service.model(body.model)
    prompt = await served.prompts.document(body.segments.document(), ANSWER_TOKENS)
    sampling = Sampling(
        served.answer(prompt, ANSWER_TOKENS),
        temperature=body.temperature or 0.0,
        seed=body.seed or 0,
        max_lines=body.max_lines or 0,
    )
    answer = await service.complete(served, prompt, sampling, caller)
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
    async def events(body: EventBody, request: Request) -> dict[str, Any]:
        """What users did with completions is counted."""
        user = getattr(request.state, "user", "")
        service.shown.count(body.type, body.characters, client_of(request.headers), body.language, user)
        return {}

    return api


def _shape(problem: Problem) -> tuple[int, dict[str, Any]]:
    return problem.status, {"error": {"message": problem.message, "type": problem.kind}}


# completions come in at OpenAI's path, and are refused in its words
DIALECT = Dialect("Tabby", router, ("/v1beta/*",), _shape, open_paths=frozenset({"/v1/health"}))
