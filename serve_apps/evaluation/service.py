"""Evaluations over HTTP, as a Serve deployment; `serve_apps.evaluations` puts it beside the model."""

import runpy
import threading
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from ray import serve
from starlette.requests import Request

from serve_apps.api.errors import Problem
from serve_apps.api.gate import GateConfig, guard
from serve_apps.evaluation.allowed import Allowed
from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.carry_out import carry_out
from serve_apps.evaluation.store import CANCELLED, ENDED, RUNNING, EvaluationRequest, Store, StoredRun
from starloom.config import Config, validate
from starloom.errors import NotFoundError, UserError

AT_ONCE = 2  # evaluations; the others wait


class ServiceConfig(Config):
    """`default_url` is the served model's, `key` this server's own for it; `gate` is that of all its applications."""

    root: str
    default_url: str | None = None
    key: str | None = None
    gate: GateConfig = GateConfig()
    allowed: Allowed = Allowed()


def _told(path: str, problem: Problem) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
    return JSONResponse({"error": {"message": problem.message, "type": problem.kind}}, problem.status, headers)


async def _wrong(request: Request, error: Exception) -> JSONResponse:
    status = 404 if isinstance(error, NotFoundError) else 400
    return JSONResponse({"error": {"message": str(error), "type": "invalid_request_error"}}, status)


def described(run: StoredRun) -> dict[str, Any]:
    """A run as the API shows it."""
    state = run.state()
    progress = {"samples": len(run.samples()), "verdicts": len(run.verdicts()), "total": state["total"]}
    return {
        "id": run.id,
        "object": "evaluation",
        "state": state["state"],
        "error": state["error"],
        "progress": progress if state["state"] in (RUNNING, *ENDED) else None,
        "request": run.request().model_dump(mode="json"),
        "result": run.result(),
    }


class Evaluating:
    """Takes evaluations and carries them out, a few at a time; goes on with unfinished ones when it starts."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._config = validate(ServiceConfig, values, where="evaluations")
        self._store = Store(Path(self._config.root))
        self._store.root.mkdir(parents=True, exist_ok=True)
        self._turn = threading.Semaphore(AT_ONCE)
        self._cancelled: dict[str, threading.Event] = {}
        for run in self._store.runs():
            if run.state()["state"] not in ENDED:
                self._start(run)

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = FastAPI(title="Starloom evaluations")
        app.add_api_route("/", self.create, methods=["POST"], status_code=202, response_model=None)
        app.add_api_route("/", self.listed, methods=["GET"])
        app.add_api_route("/{name}", self.one, methods=["GET"])
        app.add_api_route("/{name}/samples", self.samples, methods=["GET"])
        app.add_api_route("/{name}", self.cancel, methods=["DELETE"], response_model=None)
        app.add_exception_handler(UserError, _wrong)
        guard(app, self._config.gate, _told)
        return app

    def _start(self, run: StoredRun) -> None:
        cancelled = self._cancelled.setdefault(run.id, threading.Event())
        threading.Thread(target=self._work, args=(run, cancelled), name=run.id, daemon=True).start()

    def _work(self, run: StoredRun, cancelled: threading.Event) -> None:
        with self._turn:
            if cancelled.is_set():
                run.set_state(CANCELLED)
            else:
                carry_out(run, self._config.allowed, self._config.default_url, self._config.key, cancelled.is_set)

    async def create(self, request: Request) -> dict[str, Any]:
        """Take an evaluation; answers with its id at once.

        Raises:
            UserError: the body is wrong, or names what the operator has not.
        """
        # a page of another site can send a form with a browser's password, and JSON it cannot
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise UserError("the body is JSON: send it with Content-Type: application/json")
        try:
            body = await request.json()
        except ValueError:
            raise UserError("the body is not JSON") from None
        if not isinstance(body, dict):
            raise UserError("the body is no JSON object")
        asked = validate(EvaluationRequest, body, where="the request")
        if ":" in asked.benchmark:
            raise UserError("benchmark: one of your own runs with starloom evaluate, not over HTTP")
        benchmark(asked.benchmark)
        self._config.allowed.check(asked)
        run = self._store.create(asked)
        self._start(run)
        return described(run)

    def listed(self) -> dict[str, Any]:
        """All evaluations, the oldest first."""
        return {"object": "list", "data": [described(run) for run in self._store.runs()]}

    def one(self, name: str) -> dict[str, Any]:
        """Progress and result of one."""
        return described(self._store.run(name))

    def samples(self, name: str) -> dict[str, Any]:
        """Every completion of one, with its verdict where there is one."""
        run = self._store.run(name)
        verdicts = {(v["task_id"], v["sample"]): v for v in run.verdicts()}
        rows = [{"completion": s.completion, **verdicts.get((s.task, s.number), {})} for s in run.samples()]
        return {"object": "list", "data": rows}

    def cancel(self, name: str) -> Response:
        """Stop one; what it has stays."""
        run = self._store.run(name)
        if run.state()["state"] not in ENDED:
            self._cancelled.setdefault(run.id, threading.Event()).set()
        return JSONResponse(described(run), 202)


Evaluations = serve.deployment(num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})(
    serve.ingress()(Evaluating)
)


if __name__ == "__main__":
    # where it was before 0.2, with the leaderboard, which this package must not know
    runpy.run_module("serve_apps.evaluations", run_name="__main__")
