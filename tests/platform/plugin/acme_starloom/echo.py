"""A dialect: the text that was sent."""

from typing import Any

from fastapi import APIRouter

from serve_apps.api.dialects.dialect import Dialect
from serve_apps.api.errors import Problem
from serve_apps.api.service import Service


def router(service: Service) -> APIRouter:
    """The route."""
    api = APIRouter(tags=["Acme"])

    @api.post("/acme")
    async def echo(body: dict[str, str]) -> dict[str, str]:
        """The text again."""
        return body

    return api


def shape(problem: Problem) -> tuple[int, dict[str, Any]]:
    """Errors in words."""
    return problem.status, {"acme": problem.message}


DIALECT = Dialect("Acme", router, ("/acme",), shape)
