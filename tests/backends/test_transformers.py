"""The transformers backend beside the native one: another program, the same answers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from models.backend_name import BackendName
from models.errors import ArtifactError
from models.generation import Choice
from models.params import DecodingParams
from tests.backends.exchange import PROMPT, READY_S, generation_of, lasting
from tests.backends.tiny_artifact import write_tiny_artifact
from worker.backends.messages import Add
from worker.backends.process import EngineProcess, EngineProcessConfig

PARAMS: tuple[dict[str, Any], ...] = (
    {"temperature": 0, "return_token_ids": True},
    {"temperature": 0, "repetition_penalty": 1.5, "min_tokens": 20},
    {"temperature": 0.9, "seed": 3, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "n": 2},
    {"temperature": 1.2, "seed": 4, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"temperature": 0, "logit_bias": {5: 3.0}, "stop": ["e"]},
)


def engine_of(artifact: Path, backend: BackendName) -> EngineProcess:
    return EngineProcess(EngineProcessConfig(artifact=artifact, backend=backend, threads=1))


def answers(artifact: Path, backend: BackendName) -> list[tuple[Choice, ...]]:
    """The choices that an engine of the backend gives for all of PARAMS."""
    with lasting(partial(engine_of, artifact, backend)) as engine:
        adds = [
            Add(key=str(number), prompt=PROMPT, params=DecodingParams(max_tokens=40, **params))
            for number, params in enumerate(PARAMS)
        ]
        return [generation_of(engine, add).choices for add in adds]


def test_every_decoding_parameter_gives_the_answer_of_the_native_backend(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    other = write_tiny_artifact(tmp_path, backend=BackendName.TRANSFORMERS)
    theirs = answers(other, BackendName.TRANSFORMERS)
    assert theirs == answers(tiny_artifact, BackendName.NATIVE)
    assert len({choices[0].text for choices in theirs}) > 3


@pytest.mark.parametrize("backend", [BackendName.NATIVE, BackendName.TRANSFORMERS])
def test_an_artifact_of_another_backend_is_refused(backend: BackendName, tmp_path: Path) -> None:
    both = (BackendName.NATIVE, BackendName.TRANSFORMERS)
    made_for = next(other for other in both if other is not backend)
    artifact = write_tiny_artifact(tmp_path, backend=made_for)
    with (
        engine_of(artifact, backend) as engine,
        pytest.raises(ArtifactError, match=f"--backend {backend}"),
    ):
        engine.wait_ready(READY_S)
