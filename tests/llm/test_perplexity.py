"""Scores of texts against the loss of transformers, on random models."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from models.generation import ChatMessage, ChatPrompt
from models.model_key import Weights
from tests.backends.tiny_artifact import CONTEXT_TOKENS, TEXTS, write_tiny_artifact
from tests.llm.paged_session import random_sequences
from tests.llm.tiny_models import in_memory, make_reference, save_reference
from worker.backends.process_config import EngineProcessConfig
from worker.backends.scoring import passages, score
from worker.backends.scoring_messages import ScoredText, ScoringJob, ScoringResult
from worker.llm.perplexity import Passage, score_passage
from worker.llm.tokenizer import Tokenizer

LONG = 700  # more than one step


@pytest.mark.parametrize(
    ("length", "scored_from"), [(2, 1), (60, 1), (60, 41), (LONG, 1), (LONG, 600)]
)
def test_likelihoods_are_those_of_transformers(
    length: int, scored_from: int, tmp_path: Path
) -> None:
    reference = make_reference(max_position_embeddings=1024)
    model = in_memory(save_reference(reference, tmp_path), Weights.FP32)
    (ids,) = random_sequences([length])
    with torch.no_grad():
        logits = reference(torch.tensor([ids])).logits[0, scored_from - 1 : -1]
    wanted = logits.log_softmax(dim=1)[range(length - scored_from), ids[scored_from:]]
    found = score_passage(model, Passage(ids, scored_from))
    torch.testing.assert_close(torch.tensor(found.log_likelihoods), wanted, atol=1e-4, rtol=1e-4)
    assert list(found.likeliest) == logits.argmax(dim=1).tolist()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_artifact(tmp_path_factory.mktemp("scored"))


def test_an_answer_is_scored_after_its_prompt_and_a_text_in_windows(artifact: Path) -> None:
    tokenizer = Tokenizer.load(artifact)
    prompt = ChatPrompt(messages=(ChatMessage(role="user", content="the day"),))
    (passage,) = passages(ScoredText(prompt=prompt, text="the night"), tokenizer, CONTEXT_TOKENS)
    assert list(passage.token_ids[: passage.scored_from]) == list(tokenizer.encode(prompt))
    assert tokenizer.decode(passage.token_ids[passage.scored_from :]) == "the night"
    windows = passages(ScoredText(text=" ".join(TEXTS * 30)), tokenizer, CONTEXT_TOKENS)
    assert len(windows) > 2
    assert {len(window.token_ids) for window in windows[:-1]} == {CONTEXT_TOKENS}
    whole = tokenizer.encode_text(" ".join(TEXTS * 30))
    assert [token for window in windows for token in window.token_ids] == whole


def test_perplexity_of_a_random_model_is_near_the_size_of_its_vocabulary(artifact: Path) -> None:
    job = ScoringJob(
        config=EngineProcessConfig(artifact=artifact, threads=1),
        texts=tuple(ScoredText(text=text) for text in TEXTS),
    )
    result = score(job)
    assert result.tokens == len(result.likeliest)
    vocabulary = len(Tokenizer.load(artifact)._backend.get_vocab())
    assert vocabulary / 5 < result.perplexity < vocabulary * 50


def test_perplexity_and_agreement_are_per_token() -> None:
    one = ScoringResult(tokens=4, log_likelihood=-8.0, likeliest=(1, 2, 3, 4))
    other = one.model_copy(update={"likeliest": (1, 2, 9, 9)})
    assert one.perplexity == math.exp(2)
    assert (one.agreement(one), other.agreement(one)) == (1.0, 0.5)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        one.agreement(one.model_copy(update={"likeliest": (1,)}))
