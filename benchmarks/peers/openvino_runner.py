"""OpenVINO GenAI's continuous batching. Settings: sequences, step_tokens, cache_gib, prefix_cache,
precision ("bf16" or ""), group ("128" or "", for the engine's own choice).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.job import Counts, Job, measure, read_job
from benchmarks.workloads import Request


class OpenVino:
    """A ContinuousBatchingPipeline."""

    def __init__(self, job: Job) -> None:
        import openvino_genai  # type: ignore[import-not-found]  # in an environment of its own

        self._genai = openvino_genai
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            job.model, self._scheduler(job), "CPU", _properties(job)
        )

    def generate(self, requests: Sequence[Request]) -> Counts:
        """Answer all requests; the pipeline does not tell how long it found the prompts."""
        results = self._pipeline.generate(
            [_tensor(request.token_ids) for request in requests],
            [self._generation(request.output_tokens) for request in requests],
        )
        return Counts(
            input=[len(request.token_ids) for request in requests],
            output=[len(result.m_generation_ids[0]) for result in results],
        )

    def figures(self) -> Mapping[str, float]:
        """Nothing more."""
        return {}

    def _scheduler(self, job: Job) -> Any:
        config = self._genai.SchedulerConfig()
        config.cache_size = job.number("cache_gib")
        config.max_num_batched_tokens = job.number("step_tokens")
        config.max_num_seqs = job.number("sequences")
        config.enable_prefix_caching = bool(job.settings["prefix_cache"])
        return config

    def _generation(self, output_tokens: int) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = output_tokens
        config.ignore_eos = True
        config.do_sample = config.apply_chat_template = False
        return config


def _properties(job: Job) -> dict[str, str | int]:
    properties: dict[str, str | int] = {"INFERENCE_NUM_THREADS": job.threads}
    for setting, name in (
        ("precision", "INFERENCE_PRECISION_HINT"),
        ("group", "DYNAMIC_QUANTIZATION_GROUP_SIZE"),
    ):
        if job.settings[setting]:
            properties[name] = job.text(setting)
    return properties


def _tensor(token_ids: Sequence[int]) -> Any:
    import numpy as np
    import openvino  # type: ignore[import-not-found]  # in an environment of its own

    return openvino.Tensor(np.array([token_ids], dtype=np.int64))


def main() -> None:
    """Run the job."""
    measure(read_job(), OpenVino, ("openvino", "openvino-genai"))


if __name__ == "__main__":
    main()
