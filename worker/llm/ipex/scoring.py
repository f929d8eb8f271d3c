"""How likely a model of IPEX finds given texts: the logits of every position of a passage.

Its `forward` is called in two parts, so that only some rows have logits at the same time.
"""

from __future__ import annotations

import torch

from worker.llm.ipex.model import IpexModel
from worker.llm.perplexity import Passage, PassageScore, most_rows, scores_of


def score_ipex_passage(loaded: IpexModel, passage: Passage) -> PassageScore:
    """Read one passage at once, without padding."""
    ids = torch.tensor([passage.token_ids[:-1]])  # (1, L)
    rows = most_rows(loaded.config.vocab_size)
    likelihoods: list[float] = []
    likeliest: list[int] = []
    with torch.inference_mode():
        hidden = loaded.model.model(ids, attention_mask=torch.ones_like(ids))[0][0]  # (L, H)
        for start in range(passage.scored_from - 1, len(hidden), rows):
            logits = loaded.model.lm_head(hidden[start : start + rows]).float()  # (S, V)
            found = scores_of(logits, passage.token_ids[start + 1 : start + 1 + len(logits)])
            likelihoods += found.log_likelihoods
            likeliest += found.likeliest
    return PassageScore(tuple(likelihoods), tuple(likeliest))
