"""Writes the model that is measured: a Llama of a given shape with random bf16 weights.

`python -m benchmarks.model SHAPE FOLDER`. The weights depend on the shape alone; speed does not
depend on what they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.shapes import SHAPES, Shape

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
_STANDARD_DEVIATION = 0.02  # transformers' initializer_range for Llama


def write_model(shape: Shape, folder: Path) -> None:
    """Write config, weights, generation config and tokenizer into an existing folder."""
    (folder / "config.json").write_text(json.dumps(model_config(shape), indent=2))
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(ids))
    write_tokenizer(shape.vocabulary, folder)
    torch.manual_seed(7)
    tensors = dict(random_tensors(shape))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def model_config(shape: Shape) -> dict[str, object]:
    """The object of config.json, in the spelling that old and new readers know."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def tensor_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, as Hugging Face writes them."""
    hidden, queries, keys = (
        shape.hidden,
        shape.heads * shape.head_dim,
        shape.kv_heads * shape.head_dim,
    )
    yield "model.embed_tokens.weight", (shape.vocabulary, hidden)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "self_attn.q_proj.weight", (queries, hidden)
        yield prefix + "self_attn.k_proj.weight", (keys, hidden)
        yield prefix + "self_attn.v_proj.weight", (keys, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, queries)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_proj.weight", (shape.intermediate, hidden)
        yield prefix + "mlp.up_proj.weight", (shape.intermediate, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, shape.intermediate)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (shape.vocabulary, hidden)


def random_tensors(shape: Shape) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors: norms of ones, everything else normal."""
    for name, size in tensor_shapes(shape):
        if name.endswith("norm.weight"):
            yield name, torch.ones(size, dtype=torch.bfloat16)
        else:
            yield name, (torch.randn(size) * _STANDARD_DEVIATION).to(torch.bfloat16)


def write_tokenizer(vocabulary: int, folder: Path) -> None:
    """A byte-level BPE of words of up to four letters, each one letter more than another."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL_TOKENS, *alphabet]
    merges: list[tuple[str, str]] = []
    stems = list("abcdefghijklmnopqrstuvwxyz")
    for stem in stems:  # grows while it is read: stems of one letter, of two, of three …
        for letter in stems[:26]:
            if len(tokens) == vocabulary:
                break
            merges.append((stem, letter))
            tokens.append(stem + letter)
            stems.append(stem + letter)
    model = models.BPE({token: index for index, token in enumerate(tokens)}, merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2))


def main() -> None:
    """Write the model that the command line asks for."""
    parser = argparse.ArgumentParser(description="Write a model of random weights.")
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write_model(SHAPES[arguments.shape], arguments.folder)


if __name__ == "__main__":
    main()
