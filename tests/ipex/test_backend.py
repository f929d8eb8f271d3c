"""The ipex backend in an engine process and behind the command line, on the demo model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.backend_name import BackendName
from models.errors import InputError
from models.generation import ChatMessage, ChatPrompt, Generation
from models.lowp import Lowp
from models.model_key import Weights
from models.params import DecodingParams
from tests.ipex.conftest import DEMO
from worker.backends.messages import Add, Finished
from worker.backends.process import EngineProcess
from worker.backends.process_config import EngineProcessConfig
from worker.llm.artifact import Source
from worker.llm.artifact_writer import write_artifact

EXAMPLES = DEMO.parent
QUESTIONS = ("What is 12 + 7?", "Which number is larger, 68 or 24?", "Calculate 23 - 9.")
RIGHT = {"19", "68", "14"}


def answers(engine: EngineProcess, adds: list[Add]) -> dict[str, Generation]:
    engine.wait_ready(300)
    engine.send(*adds)
    found: dict[str, Generation] = {}
    while len(found) < len(adds):
        for event in engine.receive(1.0):
            if isinstance(event, Finished):
                assert event.generation is not None, event.refusal
                found[event.key] = event.generation
    return found


def add(number: int, question: str, **params: object) -> Add:
    prompt = ChatPrompt(messages=(ChatMessage(role="user", content=question),))
    params = {"max_tokens": 16, "temperature": 0} | params
    return Add(key=str(number), prompt=prompt, params=DecodingParams.model_validate(params))


@pytest.mark.parametrize("weights", [Weights.INT8, Weights.INT4])
def test_an_engine_process_answers_with_all_decoding_parameters(
    weights: Weights, tmp_path: Path
) -> None:
    source = Source(repository="demo", digest="0" * 64)
    write_artifact(DEMO, tmp_path / "artifact", weights, source=source, backend=BackendName.IPEX)
    config = EngineProcessConfig(
        artifact=tmp_path / "artifact", backend=BackendName.IPEX, threads=1, max_sequences=4
    )
    adds = [add(number, question) for number, question in enumerate(QUESTIONS)]
    drawn = {"temperature": 1.0, "seed": 5, "top_p": 0.9, "logprobs": True, "n": 2}
    adds += [add(7, QUESTIONS[0], **drawn), add(8, QUESTIONS[0], stop=["1"])]
    with EngineProcess(config) as engine:
        found = answers(engine, adds)
        again = answers(engine, [add(7, QUESTIONS[0], **drawn)])
    assert {found[str(number)].choices[0].text.strip() for number in range(3)} == RIGHT
    assert found["7"].choices == again["7"].choices
    assert len(found["7"].choices) == 2
    assert found["8"].choices[0].text == ""
    assert found["8"].choices[0].finish_reason == "stop"


def test_the_precision_is_chosen_when_an_engine_starts(tmp_path: Path) -> None:
    source = Source(repository="demo", digest="0" * 64)
    folder = tmp_path / "artifact"
    write_artifact(DEMO, folder, Weights.INT8, source=source, backend=BackendName.IPEX)
    config = EngineProcessConfig(artifact=folder, backend=BackendName.IPEX, threads=1)
    with EngineProcess(config.model_copy(update={"ipex_lowp": Lowp.FP16})) as engine:
        assert engine.wait_ready(300).kernels == "IPEX, fp16 products"
        found = answers(engine, [add(0, QUESTIONS[0])])
    assert found["0"].choices[0].text.strip() in RIGHT
    with (
        EngineProcess(config.model_copy(update={"ipex_lowp": Lowp.INT8})) as engine,
        pytest.raises(InputError, match="--ipex-option lowp=int8"),
    ):
        engine.wait_ready(300)


def test_one_option_makes_a_run_of_it(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = (EXAMPLES / "prompts.jsonl").read_text().splitlines()[:20]
    prompts.write_text("\n".join(lines) + "\n")
    output = tmp_path / "out.jsonl"
    command = [str(Path(sys.executable).with_name("nightshift")), "run", str(prompts)]
    ended = subprocess.run(
        [*command, "-o", str(output), "--model", str(DEMO), "--backend", "ipex"],
        env=os.environ | {"NIGHTSHIFT_HOME": str(tmp_path / "home"), "NIGHTSHIFT_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    expected = {
        line["custom_id"]: line["answer"]
        for line in map(json.loads, (EXAMPLES / "expected.jsonl").read_text().splitlines())
    }
    found = [json.loads(line) for line in output.read_text().splitlines()]
    right = [
        line["response"]["body"]["choices"][0]["message"]["content"].strip()
        == expected[line["custom_id"]]
        for line in found
    ]
    assert (len(found), sum(right) >= 18) == (20, True)
