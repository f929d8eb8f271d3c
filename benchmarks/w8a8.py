"""Writes the W8A8 form of a bf16 checkpoint that vLLM reads: `python -m benchmarks.w8a8 IN OUT`.

Format: compressed-tensors, int-quantized: int8 weights with a scale per output channel, symmetric;
activations quantized per token at run time. The output layer stays bf16, as vLLM wants it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_WEIGHTS = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "dynamic": False,
    "strategy": "channel",
    "observer": "minmax",
}
_ACTIVATIONS = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "dynamic": True,
    "strategy": "token",
}
QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": _WEIGHTS, "input_activations": _ACTIVATIONS}
    },
}


def write_w8a8(source: Path, destination: Path) -> None:
    """Write the checkpoint into an existing folder."""
    for file in source.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, destination)
    tensors = quantize_projections(load_file(source / "model.safetensors"))
    save_file(tensors, destination / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = QUANTIZATION
    (destination / "config.json").write_text(json.dumps(config, indent=2))


def quantize_projections(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace every projection by its integers and `weight_scale`; other tensors stay."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.endswith("_proj.weight"):
            result[name] = tensor
            continue
        weight = tensor.float()  # (out, in)
        scale = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-8)  # (out, 1)
        result[name] = (weight / scale).round().clamp(-128, 127).to(torch.int8)
        result[f"{name}_scale"] = scale.to(torch.bfloat16)
    return result


def main() -> None:
    """Convert the checkpoint that the command line names."""
    parser = argparse.ArgumentParser(description="Quantize a checkpoint to W8A8.")
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    arguments = parser.parse_args()
    write_w8a8(arguments.source, arguments.destination)


if __name__ == "__main__":
    main()
