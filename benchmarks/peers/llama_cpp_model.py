"""Writes a GGUF file from a checkpoint: `python -m benchmarks.peers.llama_cpp_model IN OUT TYPE`.

TYPE is q4_0 or q8_0. The tensors are renamed and written as bf16, without a tokenizer; llama.cpp's
own quantizer then does what its `llama-quantize` does. Runs in llama.cpp's environment: no torch.
"""

from __future__ import annotations

import argparse
import json
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_FILE_TYPES = {"q4_0": 2, "q8_0": 7}  # llama.h: LLAMA_FTYPE_MOSTLY_Q4_0, LLAMA_FTYPE_MOSTLY_Q8_0
_OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

Bits = np.ndarray[Any, np.dtype[np.uint16]]


def gguf_name(name: str) -> str:
    """The name that GGUF gives to a tensor of a Hugging Face Llama."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def interleave_rotary(weight: Bits, heads: int) -> Bits:
    """Reorder the rows of each head: llama.cpp rotates neighbours, Hugging Face rotates halves."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def read_bf16_tensors(path: Path) -> Iterator[tuple[str, Bits]]:
    """Names and bits of the tensors of a safetensors file (a length, a JSON header, the data)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header_bytes = int.from_bytes(data[:8], "little")
        header: dict[str, dict[str, Any]] = json.loads(data[8 : 8 + header_bytes])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "BF16":
                raise ValueError(f"{name} is {entry['dtype']}: only bf16 checkpoints can be read")
            begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
            bits = np.frombuffer(data[begin:end], dtype=np.uint16)
            yield name, bits.reshape(entry["shape"])


def write_bf16_gguf(source: Path, destination: Path) -> None:
    """Write all tensors as bf16, norms as float32 (llama.cpp computes with them in that)."""
    from gguf import GGMLQuantizationType, GGUFWriter  # type: ignore[import-not-found]

    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    writer = GGUFWriter(destination, "llama")
    _add_metadata(writer, config)
    for name, bits in read_bf16_tensors(source / "model.safetensors"):
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), (bits.astype(np.uint32) << 16).view(np.float32))
            continue
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            kind = "num_key_value_heads" if "k_proj" in name else "num_attention_heads"
            bits = interleave_rotary(bits, config[kind])
        rows = np.ascontiguousarray(bits).view(np.uint8)
        writer.add_tensor(gguf_name(name), rows, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, destination: Path, file_type: str) -> None:
    """Run llama.cpp's quantizer. Raises RuntimeError when it fails."""
    import llama_cpp  # type: ignore[import-not-found]

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = _FILE_TYPES[file_type]
    names = str(source).encode(), str(destination).encode()
    if code := llama_cpp.llama_model_quantize(*names, parameters):
        raise RuntimeError(f"llama_model_quantize returned {code} for {source}")


def _add_metadata(writer: Any, config: Mapping[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def main() -> None:
    """Write the file that the command line asks for."""
    parser = argparse.ArgumentParser(description="Write a quantized GGUF file.")
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("type", choices=sorted(_FILE_TYPES))
    arguments = parser.parse_args()
    plain = arguments.destination.with_suffix(".bf16.gguf")
    write_bf16_gguf(arguments.source, plain)
    quantize(plain, arguments.destination, arguments.type)
    plain.unlink()


if __name__ == "__main__":
    main()
