"""``GET /editors/``: the plugins, given out by the server itself, and a page with a line for each editor."""

import html
import re
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from serve_apps.api.errors import Problem
from serve_apps.editors.installation import installations, packages

PATH: Final = "/editors/"
_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]+")


def pages() -> frozenset[str]:
    """Paths that a browser may get without a key."""
    return frozenset({PATH, *(PATH + name for name in packages())})


def router() -> APIRouter:
    """The routes."""
    api = APIRouter(tags=["Editors"])

    @api.get(PATH, response_class=HTMLResponse)
    async def page(request: Request) -> str:
        """One line for each editor."""
        host = request.headers.get("host", "")
        if not _HOST.fullmatch(host):
            raise Problem(400, "host: is no host's name")
        scheme = request.headers.get("x-forwarded-proto", request.url.scheme)
        return _page(f"{'https' if scheme == 'https' else 'http'}://{host}")

    @api.get(PATH + "{name}")
    async def package(name: str) -> Response:
        """A plugin's file."""
        found = packages().get(name)
        if found is None:
            raise Problem(404, f"editors: there is no {name[:100]!r}; see {PATH}")
        kind, made = found
        return Response(made(), media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    return api


def _page(url: str) -> str:
    parts = "".join(
        f"<section><h2>{html.escape(one.title)}</h2><pre>{html.escape(one.shell)}</pre>"
        f"<p>In {html.escape(one.where)}:</p><pre>{html.escape(one.settings)}</pre>"
        f"<p>The key, where the server asks for one: {html.escape(one.key)}.</p></section>"
        for one in installations(url).values()
    )
    return _HEAD + parts + _FOOT


_HEAD: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Starloom in your editor</title>
<meta name="viewport" content="width=device-width"><style>
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}
pre{overflow-x:auto;padding:.7rem 1rem;border-radius:6px;background:color-mix(in srgb,currentColor 8%,transparent)}
h2{margin:2rem 0 .3rem}p{margin:.3rem 0}</style>
<h1>Starloom in your editor</h1><p>Suggestions at the cursor, and where accepted code stands in the training data. Each
plugin speaks to this server alone. Tab takes a suggestion, and stays Tab when none is shown.</p>"""
_FOOT: Final = "<p>Other plugins speak to this server too: see its <a href='/docs'>routes</a>.</p></html>"
