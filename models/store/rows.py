"""Rows to views and back. Must not run statements."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import RowMapping

from models.generation import Choice, Generation, Refusal, Timings
from models.model_key import ModelKey, Weights
from models.params import DecodingParams
from models.states import BatchState, ChunkState, ResultStatus
from models.store.prompts import read_prompt, request_seed
from models.store.views import (
    Batch,
    BatchError,
    Chunk,
    Lease,
    Outcome,
    QueuedRequest,
    RequestRecord,
)

Row = RowMapping

_TIMINGS = tuple(Timings.model_fields)


def model_key(row: Row) -> ModelKey:
    """The model that a row of batches or workers names."""
    return ModelKey(row["model_name"], Weights(row["weights"]))


def batch_view(row: Row) -> Batch:
    """A row of batches."""
    special = {
        "model": model_key(row) if row["model_name"] else None,
        "state": BatchState(row["state"]),
        "errors": tuple(BatchError(**error) for error in row["errors"] or ()),
        "total": row["n_total"],
        "completed": row["n_completed"],
        "failed": row["n_failed"],
    }
    names = [field.name for field in fields(Batch) if field.name not in special]
    return Batch(**{name: row[name] for name in names}, **special)


def chunk_view(row: Row) -> Chunk:
    """A row of chunks."""
    values = {field.name: row[field.name] for field in fields(Chunk)}
    return Chunk(**{**values, "state": ChunkState(row["state"])})


def queued_request(row: Row, lease: Lease, batch_seed: int) -> QueuedRequest:
    """A row of requests, to be generated."""
    params = DecodingParams.model_validate(row["params"])
    seed = request_seed(batch_seed, row["idx"]) if params.seed is None else params.seed
    return QueuedRequest(
        batch_id=lease.batch_id,
        idx=row["idx"],
        custom_id=row["custom_id"],
        prompt=read_prompt(row["prompt_kind"], row["prompt"]),
        params=params,
        seed=seed,
    )


def result_row(outcome: Outcome, lease: Lease) -> dict[str, Any]:
    """The row of results, but for its time."""
    values = no_result() | {
        "batch_id": lease.batch_id,
        "idx": outcome.idx,
        "epoch": lease.epoch,
        "attempt": lease.attempt,
        "worker_id": lease.worker_id,
        "artifact": lease.artifact,
    }
    if outcome.generation is not None:
        return values | _generation_columns(outcome.generation)
    if outcome.refusal is not None:
        return values | refusal_columns(outcome.refusal)
    return values


def refusal_columns(refusal: Refusal) -> dict[str, Any]:
    """What results keeps of a refusal."""
    return {
        "status": str(ResultStatus.ERROR),
        "error_code": refusal.code,
        "error_message": storable(refusal.message),
        "error_param": None if refusal.param is None else storable(refusal.param),
        "http_status": refusal.http_status,
    }


def request_record(request: RowMapping, result: RowMapping) -> RequestRecord:
    """A row of requests and its row of results."""
    status = ResultStatus(result["status"])
    prompt, params = request["prompt"], request["params"]
    is_ok = status is ResultStatus.OK
    copied = ("epoch", "attempt", "worker_id", "artifact", "created_at")
    return RequestRecord(
        **{name: request[name] for name in ("batch_id", "idx", "line_number", "custom_id")},
        **{name: result[name] for name in copied},
        prompt=None if prompt is None else read_prompt(request["prompt_kind"], prompt),
        params=None if params is None else DecodingParams.model_validate(params),
        status=status,
        generation=_generation(result) if is_ok else None,
        refusal=None if is_ok else _refusal(result),
    )


def no_result() -> dict[str, Any]:
    """The columns of results that a refusal or a generation fills, all empty."""
    return {
        "error_code": None,
        "error_message": None,
        "error_param": None,
        "http_status": None,
        "text": None,
        "finish_reason": None,
        "choices": None,
        "prompt_tokens": 0,
        "cached_prompt_tokens": 0,
        "output_tokens": 0,
        "prompt_token_ids": None,
        **dict.fromkeys(_TIMINGS),
    }


def _generation_columns(generation: Generation) -> dict[str, Any]:
    choices = [choice.model_dump(mode="json", exclude_none=True) for choice in generation.choices]
    for choice in choices:
        choice["text"] = storable(choice["text"])
    first = generation.choices[0]
    return {
        "status": str(ResultStatus.OK),
        "text": choices[0]["text"],
        "finish_reason": first.finish_reason,
        "choices": choices,
        "prompt_tokens": generation.prompt_tokens,
        "cached_prompt_tokens": generation.cached_prompt_tokens,
        "output_tokens": generation.output_tokens,
        "prompt_token_ids": generation.prompt_token_ids and list(generation.prompt_token_ids),
        **generation.timings.model_dump(),
    }


def _generation(row: Row) -> Generation:
    token_ids = row["prompt_token_ids"]
    return Generation(
        choices=tuple(Choice.model_validate(choice) for choice in row["choices"]),
        prompt_tokens=row["prompt_tokens"],
        cached_prompt_tokens=row["cached_prompt_tokens"],
        output_tokens=row["output_tokens"],
        timings=Timings(**{name: row[name] for name in _TIMINGS}),
        prompt_token_ids=None if token_ids is None else tuple(token_ids),
    )


def _refusal(row: Row) -> Refusal:
    return Refusal(
        code=row["error_code"],
        message=row["error_message"],
        param=row["error_param"],
        http_status=row["http_status"],
    )


def storable(text: str) -> str:
    """The text without what a database refuses: NUL (PostgreSQL) and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
