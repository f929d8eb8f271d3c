"""Templates into answers, with the headers that keep a page from running what is not ours."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from api.site.quantities import filters
from api.site.session import is_signed_in

_API = Path(__file__).resolve().parent.parent
STATIC = _API / "static"
_TEMPLATES = _API / "templates"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # none at all would also take the Origin from forms
    "cache-control": "no-store",
}


class Renderer:
    """The templates; everything that is put into them is escaped."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(filters())
        digests = {path.name: _digest(path) for path in sorted(STATIC.iterdir())}
        urls = {name: f"/static/{name}?{digest}" for name, digest in digests.items()}
        self._environment.globals["static"] = urls

    def page(
        self, request: Request, template: str, *, status: int = 200, **values: object
    ) -> HTMLResponse:
        """The page, or only its live parts when the page itself asks for them again."""
        text = self._environment.get_template(template).render(
            layout="live.html" if is_live(request) else "frame.html",
            live=is_live(request),
            path=request.url.path,
            signed_in=is_signed_in(request),
            **values,
        )
        return HTMLResponse(text, status, headers=HEADERS)


def is_live(request: Request) -> bool:
    """Whether an open page asks what has changed."""
    return request.query_params.get("live") == "1"


def renderer_of(request: Request) -> Renderer:
    """The application's renderer."""
    renderer: Renderer = request.app.state.renderer
    return renderer


def _digest(path: Path) -> str:
    """Part of the URL, so that browsers take a changed file at once."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


RendererDep = Annotated[Renderer, Depends(renderer_of)]
