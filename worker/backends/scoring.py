"""The scoring process: `python -m worker.backends.scoring --parent PID`, a job on stdin.

Its last line on stdout is the ScoringResult, or the error as a Failed message.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from functools import partial

from models.backend_name import BackendName
from models.errors import InputError, NightshiftError
from models.generation import Frozen
from worker.backends.messages import Failed, to_line
from worker.backends.paged_models import load_paged_model, open_for
from worker.backends.process_config import EngineProcessConfig
from worker.backends.scoring_messages import ScoredText, ScoringJob, ScoringResult
from worker.backends.server import tie_to_parent
from worker.llm.artifact import Artifact
from worker.llm.perplexity import Passage, PassageScore, score_passage
from worker.llm.tokenizer import Tokenizer

# Of a text that stands alone: longer ones are cut, so that all models see the same beginnings.
WINDOW_TOKENS = 1024


def score(job: ScoringJob) -> ScoringResult:
    """Load the model and score all texts; raises ModelError, and InputError for unusable texts."""
    artifact = open_for(job.config)
    score_one, context_tokens = _load_scorer(job.config, artifact)
    tokenizer = Tokenizer.load(artifact.folder)
    likelihoods: list[float] = []
    likeliest: list[int] = []
    for text in job.texts:
        for passage in passages(text, tokenizer, context_tokens):
            found = score_one(passage)
            likelihoods += found.log_likelihoods
            likeliest += found.likeliest
    if not likelihoods:
        raise InputError("the texts have nothing to score: give at least two tokens")
    return ScoringResult(
        tokens=len(likelihoods),
        log_likelihood=math.fsum(likelihoods),
        likeliest=tuple(likeliest),
    )


def _load_scorer(
    config: EngineProcessConfig, artifact: Artifact
) -> tuple[Callable[[Passage], PassageScore], int]:
    """What scores a passage, and how many tokens one may have."""
    if config.backend is BackendName.IPEX:
        from worker.backends.static_backend import load_model
        from worker.llm.ipex.scoring import score_ipex_passage

        # Its tables grow with the context; a text is cut as for all other models.
        bound = config.context_tokens and max(WINDOW_TOKENS, config.context_tokens)
        loaded = load_model(config, artifact, bound)
        return partial(score_ipex_passage, loaded), loaded.context_tokens
    model = load_paged_model(config, artifact).model
    return partial(score_passage, model), model.config.max_position_embeddings


def passages(text: ScoredText, tokenizer: Tokenizer, context_tokens: int) -> list[Passage]:
    """What is read for one text: a prompt with its answer, or windows of a text alone.

    Raises InputError for an answer that the model's context cannot hold with its prompt.
    """
    if text.prompt is not None:
        prompt_ids = list(tokenizer.encode(text.prompt))
        ids = prompt_ids + tokenizer.encode_continuation(text.text)
        if len(ids) > context_tokens:
            raise InputError(
                f"a prompt and its answer have {len(ids)} tokens, and the model's context holds "
                f"{context_tokens}: leave that prompt out"
            )
        return [Passage(ids, len(prompt_ids))] if prompt_ids and len(ids) > len(prompt_ids) else []
    ids = tokenizer.encode_text(text.text)
    window = min(WINDOW_TOKENS, context_tokens)
    windows = [ids[start : start + window] for start in range(0, len(ids), window)]
    return [Passage(part, 1) for part in windows if len(part) > 1]


def main() -> None:
    """Score the job on stdin."""
    parser = argparse.ArgumentParser(description="Scoring process; started by `evaluate`.")
    parser.add_argument("--parent", type=int, required=True)
    tie_to_parent(parser.parse_args().parent)
    answer_fd = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes to the log
    try:
        answer: Frozen = score(ScoringJob.model_validate_json(sys.stdin.read()))
    except NightshiftError as exc:
        answer = Failed(error=type(exc).__name__, message=str(exc))
    with os.fdopen(answer_fd, "wb") as stdout:
        stdout.write(to_line(answer))


if __name__ == "__main__":
    main()
