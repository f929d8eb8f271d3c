"""The likelihoods that the ipex backend finds are those of its weights, and near the exact ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from models.backend_name import BackendName
from models.generation import ChatMessage, ChatPrompt
from models.lowp import Lowp
from models.model_key import Weights
from tests.ipex.conftest import DEMO, SOURCE
from tests.ipex.test_architectures import put_quantized_weights, random_model, stored
from worker.backends.process_config import EngineProcessConfig
from worker.backends.scoring import WINDOW_TOKENS
from worker.backends.scoring_messages import ScoredText, ScoringJob, ScoringResult
from worker.backends.scoring_process import run_scoring
from worker.llm.artifact_writer import write_artifact
from worker.llm.ipex.artifact import load_ipex_model
from worker.llm.ipex.recipe import Activations, IpexRecipe
from worker.llm.ipex.scoring import score_ipex_passage
from worker.llm.perplexity import Passage

EXAMPLES = DEMO.parent


@pytest.mark.parametrize("weights", [Weights.INT8, Weights.INT4])
@pytest.mark.parametrize("mistral", [False, True])
def test_every_token_is_as_likely_as_in_transformers(
    mistral: bool, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = random_model(mistral=mistral)
    recipe = IpexRecipe(weights=weights, lowp=Lowp.NONE, activations=Activations.FP32)
    artifact = stored(reference, recipe, tmp_path)
    put_quantized_weights(reference, artifact, recipe)
    ids = [7 * place % 96 for place in range(40)]
    monkeypatch.setattr("worker.llm.ipex.scoring.most_rows", lambda _: 8)
    found = score_ipex_passage(load_ipex_model(artifact), Passage(ids, 5))
    with torch.no_grad():
        logits = reference(torch.tensor([ids])).logits[0, 4:-1]  # (35, V)
    wanted = logits.log_softmax(dim=1).gather(1, torch.tensor(ids[5:]).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(torch.tensor(found.log_likelihoods), wanted, rtol=0, atol=2e-3)
    assert found.likeliest == tuple(logits.argmax(dim=1).tolist())


def test_perplexity_is_near_that_of_the_exact_model(tmp_path: Path) -> None:
    answers = tuple(answered(40))
    exact = scored(tmp_path / "fp32", Weights.FP32, BackendName.NATIVE, answers)
    for weights, allowed in ((Weights.INT8, 0.005), (Weights.INT4, 0.02)):
        found = scored(tmp_path / weights, weights, BackendName.IPEX, answers)
        assert found.tokens == exact.tokens
        assert found.perplexity == pytest.approx(exact.perplexity, rel=allowed)
        assert found.agreement(exact) > 0.97


def test_a_long_text_is_read_in_the_same_windows(tmp_path: Path) -> None:
    text = (ScoredText(text="Calculate 23 - 9.\nWhich number is larger, 68 or 24?\n" * 60),)
    exact = scored(tmp_path / "fp32", Weights.FP32, BackendName.NATIVE, text)
    found = scored(tmp_path / "int8", Weights.INT8, BackendName.IPEX, text)
    assert found.tokens == exact.tokens > WINDOW_TOKENS
    # The demo model has never seen such a text: its perplexity is a million, and moves easily.
    assert found.log_likelihood == pytest.approx(exact.log_likelihood, rel=0.01)
    assert found.agreement(exact) > 0.97


def scored(
    folder: Path, weights: Weights, backend: BackendName, texts: tuple[ScoredText, ...]
) -> ScoringResult:
    """What a process finds that may keep a shorter context than a text's windows."""
    if not folder.exists():
        write_artifact(DEMO, folder, weights, source=SOURCE, backend=backend)
    config = EngineProcessConfig(artifact=folder, backend=backend, threads=1, context_tokens=64)
    return run_scoring(ScoringJob(config=config, texts=texts))


def answered(count: int) -> Sequence[ScoredText]:
    """Requests of the example with their expected answers."""
    asked, expected = (
        [json.loads(line) for line in (EXAMPLES / name).read_text().splitlines()[:count]]
        for name in ("prompts.jsonl", "expected.jsonl")
    )
    assert [line["custom_id"] for line in asked] == [line["custom_id"] for line in expected]
    return [
        ScoredText(
            prompt=ChatPrompt(
                messages=tuple(
                    ChatMessage.model_validate(each) for each in line["body"]["messages"]
                )
            ),
            text=answer["answer"],
        )
        for line, answer in zip(asked, expected, strict=True)
    ]
