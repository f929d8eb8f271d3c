"""A cluster as an operator starts it: worker processes over real Redis and PostgreSQL.

The model is a random one of a few kilobytes, which never ends by itself, so that the lengths of
answers, and with them the seconds that a batch takes, are the test's choice.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.database import Database
from models.generation import TextPrompt
from models.model_key import ModelKey, Weights
from models.params import DecodingParams
from models.store.batches import get_batch
from models.store.submit import submit_batch
from models.store.views import Batch, Submission
from models.wire.lines import AcceptedLine

PROJECT = Path(__file__).resolve().parents[2]
MODEL = ModelKey("tiny", Weights.FP32)
CONTEXT_TOKENS = 256
POLL_S = 0.05
_RECORD = re.compile(r'\{"time": (?=.*\}$)', flags=re.MULTILINE)


def write_tiny_model(folder: Path) -> Path:
    """A random Llama in Hugging Face format whose tokens are bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1} | {char: i + 2 for i, char in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(names | {"chat_template": template}))
    return folder


def submit(database: Database, n_requests: int, *, max_tokens: int, chunk_requests: int) -> str:
    """A batch of short prompts whose answers all have `max_tokens` tokens."""
    params = DecodingParams(max_tokens=max_tokens, ignore_eos=True, temperature=0)
    lines = (
        AcceptedLine(
            line_number=idx + 1,
            custom_id=f"r{idx}",
            prompt=TextPrompt(text=f"prompt number {idx}"),
            params=params,
            endpoint="/v1/completions",
        )
        for idx in range(n_requests)
    )
    submission = Submission(
        model=MODEL,
        endpoint="/v1/completions",
        file_name="prompts.jsonl",
        file_bytes=1,
        body_sha256="0" * 64,
        chunk_requests=chunk_requests,
    )
    return submit_batch(database, submission, lines).batch.id


def wait_for(holds: Callable[[], bool], what: str, *, timeout_s: float = 60) -> float:
    """Poll until the condition holds; returns the seconds that it took."""
    started = time.monotonic()
    while not holds():
        waited = time.monotonic() - started
        assert waited < timeout_s, f"not so within {timeout_s:g} s: {what}"
        time.sleep(POLL_S)
    return time.monotonic() - started


def wait_for_end(database: Database, batch_id: str, *, timeout_s: float = 120) -> Batch:
    """Poll until the batch has ended."""
    what = f"batch {batch_id} has ended"
    wait_for(lambda: get_batch(database, batch_id).is_terminal, what, timeout_s=timeout_s)
    return get_batch(database, batch_id)


@dataclass
class WorkerProcess:
    """One worker program and what it logged."""

    process: subprocess.Popen[bytes]
    log: Path

    def records(self) -> list[dict[str, Any]]:
        """The JSON objects of the log; what the engine or Celery prints otherwise is left out.

        One may stand in the middle of a line: an engine that dies writes its stack in pieces.
        """
        text = self.log.read_text(errors="replace")
        decode = json.JSONDecoder().raw_decode
        return [decode(text, start.start())[0] for start in _RECORD.finditer(text)]

    def said(self, message: str) -> list[dict[str, Any]]:
        return [record for record in self.records() if record["message"].startswith(message)]

    def wait_ready(self) -> None:
        """Wait until it serves; fails with its log when it ended instead."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]
            return bool(self.said("worker ready"))

        wait_for(is_ready, "the worker is ready")

    def stop(self, sent: signal.Signals, *, timeout_s: float = 60) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(sent)
        return self.process.wait(timeout_s)


@dataclass
class Cluster:
    """Settings as environment variables, a folder for logs, and the workers started so far."""

    home: Path
    environment: dict[str, str]
    workers: list[WorkerProcess] = field(default_factory=list)

    def start(self, *command: str, **variables: str) -> WorkerProcess:
        """Start a worker by a command line of Python's; `variables` are NIGHTSHIFT_ settings."""
        log = self.home / f"worker-{len(self.workers)}.log"
        settings = {f"NIGHTSHIFT_{name.upper()}": value for name, value in variables.items()}
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**os.environ, **self.environment, **settings},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=PROJECT,
            )
        worker = WorkerProcess(process, log)
        self.workers.append(worker)
        return worker

    def start_worker(self, **variables: str) -> WorkerProcess:
        """`nightshift worker`."""
        return self.start(
            "cli", "worker", "--model", MODEL.name, "--weights", MODEL.weights, **variables
        )

    def start_plain_celery(self, *options: str, **variables: str) -> WorkerProcess:
        """`celery -A worker.celery_app worker`."""
        command = ("celery", "-A", "worker.celery_app", "worker", *options)
        return self.start(*command, model=str(MODEL), **variables)


@contextmanager
def cluster(home: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    """Workers that are killed in the end, whatever happened to them."""
    running = Cluster(home, environment)
    try:
        yield running
    finally:
        for worker in running.workers:
            worker.process.kill()
            worker.process.wait()
