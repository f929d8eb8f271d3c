"""What is generated: prompts as token ids and output lengths, the same for every engine.

Standard library only: runners of all engines read the files that this writes.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

VOCABULARY = 32000
FIRST_ID = 10  # below are special tokens
WORK_NAMES = ("A", "B", "long", "single", "brief", "short")


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and the number of tokens to generate, no fewer and no more."""

    token_ids: tuple[int, ...]
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests that are all there from the start; greedy, the end token ignored."""

    name: str
    requests: tuple[Request, ...]
    warmup: tuple[Request, ...]
    shared_prefix_tokens: int = 0

    @property
    def input_tokens(self) -> int:
        """Prompt tokens of all requests."""
        return sum(len(request.token_ids) for request in self.requests)

    @property
    def output_tokens(self) -> int:
        """Tokens to generate for all requests."""
        return sum(request.output_tokens for request in self.requests)

    @property
    def least_forward_tokens(self) -> int:
        """Tokens that have to pass the layers: a shared prefix once, the last outputs never."""
        repeated = self.shared_prefix_tokens * (len(self.requests) - 1)
        return self.input_tokens - repeated + self.output_tokens - len(self.requests)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Inclusive bounds of a prompt's own tokens and of its output, and the prefix before it."""

    prompt: tuple[int, int]
    output: tuple[int, int]
    shared_prefix: int = 0


WORK_A = Lengths(prompt=(32, 256), output=(16, 128))
WORK_B = Lengths(prompt=(16, 96), output=(16, 128), shared_prefix=256)


def build_workload(name: str) -> Workload:
    """The workload of that name. Raises KeyError for any other."""
    # A and B come from one stream of random numbers: B begins where A ends.
    stream = random.Random(7)
    a = _draw(stream, 96, WORK_A)
    b = _draw(stream, 96, WORK_B)
    workloads = {
        "A": Workload("A", a, _warmup()),
        "B": Workload("B", b, _warmup(), shared_prefix_tokens=WORK_B.shared_prefix),
        "long": _fixed("long", seed=8, count=16, prompt=1500, output=64),
        "single": _fixed("single", seed=9, count=1, prompt=32, output=128),
        # So little that an engine which is many times slower ends all the same.
        "brief": _fixed("brief", seed=12, count=16, prompt=32, output=8),
    }
    return workloads[name]


def build_short(vocabulary: int, count: int = 10_000) -> Workload:
    """Work "short": so little per request that everything around the model shows."""
    stream = random.Random(11)
    lengths = Lengths(prompt=(8, 8), output=(4, 4))
    return Workload("short", _draw(stream, count, lengths, vocabulary), ())


def write_workload(workload: Workload, path: Path) -> None:
    """Write the workload as JSON."""
    path.write_text(json.dumps(asdict(workload)), encoding="utf-8")


def read_workload(path: Path) -> Workload:
    """Read what `write_workload` wrote."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Workload(
        name=raw["name"],
        requests=_requests(raw["requests"]),
        warmup=_requests(raw["warmup"]),
        shared_prefix_tokens=raw["shared_prefix_tokens"],
    )


def _requests(raw: list[dict[str, list[int] | int]]) -> tuple[Request, ...]:
    requests = []
    for entry in raw:
        ids, output = entry["token_ids"], entry["output_tokens"]
        if not isinstance(ids, list) or not isinstance(output, int):
            raise ValueError("a workload's request holds token_ids and output_tokens")
        requests.append(Request(tuple(ids), output))
    return tuple(requests)


def _fixed(name: str, *, seed: int, count: int, prompt: int, output: int) -> Workload:
    lengths = Lengths(prompt=(prompt, prompt), output=(output, output))
    return Workload(name, _draw(random.Random(seed), count, lengths), _warmup())


def _warmup() -> tuple[Request, ...]:
    """Some requests of their own, so that no cache knows the measured ones."""
    return _draw(random.Random(10), 4, Lengths(prompt=(32, 32), output=(4, 4)))


def _draw(
    stream: random.Random, count: int, lengths: Lengths, vocabulary: int = VOCABULARY
) -> tuple[Request, ...]:
    prefix = _ids(stream, lengths.shared_prefix, vocabulary)
    requests = []
    for _ in range(count):
        own = _ids(stream, stream.randint(*lengths.prompt), vocabulary)
        requests.append(Request(prefix + own, stream.randint(*lengths.output)))
    return tuple(requests)


def _ids(stream: random.Random, count: int, vocabulary: int) -> tuple[int, ...]:
    return tuple(stream.randint(FIRST_ID, vocabulary - 1) for _ in range(count))
