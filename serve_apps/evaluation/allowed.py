"""What requests over HTTP may name: endpoints, data and corpora of a list that the operator gives.

A URL or a path in a request would let anybody who may ask for an evaluation reach what the server reaches.
"""

from pathlib import Path

from serve_apps.evaluation.store import EvaluationRequest
from starloom.config import Config
from starloom.errors import UserError


class NamedEndpoint(Config):
    """An endpoint, and the file that holds its key."""

    url: str
    key_file: str | None = None

    def key(self) -> str | None:
        """The endpoint's key.

        Raises:
            UserError: its file cannot be read.
        """
        if self.key_file is None:
            return None
        try:
            return Path(self.key_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(f"key_file {self.key_file}: {error.strerror}") from None


class Allowed(Config):
    """Names and what they stand for. Nothing, unless the operator says so."""

    urls: dict[str, NamedEndpoint] = {}
    data: dict[str, str] = {}
    corpora: dict[str, str] = {}

    def check(self, request: EvaluationRequest) -> None:
        """Refuse what is not on the list.

        Raises:
            UserError: a field names what the operator has not.
        """
        for field, given, known in (
            ("url", request.url, self.urls),
            ("data", request.data, self.data),
            ("corpus", request.corpus, self.corpora),
        ):
            if given is not None and given not in known:
                there = f"it knows {', '.join(sorted(known))}" if known else "its operator has named none"
                raise UserError(f"{field}: {given!r} is no name that this server knows; {there}")
        if request.generations is not None:
            raise UserError("generations: saved completions are judged by starloom evaluate, not over HTTP")

    def resolved(self, request: EvaluationRequest) -> EvaluationRequest:
        """The request with what its names stand for; raises as `check`."""
        self.check(request)
        return request.model_copy(
            update={
                "url": self.urls[request.url].url if request.url is not None else None,
                "data": self.data[request.data] if request.data is not None else None,
                "corpus": self.corpora[request.corpus] if request.corpus is not None else None,
            }
        )
