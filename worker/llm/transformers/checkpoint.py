"""A checkpoint as transformers reads it: without code of its own, without pickles, without network.

What transformers raises becomes one sentence that says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from models.errors import UnsupportedModel
from worker.llm.config import refuse_code
from worker.llm.transformers.attention import ATTENTION_NAME, register_attention


def read_checkpoint(folder: Path, raw_config: Mapping[str, object]) -> PreTrainedModel:
    """The whole model in the checkpoint's own dtype, ready for paged attention.

    Raises UnsafeModel when config.json asks for the checkpoint's code, UnsupportedModel for an
    architecture that transformers or paged attention has not.
    """
    refuse_code(raw_config)
    if raw_config.get("quantization_config") is not None:
        raise UnsupportedModel(
            "the checkpoint is already quantized: use --backend native, or give the original model "
            "in bf16, fp16 or fp32"
        )
    config = read_config(folder)
    register_attention()
    transformers_logging.disable_progress_bar()
    with _advice(folder):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype="auto",
            attn_implementation=ATTENTION_NAME,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    return model.eval()


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration in `folder`; raises UnsupportedModel as `read_checkpoint`."""
    with _advice(folder):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if known is None or not known._supports_attention_backend:
        raise UnsupportedModel(
            f"model_type {config.model_type!r} cannot run on paged attention: use another model"
        )
    return config


@contextmanager
def _advice(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as exc:
        first_line = str(exc).strip().partition("\n")[0]
        raise UnsupportedModel(
            f"transformers cannot read the model in {folder} ({type(exc).__name__}: {first_line}): "
            "give a complete causal language model that it knows"
        ) from exc
