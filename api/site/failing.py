"""Problems on the page: the same ones as of the API, said in HTML, and the way to sign in."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import RedirectResponse, Response

from api.problems import Problem, problem_of
from api.site.rendering import is_live, renderer_of
from api.site.session import end_session
from models.errors import NightshiftError


class PageRoute(APIRoute):
    """A route whose problems people read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with problems caught."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except Problem as problem:
                return _said(request, problem)
            except NightshiftError as exc:
                return _said(request, problem_of(exc))
            except RequestValidationError:
                return _said(request, Problem(400, "this address cannot be used: go back", "query"))

        return answer


def _said(request: Request, problem: Problem) -> Response:
    if problem.status == 401:
        return _asked_for_a_key(request, problem)
    return _shown(request, problem)


def _asked_for_a_key(request: Request, problem: Problem) -> Response:
    """The way to the form; what the browser holds instead of a key is forgotten."""
    answer: Response
    if is_live(request):  # a script asks, which would follow a redirect without noticing
        answer = _shown(request, problem)
    else:
        answer = RedirectResponse("/sign-in", status_code=303)
    end_session(request, answer)
    return answer


def _shown(request: Request, problem: Problem) -> Response:
    page = renderer_of(request).page(
        request, "problem.html", status=problem.status, message=problem.message
    )
    page.headers.update(problem.headers)
    return page
