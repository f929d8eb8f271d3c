"""`/v1/batches:estimate`: what a batch would cost; nothing is submitted."""

from __future__ import annotations

import io
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from api.access import Caller, CallerDep
from api.bodies import body_schema, json_body
from api.estimator import Forecast
from api.inline import FILE_NAME, inline_content
from api.routes.batches import require_file
from api.services import Services, ServicesDep
from api.shapes import BatchInput, EndpointName, MetadataValues, Priority, Shape, Window
from models.store.files import open_content

router = APIRouter(prefix="/v1", tags=["batches"])


class EstimateBatch(BatchInput):
    """What would create the batch; without an endpoint the first request decides."""

    endpoint: EndpointName | None = None
    completion_window: Window | None = None
    metadata: MetadataValues | None = None
    priority: Priority = 0


class EstimatedRequests(Shape):
    """Lines by what would become of them."""

    total: int
    accepted: int
    refused: int
    duplicates: Annotated[
        int, Field(description="accepted ones with prompt and parameters of an earlier one")
    ]


class RefusedCount(Shape):
    """How many lines would be refused for one reason."""

    code: str
    count: int


class RefusedExample(Shape):
    """A line that would be refused."""

    line: int
    custom_id: str | None
    code: str
    message: str
    param: str | None


class EstimatedTokens(Shape):
    """Tokens of the accepted requests, counted with the model's tokenizer and chat template."""

    prompt: int
    longest_prompt: int
    context: Annotated[int, Field(description="most of prompt and output together")]
    output_at_most: Annotated[int, Field(description="if every answer took all that it may")]


class EstimatedTime(Shape):
    """From the speed of the model's workers within the last day, while they worked."""

    seconds: float | None
    queue_seconds: Annotated[
        float | None, Field(description="until they would begin at the latest")
    ]
    reason: Annotated[str | None, Field(description="why no time is told")]
    tokens_per_second: float | None
    output_tokens_per_request: Annotated[
        float | None, Field(description="of the answers lately, and assumed of these")
    ]


class EstimateObject(Shape):
    """What a batch would cost."""

    object: Literal["batch.estimate"] = "batch.estimate"
    model: str
    requests: EstimatedRequests
    refusals: list[RefusedCount]
    refused: Annotated[list[RefusedExample], Field(description="the first hundred")]
    tokens: EstimatedTokens
    time: EstimatedTime


@router.post("/batches:estimate", openapi_extra=body_schema(EstimateBatch))
async def estimate(
    services: ServicesDep,
    caller: CallerDep,
    body: Annotated[EstimateBatch, Depends(json_body(EstimateBatch))],
) -> EstimateObject:
    """Check and count every line of a batch that is not submitted, and tell how long it would take.

    A line that is too long for the model's context is refused here as it would be when it ran.
    """
    return _shown(await _forecast(services, caller, body))


async def _forecast(services: Services, caller: Caller, body: EstimateBatch) -> Forecast:
    database, estimator = services.database, services.estimator
    if body.input_file_id is None:
        content = await run_in_threadpool(inline_content, services, body.requests or [])
        return await estimator.forecast(lambda: io.BytesIO(content), FILE_NAME, body.endpoint)
    file = await run_in_threadpool(require_file, database, caller.tenant_id, body.input_file_id)
    return await estimator.forecast(lambda: open_content(database, file), file.name, body.endpoint)


def _shown(forecast: Forecast) -> EstimateObject:
    counted, speed = forecast.estimate, forecast.speed
    return EstimateObject(
        model=str(forecast.model.key),
        requests=EstimatedRequests(
            total=counted.total,
            accepted=counted.accepted,
            refused=counted.refused.total(),
            duplicates=counted.duplicates,
        ),
        refusals=[
            RefusedCount(code=code, count=count) for code, count in counted.refused.most_common()
        ],
        refused=[
            RefusedExample(
                line=line.line_number,
                custom_id=line.custom_id,
                code=line.refusal.code,
                message=line.refusal.message,
                param=line.refusal.param,
            )
            for line in counted.shown
        ],
        tokens=EstimatedTokens(
            prompt=counted.prompt_tokens,
            longest_prompt=counted.longest_prompt_tokens,
            context=counted.context_tokens,
            output_at_most=counted.output_tokens_at_most,
        ),
        time=EstimatedTime(
            seconds=forecast.seconds,
            queue_seconds=forecast.queue_s,
            reason=None if speed else "no worker of this model has answered anything lately",
            tokens_per_second=speed.tokens_per_second if speed else None,
            output_tokens_per_request=speed.output_tokens_per_request if speed else None,
        ),
    )
