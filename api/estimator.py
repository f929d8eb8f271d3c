"""Estimates of batches that are not submitted: one at a time, with the tokenizer of their model.

Whoever waits for a turn holds no thread, so that estimates leave the others' requests alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import IO

from starlette.concurrency import run_in_threadpool

from api.problems import Problem
from api.validator import find_named
from models.database import Database
from models.errors import NotFoundError
from models.estimates import Estimate
from models.settings import Settings
from models.store.forecast import ModelSpeed, model_speed, queued_requests
from models.store.lines import grouped
from models.store.model_files import read_model_files
from models.store.views import ServedModel
from models.text.prompt_encoder import PromptEncoder
from models.text.resolved import parse_resolved
from models.wire.endpoints import Endpoint
from models.wire.limits import InputLimits
from models.wire.uploads import UploadedRequests


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would become of the requests, and how fast their model was lately."""

    model: ServedModel
    estimate: Estimate
    speed: ModelSpeed | None
    n_queued: int

    @property
    def seconds(self) -> float | None:
        """For these requests alone; None where nothing was measured."""
        if self.speed is None:
            return None
        output_tokens = self.estimate.output_tokens_at(self.speed.output_tokens_per_request)
        return (self.estimate.prompt_tokens + output_tokens) / self.speed.tokens_per_second

    @property
    def queue_s(self) -> float | None:
        """Until they would begin, if all that waits for the model came first."""
        if self.speed is None:
            return None
        return self.n_queued * self.speed.tokens_per_request / self.speed.tokens_per_second


class Estimator:
    """Keeps the tokenizer that was used last."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._turn = asyncio.Semaphore(1)
        self._encoder: tuple[str, PromptEncoder] | None = None  # and whose it is

    async def forecast(
        self, open_input: Callable[[], IO[bytes]], name: str, endpoint: Endpoint | None
    ) -> Forecast:
        """Of the JSON Lines in that input; raises Problem and InputFileError."""
        async with self._turn:
            return await run_in_threadpool(self._forecast, open_input, name, endpoint)

    def _forecast(
        self, open_input: Callable[[], IO[bytes]], name: str, endpoint: Endpoint | None
    ) -> Forecast:
        with closing(open_input()) as stream:
            upload = UploadedRequests(stream, InputLimits.from_settings(self._settings), name=name)
            upload.check()
            model = self._find_model(upload.model_name)
            encoder = self._encoder_of(model)
            estimate = Estimate(model.context_tokens, model.max_new_tokens)
            for lines in grouped(upload.lines(str(model.key), endpoint)):
                estimate.count(lines, encoder)
        return Forecast(
            model=model,
            estimate=estimate,
            speed=model_speed(self._database, model.key),
            n_queued=queued_requests(self._database, model.key),
        )

    def _find_model(self, name: str | None) -> ServedModel:
        try:
            return find_named(self._database, name)
        except NotFoundError as exc:
            raise Problem(404, str(exc), "model_not_found", "model") from exc

    def _encoder_of(self, model: ServedModel) -> PromptEncoder:
        if self._encoder is None or self._encoder[0] != model.artifact:
            files = read_model_files(self._database, model.key, model.artifact)
            if not files:
                message = (
                    f"the tokenizer of {model.key} is not known here: add the model again with "
                    "this version, and start a worker with it"
                )
                raise Problem(409, message, "tokenizer_unknown", "model")
            self._encoder = (model.artifact, PromptEncoder.of(parse_resolved(files)))
        return self._encoder[1]
