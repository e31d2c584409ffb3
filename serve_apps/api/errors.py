"""Errors, each in the shape of the dialect that the path belongs to."""

from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse

TGI_PATHS = ("/", "/generate", "/generate_stream")
TGI_KINDS = {422: "validation", 424: "generation", 429: "overloaded"}
OPENAI_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
RETRY_SECONDS = 1


class Problem(HTTPException):
    """A request that is answered with an error. An HTTPException, since FastAPI lets only those out of body parsing."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(status, message)
        self.status, self.message, self.retry_after = status, message, retry_after


def answer(path: str, problem: Problem) -> JSONResponse:
    """The response that clients of this path understand. Refusals that pass say when to come again."""
    status, body = shaped(path, problem)
    wait = problem.retry_after if problem.retry_after is not None else RETRY_SECONDS
    headers = {"Retry-After": str(wait)} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers)


def shaped(path: str, problem: Problem) -> tuple[int, Mapping[str, Any]]:
    """Status and body in the path's dialect."""
    status, message = problem.status, problem.message
    if path in TGI_PATHS:
        status = {400: 422, 500: 424, 503: 429}.get(status, status)
        return status, {"error": message, "error_type": TGI_KINDS.get(status, "validation")}
    if path.startswith("/api/"):
        return status, {"error": message}
    kind = OPENAI_KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    if path in ("/infill", "/tokenize", "/detokenize"):
        return status, {"error": {"code": status, "message": message, "type": kind}}
    error = {"message": message, "type": kind, "param": _field(message), "code": None}
    # llm-ls parses `detail` only, with a scalar `loc`
    return status, {"error": error, "detail": [{"loc": _field(message) or "body", "msg": message, "type": kind}]}


def _field(message: str) -> str | None:
    head, colon, _ = message.partition(": ")
    return head if colon and head.replace("_", "").replace(".", "").isalnum() else None
