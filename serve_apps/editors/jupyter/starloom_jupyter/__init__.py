"""The part beside the notebook server: it holds the key and passes requests on, so that no browser needs either."""

import asyncio
import json
import os
from typing import Any

import httpx
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web
from traitlets import Unicode
from traitlets.config import Configurable

PATHS = ("v1/completions", "v1/models", "v1/events", "overlap")
CLIENT = "jupyter/0.1.0"
SECONDS = 30


class Starloom(Configurable):
    """Where the server is, and the key for it."""

    url = Unicode(help="The Starloom server; else $STARLOOM_URL").tag(config=True)
    key = Unicode(help="The key for it; else $STARLOOM_API_KEY").tag(config=True)

    def address(self) -> str:
        """Without a slash at its end."""
        return (self.url or os.environ.get("STARLOOM_URL", "http://127.0.0.1:8000")).rstrip("/")

    def headers(self) -> dict[str, str]:
        """Of each request."""
        key = self.key or os.environ.get("STARLOOM_API_KEY", "")
        return {"X-Starloom-Client": CLIENT, **({"Authorization": f"Bearer {key}"} if key else {})}


class Passing(APIHandler):
    """One of PATHS, passed on as it is; a browser that goes away ends the work on the server."""

    def initialize(self, starloom: Starloom, client: httpx.AsyncClient) -> None:
        """What all requests share."""
        self.starloom, self.client = starloom, client
        self.work: asyncio.Task[Any] | None = None

    def on_connection_close(self) -> None:
        """The browser has gone."""
        if self.work is not None:
            self.work.cancel()

    @web.authenticated
    async def get(self, path: str) -> None:
        """What is served."""
        await self._pass(path, None)

    @web.authenticated
    async def post(self, path: str) -> None:
        """A completion, a look-up, a count."""
        await self._pass(path, self.request.body)

    async def _pass(self, path: str, body: bytes | None) -> None:
        self.work = asyncio.current_task()
        headers = self.starloom.headers() | ({"Content-Type": "application/json"} if body is not None else {})
        url = f"{self.starloom.address()}/{path}"
        try:
            answer = await self.client.request(
                "POST" if body is not None else "GET", url, content=body, headers=headers
            )
            self.set_status(answer.status_code)
            self.set_header("Content-Type", answer.headers.get("content-type", "application/json"))
            if "retry-after" in answer.headers:
                self.set_header("Retry-After", answer.headers["retry-after"])
            self.finish(answer.content)
        except asyncio.CancelledError:
            self.log.debug("starloom: the browser has gone")
        except httpx.HTTPError as error:
            self.set_status(502)
            message = f"no answer from {self.starloom.address()}: {error or type(error).__name__}"
            self.finish(json.dumps({"error": {"message": message}}))


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "starloom"}]


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "starloom_jupyter"}]


def _load_jupyter_server_extension(app: Any) -> None:
    starloom = Starloom(parent=app)
    client = httpx.AsyncClient(timeout=SECONDS)  # of the machine's own proxies and certificates
    pattern = url_path_join(app.web_app.settings["base_url"], "starloom", f"({'|'.join(PATHS)})")
    app.web_app.add_handlers(".*$", [(pattern, Passing, {"starloom": starloom, "client": client})])
    app.log.info("starloom: completions from %s", starloom.address())
