"""Descriptions of machines, and models as demands."""

from __future__ import annotations

from worker.planning.demand import ModelDemand
from worker.planning.description import Core, Machine, Node

GIB = 1024**3
LLAMA_8B = ModelDemand("llama-8b:int8", 8 * GIB, 128 * 1024, 8192, 96)
SMALL_135M = ModelDemand("smol:int8", 135 * 1024**2, 22_500, 2048, 96)
TINY = ModelDemand("demo-model:int8", 2_800_000, 2048, 1024, 96)


def machine(
    nodes: int,
    cores_of_node: int,
    *,
    threads_per_core: int = 1,
    gib_of_node: int,
    cores_of_cache: int | None = None,
    free_gib: int | None = None,
    total_gib: int | None = None,
    quota_cores: float | None = None,
) -> Machine:
    """Numbered as Linux does on x86: first one hyperthread of every core, then the others."""
    total_cores = nodes * cores_of_node

    def node(number: int) -> Node:
        first = number * cores_of_node
        cores = tuple(
            Core(
                tuple(core + i * total_cores for i in range(threads_per_core)),
                core - (core - first) % (cores_of_cache or cores_of_node),
            )
            for core in range(first, first + cores_of_node)
        )
        return Node(number, cores, gib_of_node * GIB)

    whole_gib = nodes * gib_of_node
    return Machine(
        nodes=tuple(map(node, range(nodes))),
        total_bytes=(total_gib or whole_gib) * GIB,
        free_bytes=(free_gib or whole_gib) * GIB,
        quota_cores=quota_cores,
    )


TWO_SOCKETS = machine(2, 32, threads_per_core=2, gib_of_node=256)
LAPTOP = machine(1, 8, threads_per_core=2, gib_of_node=32, free_gib=24)
TWO_CORES = machine(1, 2, gib_of_node=23)
