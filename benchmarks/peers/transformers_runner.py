"""transformers' `generate` with static batches, what a plain script does. Settings: batch.

Prompts are padded on the left to the longest of their batch, and a batch runs until its longest
answer is done; sorting by answer length keeps that waste small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from benchmarks.job import Counts, Job, measure, read_job
from benchmarks.workloads import Request

_PADDING_ID = 0


class Transformers:
    """A model of transformers in bf16."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        self._batch = job.number("batch")
        self._model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.bfloat16).eval()

    def generate(self, requests: Sequence[Request]) -> Counts:
        """Answer all requests, batch by batch."""
        order = sorted(range(len(requests)), key=lambda index: -requests[index].output_tokens)
        outputs = [0] * len(requests)
        for start in range(0, len(order), self._batch):
            chosen = order[start : start + self._batch]
            generated = self._generate_batch([requests[index] for index in chosen])
            for index in chosen:  # what the batch ran on for its longest member does not count
                outputs[index] = min(generated, requests[index].output_tokens)
        return Counts(input=[len(request.token_ids) for request in requests], output=outputs)

    def figures(self) -> Mapping[str, float]:
        """Nothing more."""
        return {}

    def _generate_batch(self, requests: Sequence[Request]) -> int:
        """Tokens generated for each of the batch."""
        width = max(len(request.token_ids) for request in requests)
        ids = torch.full((len(requests), width), _PADDING_ID)  # (B, L)
        mask = torch.zeros((len(requests), width), dtype=torch.int64)
        for row, request in enumerate(requests):
            ids[row, width - len(request.token_ids) :] = torch.tensor(request.token_ids)
            mask[row, width - len(request.token_ids) :] = 1
        tokens = max(request.output_tokens for request in requests)
        config = GenerationConfig(
            do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=_PADDING_ID
        )
        with torch.inference_mode():
            result = self._model.generate(ids, attention_mask=mask, generation_config=config)
        return int(result.shape[1]) - width


def main() -> None:
    """Run the job."""
    measure(read_job(), Transformers, ("transformers", "torch"))


if __name__ == "__main__":
    main()
