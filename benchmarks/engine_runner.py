"""Our engine in its own process, spoken to as a worker does. Settings: sequences, step_tokens.

Unlike the other engines it also turns the tokens into text; that is part of its seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.job import Counts, Job, measure, read_job
from benchmarks.workloads import Request
from models.generation import TokenPrompt
from models.params import DecodingParams
from worker.backends.messages import Add, Finished, Progress
from worker.backends.process import EngineProcess, EngineProcessConfig
from worker.llm.artifact import open_artifact

_KERNEL_CACHE = Path(__file__).parent / "work" / "kernels"
_LOAD_TIMEOUT_S = 600
_RECEIVE_TIMEOUT_S = 60  # the engine says twice a second that it lives


class NativeEngine:
    """The engine process of one artifact."""

    def __init__(self, job: Job) -> None:
        artifact = Path(job.model)
        self.process = EngineProcess(
            EngineProcessConfig(
                artifact=artifact,
                threads=job.threads,
                max_sequences=job.number("sequences"),
                step_tokens=job.number("step_tokens"),
                kernel_cache=_KERNEL_CACHE,
            )
        )
        self._ready = self.process.wait_ready(_LOAD_TIMEOUT_S)
        self._weight_bytes = open_artifact(artifact, verify=False).bytes
        self._keys = itertools.count()

    def generate(self, requests: Sequence[Request]) -> Counts:
        """Answer all requests."""
        keys = [str(next(self._keys)) for _ in requests]
        self.process.send(*map(_add, keys, requests))
        finished: dict[str, Finished] = {}
        while len(finished) < len(requests):
            for event in self.process.receive(_RECEIVE_TIMEOUT_S):
                if isinstance(event, Finished):
                    finished[event.key] = event
        generations = [finished[key].generation for key in keys]
        return Counts(  # a refused request has no tokens, which voids the trial
            input=[g.prompt_tokens if g else 0 for g in generations],
            output=[g.output_tokens if g else 0 for g in generations],
        )

    def figures(self) -> Mapping[str, float]:
        """Memory and counters, as the engine tells them; the counters include the warm-up."""
        counters = self._next_progress().model_dump(exclude={"kind"})
        return {
            **{name: float(value) for name, value in counters.items()},
            "compiled_kernels": float(self._ready.kernels.startswith("compiled")),
            "engine_load_seconds": self._ready.load_s,  # without starting the interpreter
            "loaded_peak_rss_bytes": self._ready.peak_rss_bytes,
            "kv_cache_bytes": self._ready.kv_cache_bytes,
            "weight_bytes": self._weight_bytes,
        }

    def _next_progress(self) -> Progress:
        """Wait for the counters after the last answer; an idle engine sends them every second."""
        while True:
            for event in self.process.receive(_RECEIVE_TIMEOUT_S):
                if isinstance(event, Progress):
                    return event


def _add(key: str, request: Request) -> Add:
    return Add(
        key=key,
        prompt=TokenPrompt(token_ids=request.token_ids),
        params=DecodingParams(
            max_tokens=request.output_tokens,
            min_tokens=request.output_tokens,
            ignore_eos=True,
            temperature=0,
        ),
    )


def main() -> None:
    """Run the job."""
    engine = measure(read_job(), NativeEngine, ("torch",))
    if isinstance(engine, NativeEngine):
        engine.process.stop()


if __name__ == "__main__":
    main()
