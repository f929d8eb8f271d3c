"""From one record of an input file (a JSON object, a text line, a table row) to one line.

It knows the accepted forms of a request, nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from models.errors import RequestRefused
from models.generation import Prompt
from models.params import DecodingParams
from models.spelling import did_you_mean
from models.wire import refusals
from models.wire.bodies import parse_body
from models.wire.endpoints import Endpoint
from models.wire.lines import MAX_CUSTOM_ID_BYTES, AcceptedLine, Line, RefusedLine
from models.wire.refused_lines import read_refused
from models.wire.strict_json import StrictJsonError, check_value, shown

_OPENAI_FIELDS = ("custom_id", "method", "url", "body")


@dataclass(frozen=True, slots=True)
class Record:
    """What a source found at one place: the fields of a request, or why there are none."""

    line_number: int
    content: Mapping[str, object] | RequestRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRules:
    """What holds for all requests of one batch.

    `defaults` have passed `check_defaults`; `endpoint` None: the first request decides;
    `as_completion`: a plain prompt is raw text to go on with instead of a user's message;
    `system`: the system message put before a plain prompt.
    """

    model_name: str | None
    defaults: Mapping[str, object] = field(default_factory=dict)
    endpoint: Endpoint | None = None
    as_completion: bool = False
    system: str | None = None


class RequestParser:
    """Parses the records of one batch in order; remembers its endpoint and its custom_ids.

    Of every custom_id only a 16-byte hash is kept.
    """

    def __init__(self, rules: RequestRules) -> None:
        self._rules = rules
        self._endpoint = rules.endpoint
        self._seen: dict[bytes, int] = {}  # hash of a custom_id → its line

    @property
    def endpoint(self) -> Endpoint | None:
        """The batch's endpoint, as soon as a request has decided it."""
        return self._endpoint

    def parse(self, record: Record) -> Line:
        """The accepted or refused line; never raises."""
        number = record.line_number
        custom_id: str | None = None
        try:
            if isinstance(record.content, RequestRefused):
                raise record.content
            if (refused := read_refused(record.content, number)) is not None:
                return refused
            fields = dict(record.content)
            custom_id = _take_custom_id(fields, number)
            self._claim(custom_id, number)
            endpoint, prompt, params = self._request(fields)
        except RequestRefused as exc:
            return RefusedLine(number, custom_id, refusals.at_line(exc, number))
        return AcceptedLine(number, custom_id, prompt, params, endpoint)

    def _claim(self, custom_id: str, line_number: int) -> None:
        digest = blake2b(custom_id.encode(), digest_size=16).digest()
        first = self._seen.setdefault(digest, line_number)
        if first != line_number:
            reason = f"{shown(custom_id)} is already that of line {first}; give each its own"
            raise refusals.bad_field("", "custom_id", reason, code="duplicate_custom_id")

    def _request(self, fields: dict[str, object]) -> tuple[Endpoint, Prompt, DecodingParams]:
        if _is_openai(fields):
            endpoint, body, where = _openai_request(fields), fields["body"], "body."
        else:
            (endpoint, body), where = self._plain_request(fields), ""
        self._settle(endpoint)
        rules = self._rules
        prompt, params = parse_body(
            endpoint, body, rules.model_name, defaults=rules.defaults, where=where
        )
        return endpoint, prompt, params

    def _settle(self, endpoint: Endpoint) -> None:
        """All requests of a batch have the endpoint of its first one."""
        self._endpoint = self._endpoint or endpoint
        if endpoint != self._endpoint:
            raise RequestRefused(
                f"the request is for {endpoint}, and the batch is for {self._endpoint}; give it a "
                "file of its own",
                code="invalid_url",
                param="url",
            )

    def _plain_request(self, fields: dict[str, object]) -> tuple[Endpoint, dict[str, object]]:
        if fields.get("messages") is not None:
            return Endpoint.CHAT, fields
        if fields.get("prompt") is None:
            names = ", ".join(shown(name)[1:-1] for name in list(fields)[:8]) or "no field"
            reason = f"is missing; the request has {names}; give prompt or messages"
            raise refusals.bad_field("", "prompt", reason, code=refusals.MISSING)
        if fields["prompt"] == "":
            raise refusals.bad_field("", "prompt", "is empty; give a text")
        if self._rules.as_completion:
            return Endpoint.COMPLETIONS, fields
        return Endpoint.CHAT, _one_message(fields, self._rules.system)


def _one_message(fields: dict[str, object], system: str | None) -> dict[str, object]:
    """The chat body of a plain prompt."""
    rest = {name: value for name, value in fields.items() if name != "messages"}
    prompt = rest.pop("prompt")
    if not isinstance(prompt, str):
        wanted = "a string (token ids need --completions)"
        raise refusals.bad_type("", "prompt", prompt, wanted=wanted)
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages, **rest}


def _is_openai(fields: Mapping[str, object]) -> bool:
    return any(name in fields for name in ("method", "url", "body"))


def _openai_request(fields: Mapping[str, object]) -> Endpoint:
    """Check what surrounds the body of OpenAI's form and return its endpoint."""
    for name in fields:
        if name not in _OPENAI_FIELDS:
            reason = f"is unknown{did_you_mean(name, _OPENAI_FIELDS)}"
            raise refusals.bad_field("", shown(name)[1:-1], reason, code=refusals.UNSUPPORTED)
    for name in ("method", "url", "body"):
        if fields.get(name) is None:
            code = "invalid_url" if name == "url" else refusals.MISSING
            raise refusals.bad_field("", name, "is missing", code=code)
    if fields["method"] != "POST":
        reason = f"is {shown(fields['method'])}, it should be POST"
        raise refusals.bad_field("", "method", reason)
    url = fields["url"]
    if not isinstance(url, str) or url not in set(Endpoint):
        reason = f"is {shown(url)}, it should be one of {', '.join(Endpoint)}"
        raise refusals.bad_field("", "url", reason, code="invalid_url")
    return Endpoint(url)


def _take_custom_id(fields: dict[str, object], line_number: int) -> str:
    """Remove the request's id from `fields`; one without gets `request-<line>`."""
    names = ("custom_id",) if _is_openai(fields) else ("custom_id", "id")
    given = {name: fields.pop(name) for name in names if name in fields}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise refusals.bad_field("", "id", "is given beside custom_id; give only one")
    for name, value in given.items():
        return _usable_id(name, value)
    return f"request-{line_number}"


def _usable_id(name: str, value: object) -> str:
    if name == "id" and type(value) is int:
        value = str(value)  # as data sets number their rows
    if not isinstance(value, str):
        raise refusals.bad_type("", name, value, wanted="a string")
    try:
        check_value(value)
    except StrictJsonError as exc:
        raise refusals.bad_field("", name, f"cannot be used: {exc}") from exc
    if not 1 <= len(value.encode()) <= MAX_CUSTOM_ID_BYTES:
        reason = f"has {len(value.encode())} bytes, it should have 1 to {MAX_CUSTOM_ID_BYTES}"
        raise refusals.bad_field("", name, reason)
    return value
