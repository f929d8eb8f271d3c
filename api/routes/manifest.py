"""`/v1/batches/{id}/manifest`: what proves that an ended batch is whole."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import Field

from api.access import CallerDep
from api.problems import Problem
from api.routes.batches import shown
from api.services import ServicesDep
from api.shapes import BatchObject, Shape
from models.database import Database
from models.errors import NotFoundError
from models.projections import OutputKind, describe_output, output_file
from models.store.audit import Audit, audit_batch
from models.store.batches import get_batch
from models.store.files import StoredFile, known_file
from models.store.views import Batch

router = APIRouter(prefix="/v1/batches", tags=["batches"])


class ManifestFile(Shape):
    """A file of the batch; of one that was never uploaded only the submitter has the bytes."""

    id: str
    filename: str
    bytes: int
    sha256: str | None


class ManifestFiles(Shape):
    """A file that would be empty does not exist."""

    input: ManifestFile
    output: ManifestFile | None
    errors: ManifestFile | None


class ManifestCounts(Shape):
    """Rows counted anew, not the batch's counters."""

    requests: int
    answered: int
    failed: int
    missing: Annotated[int, Field(description="requests without a result")]
    unknown: Annotated[int, Field(description="results without a request")]
    repeated_ids: Annotated[int, Field(description="requests whose custom_id is another's, too")]


class ManifestChecks(Shape):
    """All true, or something is wrong with the database."""

    every_request_ended_once: bool
    custom_ids_are_unique: bool
    counters_agree: bool


class ManifestArtifact(Shape):
    """A quantized model, by the digest of its manifest, and how many answers it gave."""

    artifact: str
    answers: int


class Manifest(Shape):
    """The account of an ended batch."""

    object: Literal["batch.manifest"] = "batch.manifest"
    whole: Annotated[bool, Field(description="whether all checks are true")]
    checks: ManifestChecks
    counts: ManifestCounts
    files: ManifestFiles
    artifacts: list[ManifestArtifact]
    batch: BatchObject


@router.get("/{batch_id}/manifest")
def read(batch_id: str, services: ServicesDep, caller: CallerDep) -> Manifest:
    """Of an ended batch: that requests in are answers and errors out, and the files' digests."""
    database = services.database
    batch = get_batch(database, batch_id, caller.tenant_id)
    if not batch.is_terminal:
        message = f"batch {batch_id} is {batch.state}: there is a manifest when it has ended"
        raise Problem(409, message, "invalid_state")
    audit = audit_batch(database, batch_id)
    checks = _checks(batch, audit)
    return Manifest(
        whole=all(checks.model_dump().values()),
        checks=checks,
        counts=ManifestCounts(
            requests=audit.requests,
            answered=audit.answered,
            failed=audit.failed,
            missing=audit.missing,
            unknown=audit.unknown,
            repeated_ids=audit.repeated_ids,
        ),
        files=ManifestFiles(
            input=_shown(known_file(database, batch.file_id)),
            output=_output(database, batch, OutputKind.OUTPUT),
            errors=_output(database, batch, OutputKind.ERRORS),
        ),
        artifacts=[
            ManifestArtifact(artifact=digest, answers=count)
            for digest, count in audit.artifacts.items()
        ],
        batch=shown(services, batch),
    )


def _checks(batch: Batch, audit: Audit) -> ManifestChecks:
    counters = (batch.total, batch.completed, batch.failed)
    return ManifestChecks(
        every_request_ended_once=audit.is_whole,
        custom_ids_are_unique=audit.repeated_ids == 0,
        counters_agree=counters == (audit.requests, audit.answered, audit.failed),
    )


def _output(database: Database, batch: Batch, kind: OutputKind) -> ManifestFile | None:
    file = output_file(batch, kind)
    if file is None:
        return None
    try:
        return _shown(describe_output(database, batch.tenant_id, file))
    except NotFoundError:  # it was deleted, after it had been counted
        return _shown(known_file(database, file.id))


def _shown(file: StoredFile) -> ManifestFile:
    return ManifestFile(
        id=file.id, filename=file.name, bytes=file.n_bytes, sha256=file.sha256 or None
    )
