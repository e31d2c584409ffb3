"""The leaderboard over HTTP."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from ray import serve
from starlette.requests import Request

from serve_apps.api.errors import Problem
from serve_apps.api.gate import GateConfig, guard
from serve_apps.evaluation.store import Store
from serve_apps.leaderboard.board import as_csv, as_json, build
from serve_apps.leaderboard.pages import board_page, compare_page, run_page, task_page
from starloom.config import validate
from starloom.errors import NotFoundError, UserError


async def _missing(request: Request, error: Exception) -> PlainTextResponse:
    return PlainTextResponse(str(error), 404 if isinstance(error, NotFoundError) else 400)


def _told(path: str, problem: Problem) -> PlainTextResponse:
    # a browser asks its user for a name, which is nothing here, and a password, which is the key
    headers = {"WWW-Authenticate": 'Basic realm="Starloom", charset="UTF-8"'} if problem.status == 401 else {}
    return PlainTextResponse(problem.message, problem.status, headers)


class Pages:
    """Reads the stored evaluations on every request: always what is finished now."""

    def __init__(self, root: str, gate: dict[str, Any]) -> None:
        self._store = Store(Path(root))
        self._gate = validate(GateConfig, gate, where="leaderboard")

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = FastAPI(title="Starloom leaderboard")
        app.add_api_route("/", self.board, methods=["GET"], response_class=HTMLResponse)
        app.add_api_route("/runs/{name}", self.run, methods=["GET"], response_class=HTMLResponse)
        app.add_api_route("/runs/{name}/tasks/{task:path}", self.task, methods=["GET"], response_class=HTMLResponse)
        app.add_api_route("/compare", self.compared, methods=["GET"], response_class=HTMLResponse)
        app.add_api_route("/export.csv", self.csv, methods=["GET"], response_model=None)
        app.add_api_route("/export.json", self.json, methods=["GET"], response_model=None)
        app.add_exception_handler(UserError, _missing)
        guard(app, self._gate, _told)
        return app

    def board(self) -> str:
        """The page."""
        return board_page(build(self._store.runs()))

    def run(self, name: str) -> str:
        """A run's page."""
        return run_page(self._store.run(name))

    def task(self, name: str, task: str) -> str:
        """A task of a run: its samples."""
        return task_page(self._store.run(name), task)

    def compared(self, a: str, b: str) -> str:
        """Two runs, task by task."""
        return compare_page(self._store.run(a), self._store.run(b))

    def csv(self) -> PlainTextResponse:
        """The table as CSV."""
        return PlainTextResponse(as_csv(build(self._store.runs())), media_type="text/csv")

    def json(self) -> JSONResponse:
        """The table as JSON."""
        return JSONResponse(as_json(build(self._store.runs())))


Leaderboard = serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0})(serve.ingress()(Pages))
