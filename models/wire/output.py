"""What a batch and its requests look like in OpenAI's Batch API.

Projections of stored records into JSON-ready dicts; what is ours stands under the key
`nightshift`. It knows no files and no database.
"""

from __future__ import annotations

from models.generation import Choice, Generation, Refusal
from models.model_key import ModelKey
from models.states import ResultStatus
from models.store.views import Batch, RequestRecord
from models.wire.endpoints import Endpoint
from models.wire.logprobs import chat_logprobs, completion_logprobs

HOUR_S = 3600
DAY_S = 24 * HOUR_S

Json = dict[str, object]


def result_line(record: RequestRecord, batch: Batch) -> Json:
    """The line of one request in a file that holds answers and errors alike."""
    if record.status == ResultStatus.OK:
        return output_line(record, batch)
    return error_line(record)


def output_line(record: RequestRecord, batch: Batch) -> Json:
    """The line of an answered request in the output file."""
    if record.generation is None:
        raise ValueError(f"request {record.idx} of {record.batch_id} has no answer")
    body = _answer(record, record.generation, batch)
    return {**_line_start(record), "response": _response(record, 200, body), "error": None}


def error_line(record: RequestRecord) -> Json:
    """The line of a request without an answer in the error file.

    A refused request has the refusal inside `response`; what never ran has `response: null`.
    """
    refusal = record.refusal
    if refusal is None:
        raise ValueError(f"request {record.idx} of {record.batch_id} has no error")
    if refusal.http_status is None:
        error = {"code": refusal.code, "message": refusal.message}
        return {**_line_start(record), "response": None, "error": error}
    body: Json = {"error": error_body(_at_line(refusal, record.line_number))}
    response = _response(record, refusal.http_status, body)
    return {**_line_start(record), "response": response, "error": None}


def _at_line(refusal: Refusal, line_number: int) -> Refusal:
    """A refusal that names its line, as those of the reader do; the engine knows no lines."""
    start = f"line {line_number}: "
    if refusal.message.startswith(start):
        return refusal
    return refusal.model_copy(update={"message": start + refusal.message})


def error_body(refusal: Refusal) -> Json:
    """OpenAI's error object, all four keys."""
    is_ours = refusal.http_status is None or refusal.http_status >= 500
    return {
        "message": refusal.message,
        "type": "server_error" if is_ours else "invalid_request_error",
        "param": refusal.param,
        "code": refusal.code,
    }


def batch_object(
    batch: Batch,
    *,
    output_file_id: str | None = None,
    error_file_id: str | None = None,
    eta_s: float | None = None,
    tokens_per_second: float | None = None,
) -> Json:
    """The batch as the API shows it; the file ids are shown once the batch is terminal."""
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": None if batch.model is None else batch.model.name,
        "errors": _errors(batch),
        "input_file_id": batch.file_id,
        "completion_window": window_text(batch.completion_window_s),
        "status": str(batch.state),
        "output_file_id": output_file_id if batch.is_terminal else None,
        "error_file_id": error_file_id if batch.is_terminal else None,
        **_times(batch),
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "usage": _batch_usage(batch),
        "metadata": dict(batch.metadata),
        "nightshift": {
            "eta_seconds": eta_s,
            "tokens_per_second": tokens_per_second,
            "weights": None if batch.model is None else str(batch.model.weights),
            "paused": batch.is_paused,
        },
    }


def window_text(window_s: float | None) -> str:
    """A completion window as it is written: `24h`, else in whole days, hours or seconds."""
    if window_s is None:
        return "none"
    seconds = round(window_s)
    if seconds > DAY_S and seconds % DAY_S == 0:
        return f"{seconds // DAY_S}d"
    return f"{seconds // HOUR_S}h" if seconds % HOUR_S == 0 else f"{seconds}s"


def _line_start(record: RequestRecord) -> Json:
    return {"id": f"batch_req_{_unique(record)}", "custom_id": record.custom_id}


def _response(record: RequestRecord, status_code: int, body: Json) -> Json:
    return {"status_code": status_code, "request_id": f"req_{_unique(record)}", "body": body}


def _unique(record: RequestRecord) -> str:
    """The same for one request whenever and wherever it is written."""
    return f"{record.batch_id.removeprefix('batch_')}_{record.idx}"


def _answer(record: RequestRecord, generation: Generation, batch: Batch) -> Json:
    is_chat = batch.endpoint == Endpoint.CHAT
    choice = _chat_choice if is_chat else _completion_choice
    body: Json = {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{_unique(record)}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(record.created_at),
        "model": batch.known_model.name,
        "choices": [choice(item) for item in generation.choices],
        "usage": _usage(generation),
        "system_fingerprint": _fingerprint(batch.known_model),
        "nightshift": {
            "timings": generation.timings.model_dump(),
            "attempt": record.attempt,
            "worker": record.worker_id,
            "artifact": record.artifact,
        },
    }
    if generation.prompt_token_ids is not None:
        body["prompt_token_ids"] = list(generation.prompt_token_ids)
    return body


def _fingerprint(model: ModelKey) -> str:
    return f"fp_{model.name}_{model.weights}"


def _chat_choice(choice: Choice) -> Json:
    message = {"role": "assistant", "content": choice.text, "refusal": None}
    logprobs = None if choice.logprobs is None else chat_logprobs(choice.logprobs)
    return {"index": choice.index, "message": message, **_choice_end(choice, logprobs)}


def _completion_choice(choice: Choice) -> Json:
    logprobs = None if choice.logprobs is None else completion_logprobs(choice.logprobs)
    return {"index": choice.index, "text": choice.text, **_choice_end(choice, logprobs)}


def _choice_end(choice: Choice, logprobs: Json | None) -> Json:
    end: Json = {"logprobs": logprobs, "finish_reason": choice.finish_reason}
    if choice.token_ids is not None:
        end["token_ids"] = list(choice.token_ids)
    return end


def _usage(generation: Generation) -> Json:
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.output_tokens,
        "total_tokens": generation.prompt_tokens + generation.output_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.cached_prompt_tokens},
    }


def _batch_usage(batch: Batch) -> Json:
    return {
        "input_tokens": batch.prompt_tokens,
        "input_tokens_details": {"cached_tokens": batch.cached_prompt_tokens},
        "output_tokens": batch.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": batch.prompt_tokens + batch.output_tokens,
    }


def _errors(batch: Batch) -> Json | None:
    if not batch.errors:
        return None
    data = [
        {"code": error.code, "message": error.message, "param": error.param, "line": error.line}
        for error in batch.errors
    ]
    return {"object": "list", "data": data}


def _times(batch: Batch) -> Json:
    """All times in whole Unix seconds, in the order of the API's documentation."""
    times = {
        "created_at": batch.created_at,
        "in_progress_at": batch.in_progress_at,
        "expires_at": batch.expires_at,
        "finalizing_at": batch.finalizing_at,
        "completed_at": batch.completed_at,
        "failed_at": batch.failed_at,
        "expired_at": batch.expired_at,
        "cancelling_at": batch.cancelling_at,
        "cancelled_at": batch.cancelled_at,
    }
    return {name: None if time is None else int(time) for name, time in times.items()}
