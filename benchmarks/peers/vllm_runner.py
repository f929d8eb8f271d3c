"""vLLM's offline engine on the CPU. Settings: sequences, cache_gib.

Its first start on a machine compiles for about a minute; that is part of loading.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.job import Counts, Job, measure, read_job
from benchmarks.workloads import Request


class Vllm:
    """An LLM object of vLLM."""

    def __init__(self, job: Job) -> None:
        from vllm import LLM  # type: ignore[import-not-found]  # in an environment of its own

        self._llm = LLM(
            model=job.model,
            dtype="bfloat16",
            max_model_len=job.number("context_tokens"),
            max_num_seqs=job.number("sequences"),
            disable_log_stats=True,
        )

    def generate(self, requests: Sequence[Request]) -> Counts:
        """Answer all requests."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(request.token_ids)} for request in requests],
            [_sampling(request.output_tokens) for request in requests],
            use_tqdm=False,
        )
        return Counts(
            input=[len(output.prompt_token_ids) for output in outputs],
            output=[len(output.outputs[0].token_ids) for output in outputs],
        )

    def figures(self) -> Mapping[str, float]:
        """Nothing more."""
        return {}


def _sampling(output_tokens: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0,
        max_tokens=output_tokens,
        min_tokens=output_tokens,
        ignore_eos=True,
        detokenize=False,
    )


def set_environment(job: Job) -> None:
    """vLLM reads these while it is imported: all cores for computing, a fixed cache."""
    cores = sorted(os.sched_getaffinity(0))[: job.threads]
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    os.environ["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(job.number("cache_gib"))
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    # What it compiles is kept beside the model, so that only the first trial waits for it.
    os.environ["VLLM_CACHE_ROOT"] = str(Path(job.model).with_name("vllm-cache"))


def main() -> None:
    """Run the job."""
    job = read_job()
    set_environment(job)
    measure(job, Vllm, ("vllm-cpu", "torch"))


if __name__ == "__main__":  # its engine process imports this module again
    main()
