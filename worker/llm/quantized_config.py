"""What a checkpoint that is quantized already says of it: `quantization_config` of its config.json.

Only what is understood is accepted; all else is refused by name. Must not know torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from models.errors import UnsupportedModel
from models.model_key import Weights
from worker.llm.layer_weights import INT4_GROUPS, largest_group

Method = Literal["gptq", "awq", "compressed-tensors"]
ADVICE = "give the original model in bf16, fp16 or fp32, or one quantized with GPTQ or AWQ"


@dataclass(frozen=True, slots=True)
class QuantizedFormat:
    """How the linear layers of a checkpoint are stored."""

    method: Method
    bits: int
    group: int | None  # inputs that share a scale; None: all of an output
    symmetric: bool  # every zero point is the middle of the range
    zeros_less_one: bool = False  # GPTQ's first format stores zero points less one

    @property
    def middle(self) -> int:
        """The unsigned integer that a symmetric format takes for zero."""
        return int(2 ** (self.bits - 1))

    def is_kept(self, weights: Weights) -> bool:
        """Whether the checkpoint's own integers become those of the artifact."""
        if weights is Weights.INT8:
            return self.bits == 8 and self.symmetric and self.group is None
        fits = self.group is None or self.group % INT4_GROUPS[-1] == 0
        return weights is Weights.INT4 and self.bits == 4 and fits

    def keeps_zeros(self, weights: Weights) -> bool:
        """Whether zero points are kept beside the integers."""
        return not self.symmetric and self.is_kept(weights)

    def origin(self, weights: Weights) -> dict[str, str | int]:
        """What a manifest's recipe says of the checkpoint."""
        zeros = "symmetric" if self.symmetric else "asymmetric"
        group = "per output" if self.group is None else f"in groups of {self.group}"
        said: dict[str, str | int] = {
            "checkpoint": f"{self.method}, {self.bits} bits, {zeros}, {group}"
        }
        if self.is_kept(weights):
            said["rounding"] = self.method
            if self.group is not None:
                said["group"] = largest_group(self.group)
        return said


def read_quantized_format(raw: Mapping[str, object]) -> QuantizedFormat | None:
    """The format in a config.json; None for a checkpoint that is not quantized.

    Raises UnsupportedModel for one that is not built in.
    """
    said = raw.get("quantization_config")
    if said is None:
        return None
    if not isinstance(said, dict):
        raise UnsupportedModel("quantization_config is no object: download the model again")
    method = said.get("quant_method")
    if method == "gptq":
        return _gptq(said)
    if method == "awq":
        return _awq(said)
    if method == "compressed-tensors":
        return _compressed_tensors(said)
    raise UnsupportedModel(f"the checkpoint is already quantized by {method!r}: {ADVICE}")


def without_quantization(raw: Mapping[str, object]) -> dict[str, object]:
    """The config.json of the same model before it was quantized."""
    return {key: value for key, value in raw.items() if key != "quantization_config"}


def _gptq(said: Mapping[str, object]) -> QuantizedFormat:
    stored = said.get("checkpoint_format") or "gptq"
    if stored not in ("gptq", "gptq_v2") or said.get("is_marlin_format"):
        name = "marlin" if said.get("is_marlin_format") else stored
        raise UnsupportedModel(f"GPTQ weights in the format {name!r} are not read: {ADVICE}")
    if said.get("dynamic"):
        raise UnsupportedModel(
            f"GPTQ with bits that differ by layer (dynamic) is not read: {ADVICE}"
        )
    return QuantizedFormat(
        "gptq",
        _bits(said.get("bits")),
        _group(said.get("group_size")),
        bool(said.get("sym", True)),
        zeros_less_one=stored == "gptq",
    )


def _awq(said: Mapping[str, object]) -> QuantizedFormat:
    version = str(said.get("version") or "gemm").lower()
    if version != "gemm":
        raise UnsupportedModel(f"AWQ weights in the format {version!r} are not read: {ADVICE}")
    bits = _bits(said.get("bits", said.get("w_bit")))
    if bits != 4:
        raise UnsupportedModel(f"AWQ with {bits} bits is not read: {ADVICE}")
    group = _group(said.get("group_size", said.get("q_group_size")))
    return QuantizedFormat("awq", bits, group, symmetric=False)


def _compressed_tensors(said: Mapping[str, object]) -> QuantizedFormat:
    groups = said.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        raise UnsupportedModel(
            f"compressed-tensors with other than one of config_groups is not read: {ADVICE}"
        )
    (group,) = groups.values()
    weights = group.get("weights") if isinstance(group, dict) else None
    stored = (group.get("format") if isinstance(group, dict) else None) or said.get("format")
    if stored not in ("pack-quantized", "int-quantized") or not isinstance(weights, dict):
        raise UnsupportedModel(f"compressed-tensors in the format {stored!r} is not read: {ADVICE}")
    _refuse_compressed(said, weights)
    return QuantizedFormat(
        "compressed-tensors",
        _bits(weights.get("num_bits")),
        _group(weights.get("group_size")) if weights.get("strategy") == "group" else None,
        bool(weights.get("symmetric", True)),
    )


def _refuse_compressed(said: Mapping[str, object], weights: Mapping[str, object]) -> None:
    sparsity = said.get("sparsity_config") or {}
    refused = {
        "actorder": weights.get("actorder") not in (None, False, "weight", "static"),
        "type": weights.get("type", "int") != "int",
        "strategy": weights.get("strategy") not in ("group", "channel"),
        "sparsity_config": not isinstance(sparsity, dict)
        or sparsity.get("format", "dense") != "dense",
        "transform_config": bool(said.get("transform_config")),
    }
    for name, is_refused in refused.items():
        if is_refused:
            value = weights.get(name, said.get(name))
            raise UnsupportedModel(
                f"compressed-tensors with {name} {value!r} is not read: {ADVICE}"
            )


def _bits(value: object) -> int:
    if value not in (4, 8) or not isinstance(value, int):
        raise UnsupportedModel(f"weights quantized to {value!r} bits are not read: {ADVICE}")
    return value


def _group(value: object) -> int | None:
    if value == -1 or value is None:
        return None
    if not isinstance(value, int) or value < 1:
        raise UnsupportedModel(
            f"group_size in quantization_config is {value!r}: download the model again"
        )
    return value
