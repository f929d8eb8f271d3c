"""One call to the server: made again while that makes sense, errors made those of Nightshift."""

from __future__ import annotations

import logging
from typing import Any

import httpx2
import tenacity

from models import errors
from nightshift.shapes import Json

TRIES = 5  # over some 3 s when the server is away
_MAX_PAUSE_S = 60.0
_TIMEOUT = httpx2.Timeout(60.0, connect=10.0)
_BACK_OFF = tenacity.wait_exponential_jitter(multiplier=0.2, max=5.0, jitter=0.2)
_FOREIGN = "answers with {} and not as a Nightshift server does"
_ERRORS = {404: errors.NotFoundError, 409: errors.StateError, 507: errors.StorageFull}

_log = logging.getLogger(__name__)


class _NotNow(errors.UnavailableError):
    """The server does not do it now, and may be asked again after a pause."""

    pause_s = 0.0


class Connection:
    """Speaks to one server; `transport` takes the place of the network in tests."""

    def __init__(self, url: str, api_key: str | None, transport: httpx2.BaseTransport | None):
        base = httpx2.URL(url.rstrip("/").removesuffix("/v1"))
        self._shown_url = str(base.copy_with(userinfo=b""))  # messages hold no password
        self._http = httpx2.Client(base_url=base, timeout=_TIMEOUT, transport=transport)
        if api_key is not None:
            self._http.headers["authorization"] = f"Bearer {api_key}"
        self.close = self._http.close

    def json(self, method: str, path: str, **options: Any) -> Json:
        """The JSON of the answer; for the options see `request`."""
        response = self.request(method, path, **options)
        try:
            answer: Json = response.json()
            return answer
        except ValueError as exc:
            raise self.away(_FOREIGN.format(response.status_code)) from exc

    def request(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool | None = None,
        tries: int = TRIES,
        stream: bool = False,
        **options: Any,
    ) -> httpx2.Response:
        """The answer, if it is a good one; raises NightshiftError.

        `repeatable`: twice is the same as once, as with every GET. With `stream` the answer's
        content is the caller's to read and close.
        """
        again = method == "GET" if repeatable is None else repeatable

        def call() -> httpx2.Response:
            request = self._http.build_request(method, path, **options)
            try:
                response = self._http.send(request, stream=stream)
                if response.is_success:
                    return response
                response.read()
            except httpx2.TransportError as exc:
                raise self.away(
                    f"cannot be reached ({exc or type(exc).__name__})", again=again
                ) from exc
            raise self._refusal(response, again=again)

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_NotNow),
            stop=tenacity.stop_after_attempt(tries),
            wait=_pause_s,
            reraise=True,
        )(call)

    def away(self, problem: str, *, again: bool = False) -> errors.UnavailableError:
        """The error of a server that is not there, or of a connection that broke."""
        advice = "see that `nightshift serve` runs there, or correct NIGHTSHIFT_URL"
        kind = _NotNow if again else errors.UnavailableError
        return kind(f"the server {self._shown_url} {problem}: {advice}")

    def _refusal(self, response: httpx2.Response, *, again: bool) -> errors.NightshiftError:
        status = response.status_code
        is_away = status in {502, 503, 504}
        try:
            error = response.json()["error"]
            message, code = str(error["message"]), error["code"]
        except (ValueError, KeyError, TypeError):
            return self.away(_FOREIGN.format(status), again=again and is_away)
        if status in {401, 403}:
            return errors.SettingsError(f"{message}: see that NIGHTSHIFT_API_KEY is the right key")
        if code == "queue_full":
            return errors.QueueFull(message)
        if response.headers.get("x-should-retry") == "false":
            return errors.UnavailableError(message)
        if status == 429 or (is_away and again):
            failure, pause = _NotNow(message), response.headers.get("retry-after", "")
            failure.pause_s = min(int(pause[:9]), _MAX_PAUSE_S) if pause.isdecimal() else 0.0
            return failure
        if code == "idempotency_conflict":
            return errors.IdempotencyConflict(message)
        other = errors.NightshiftError if status >= 500 else errors.InputError
        return errors.UnavailableError(message) if is_away else _ERRORS.get(status, other)(message)


def _pause_s(state: tenacity.RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    asked_s = failure.pause_s if isinstance(failure, _NotNow) else 0.0
    if asked_s:
        _log.warning("the server asks for a pause of %.0f s: %s", asked_s, failure)
    return max(asked_s, _BACK_OFF(state))
