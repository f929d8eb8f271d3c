"""Output lines, error lines and the batch object are those of OpenAI's Batch API, key by key."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from models.generation import (
    ChatMessage,
    ChatPrompt,
    Choice,
    Generation,
    Refusal,
    Timings,
    TokenLogprob,
    TopLogprob,
)
from models.model_key import ModelKey
from models.params import DecodingParams
from models.states import BatchState, ResultStatus
from models.store.views import Batch, BatchError, RequestRecord
from models.wire.output import batch_object, error_line, output_line, result_line, window_text

TIMINGS = Timings(
    tokenize_s=0.001,
    queue_s=0.2,
    prefill_s=0.05,
    time_to_first_token_s=0.251,
    decode_s=0.3,
    total_s=0.551,
)
BATCH = Batch(
    id="batch_abc",
    tenant_id="default",
    file_id="file-abc",
    idempotency_key=None,
    body_sha256="0" * 64,
    endpoint="/v1/chat/completions",
    model=ModelKey.parse("m:int8"),
    state=BatchState.IN_PROGRESS,
    priority=0,
    seed=1,
    completion_window_s=86400.0,
    metadata={"team": "nlp"},
    errors=(),
    total=100,
    completed=95,
    failed=5,
    prompt_tokens=1500,
    cached_prompt_tokens=1024,
    output_tokens=500,
    created_at=1711471533.9,
    in_progress_at=1711471538.2,
    finalizing_at=None,
    completed_at=None,
    failed_at=None,
    cancelling_at=None,
    cancelled_at=None,
    expired_at=None,
    paused_at=None,
    expires_at=1711557933.0,
)
COMPLETIONS = replace(BATCH, endpoint="/v1/completions")
GENERATION = Generation(
    choices=(Choice(index=0, text="Hello.", finish_reason="stop"),),
    prompt_tokens=22,
    cached_prompt_tokens=16,
    output_tokens=2,
    timings=TIMINGS,
)
RECORD = RequestRecord(
    batch_id="batch_abc",
    idx=1,
    line_number=2,
    custom_id="r-1",
    prompt=ChatPrompt(messages=(ChatMessage(role="user", content="…"),)),
    params=DecodingParams(),
    status=ResultStatus.OK,
    generation=GENERATION,
    refusal=None,
    epoch=3,
    attempt=2,
    worker_id="w-1",
    artifact="sha256:00",
    created_at=1711652795.7,
)
NIGHTSHIFT = {
    "timings": {
        "tokenize_s": 0.001,
        "queue_s": 0.2,
        "prefill_s": 0.05,
        "time_to_first_token_s": 0.251,
        "decode_s": 0.3,
        "total_s": 0.551,
    },
    "attempt": 2,
    "worker": "w-1",
    "artifact": "sha256:00",
}
USAGE = {
    "prompt_tokens": 22,
    "completion_tokens": 2,
    "total_tokens": 24,
    "prompt_tokens_details": {"cached_tokens": 16},
}
LOGPROBS = (
    TokenLogprob(
        token="Hel",
        logprob=-0.1,
        bytes=(72, 101, 108),
        top_logprobs=(
            TopLogprob(token="Hel", logprob=-0.1, bytes=(72, 101, 108)),
            TopLogprob(token="H", logprob=-2.0),
        ),
    ),
    TokenLogprob(token="lo.", logprob=-0.5),
)


def refused_record(refusal: Refusal, custom_id: str | None = "r-9") -> RequestRecord:
    return replace(
        RECORD,
        idx=9,
        custom_id=custom_id,
        status=ResultStatus.ERROR,
        generation=None,
        refusal=refusal,
    )


def answered(**changes: object) -> RequestRecord:
    """The record with changes to its one choice."""
    choice = GENERATION.choices[0].model_copy(update=changes)
    return replace(RECORD, generation=GENERATION.model_copy(update={"choices": (choice,)}))


def test_a_chat_answer() -> None:
    assert output_line(RECORD, BATCH) == {
        "id": "batch_req_abc_1",
        "custom_id": "r-1",
        "response": {
            "status_code": 200,
            "request_id": "req_abc_1",
            "body": {
                "id": "chatcmpl-abc_1",
                "object": "chat.completion",
                "created": 1711652795,
                "model": "m",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "Hello.", "refusal": None},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": USAGE,
                "system_fingerprint": "fp_m_int8",
                "nightshift": NIGHTSHIFT,
            },
        },
        "error": None,
    }


def test_a_completion_answer() -> None:
    line = output_line(RECORD, COMPLETIONS)
    response = line["response"]
    assert isinstance(response, dict)
    assert response["body"] == {
        "id": "cmpl-abc_1",
        "object": "text_completion",
        "created": 1711652795,
        "model": "m",
        "choices": [{"index": 0, "text": "Hello.", "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
        "system_fingerprint": "fp_m_int8",
        "nightshift": NIGHTSHIFT,
    }


def body_of(record: RequestRecord, batch: Batch) -> dict[str, object]:
    """The body as it is after JSON."""
    line = json.loads(json.dumps(output_line(record, batch)))
    body = line["response"]["body"]
    assert isinstance(body, dict)
    return body


def choice_of(record: RequestRecord, batch: Batch) -> dict[str, object]:
    choices = body_of(record, batch)["choices"]
    assert isinstance(choices, list)
    return dict(choices[0])


def test_chat_log_probabilities_are_one_object_per_token() -> None:
    assert choice_of(answered(logprobs=LOGPROBS), BATCH)["logprobs"] == {
        "content": [
            {
                "token": "Hel",
                "logprob": -0.1,
                "bytes": [72, 101, 108],
                "top_logprobs": [
                    {"token": "Hel", "logprob": -0.1, "bytes": [72, 101, 108]},
                    {"token": "H", "logprob": -2.0, "bytes": None},
                ],
            },
            {"token": "lo.", "logprob": -0.5, "bytes": None, "top_logprobs": []},
        ],
        "refusal": None,
    }


def test_completion_log_probabilities_are_one_list_per_property() -> None:
    assert choice_of(answered(logprobs=LOGPROBS), COMPLETIONS)["logprobs"] == {
        "tokens": ["Hel", "lo."],
        "token_logprobs": [-0.1, -0.5],
        "top_logprobs": [{"Hel": -0.1, "H": -2.0}, {}],
        "text_offset": [0, 3],
    }


def test_no_tokens_have_no_log_probabilities_to_show() -> None:
    record = answered(text="", logprobs=())
    assert choice_of(record, BATCH)["logprobs"] == {"content": [], "refusal": None}
    empty: dict[str, list[object]] = {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": [],
    }
    assert choice_of(record, COMPLETIONS)["logprobs"] == empty


@pytest.mark.parametrize("batch", [BATCH, COMPLETIONS])
def test_token_ids_are_shown_only_when_asked_for(batch: Batch) -> None:
    assert "token_ids" not in choice_of(RECORD, batch)
    assert "prompt_token_ids" not in body_of(RECORD, batch)
    record = answered(token_ids=(5, 6))
    assert record.generation is not None
    generation = record.generation.model_copy(update={"prompt_token_ids": (1, 2, 3)})
    record = replace(record, generation=generation)
    assert choice_of(record, batch)["token_ids"] == [5, 6]
    assert body_of(record, batch)["prompt_token_ids"] == [1, 2, 3]


def test_a_refused_request_has_the_refusal_inside_its_response() -> None:
    refusal = Refusal(
        code="context_length_exceeded",
        message="prompt has 9000 tokens, limit 8192",
        param="messages",
    )
    assert error_line(refused_record(refusal)) == {
        "id": "batch_req_abc_9",
        "custom_id": "r-9",
        "response": {
            "status_code": 400,
            "request_id": "req_abc_9",
            "body": {
                "error": {
                    "message": "line 2: prompt has 9000 tokens, limit 8192",
                    "type": "invalid_request_error",
                    "param": "messages",
                    "code": "context_length_exceeded",
                }
            },
        },
        "error": None,
    }


def test_a_refusal_that_names_its_line_names_it_once() -> None:
    refusal = Refusal(code="invalid_value", message="line 2: field n is 0", param="n")
    assert '"line 2: field n is 0"' in json.dumps(error_line(refused_record(refusal)))


@pytest.mark.parametrize("code", ["batch_expired", "batch_cancelled", "worker_lost"])
def test_what_never_ran_has_no_response(code: str) -> None:
    refusal = Refusal(code=code, message="never ran", http_status=None)
    assert error_line(refused_record(refusal)) == {
        "id": "batch_req_abc_9",
        "custom_id": "r-9",
        "response": None,
        "error": {"code": code, "message": "never ran"},
    }


def test_a_line_without_a_readable_id_has_none() -> None:
    record = refused_record(Refusal(code="invalid_json_line", message="line 7: …"), None)
    assert error_line(record)["custom_id"] is None


def test_a_failure_of_ours_is_a_server_error() -> None:
    record = refused_record(Refusal(code="x", message="y", http_status=500))
    response = error_line(record)["response"]
    assert isinstance(response, dict)
    assert response["status_code"] == 500
    assert response["body"]["error"]["type"] == "server_error"


def test_a_result_line_is_the_one_that_the_status_asks_for() -> None:
    refused = refused_record(Refusal(code="x", message="y"))
    assert result_line(RECORD, BATCH) == output_line(RECORD, BATCH)
    assert result_line(refused, BATCH) == error_line(refused)
    with pytest.raises(ValueError, match="has no answer"):
        output_line(refused, BATCH)
    with pytest.raises(ValueError, match="has no error"):
        error_line(RECORD)


def test_a_batch_in_progress() -> None:
    shown = batch_object(BATCH, output_file_id="file-out", eta_s=812, tokens_per_second=301.4)
    assert shown == {
        "id": "batch_abc",
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": "m",
        "errors": None,
        "input_file_id": "file-abc",
        "completion_window": "24h",
        "status": "in_progress",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": 1711471533,
        "in_progress_at": 1711471538,
        "expires_at": 1711557933,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 100, "completed": 95, "failed": 5},
        "usage": {
            "input_tokens": 1500,
            "input_tokens_details": {"cached_tokens": 1024},
            "output_tokens": 500,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 2000,
        },
        "metadata": {"team": "nlp"},
        "nightshift": {
            "eta_seconds": 812,
            "tokens_per_second": 301.4,
            "weights": "int8",
            "paused": False,
        },
    }
    json.dumps(shown)


@pytest.mark.parametrize("state", list(BatchState))
def test_output_files_are_named_once_the_batch_is_terminal(state: BatchState) -> None:
    batch = replace(BATCH, state=state)
    shown = batch_object(batch, output_file_id="file-o", error_file_id="file-e")
    assert shown["status"] == str(state)
    given = (shown["output_file_id"], shown["error_file_id"])
    assert given == (("file-o", "file-e") if batch.is_terminal else (None, None))


def test_a_failed_batch_lists_its_errors() -> None:
    error = BatchError(code="invalid_json_line", message="…", line=7)
    assert batch_object(replace(BATCH, state=BatchState.FAILED, errors=(error,)))["errors"] == {
        "object": "list",
        "data": [{"code": "invalid_json_line", "message": "…", "param": None, "line": 7}],
    }


@pytest.mark.parametrize(
    ("window_s", "text"),
    [
        (None, "none"),
        (86400, "24h"),
        (3600, "1h"),
        (30 * 86400, "30d"),
        (90, "90s"),
        (93600, "26h"),
    ],
)
def test_a_completion_window_is_written_as_it_is_given(window_s: float | None, text: str) -> None:
    assert window_text(window_s) == text
