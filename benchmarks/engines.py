"""The engines that are measured, each with the best settings that were found for it.

Data only; how their models are made is in `prepare.py`, how they run in `trials.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.job import Setting
from benchmarks.workloads import WORK_NAMES, Workload

MODEL_WORKS = ("A", "B", "long", "single")
LOWP_MODES = ("none", "fp16", "bf16", "int8")  # of IPEX


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One engine with one kind of weights."""

    name: str
    runner: str  # module
    model: str  # what `prepare.py` makes for it
    # A file of benchmarks/environments; None: the project's own; "ipex": the project's for IPEX.
    environment: str | None
    works: tuple[str, ...] = MODEL_WORKS
    settings: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether it is Nightshift."""
        return self.name.startswith("nightshift-")

    def settings_for(self, workload: Workload) -> dict[str, Setting]:
        """The settings for one workload: a prefix cache is on where there are prefixes to share,
        for engines that leave the choice."""
        settings = dict(self.settings)
        if "prefix_cache" in settings:
            settings["prefix_cache"] = workload.shared_prefix_tokens > 0
        return settings


def _native(weights: str) -> EngineSpec:
    return EngineSpec(
        name=f"nightshift-{weights}",
        runner="benchmarks.engine_runner",
        model=f"nightshift-{weights}",
        environment=None,
        works=(*MODEL_WORKS, "brief"),
        settings={"sequences": 96, "step_tokens": 512},
    )


def _vllm(kind: str) -> EngineSpec:
    return EngineSpec(
        name=f"vllm-{kind}",
        runner="benchmarks.peers.vllm_runner",
        model=kind,
        environment="vllm",
        settings={"sequences": 96, "cache_gib": 4, "context_tokens": 2048},
    )


def _openvino(weights: str) -> EngineSpec:
    return EngineSpec(
        name=f"openvino-{weights}",
        runner="benchmarks.peers.openvino_runner",
        model=f"openvino-{weights}",
        environment="openvino",
        settings={
            "sequences": 96,
            "step_tokens": 256,
            "cache_gib": 3,
            "prefix_cache": False,
            "precision": "bf16",
            "group": "128",
        },
    )


def _llama_cpp(file_type: str) -> EngineSpec:
    return EngineSpec(
        name=f"llama-cpp-{file_type}",
        runner="benchmarks.peers.llama_cpp_runner",
        model=f"gguf-{file_type}",
        environment="llama_cpp",
        settings={
            "sequences": 32,
            "step_tokens": 512,
            "context_tokens": 32 * 1600,
            "unified": False,
        },
    )


def _ipex(weights: str, lowp: str) -> EngineSpec:
    return EngineSpec(
        name=f"ipex-{weights}-{lowp}",
        runner="benchmarks.peers.ipex_runner",
        # Other weights serve all but int8 by int8, which cannot have zero points.
        model=f"ipex-{weights}-{'int8' if weights == lowp else 'bf16'}",
        environment="ipex",
        works=("A", "brief"),
        settings={"batch": 32, "lowp": lowp},
    )


_TRANSFORMERS = EngineSpec(
    name="transformers-bf16",
    runner="benchmarks.peers.transformers_runner",
    model="bf16",
    environment=None,
    settings={"batch": 32},
)
_PIPELINE = EngineSpec(
    name="nightshift-run",
    runner="benchmarks.pipeline_runner",
    model="demo",
    environment=None,
    works=("short",),
    settings={"model": "demo-model", "weights": "int8"},
)

ENGINES = {
    spec.name: spec
    for spec in (
        *(_native(weights) for weights in ("int8", "int4", "bf16")),
        _PIPELINE,
        *(_vllm(kind) for kind in ("w8a8", "bf16")),
        *(_openvino(weights) for weights in ("int8", "int4")),
        *(_llama_cpp(file_type) for file_type in ("q8_0", "q4_0")),
        _TRANSFORMERS,
        *(_ipex(weights, lowp) for weights in ("int8", "int4") for lowp in LOWP_MODES),
    )
}


def choose_engines(text: str) -> list[EngineSpec]:
    """Engines by name, comma-separated; `ours`, `peers`, `ipex` and `all` stand for several.

    IPEX is in none of the others: where it lacks its kernels, one trial takes minutes.
    Raises ValueError that names what there is.
    """
    ipex = [name for name, spec in ENGINES.items() if spec.environment == "ipex"]
    others = [name for name in ENGINES if name not in ipex]
    groups = {
        "all": others,
        "ours": [name for name in others if ENGINES[name].is_ours],
        "peers": [name for name in others if not ENGINES[name].is_ours],
        "ipex": ipex,
    }
    names = [name for part in text.split(",") for name in groups.get(part, [part])]
    _refuse_unknown(names, [*groups, *ENGINES], "engine")
    return [ENGINES[name] for name in dict.fromkeys(names)]


def choose_works(text: str) -> list[str]:
    """Works by name, comma-separated, or `all`; raises ValueError that names what there is."""
    names = list(WORK_NAMES) if text == "all" else text.split(",")
    _refuse_unknown(names, ["all", *WORK_NAMES], "work")
    return list(dict.fromkeys(names))


def _refuse_unknown(names: list[str], known: list[str], kind: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"there is no {kind} {name!r}; choose from {', '.join(known)}")
