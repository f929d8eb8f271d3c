"""`/v1/batches/{id}/results`: a batch's results as they come, while it runs."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from api.access import CallerDep
from api.problems import Problem
from api.services import Services, ServicesDep
from models.projections import read_followed
from models.states import BatchState
from models.store.batches import get_batch
from models.store.commit_log import last_cursor
from models.store.views import Batch

router = APIRouter(prefix="/v1/batches", tags=["batches"])

MEDIA_TYPE: Final = "application/x-ndjson"
MAX_LIMIT: Final = 10_000
_MAX_CURSOR: Final = 2**31 - 1  # of the database's integers

_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Lines of the output and error file, each with its `cursor`",
        "headers": {
            "x-next-cursor": {
                "description": "What to give as `after` next",
                "schema": {"type": "integer"},
            },
            "x-batch-status": {
                "description": "The batch's status before its results were looked for: of an ended "
                "batch nothing comes any more",
                "schema": {"type": "string", "enum": list(BatchState)},
            },
        },
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}


@router.get("/{batch_id}/results", response_class=Response, responses=_ANSWERS)
def follow(
    batch_id: str,
    services: ServicesDep,
    caller: CallerDep,
    after: Annotated[int, Query(ge=0, le=_MAX_CURSOR)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 1000,
) -> Response:
    """Results in the order in which they were committed, also while the batch runs.

    `after` is the last `cursor` seen: the number of results up to and including that one. There
    are none before the batch is validated. A cursor that no answer has given is refused.
    """
    batch = get_batch(services.database, batch_id, caller.tenant_id)
    end = min(after + limit, _last_cursor(services, batch))
    if after > end:
        message = f"after: the batch has {end} results so far, {after} is no cursor of it"
        raise Problem(400, message, "invalid_cursor", "after")
    return StreamingResponse(
        read_followed(services.database, batch, after=after, limit=end - after),
        headers={"x-next-cursor": str(end), "x-batch-status": str(batch.state)},
        media_type=MEDIA_TYPE,
    )


def _last_cursor(services: Services, batch: Batch) -> int:
    """Lines refused while the batch is validated wait: should it fail, they are gone."""
    if batch.state is BatchState.VALIDATING:
        return 0
    return last_cursor(services.database, batch.id)
