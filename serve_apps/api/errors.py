"""An error as our code raises it; each dialect has its own shape for it."""

from fastapi import HTTPException

RETRY_SECONDS = 1
KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Problem(HTTPException):
    """A request that is answered with an error. An HTTPException, since FastAPI lets only those out of body parsing."""

    def __init__(
        self,
        status: int,
        message: str,
        retry_after: int | None = None,
        *,
        code: str | None = None,
        field: str | None = None,
    ) -> None:
        """`code` is what programs tell errors apart by, `field` what is wrong (else the message says it)."""
        super().__init__(status, message)
        self.status, self.message, self.retry_after = status, message, retry_after
        self.code, self._field = code, field

    @property
    def kind(self) -> str:
        """Its class, in OpenAI's words."""
        return KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    @property
    def field(self) -> str | None:
        """The field that it is about, or that the message begins with, as in ``max_tokens: is 0``."""
        if self._field:
            return self._field
        head, colon, _ = self.message.partition(": ")
        return head if colon and head.replace("_", "").replace(".", "").isalnum() else None
