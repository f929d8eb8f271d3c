"""One request body of the OpenAI API becomes a prompt and decoding parameters."""

from __future__ import annotations

from collections.abc import Mapping

from models.generation import Prompt
from models.params import DecodingParams
from models.wire import refusals
from models.wire.conversation import take_prompt
from models.wire.decoding import read_params
from models.wire.endpoints import Endpoint
from models.wire.strict_json import shown


def parse_body(
    endpoint: Endpoint,
    body: object,
    model_name: str | None,
    *,
    defaults: Mapping[str, object] | None = None,
    where: str = "",
) -> tuple[Prompt, DecodingParams]:
    """Read a body whose values are strict JSON (see strict_json).

    `model_name` is the batch's model, `name` or `name:weights`; None accepts any. `defaults` have
    passed `check_defaults`. `where` is put before field names in messages (`body.`). A field that
    is null counts as not given, as in OpenAI's API. Raises RequestRefused that names the field.
    """
    if not isinstance(body, dict):
        wanted = "an object with the request's fields"
        raise refusals.bad_type("", where.removesuffix(".") or "body", body, wanted=wanted)
    fields = {name: value for name, value in body.items() if value is not None}
    check_model(fields.pop("model", None), model_name, where)
    prompt = take_prompt(endpoint, fields, where)
    return prompt, read_params(endpoint, fields, defaults=defaults or {}, where=where)


def check_model(value: object, model_name: str | None, where: str) -> None:
    """Raise RequestRefused unless `value` is None or a name of the batch's model."""
    if value is None:
        return
    if not isinstance(value, str):
        raise refusals.bad_type(where, "model", value, wanted="a string")
    if model_name is not None and value not in (model_name, model_name.partition(":")[0]):
        reason = (
            f"is {shown(value)}, and the batch runs {model_name}; submit the line with "
            "its own model"
        )
        raise refusals.bad_field(where, "model", reason, code="mismatched_model")
