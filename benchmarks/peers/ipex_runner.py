"""IPEX in static batches, as the ipex backend runs it. Settings: batch, lowp.

The model is an artifact that `ipex_model.py` made; batches are those of transformers' runner.
"""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.job import Job, measure, read_job
from benchmarks.peers.transformers_runner import Transformers
from models.lowp import Lowp
from worker.llm.artifact import open_artifact
from worker.llm.ipex.artifact import load_ipex_model


class Ipex(Transformers):
    """A model quantized by IPEX."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        self._batch = job.number("batch")
        artifact = open_artifact(Path(job.model), verify=False)
        self._model = load_ipex_model(artifact, lowp=Lowp(job.text("lowp"))).model


def main() -> None:
    """Run the job."""
    measure(read_job(), Ipex, ("intel-extension-for-pytorch", "transformers", "torch"))


if __name__ == "__main__":
    main()
