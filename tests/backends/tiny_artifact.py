"""A random model of a few kilobytes as a real artifact: tokenizer, chat template, fp32 weights."""

from __future__ import annotations

import json
from pathlib import Path

from models.backend_name import BackendName
from models.model_key import Weights
from tests.llm.tiny_models import make_reference, save_reference
from tools.demo_tokenizer import train_tokenizer
from worker.llm.artifact import Source
from worker.llm.artifact_writer import write_artifact

CONTEXT_TOKENS = 256
TEXTS = (
    "the night shift works while the day sleeps",
    "the day shift sleeps while the night works",
    "Über den Fluß führt eine Brücke: 日本語 and naïve café",
)


def write_tiny_artifact(
    folder: Path,
    defaults: dict[str, object] | None = None,
    backend: BackendName = BackendName.NATIVE,
) -> Path:
    """Write the artifact below `folder`; `defaults` become its generation_config.json."""
    tokenizer = train_tokenizer(TEXTS)
    source, artifact = folder / "source", folder / "artifact"
    model = make_reference(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT_TOKENS,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|eot_id|>"),
    )
    save_reference(model, source)
    tokenizer.save_pretrained(source)
    if defaults is not None:
        (source / "generation_config.json").write_text(json.dumps(defaults))
    else:
        (source / "generation_config.json").unlink()
    write_artifact(
        source,
        artifact,
        Weights.FP32,
        source=Source(repository="tiny", digest="0" * 64),
        backend=backend,
    )
    return artifact
