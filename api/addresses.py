"""What no path and no query may hold, whatever the endpoint."""

from __future__ import annotations

from fastapi import Request

from api.problems import Problem


async def refuse_nul(request: Request) -> None:
    """PostgreSQL cannot even compare a text that has a NUL character."""
    if "\0" in request.url.path or "\0" in "".join(request.query_params.values()):
        raise Problem(400, "the address holds a NUL character", "invalid_value")
