"""Every kind of bad request: refused with line, field, reason and code; the next one runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.wire.input import InputLimits
from tests.wire.files import (
    MESSAGES,
    accepted,
    chat_line,
    completion_line,
    openai_line,
    read,
    read_one,
    refused,
    write,
)

CHAT = "/v1/chat/completions"
MISSING = "missing_required_parameter"
TYPE = "invalid_type"
UNSUPPORTED = "unsupported_parameter"
VALUE = "invalid_value"


def said(content: object, **fields: object) -> dict[str, object]:
    return chat_line(messages=[{"role": "user", "content": content, **fields}])


def without(name: str) -> dict[str, object]:
    return {key: value for key, value in chat_line().items() if key != name}


CASES: list[tuple[object, str, str | None, str]] = [
    # what is around the body
    (b"[1]", "invalid_json_line", None, "[1] is not a JSON object"),
    (b"{'a': 1}", "invalid_json_line", None, "not JSON at column 2: Expecting property name"),
    (b"\xff\xfe", "invalid_json_line", None, "byte 1 is not UTF-8"),
    (without("method"), MISSING, "method", "field method is missing"),
    (without("url"), "invalid_url", "url", "field url is missing"),
    (without("body"), MISSING, "body", "field body is missing"),
    ({**chat_line(), "method": "GET"}, VALUE, "method", 'is "GET", it should be POST'),
    ({**chat_line(), "url": "/v1/embeddings"}, "invalid_url", "url", 'is "/v1/embeddings", it'),
    ({**chat_line(), "ulr": 1}, UNSUPPORTED, "ulr", "is unknown; did you mean url?"),
    ({**chat_line(), "id": "x"}, UNSUPPORTED, "id", "field id is unknown"),
    ({**chat_line(), "body": []}, TYPE, "body", "field body is [], it should be an object"),
    ({**chat_line(), "custom_id": 7}, TYPE, "custom_id", "is 7, it should be a string"),
    ({**chat_line(), "custom_id": ""}, VALUE, "custom_id", "has 0 bytes"),
    ({**chat_line(), "custom_id": "é" * 65}, VALUE, "custom_id", "has 130 bytes"),
    ({"id": True, "prompt": "a"}, TYPE, "id", "field id is true"),
    ({"id": "a", "custom_id": "b", "prompt": "a"}, VALUE, "id", "beside custom_id"),
    ({"text": "a"}, MISSING, "prompt", "field prompt is missing; the request has text"),
    ({}, MISSING, "prompt", "the request has no field"),
    ({"prompt": ""}, VALUE, "prompt", "field prompt is empty"),
    ({"prompt": [1, 2]}, TYPE, "prompt", "token ids need --completions"),
    ({"prompt": "a", "messages": MESSAGES}, UNSUPPORTED, "prompt", "does not belong to"),
    # the model
    (chat_line(model="other"), "mismatched_model", "model", 'body.model is "other", and the batch'),
    (chat_line(model="demo:int4"), "mismatched_model", "model", "runs demo:int8"),
    (chat_line(model=3), TYPE, "model", "field body.model is 3, it should be a string"),
    # messages
    (openai_line(CHAT, "r", {}), MISSING, "messages", "field body.messages is missing"),
    (chat_line(messages=None), MISSING, "messages", "field body.messages is missing"),
    (chat_line(messages=[]), VALUE, "messages", "is empty; give at least one message"),
    (chat_line(messages="hi"), TYPE, "messages", 'is "hi", it should be a list of messages'),
    (chat_line(messages=["hi"]), TYPE, "messages[0]", "it should be an object with role"),
    (chat_line(messages=[{"role": "tool", "content": ""}]), TYPE, "messages[0].role", '"tool"'),
    (chat_line(messages=[{"content": ""}]), TYPE, "messages[0].role", "is null, it should be"),
    (chat_line(messages=[{"role": [], "content": ""}]), TYPE, "messages[0].role", "is []"),
    (said(None), TYPE, "messages[0].content", "is null, it should be a string or a list"),
    (said([]), TYPE, "messages[0].content", "is [], it should be a string or a list"),
    (said("a", name="bob"), UNSUPPORTED, "messages[0].name", "is not supported in a message"),
    (said("a", contnt="b"), UNSUPPORTED, "messages[0].contnt", "did you mean content?"),
    (said([{"type": "image_url"}]), UNSUPPORTED, "messages[0].content[0]", 'type "image_url"'),
    (said([{"type": "text"}]), TYPE, "messages[0].content[0]", "it should be"),
    (said([{"type": "text", "text": "a", "b": 1}]), TYPE, "messages[0].content[0]", "it should"),
    (said(["a"]), TYPE, "messages[0].content[0]", 'is "a", it should be'),
    (chat_line(prompt="a"), UNSUPPORTED, "prompt", f"does not belong to {CHAT}, which takes"),
    # /v1/completions
    (completion_line(prompt=["a", "b"]), UNSUPPORTED, "prompt", "holds several prompts"),
    (completion_line(prompt=[[1], [2]]), UNSUPPORTED, "prompt", "holds several prompts"),
    (completion_line(prompt=[1, -2]), TYPE, "prompt[1]", "is -2, it should be a token id"),
    (completion_line(prompt=[True]), TYPE, "prompt[0]", "is true, it should be a token id"),
    (completion_line(prompt=[2**31]), TYPE, "prompt[0]", "it should be a token id"),
    (completion_line(prompt=[]), VALUE, "prompt", "field body.prompt is empty"),
    (completion_line(prompt=5), TYPE, "prompt", "is 5, it should be a string or a list"),
    (completion_line(logprobs=True), TYPE, "logprobs", "it should be an integer from 0 to 20"),
    (completion_line(logprobs=21), TYPE, "logprobs", "is 21, it should be an integer"),
    (completion_line(top_logprobs=1), UNSUPPORTED, "top_logprobs", "give logprobs as an integer"),
    # decoding parameters
    (chat_line(temprature=1), UNSUPPORTED, "temprature", "is unknown; did you mean temperature?"),
    (chat_line(zzz=1), UNSUPPORTED, "zzz", "field body.zzz is unknown"),
    (chat_line(temperature=2.5), VALUE, "temperature", "is 2.5, it should be less than or equal"),
    (chat_line(temperature="1"), TYPE, "temperature", 'is "1", it should be a valid number'),
    (chat_line(temperature=True), TYPE, "temperature", "is true, it should be a valid number"),
    (chat_line(max_tokens=0), VALUE, "max_tokens", "is 0, it should be greater than or equal"),
    (chat_line(max_tokens=True), TYPE, "max_tokens", "is true, it should be a valid integer"),
    (chat_line(max_tokens=8.0), TYPE, "max_tokens", "is 8.0, it should be a valid integer"),
    (chat_line(max_tokens=2**31), VALUE, "max_tokens", "it should be less than or equal"),
    (chat_line(max_tokens=1, max_completion_tokens=1), VALUE, "max_completion_tokens", "beside"),
    (
        chat_line(max_completion_tokens=0),
        VALUE,
        "max_completion_tokens",
        "is 0, it should be greater",
    ),
    (chat_line(min_tokens=5, max_tokens=4), VALUE, "min_tokens", "is greater than max_tokens"),
    (chat_line(top_logprobs=2), VALUE, "top_logprobs", "needs logprobs: true"),
    (chat_line(logprobs=1), TYPE, "logprobs", "is 1, it should be a valid boolean"),
    (chat_line(n=129), VALUE, "n", "is 129, it should be less than or equal to 128"),
    (chat_line(stop=[""]), VALUE, "stop[0]", 'is "", it should have at least 1 character'),
    (chat_line(stop=["a"] * 17), VALUE, "stop", "at most 16 items"),
    (chat_line(stop=[1]), TYPE, "stop[0]", "is 1, it should be a valid string"),
    (chat_line(stop={}), TYPE, "stop", "is {}, it should be a list"),
    (chat_line(stop_token_ids=[-1]), VALUE, "stop_token_ids[0]", "is -1, it should be greater"),
    (chat_line(logit_bias={"a": 1}), TYPE, "logit_bias", 'is "a", it should be an object with'),
    (chat_line(logit_bias={"5": "1"}), TYPE, "logit_bias[5]", 'is "1", it should be a valid'),
    (chat_line(logit_bias={"5": 101}), VALUE, "logit_bias[5]", "is 101, it should be less"),
    (chat_line(logit_bias=[1]), TYPE, "logit_bias", "is [1], it should be an object"),
    (chat_line(seed=-1), VALUE, "seed", "is -1, it should be greater than or equal to 0"),
    # what OpenAI has and we have not
    (chat_line(stream=True), UNSUPPORTED, "stream", "field body.stream is not supported"),
    (chat_line(stream=0), UNSUPPORTED, "stream", "is not supported"),
    (chat_line(tools=[{}]), UNSUPPORTED, "tools", "field body.tools is not supported"),
    (chat_line(functions=[{}]), UNSUPPORTED, "functions", "is not supported; leave it out"),
    (chat_line(response_format={"type": "json_object"}), UNSUPPORTED, "response_format", "not sup"),
    (chat_line(metadata={"a": "b"}), UNSUPPORTED, "metadata", "is not supported"),
    (chat_line(user=5), TYPE, "user", "field body.user is 5, it should be a string"),
    (completion_line(best_of=3), UNSUPPORTED, "best_of", "ask for several answers with n"),
    (completion_line(suffix="x"), UNSUPPORTED, "suffix", "is not supported"),
    (completion_line(echo=True), UNSUPPORTED, "echo", "field body.echo is not supported"),
]


@pytest.mark.parametrize(("line", "code", "param", "reason"), CASES)
def test_names_line_field_and_reason(
    tmp_path: Path, line: object, code: str, param: str | None, reason: str
) -> None:
    found = refused(read_one(tmp_path, line))
    assert found.line_number == 1
    assert found.refusal.message.startswith("line 1: ")
    assert reason in found.refusal.message
    assert (found.refusal.code, found.refusal.param) == (code, param)
    assert found.refusal.http_status == 400


def test_a_refused_request_keeps_its_custom_id(tmp_path: Path) -> None:
    assert refused(read_one(tmp_path, chat_line("mine", stream=True))).custom_id == "mine"
    assert refused(read_one(tmp_path, b'{"custom_id": "mine"')).custom_id is None
    assert refused(read_one(tmp_path, {"prompt": ""})).custom_id == "request-1"


def test_a_custom_id_is_used_once_and_the_first_line_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "in.jsonl",
        chat_line("a", stream=True),  # refused for its own reason, and the owner of its id
        chat_line("b"),
        chat_line("a"),
        {"prompt": "x", "id": "b"},
    )
    first, second, third, fourth = read(path)
    assert refused(first).refusal.param == "stream"
    assert accepted(second).custom_id == "b"
    for line, owner in ((third, 1), (fourth, 2)):
        assert refused(line).refusal.code == "duplicate_custom_id"
        assert f"already that of line {owner}" in refused(line).refusal.message


def test_an_id_that_was_given_by_itself_can_be_taken_by_another_line(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", {"prompt": "a"}, {"prompt": "b", "id": "request-1"})
    assert refused(read(path)[1]).refusal.code == "duplicate_custom_id"


def test_the_first_request_decides_the_endpoint(tmp_path: Path) -> None:
    path = write(
        tmp_path / "in.jsonl", completion_line("a"), chat_line("b"), {"prompt": "x"}, b"{}"
    )
    first, second, third, _ = read(path)
    assert accepted(first).endpoint == "/v1/completions"
    for line in (second, third):
        assert refused(line).refusal.code == "invalid_url"
        assert "the batch is for /v1/completions" in refused(line).refusal.message


def test_an_overlong_line_is_refused_and_the_next_one_is_found(tmp_path: Path) -> None:
    limits = InputLimits(max_line_bytes=200)
    path = write(
        tmp_path / "in.jsonl", b"x" * 200, b"x" * 201, b"\r" * 700, b"x" * 5000, {"prompt": "a"}
    )
    first, *long, last = read(path, limits=limits)
    assert refused(first).refusal.code == "invalid_json_line"
    assert [line.line_number for line in long] == [2, 3, 4]
    for line in long:
        assert refused(line).refusal.code == "line_too_long"
        assert "NIGHTSHIFT_MAX_LINE_BYTES" in refused(line).refusal.message
    assert accepted(last).line_number == 5


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    line = b'{"prompt": "%s"}' % (b"x" * 100)
    for end in (b"", b"\r"):
        path = write(tmp_path / "in.jsonl", line + end)
        accepted(read(path, limits=InputLimits(max_line_bytes=len(line)))[0])
        path = write(tmp_path / "in.jsonl", {"prompt": "a"}, line + end)
        found = read(path, limits=InputLimits(max_line_bytes=len(line) - 1))
        assert refused(found[1]).refusal.code == "line_too_long"
