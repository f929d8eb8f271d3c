"""What IPEX takes of memory: `.venv-ipex/bin/python -m tools.ipex_memory MODEL --weights int4`.

Each way runs in a process of its own: `whole` as IPEX's documentation has it, quantizing the model
that transformers loaded; `store` quantizes into an artifact; `load` loads that. The last line on
stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.lowp import Lowp
from models.model_key import Weights
from worker.backends.machine import peak_rss_bytes
from worker.llm.ipex.recipe import IpexRecipe

_WAYS = ("whole", "store", "load")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one way, or all of them in turns."""
    options = _parser().parse_args(arguments)
    if options.way is not None:
        recipe = IpexRecipe(
            weights=options.weights, lowp=options.lowp, group_size=options.group_size
        )
        print(json.dumps(_measured(options.way, options.model, options.artifact, recipe)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = {way: _in_a_process(way, Path(folder) / "artifact") for way in _WAYS}
    for way, figures in report.items():
        print(f"{way:>6}", *(f"{name} {value:.1f}" for name, value in figures.items()))
    print(json.dumps(report))
    return 0


def _in_a_process(way: str, artifact: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tools.ipex_memory", *sys.argv[1:]]
    done = subprocess.run(
        [*command, "--way", way, "--artifact", artifact], stdout=subprocess.PIPE, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _measured(way: str, model: Path, artifact: Path, recipe: IpexRecipe) -> dict[str, float]:
    ways: dict[str, Callable[[], object]] = {
        "whole": lambda: _whole(model, recipe),
        "store": lambda: _store(model, artifact, recipe),
        "load": lambda: _load(artifact),
    }
    import worker.llm.ipex.artifact  # noqa: F401  # what the libraries take counts before

    before_mb = _rss_mb()
    begin_s = time.monotonic()
    kept = ways[way]()
    return {
        "seconds": time.monotonic() - begin_s,
        "libraries_mb": before_mb,
        "peak_mb": peak_rss_bytes() / 1e6,
        "steady_mb": _rss_mb() if kept is not None else 0.0,
    }


def _whole(folder: Path, recipe: IpexRecipe) -> object:
    import torch
    from transformers import LlamaForCausalLM

    from worker.llm.ipex.model import optimized

    model = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    return _used(optimized(model.eval(), recipe))


def _store(folder: Path, artifact: Path, recipe: IpexRecipe) -> object:
    from worker.llm.artifact import Source
    from worker.llm.ipex.artifact import write_ipex_artifact

    return write_ipex_artifact(
        folder, artifact, recipe, source=Source(repository=str(folder), digest="")
    )


def _load(artifact: Path) -> object:
    from worker.llm.artifact import open_artifact
    from worker.llm.ipex.artifact import load_ipex_model

    return _used(load_ipex_model(open_artifact(artifact, verify=False)).model)


def _used(model: Any) -> object:
    """The model after a first answer: only then has all of a mapped file been read."""
    import torch

    ids = torch.full((1, 8), 10)
    with torch.inference_mode():
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, pad_token_id=0)
    return model


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a Llama in safetensors")
    parser.add_argument("--weights", type=Weights, default=Weights.INT8)
    parser.add_argument("--lowp", type=Lowp, default=Lowp.BF16)
    parser.add_argument("--group-size", type=int, default=-1)
    parser.add_argument("--way", choices=_WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--artifact", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
