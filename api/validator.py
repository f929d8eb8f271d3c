"""Validates batches of uploaded files, one after the other; any number of processes may do so."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator

from models.database import Database
from models.errors import InputError, InputFileError, LeaseLost, NotFoundError
from models.model_key import ModelKey
from models.settings import Settings
from models.store.files import StoredFile, as_stream, get_file, read_content
from models.store.lines import Tally, grouped
from models.store.validation import (
    Validation,
    claim_validation,
    fail_validation,
    finish_validation,
    prolong_validation,
    set_model,
    store_lines,
)
from models.store.views import BatchError, ServedModel
from models.store.workers import find_model
from models.wire.endpoints import Endpoint
from models.wire.limits import InputLimits
from models.wire.uploads import UploadedRequests

_MAX_NAME_CHARACTERS = 200  # more than any model's name has

_log = logging.getLogger(__name__)


class Validator:
    """Turns files into requests."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._id = f"validator-{secrets.token_hex(8)}"

    def validate_all(self) -> int:
        """Validate whatever waits for it; returns how many batches that were."""
        n_validated = 0
        while (validation := self._claim()) is not None:
            try:
                self._validate(validation)
            except LeaseLost as exc:
                _log.info("a validation ended early: %s", exc)
            n_validated += 1
        return n_validated

    def _claim(self) -> Validation | None:
        return claim_validation(self._database, self._id, ttl_s=self._settings.lease_ttl_s)

    def _validate(self, validation: Validation) -> None:
        try:
            self._store(validation)
        except NotFoundError as exc:  # the file was deleted
            self._fail(validation, "file_not_found", str(exc), line=None)
        except InputFileError as exc:
            self._fail(validation, exc.code, str(exc), line=exc.line)

    def _store(self, validation: Validation) -> None:
        database, limits = self._database, InputLimits.from_settings(self._settings)
        file = get_file(database, validation.tenant_id, validation.file_id)
        with as_stream(self._pieces(validation, file)) as stream:
            upload = UploadedRequests(stream, limits, name=file.name)
            upload.check()
            model = self._find_model(upload.model_name)
            set_model(database, validation, model)
            tally = Tally()
            for lines in grouped(upload.lines(str(model), Endpoint(validation.endpoint))):
                first = tally.total
                for line in lines:
                    tally.count(line)
                known = max(0, validation.n_stored - first)  # rows of a validator that died
                if known < len(lines):
                    store_lines(database, validation, first + known, lines[known:])
        finish_validation(
            database,
            validation,
            tally,
            model=model,
            chunk_requests=self._settings.chunk_requests,
        )
        _log.info("batch validated", extra={"batch": validation.batch_id, "requests": tally.total})

    def _pieces(self, validation: Validation, file: StoredFile) -> Iterator[bytes]:
        """The file's bytes; the batch stays ours, also when no line is stored for long."""
        held_at = time.monotonic()
        for piece in read_content(self._database, file.id, stop=file.n_bytes):
            if time.monotonic() - held_at > validation.ttl_s / 3:
                prolong_validation(self._database, validation)
                held_at = time.monotonic()
            yield piece

    def _find_model(self, name: str | None) -> ModelKey:
        try:
            return find_named(self._database, name).key
        except (NotFoundError, InputError) as exc:
            raise InputFileError(str(exc), code="model_not_found", line=1) from exc

    def _fail(self, validation: Validation, code: str, message: str, line: int | None) -> None:
        error = BatchError(code=code, message=message, line=line)
        fail_validation(self._database, validation, [error])


def find_named(database: Database, name: str | None) -> ServedModel:
    """The model of `name` or `name:weights`; raises NotFoundError or InputError."""
    if name is None:
        raise NotFoundError("the first request names no model: give `model` in its body")
    name = name[:_MAX_NAME_CHARACTERS]  # as unknown as the whole, and batches keep what is said
    if ":" not in name:
        return find_model(database, name)
    key = ModelKey.parse(name)
    return find_model(database, key.name, key.weights)
