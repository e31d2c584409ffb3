"""The leaderboard over HTTP."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from ray import serve
from starlette.requests import Request

from serve_apps.evaluation.store import Store
from serve_apps.leaderboard.board import as_csv, as_json, build
from serve_apps.leaderboard.pages import board_page, run_page
from starloom.errors import UserError

api = FastAPI(title="Starloom leaderboard")


@api.exception_handler(UserError)
async def _missing(request: Request, error: UserError) -> PlainTextResponse:
    return PlainTextResponse(str(error), 404)


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0})
@serve.ingress(api)
class Leaderboard:
    """Reads the stored evaluations on every request: always what is finished now."""

    def __init__(self, root: str) -> None:
        self._store = Store(Path(root))

    @api.get("/", response_class=HTMLResponse)
    def board(self) -> str:
        """The page."""
        return board_page(build(self._store.runs()))

    @api.get("/runs/{name}", response_class=HTMLResponse)
    def run(self, name: str) -> str:
        """A run's page."""
        return run_page(self._store.run(name))

    @api.get("/export.csv", response_class=PlainTextResponse)
    def csv(self) -> PlainTextResponse:
        """The table as CSV."""
        return PlainTextResponse(as_csv(build(self._store.runs())), media_type="text/csv")

    @api.get("/export.json")
    def json(self) -> JSONResponse:
        """The table as JSON."""
        return JSONResponse(as_json(build(self._store.runs())))
