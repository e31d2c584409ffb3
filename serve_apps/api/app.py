"""All dialects over one service, behind one gate."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serve_apps.api import editors
from serve_apps.api.dialects import anthropic, llamacpp, ollama, openai, tabby, tgi
from serve_apps.api.dialects.dialect import Dialects
from serve_apps.api.errors import Problem
from serve_apps.api.figures import Fleet, exposition, families
from serve_apps.api.gate import GateConfig, guard
from serve_apps.api.rates import Limiter
from serve_apps.api.service import Service
from serve_apps.engine.request import Overloaded, Stopping
from serve_apps.segments import AwayError
from starloom import plugins

# a new dialect is listed here and nowhere else
BUILT_IN = (openai.DIALECT, anthropic.DIALECT, tgi.DIALECT, ollama.DIALECT, llamacpp.DIALECT, tabby.DIALECT)
DIALECTS = Dialects((*BUILT_IN, *plugins.offered("dialects")))
OPEN_PATHS = frozenset({"/health", "/metrics", "/openapi.json", "/docs"})  # and those of the dialects
PAGE = Path(__file__).with_name("playground.html")
CLIENT_CLOSED_REQUEST = 499
UNION_SIDES = ("body", "tabby", "openai")


def create_app(
    service: Service,
    gate: GateConfig,
    more: Sequence[APIRouter] = (),
    limiter: Limiter | None = None,
    fleet: Fleet | None = None,
) -> FastAPI:
    """The ASGI application: dialects, the page to try the model, health, metrics, and `more` routes of others.

    Metrics are those of all replicas where there is a `fleet` of them.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reports = [asyncio.ensure_future(fleet.report(service.registries))] if fleet else []
        yield
        for report in reports:
            report.cancel()
            with suppress(asyncio.CancelledError):
                await report

    about = "A code model behind the dialects that editors speak."
    app = FastAPI(title="Starloom", description=about, lifespan=lifespan)
    for dialect in DIALECTS.known:
        app.include_router(dialect.router(service))
    app.include_router(editors.router())
    for router in more:
        app.include_router(router)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        """A page to try the model."""
        return PAGE.read_text(encoding="utf-8")

    @app.get("/health")
    async def health() -> Response:
        """Whether every engine gets on with its work."""
        failed = service.failed()
        told = {"status": "failed", "error": failed} if failed else {"status": "ok"}
        return JSONResponse(told, 503 if failed else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        own = families(*service.registries)
        told = await fleet.total(own) if fleet else own
        return Response(exposition(told), media_type="text/plain; version=0.0.4; charset=utf-8")

    _tell_errors(app, service)
    guard(
        app,
        gate,
        lambda path, problem: DIALECTS.of(path).answer(problem),
        open_paths=OPEN_PATHS | DIALECTS.open_paths,
        open_pages=frozenset({"/", "/search"}) | editors.pages(),
        limiter=limiter,
        untyped="/api/",  # Ollama's own documentation sends no content type
        refused=lambda user, status: service.meters.refused.labels(user, str(status)).inc(),
    )
    return app


def _first(error: RequestValidationError, nested: Sequence[str]) -> str:
    """The first fault of a body, named by its field, and by the inner one where the dialect nests them."""
    first = error.errors()[0]
    # a part that is no text is a place in a list, and unions add the names of their sides
    where = [str(part) for part in first["loc"] if str(part).isidentifier() and part not in UNION_SIDES]
    named = where[:2] if where and where[0] in nested else where[:1]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and re.match(r"\w+: ", message):  # it names the field itself
        return ".".join([*(where[:1] if where and where[0] in nested else ()), message])
    return f"{'.'.join(named) or 'body'}: {message}"


def _tell_errors(app: FastAPI, service: Service) -> None:
    def told(request: Request, problem: Problem) -> Response:
        service.meters.refused.labels(getattr(request.state, "user", ""), str(problem.status)).inc()
        return DIALECTS.of(request.url.path).answer(problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return told(request, Problem(400, _first(error, DIALECTS.of(request.url.path).nested)))

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return told(request, error)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return told(request, Problem(error.status_code, str(error.detail)))

    @app.exception_handler(ValueError)
    async def refused(request: Request, error: ValueError) -> Response:
        return told(request, Problem(400, str(error)))

    @app.exception_handler(Overloaded)
    async def overloaded(request: Request, error: Overloaded) -> Response:
        return told(request, Problem(429, str(error)))

    @app.exception_handler(AwayError)
    @app.exception_handler(Stopping)
    async def away(request: Request, error: AwayError | Stopping) -> Response:
        return told(request, Problem(503, str(error), 2))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
