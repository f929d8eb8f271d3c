"""What the API takes and gives, as OpenAI's Batch API has it; also the OpenAPI document.

Field names are the wire's. What is ours stands under `nightshift` in answers, and as fields of
their own in requests.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.config import JsonDict

from models.states import BatchState
from models.wire.endpoints import Endpoint


class Shape(BaseModel):
    """An object of the wire: other fields than its own are refused."""

    model_config = ConfigDict(extra="forbid")


class ErrorBody(Shape):
    """What went wrong; all four keys are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(Shape):
    """Every answer that is not the one asked for."""

    error: ErrorBody


class FileObject(Shape):
    """An uploaded file, or an output file of a batch."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"
    status_details: None = None


class Deleted(Shape):
    """The receipt of a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchErrorObject(Shape):
    """Why a file could not be used."""

    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(Shape):
    """The reasons of a batch that failed validation."""

    object: Literal["list"]
    data: list[BatchErrorObject]


class RequestCounts(Shape):
    """Requests of a batch by how they ended; the rest has not."""

    total: int
    completed: int
    failed: int


class CachedTokens(Shape):
    """Prompt tokens that were not computed again."""

    cached_tokens: int


class ReasoningTokens(Shape):
    """Always 0 here."""

    reasoning_tokens: int


class BatchUsage(Shape):
    """Tokens of a batch so far."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class BatchExtras(Shape):
    """What OpenAI's API has not."""

    eta_seconds: float | None
    tokens_per_second: float | None
    weights: str | None
    paused: bool


class BatchObject(Shape):
    """A batch."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchState
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str]
    nightshift: BatchExtras


class ModelObject(Shape):
    """A model that batches may name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


Item = TypeVar("Item")


class Page(Shape, Generic[Item]):
    """A page of a list; give `last_id` as `after` for the next one."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


MetadataValues = Annotated[
    dict[
        Annotated[str, Field(max_length=64)],
        Annotated[str, Field(max_length=512)],
    ],
    Field(max_length=16),
]
Window = Annotated[
    str,
    Field(
        pattern=r"^(none|[1-9][0-9]?h|[1-6][0-9]{2}h|7[01][0-9]h|720h|[1-9]d|[12][0-9]d|30d)$",
        description="`24h`, from `1h` to `30d`, or `none`: the batch does not expire.",
    ),
]


def _given(name: str, kind: str) -> JsonDict:
    """The part of a JSON schema that asks for a field which may be null otherwise."""
    return {"required": [name], "properties": {name: {"type": kind}}}


InlineRequest = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "custom_id": {"type": "string"},
                "method": {"type": "string", "enum": ["POST"]},
                "url": {"type": "string", "enum": list(Endpoint)},
                "body": {"type": "object"},
            },
        }
    ),
]


class BatchInput(Shape):
    """An uploaded file, or requests given here: exactly one of both.

    A request is what a line of the file would be, and one that cannot be used ends as one.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [_given("input_file_id", "string"), _given("requests", "array")]
        }
    )

    input_file_id: str | None = None
    requests: Annotated[list[InlineRequest], Field(min_length=1, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _has_one_input(self) -> Self:
        if (self.input_file_id is None) == (self.requests is None):
            raise ValueError("give either input_file_id or requests")
        return self


EndpointName = Annotated[Endpoint, WithJsonSchema({"type": "string", "enum": list(Endpoint)})]
Priority = Annotated[int, Field(ge=-100, le=100)]


class CreateBatch(BatchInput):
    """A batch of an uploaded file or of requests given here."""

    endpoint: EndpointName
    completion_window: Window
    metadata: MetadataValues | None = None
    priority: Priority = 0
