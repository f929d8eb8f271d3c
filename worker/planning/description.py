"""A node as the planner sees it: cores, NUMA nodes, caches and memory. Values only, read elsewhere.

Only what this process may use is in it: affinity, cpusets and container limits are applied.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Core:
    """One physical core."""

    cpus: tuple[int, ...]  # its hyperthreads that may be used, as the system numbers them
    cache_group: int  # cores with one number share their last-level cache


@dataclass(frozen=True, slots=True)
class Node:
    """One NUMA node: cores with memory of their own. Most machines are one node."""

    id: int
    cores: tuple[Core, ...]
    free_bytes: int  # can be taken without swapping


@dataclass(frozen=True, slots=True)
class Cache:
    """The caches of one level and size; those for instructions are left out."""

    level: int
    size_bytes: int
    count: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that a plan is made from. Every node has a core."""

    nodes: tuple[Node, ...]
    total_bytes: int  # or the smallest container limit
    free_bytes: int  # of all nodes together, within the container's limits
    quota_cores: float | None = None  # a container's limit of CPU time; None: none
    caches: tuple[Cache, ...] = ()

    @property
    def cores(self) -> tuple[Core, ...]:
        """The cores of all nodes."""
        return tuple(core for node in self.nodes for core in node.cores)

    @property
    def num_cpus(self) -> int:
        """Hyperthreads of all cores."""
        return sum(len(core.cpus) for core in self.cores)

    @property
    def cpus_per_core(self) -> int:
        """Hyperthreads of the core that has most."""
        return max(len(core.cpus) for core in self.cores)
