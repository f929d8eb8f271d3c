"""The decoding parameters of a request body: OpenAI's spellings made those of DecodingParams.

Nothing is ignored in silence: a field is understood, or harmless at its value, or refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from models.errors import InputError, RequestRefused
from models.params import DecodingParams
from models.spelling import did_you_mean
from models.wire import refusals
from models.wire.endpoints import Endpoint
from models.wire.strict_json import StrictJsonError, check_value, shown

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")  # one way to write it, so that none is given twice
_ALIAS = "max_completion_tokens"
_NAMES = (*DecodingParams.model_fields, _ALIAS)
IDENTIFIERS = ("user", "safety_identifier")  # of the caller's own end user: change no answer

# Fields that are known and not supported, with the values at which they change nothing.
HARMLESS_AT: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (),
    "prediction": (),
    "prompt_cache_key": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "stream": (False,),
    "stream_options": (),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
ADVICE: Mapping[str, str] = {
    "best_of": "; ask for several answers with n",
    "prompt_cache_key": "; equal prompt starts are shared by themselves",
    "stream": "; a batch's answers are written when they are complete",
}


def parameter_names() -> tuple[str, ...]:
    """Every name that a decoding parameter may be given under."""
    return _NAMES


def read_params(
    endpoint: Endpoint, fields: Mapping[str, object], *, defaults: Mapping[str, object], where: str
) -> DecodingParams:
    """The parameters in `fields` (nulls removed), `defaults` filling in what is not given.

    `where` is the path of the body in its line, with a dot at its end. Raises RequestRefused.
    """
    try:
        values = {**defaults, **_translate(endpoint, _understood(fields, where), where)}
        return DecodingParams.model_validate(values, strict=True)
    except ValidationError as exc:
        raise _refusal(exc.errors(include_url=False)[0], fields, where) from exc


def check_defaults(defaults: Mapping[str, object]) -> dict[str, object]:
    """The defaults under the names of DecodingParams; raises InputError naming a bad one."""
    given = {name: value for name, value in defaults.items() if value is not None}
    try:
        params = read_params(Endpoint.CHAT, given, defaults={}, where="")
        check_value(list(params.stop))  # a flag may hold what no file can
        return _translate(Endpoint.CHAT, _understood(given, ""), "")
    except (RequestRefused, StrictJsonError) as exc:
        raise InputError(f"the default of a decoding parameter cannot be used: {exc}") from exc


def _understood(fields: Mapping[str, object], where: str) -> dict[str, object]:
    """The fields that are decoding parameters; raises RequestRefused for what is neither."""
    given: dict[str, object] = {}
    for name, value in fields.items():
        if not _is_harmless(name, value, where):
            _check_known(name, where)
            given[name] = value
    return given


def _is_harmless(name: str, value: object, where: str) -> bool:
    if name in IDENTIFIERS:
        if not isinstance(value, str):
            raise refusals.bad_type(where, name, value, wanted="a string")
        return True
    if name not in HARMLESS_AT:
        return False
    if any(type(value) is type(same) and value == same for same in HARMLESS_AT[name]):
        return True
    reason = f"is not supported{ADVICE.get(name, '; leave it out')}"
    raise refusals.bad_field(where, name, reason, code=refusals.UNSUPPORTED)


def _check_known(name: str, where: str) -> None:
    known = parameter_names()
    if name not in known:
        advice = did_you_mean(name, (*known, "model", "messages", "prompt"))
        name = shown(name)[1:-1]  # printable, whatever it is
        raise refusals.bad_field(where, name, f"is unknown{advice}", code=refusals.UNSUPPORTED)


def _translate(endpoint: Endpoint, given: dict[str, object], where: str) -> dict[str, object]:
    """OpenAI's spellings and JSON's types turned into those of DecodingParams."""
    values = dict(given)
    if _ALIAS in values:
        if "max_tokens" in values:
            raise refusals.bad_field(where, _ALIAS, "is given beside max_tokens; give only one")
        values["max_tokens"] = values.pop(_ALIAS)
    if isinstance(values.get("stop"), str):
        values["stop"] = (values["stop"],)
    for name in ("stop", "stop_token_ids"):
        if isinstance(value := values.get(name), list):
            values[name] = tuple(value)
    if isinstance(bias := values.get("logit_bias"), dict):
        values["logit_bias"] = {_token_id(key, where): value for key, value in bias.items()}
    if endpoint == Endpoint.COMPLETIONS:
        _translate_logprobs(values, where)
    return values


def _translate_logprobs(values: dict[str, object], where: str) -> None:
    """/v1/completions has one integer, how many alternatives, instead of two fields."""
    if "top_logprobs" in values:
        reason = "does not belong to /v1/completions; give logprobs as an integer"
        raise refusals.bad_field(where, "top_logprobs", reason, code=refusals.UNSUPPORTED)
    if "logprobs" in values:
        count = values["logprobs"]
        if type(count) is not int or not 0 <= count <= 20:
            raise refusals.bad_type(where, "logprobs", count, wanted="an integer from 0 to 20")
        values["logprobs"], values["top_logprobs"] = True, count


def _token_id(key: object, where: str) -> int:
    if type(key) is int:
        return key
    if not isinstance(key, str) or not _TOKEN_ID.fullmatch(key):
        raise refusals.bad_type(where, "logit_bias", key, wanted="an object with token ids as keys")
    return int(key)


def _refusal(error: ErrorDetails, fields: Mapping[str, object], where: str) -> RequestRefused:
    """Pydantic's first complaint as one of our sentences."""
    if not error["loc"]:  # of the whole: the sentence begins with the field's name
        name, _, reason = error["msg"].removeprefix("Value error, ").partition(" ")
        return refusals.bad_field(where, name, reason)
    path = [part for part in error["loc"] if part != "[key]"]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
    if name == "max_tokens" and _ALIAS in fields:
        name = _ALIAS
    reason = error["msg"].removeprefix("Input ").removeprefix("String ")
    code = refusals.INVALID_TYPE if error["type"].endswith("_type") else refusals.INVALID_VALUE
    value = shown(error["input"])
    reason = reason.replace("valid tuple", "list").replace("a valid dictionary", "an object")
    return refusals.bad_field(where, name, f"is {value}, it {reason}", code=code)
