"""The page as a part of the application: its routes, its static files and its templates."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from api.site import changing, entering, reading
from api.site.rendering import STATIC, Renderer


def add_site(app: FastAPI) -> None:
    """Let the application answer to browsers."""
    app.state.renderer = Renderer()
    for routes in (reading, changing, entering):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=STATIC))
