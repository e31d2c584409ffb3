"""``POST /overlap``, ``GET /corpus`` and the page ``/search``."""

import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from serve_apps.api.errors import Problem
from serve_apps.attributor import Attributor
from starloom.attribution.answer import MOST_CHARACTERS, Query
from starloom.errors import UserError

PAGE = Path(__file__).with_name("search.html")


def router(attributor: Attributor) -> APIRouter:
    """The routes."""
    api = APIRouter(tags=["Attribution"])

    @api.post("/overlap")
    async def overlap(request: Request) -> dict[str, Any]:
        """Which spans of a document stand in the corpus, in which files, under which licences."""
        # not a pydantic text: an editor that cuts its window inside a surrogate pair sends half of it
        try:
            body = json.loads(await request.body())
        except ValueError:
            raise Problem(400, "body: is no JSON; send an object with a document") from None
        if isinstance(body, dict) and isinstance(body.get("document"), str) and len(body["document"]) > MOST_CHARACTERS:
            raise Problem(413, f"document: is longer than {MOST_CHARACTERS:,} characters; send a part of it")
        try:
            query = Query.of(body)
        except UserError as error:
            raise Problem(400, str(error)) from None
        return await attributor.ask(query)

    @api.get("/corpus")
    async def corpus(owner: str = "", repository: str = "", path: str = "", id: str = "") -> dict[str, Any]:  # noqa: A002
        """What the corpus has of an owner, a repository, a path or an id, and what kept the rest out."""
        try:
            return await attributor.look_up({"owner": owner, "repository": repository, "path": path, "identity": id})
        except UserError as error:
            raise Problem(400, str(error)) from None

    @api.get("/search", response_class=HTMLResponse)
    async def search() -> str:
        """A page to look code and people up."""
        return PAGE.read_text(encoding="utf-8")

    return api
