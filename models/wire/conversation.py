"""The prompt of a request body: a conversation, a text or token ids, strictly checked."""

from __future__ import annotations

from collections.abc import Mapping

from models.errors import RequestRefused
from models.generation import ChatMessage, ChatPrompt, Prompt, TextPrompt, TokenPrompt
from models.spelling import did_you_mean
from models.wire import refusals
from models.wire.endpoints import Endpoint
from models.wire.strict_json import shown

MAX_TOKEN_ID = 2**31 - 1
_ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name of the same role
    "user": "user",
    "assistant": "assistant",
}
_MESSAGE_FIELDS = ("role", "content")


def take_prompt(endpoint: Endpoint, fields: dict[str, object], where: str) -> Prompt:
    """Remove the prompt from `fields` and return it; raises RequestRefused."""
    wanted, other = ("messages", "prompt") if endpoint == Endpoint.CHAT else ("prompt", "messages")
    if other in fields:
        reason = f"does not belong to {endpoint}, which takes {wanted}"
        raise refusals.bad_field(where, other, reason, code=refusals.UNSUPPORTED)
    if wanted not in fields:
        raise refusals.bad_field(where, wanted, "is missing", code=refusals.MISSING)
    value = fields.pop(wanted)
    if endpoint == Endpoint.CHAT:
        return _conversation(value, where)
    return _text_or_tokens(value, where)


def _conversation(value: object, where: str) -> ChatPrompt:
    if not isinstance(value, list):
        raise refusals.bad_type(where, "messages", value, wanted="a list of messages")
    if not value:
        raise refusals.bad_field(where, "messages", "is empty; give at least one message")
    messages = (
        _message(message, where, f"messages[{index}]") for index, message in enumerate(value)
    )
    return ChatPrompt(messages=tuple(messages))


def _message(value: object, where: str, name: str) -> ChatMessage:
    if not isinstance(value, dict):
        raise refusals.bad_type(where, name, value, wanted="an object with role and content")
    for field, given in value.items():
        # Answers of OpenAI's API carry empty fields (refusal: null, annotations: []).
        if field not in _MESSAGE_FIELDS and given not in (None, [], {}):
            reason = f"is not supported in a message{did_you_mean(field, _MESSAGE_FIELDS)}"
            raise refusals.bad_field(where, f"{name}.{field}", reason, code=refusals.UNSUPPORTED)
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        wanted = "system, developer, user or assistant"
        raise refusals.bad_type(where, f"{name}.role", role, wanted=wanted)
    content = _content(value.get("content"), where, f"{name}.content")
    return ChatMessage.model_validate({"role": _ROLES[role], "content": content})


def _content(value: object, where: str, name: str) -> str:
    """The text of a message; the parts of a list become paragraphs of one line each."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise refusals.bad_type(where, name, value, wanted="a string or a list of text parts")
    parts = [_text_part(part, where, f"{name}[{index}]") for index, part in enumerate(value)]
    return "\n".join(parts)


def _text_part(value: object, where: str, name: str) -> str:
    if isinstance(value, dict):
        kind, text = value.get("type"), value.get("text")
        if kind == "text" and isinstance(text, str) and len(value) == 2:
            return text
        if isinstance(kind, str) and kind != "text":
            reason = f"is of type {shown(kind)}; only text parts are supported"
            raise refusals.bad_field(where, name, reason, code=refusals.UNSUPPORTED)
    raise refusals.bad_type(where, name, value, wanted='{"type": "text", "text": "..."}')


def _text_or_tokens(value: object, where: str) -> TextPrompt | TokenPrompt:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]  # a list of one prompt is that prompt
    if isinstance(value, str):
        return TextPrompt(text=value)
    if not isinstance(value, list):
        raise refusals.bad_type(where, "prompt", value, wanted="a string or a list of token ids")
    if not value:
        raise refusals.bad_field(where, "prompt", "is empty; give a text or token ids")
    if any(isinstance(item, str | list) for item in value):
        raise _several_prompts(where)
    for index, item in enumerate(value):
        if type(item) is not int or not 0 <= item <= MAX_TOKEN_ID:
            raise refusals.bad_type(where, f"prompt[{index}]", item, wanted="a token id")
    return TokenPrompt(token_ids=tuple(value))


def _several_prompts(where: str) -> RequestRefused:
    reason = "holds several prompts; give each one a line of its own"
    return refusals.bad_field(where, "prompt", reason, code=refusals.UNSUPPORTED)
