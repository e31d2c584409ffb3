"""The routes of attribution alone, on an artifact of kind attribution: ``python -m ... FOLDER PORT``."""

import sys

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from serve_apps.api.errors import Problem
from serve_apps.api.overlap import router
from serve_apps.attributor import Attributor
from serve_apps.deployment import SWITCH_SECONDS
from serve_apps.segments import Here
from starloom.artifact import Artifact
from starloom.kinds import Attribution


def main() -> None:
    """Serve until killed."""
    sys.setswitchinterval(SWITCH_SECONDS)
    app = FastAPI()
    view = Attribution(Artifact.open(sys.argv[1]))
    app.include_router(router(Attributor(view.artifact.fingerprint, Here(view))))

    @app.exception_handler(Problem)
    async def told(request: Request, problem: Problem) -> Response:
        return JSONResponse({"error": problem.message}, problem.status)

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")


if __name__ == "__main__":
    main()
