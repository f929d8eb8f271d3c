"""A machine less what the system keeps, cut into the rooms that workers may share. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from worker.backends.kv_memory import reserve_bytes
from worker.planning.description import Core, Machine, Node

_MOST_RESERVED_CPUS = 4
_CPUS_FOR_ONE_RESERVED = 8


@dataclass(frozen=True, slots=True)
class Reserve:
    """What the system keeps."""

    cores: tuple[Core, ...]
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Room:
    """One NUMA node's cores and memory, or those of all nodes."""

    node_ids: tuple[int, ...]
    cores: tuple[Core, ...]
    width_cores: int  # time of so many cores may be used: fewer than there are under a quota
    budget_bytes: int

    @property
    def is_shared(self) -> bool:
        """Whether its cores are not given out one by one.

        Containers with a quota see all cores. Held to the first few of them, they would meet there.
        """
        return self.width_cores < len(self.cores)


def reserve_of(machine: Machine) -> Reserve:
    """One hyperthread in eight, at most four, in whole cores; and memory as the KV cache leaves it.

    The cores are the first ones of each node in turn, where most interrupts go. None where a
    quota is less than the machine: then the rest of it is the system's.
    """
    cpus = min(_MOST_RESERVED_CPUS, machine.num_cpus // _CPUS_FOR_ONE_RESERVED)
    n_cores = 0 if _binding_quota(machine) else cpus // machine.cpus_per_core
    in_turn = chain.from_iterable(zip_longest(*(node.cores for node in machine.nodes)))
    cores = tuple(core for core in in_turn if core is not None)[:n_cores]
    return Reserve(cores, reserve_bytes(machine.total_bytes))


def most_rooms(machine: Machine) -> int:
    """Nodes that can be used at once: a quota may be too little for all of them."""
    quota = _binding_quota(machine)
    if quota is None:
        return len(machine.nodes)
    widest = max(len(node.cores) for node in machine.nodes)
    return min(len(machine.nodes), math.ceil(quota / widest))


def node_rooms(machine: Machine, count: int) -> tuple[Room, ...]:
    """The `count` nodes with most cores, then most memory; a container's limits are shared out."""
    chosen = sorted(machine.nodes, key=lambda node: (-len(node.cores), -node.free_bytes))[:count]
    return tuple(_rooms(machine, sorted(chosen, key=lambda node: node.id)))


def whole_room(machine: Machine) -> Room:
    """All nodes as one, for a worker that no node holds."""
    cores = _left_cores(machine, machine.nodes)
    quota = _binding_quota(machine)
    ids = tuple(node.id for node in machine.nodes)
    return Room(ids, cores, min(quota or len(cores), len(cores)), _budget_bytes(machine))


def _rooms(machine: Machine, nodes: Sequence[Node]) -> Iterator[Room]:
    free_bytes = sum(node.free_bytes for node in nodes)
    quota = _binding_quota(machine)
    for node in nodes:
        cores = _left_cores(machine, [node])
        width = len(cores) if quota is None else min(len(cores), max(1, quota // len(nodes)))
        share = node.free_bytes / free_bytes if free_bytes else 0.0
        budget = min(node.free_bytes, int(_budget_bytes(machine) * share))
        yield Room((node.id,), cores, width, budget)


def _budget_bytes(machine: Machine) -> int:
    return max(0, machine.free_bytes - reserve_of(machine).memory_bytes)


def _left_cores(machine: Machine, nodes: Sequence[Node]) -> tuple[Core, ...]:
    reserved = set(reserve_of(machine).cores)
    return tuple(core for node in nodes for core in node.cores if core not in reserved)


def _binding_quota(machine: Machine) -> int | None:
    """Whole cores' worth of time, where that is less than the cores there are."""
    quota = machine.quota_cores
    return max(1, int(quota)) if quota is not None and quota < len(machine.cores) else None
