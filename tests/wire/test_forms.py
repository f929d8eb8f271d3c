"""The accepted forms of a request and of a file, and the options that change their meaning."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from models.errors import InputError
from models.generation import ChatMessage, ChatPrompt, TextPrompt, TokenPrompt
from models.params import DecodingParams
from models.wire.endpoints import Endpoint
from tests.wire.files import (
    MESSAGES,
    accepted,
    chat_line,
    completion_line,
    read,
    read_one,
    refused,
    write,
)


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def test_openai_chat_is_read_in_full(tmp_path: Path) -> None:
    line = chat_line(
        "r-1",
        model="demo:int8",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "…"},
            {"role": "assistant", "content": "x", "refusal": None, "annotations": []},
            {"role": "developer", "content": [{"type": "text", "text": "a"}] * 2},
        ],
        max_completion_tokens=64,
        temperature=0,
        stop="\n",
        logit_bias={"5": -100, "17": 1.5},
        stop_token_ids=[2],
        seed=None,
        logprobs=True,
        top_logprobs=3,
        user="someone",
        stream=False,
        n=2,
    )
    found = accepted(read_one(tmp_path, line))
    assert (found.line_number, found.custom_id) == (1, "r-1")
    assert found.endpoint == Endpoint.CHAT
    assert isinstance(found.prompt, ChatPrompt)
    assert [(m.role, m.content) for m in found.prompt.messages] == [
        ("system", "Be brief."),
        ("user", "…"),
        ("assistant", "x"),
        ("system", "a\na"),
    ]
    assert found.params == DecodingParams(
        max_tokens=64,
        temperature=0,
        stop=("\n",),
        logit_bias={5: -100, 17: 1.5},
        stop_token_ids=(2,),
        logprobs=True,
        top_logprobs=3,
        n=2,
    )


@pytest.mark.parametrize("model", ["demo", "demo:int8", None])
def test_the_model_may_be_named_with_and_without_weights_or_not_at_all(
    tmp_path: Path, model: str | None
) -> None:
    accepted(read_one(tmp_path, chat_line(model=model)))


def test_the_bare_name_of_a_batchs_model_is_enough(tmp_path: Path) -> None:
    accepted(read_one(tmp_path, chat_line(model="demo"), model_name="demo"))
    accepted(read_one(tmp_path, chat_line(model="anything"), model_name=None))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("once", TextPrompt(text="once")),
        (["once"], TextPrompt(text="once")),
        ([1, 0, 2], TokenPrompt(token_ids=(1, 0, 2))),
        ([[1, 2]], TokenPrompt(token_ids=(1, 2))),
    ],
)
def test_a_completion_has_one_prompt_of_text_or_tokens(
    tmp_path: Path, prompt: object, expected: object
) -> None:
    found = accepted(read_one(tmp_path, completion_line(prompt=prompt)))
    assert (found.prompt, found.endpoint) == (expected, Endpoint.COMPLETIONS)


def test_completion_logprobs_count_the_alternatives(tmp_path: Path) -> None:
    params = accepted(read_one(tmp_path, completion_line(logprobs=0))).params
    assert (params.logprobs, params.top_logprobs) == (True, 0)
    params = accepted(read_one(tmp_path, completion_line(logprobs=5))).params
    assert (params.logprobs, params.top_logprobs) == (True, 5)


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": False},
        {"tools": []},
        {"response_format": {"type": "text"}},
        {"store": False, "metadata": {}, "service_tier": "auto"},
        {"best_of": 1, "echo": False, "suffix": ""},
        {"user": "u", "safety_identifier": "s"},
        {"tools": None, "stream_options": None, "stop": None, "temperature": None},
    ],
)
def test_fields_that_change_nothing_are_accepted(tmp_path: Path, fields: dict[str, object]) -> None:
    assert accepted(read_one(tmp_path, chat_line("r-1", **fields))).params == DecodingParams()


def test_a_plain_prompt_is_one_message_of_a_user(tmp_path: Path) -> None:
    path = write(
        tmp_path / "in.jsonl",
        {"prompt": "a", "max_tokens": 3},
        {"id": 7, "prompt": "b", "model": "demo"},
        {"custom_id": "c", "messages": MESSAGES},
    )
    first, second, third = map(accepted, read(path))
    assert first.prompt == ChatPrompt(messages=(user("a"),))
    assert (first.custom_id, first.params.max_tokens) == ("request-1", 3)
    assert (second.custom_id, second.prompt) == ("7", ChatPrompt(messages=(user("b"),)))
    assert (third.custom_id, third.prompt) == ("c", ChatPrompt(messages=(user("hi"),)))
    assert {line.endpoint for line in (first, second, third)} == {"/v1/chat/completions"}


def test_a_system_message_is_put_before_plain_prompts_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", {"prompt": "a"}, {"messages": MESSAGES}, chat_line())
    first, second, third = map(accepted, read(path, system="Be brief."))
    system = ChatMessage(role="system", content="Be brief.")
    assert first.prompt == ChatPrompt(messages=(system, user("a")))
    assert second.prompt == third.prompt == ChatPrompt(messages=(user("hi"),))


def test_as_completion_a_plain_prompt_is_raw_text(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", {"prompt": "a"}, {"prompt": [1, 2]}, {"messages": MESSAGES})
    first, second, third = read(path, as_completion=True)
    assert accepted(first).prompt == TextPrompt(text="a")
    assert accepted(second).prompt == TokenPrompt(token_ids=(1, 2))
    assert accepted(first).endpoint == Endpoint.COMPLETIONS
    assert refused(third).refusal.code == "invalid_url"


def test_a_system_message_and_completions_exclude_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", {"prompt": "a"})
    with pytest.raises(InputError, match="leave out either --system or --completions"):
        read(path, as_completion=True, system="Be brief.")


def test_defaults_fill_in_what_a_line_does_not_give(tmp_path: Path) -> None:
    path = write(
        tmp_path / "in.jsonl",
        chat_line("a", temperature=1),
        chat_line("b", max_completion_tokens=9),
        {"prompt": "c", "stop": None},
    )
    defaults = {"max_tokens": 64, "temperature": 0.0, "stop": ["END"], "top_p": None}
    first, second, third = (accepted(line).params for line in read(path, defaults=defaults))
    assert (first.max_tokens, first.temperature, first.stop) == (64, 1, ("END",))
    assert (second.max_tokens, second.temperature) == (9, 0)
    assert (third.max_tokens, third.stop, third.top_p) == (64, ("END",), None)


def test_a_bad_default_is_an_error_before_the_first_line(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", {"prompt": "a"})
    for defaults, reason in (
        ({"temperature": 9}, "field temperature is 9"),
        ({"max_token": 9}, "field max_token is unknown; did you mean max_tokens?"),
    ):
        with pytest.raises(InputError, match=f"default of a decoding parameter .* {reason[:20]}"):
            read(path, defaults=defaults)


def test_a_given_endpoint_holds_for_the_first_line_too(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", chat_line("a"), completion_line("b"))
    first, second = read(path, endpoint=Endpoint.COMPLETIONS)
    assert refused(first).refusal.code == "invalid_url"
    accepted(second)


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n  \n{"prompt": "b"}')
    assert [accepted(line).line_number for line in read(path)] == [1, 4]


def test_a_text_file_has_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes('first\r\n\n  a café\t\n{"x": 1}\n'.encode() + b"\xff\nend\x00\nlast")
    found = read(path)
    assert [line.line_number for line in found] == [1, 3, 4, 5, 6, 7]
    prompts = [accepted(found[n]).prompt for n in (0, 1, 2, 5)]
    texts = ("first", "  a café\t", '{"x": 1}', "last")
    assert prompts == [ChatPrompt(messages=(user(text),)) for text in texts]
    assert "byte 1 is not UTF-8" in refused(found[3]).refusal.message
    assert "contains a NUL character" in refused(found[4]).refusal.message


def test_a_packed_file_is_read_as_the_file_in_it(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "a"}\n{"prompt": "b"}\n'))
    assert [accepted(line).custom_id for line in read(path)] == ["request-1", "request-2"]


@pytest.mark.parametrize("name", ["requests", "in.data", "in.JSONL"])
def test_contents_decide_where_the_name_does_not(tmp_path: Path, name: str) -> None:
    accepted(read(write(tmp_path / name, {"prompt": "a"}))[0])


def test_csv_cells_are_json_except_texts(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(
        "\ufeffid,prompt,max_tokens,temperature,stop,ignore_eos\n"
        '7,"two\nlines, and ""quotes""",8,0.5,END,true\n'
        "\n"
        '8,plain,,,"[""a"", ""b""]",False\n',
        encoding="utf-8",
    )
    first, second = map(accepted, read(path))
    assert first.prompt == ChatPrompt(messages=(user('two\nlines, and "quotes"'),))
    assert (first.line_number, first.custom_id) == (2, "7")
    assert first.params == DecodingParams(
        max_tokens=8, temperature=0.5, stop=("END",), ignore_eos=True
    )
    assert (second.line_number, second.custom_id) == (5, "8")
    assert second.params == DecodingParams(stop=("a", "b"))


def test_a_bad_csv_row_is_refused_and_the_others_run(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(
        b"prompt,max_tokens\na,1\nb\nc,1,2\nd,many\n\xff,1\ng,1.5\n,3\nh,\xff\ni\x00,1\nlast,2\n"
    )
    found = read(path)
    assert [line.line_number for line in found] == list(range(2, 12))
    accepted(found[0])
    accepted(found[-1])
    reasons = [refused(line).refusal.message for line in found[1:-1]]
    assert reasons == [
        "line 3: the row has 1 cells, the header has 2",
        "line 4: the row has 3 cells, the header has 2",
        'line 5: field max_tokens is "many", it should be a number, true, false or JSON',
        "line 6: field prompt is not UTF-8",
        "line 7: field max_tokens is 1.5, it should be a valid integer",
        "line 8: field prompt is missing; the request has max_tokens; give prompt or messages",
        "line 9: field max_tokens is not UTF-8",
        "line 10: field prompt contains a NUL character",
    ]


def test_csv_may_hold_conversations(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    cell = json.dumps(MESSAGES).replace('"', '""')
    path.write_text(f'messages\n"{cell}"\n')
    assert accepted(read(path)[0]).prompt == ChatPrompt(messages=(user("hi"),))


def test_parquet_rows_are_requests(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    rows = 600  # more than are read at once
    table = pa.table(
        {
            "id": pa.array(range(rows)),
            "prompt": pa.array([f"p{n}" for n in range(rows)]),
            "temperature": pa.array([0.5, None, float("nan")] + [0.0] * (rows - 3)),
            "stop": pa.array([["a"], None] + [[]] * (rows - 2), pa.list_(pa.string())),
        }
    )
    parquet.write_table(table, path)
    found = read(path)
    assert len(found) == rows
    first = accepted(found[0])
    assert (first.line_number, first.custom_id) == (1, "0")
    assert first.params == DecodingParams(temperature=0.5, stop=("a",))
    assert accepted(found[1]).params == DecodingParams()
    assert "line 3: field temperature is not a finite" in refused(found[2]).refusal.message
    assert accepted(found[-1]).prompt == ChatPrompt(messages=(user("p599"),))


@pytest.mark.parametrize("as_text", [True, False])
def test_parquet_may_hold_conversations(tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "in.parquet"
    value = [json.dumps(MESSAGES), "[{"] if as_text else [MESSAGES, []]
    parquet.write_table(pa.table({"messages": value}), path)
    first, second = read(path)
    assert accepted(first).prompt == ChatPrompt(messages=(user("hi"),))
    assert "field messages is" in refused(second).refusal.message


def test_parquet_is_recognised_without_its_ending(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"prompt": ["a"]}), tmp_path / "in")
    accepted(read(tmp_path / "in")[0])
