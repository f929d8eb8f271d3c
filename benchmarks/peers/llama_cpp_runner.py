"""llama.cpp with continuous batching over its low-level batch API, as its server does it.
Settings: sequences, step_tokens, context_tokens (of all
sequences together), unified (one cache for all sequences instead of one each).

Every step holds one token of each running sequence, then prompts to the step's size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.job import Counts, Job, measure, read_job
from benchmarks.workloads import Request


@dataclass(slots=True)
class Slot:
    """One sequence of the context and the request that it works on."""

    number: int
    index: int  # of the request
    request: Request
    position: int = 0  # tokens in the cache or in the step that is built
    token: int = 0  # to be decoded next, once the prompt is done
    generated: int = 0

    @property
    def in_prompt(self) -> bool:
        """Whether prompt tokens are left to be computed."""
        return self.position < len(self.request.token_ids)


class LlamaCpp:
    """A context of llama.cpp and the batch that its steps are put into."""

    def __init__(self, job: Job) -> None:
        import llama_cpp  # type: ignore[import-not-found]  # in an environment of its own

        self._api = llama_cpp
        self._step_tokens, self._sequences = job.number("step_tokens"), job.number("sequences")
        self._silence = llama_cpp.llama_log_callback(lambda *_: None)  # it keeps the pointer only
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            job.model.encode(), llama_cpp.llama_model_default_params()
        )
        self._context = llama_cpp.llama_init_from_model(model, self._parameters(job))
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(self._step_tokens, 0, 1)

    def generate(self, requests: Sequence[Request]) -> Counts:
        """Answer all requests."""
        waiting = list(enumerate(requests))[::-1]
        free = list(range(self._sequences))
        slots: list[Slot] = []
        outputs = [0] * len(requests)
        while waiting or slots:
            while waiting and free:
                slots.append(Slot(free.pop(), *waiting.pop()))
            self._step(slots)
            for slot in [slot for slot in slots if slot.generated == slot.request.output_tokens]:
                outputs[slot.index] = slot.generated
                self._api.llama_memory_seq_rm(self._memory, slot.number, -1, -1)
                slots.remove(slot)
                free.append(slot.number)
        return Counts(input=[len(request.token_ids) for request in requests], output=outputs)

    def figures(self) -> Mapping[str, float]:
        """Nothing more."""
        return {}

    def _parameters(self, job: Job) -> Any:
        parameters = self._api.llama_context_default_params()
        parameters.n_ctx = job.number("context_tokens")
        parameters.n_batch = parameters.n_ubatch = self._step_tokens
        parameters.n_seq_max = self._sequences
        parameters.n_threads = parameters.n_threads_batch = job.threads
        parameters.kv_unified = bool(job.settings["unified"])
        return parameters

    def _step(self, slots: Sequence[Slot]) -> None:
        """Compute one step: decoding slots first, then prompts, oldest first."""
        self._batch.n_tokens = 0
        sampling: list[tuple[int, Slot]] = []  # row of the step, slot
        for slot in [slot for slot in slots if not slot.in_prompt]:
            sampling.append((self._put(slot, slot.token, sample=True), slot))
        for slot in [slot for slot in slots if slot.in_prompt]:
            room = self._step_tokens - self._batch.n_tokens
            for token in slot.request.token_ids[slot.position : slot.position + room]:
                last = slot.position == len(slot.request.token_ids) - 1
                row = self._put(slot, token, sample=last)
                if last:
                    sampling.append((row, slot))
        if code := self._api.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode returned {code}: the cache is too small")
        for row, slot in sampling:
            slot.token = self._most_likely(row)
            slot.generated += 1

    def _put(self, slot: Slot, token: int, *, sample: bool) -> int:
        """Add a token to the step; returns its row."""
        row = int(self._batch.n_tokens)
        self._batch.token[row] = token
        self._batch.pos[row] = slot.position
        self._batch.n_seq_id[row] = 1
        self._batch.seq_id[row][0] = slot.number
        self._batch.logits[row] = sample
        self._batch.n_tokens = row + 1
        slot.position += 1
        return row

    def _most_likely(self, row: int) -> int:
        import numpy as np

        logits = self._api.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocabulary,)).argmax())


def main() -> None:
    """Run the job."""
    measure(read_job(), LlamaCpp, ("llama-cpp-python",))


if __name__ == "__main__":
    main()
