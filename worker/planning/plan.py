"""How many workers of a model fit on a node, and which part of it each gets. Pure and torch-free.

The rule and its reasons are docs/decisions/0017-node-planning.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from models.errors import SettingsError
from models.quantities import format_bytes
from worker.planning.demand import ModelDemand
from worker.planning.description import Core, Machine
from worker.planning.rooms import Reserve, Room, most_rooms, node_rooms, reserve_of, whole_room

WIDEST_CORES = 32
WEIGHT_BYTES_PER_CORE = 32 * 1024**2
LEAST_CORES = 2  # the engine's and its worker's


@dataclass(frozen=True, slots=True)
class WorkerShare:
    """What one worker gets."""

    node_ids: tuple[int, ...]
    cpus: tuple[int, ...]  # that it may run on
    threads: int  # that its engine computes with
    kv_cache_bytes: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The workers of a node, those of one NUMA node after the other; at least one."""

    workers: tuple[WorkerShare, ...]
    reserve: Reserve
    notes: tuple[str, ...]  # what a reader would not expect, a sentence each


def plan_workers(machine: Machine, demand: ModelDemand, instances: int | None = None) -> Plan:
    """A plan of as many workers as serve best, or of exactly `instances`.

    On as many NUMA nodes as have room for a worker each; over several nodes only where no node
    alone has. Raises SettingsError, in one sentence, where it does not fit.
    """
    most = min(most_rooms(machine), instances or len(machine.nodes))
    for count in range(most, 0, -1):
        rooms = node_rooms(machine, count)
        if counts := _counts(rooms, demand, instances):
            return _plan(machine, rooms, counts, demand)
    room = whole_room(machine)
    if counts := _counts([room], demand, instances):
        return _plan(machine, [room], counts, demand)
    raise SettingsError(_problem(machine, room, demand, instances))


def worker_cores(demand: ModelDemand) -> int:
    """The cores that one worker makes good use of."""
    wide = max(1, min(WIDEST_CORES, demand.weight_bytes // WEIGHT_BYTES_PER_CORE))
    return demand.threads or max(LEAST_CORES, wide)


def _counts(rooms: Sequence[Room], demand: ModelDemand, instances: int | None) -> list[int]:
    """Workers of each room; none at all where one of the rooms has no place for its own."""
    if instances is None:
        counts = [_best_count(room, demand) for room in rooms]
    else:
        counts = _distribute(instances, [room.width_cores for room in rooms])
    fits = (
        0 < n <= room.width_cores and _kv_budget(room, n, demand) >= demand.least_kv_bytes
        for room, n in zip(rooms, counts, strict=True)
    )
    return counts if all(fits) else []


def _best_count(room: Room, demand: ModelDemand) -> int:
    """Workers about as wide as is good, but no more than memory feeds well."""
    count = max(1, round(room.width_cores / worker_cores(demand)))
    if demand.threads is None:
        count = max(1, min(count, room.width_cores // LEAST_CORES))
    while count > 1 and _kv_budget(room, count, demand) < demand.good_kv_bytes:
        count -= 1
    return count


def _distribute(instances: int, widths: Sequence[int]) -> list[int]:
    """So many workers over rooms; the next one goes where each has most cores."""
    counts = [0] * len(widths)
    for _ in range(instances):
        widest = max(range(len(widths)), key=lambda i: widths[i] / (counts[i] + 1))
        counts[widest] += 1
    return counts


def _kv_budget(room: Room, count: int, demand: ModelDemand) -> int:
    return room.budget_bytes // count - demand.fixed_bytes


def _plan(
    machine: Machine, rooms: Sequence[Room], counts: Sequence[int], demand: ModelDemand
) -> Plan:
    workers = tuple(
        share
        for room, count in zip(rooms, counts, strict=True)
        for share in _shares(machine, room, count, demand)
    )
    return Plan(workers, reserve_of(machine), tuple(_notes(machine, rooms, workers)))


def _shares(machine: Machine, room: Room, count: int, demand: ModelDemand) -> list[WorkerShare]:
    kv_bytes = min(_kv_budget(room, count, demand), demand.most_kv_bytes)
    if demand.kv_cache_bytes is not None:
        kv_bytes = demand.kv_cache_bytes
    if room.is_shared:
        widths = [len(part) for part in cut(range(room.width_cores), count)]
        parts: list[Sequence[Core]] = [room.cores] * count
    else:
        parts = _cut_cores(room.cores, count)
        widths = [len(part) for part in parts]
    return [
        WorkerShare(
            node_ids=_nodes_of(machine, part),
            cpus=tuple(sorted(cpu for core in part for cpu in core.cpus)),
            threads=demand.threads or (1 if demand.is_tiny else width),
            kv_cache_bytes=kv_bytes,
            kv_tokens=kv_bytes // demand.kv_bytes_per_token,
        )
        for part, width in zip(parts, widths, strict=True)
    ]


def cut(items: Sequence[int], count: int) -> list[Sequence[int]]:
    """Consecutive parts whose lengths differ by one at most."""
    ends = [round(len(items) * i / count) for i in range(count + 1)]
    return [items[a:b] for a, b in pairwise(ends)]


def _cut_cores(cores: Sequence[Core], count: int) -> list[Sequence[Core]]:
    """Parts as equal as `cut` makes them, or nearly so where whole caches then go to one part."""
    borders = [i for i in range(1, len(cores)) if _begins_cache(cores, i)]
    ends = [0]
    for i in range(1, count):
        even = round(len(cores) * i / count)
        near = min(borders, key=lambda border: abs(border - even), default=even)
        ends.append(near if abs(near - even) * 8 * count <= len(cores) else even)
    ends.append(len(cores))
    return [cores[a:b] for a, b in pairwise(ends)]


def _begins_cache(cores: Sequence[Core], index: int) -> bool:
    return cores[index].cache_group != cores[index - 1].cache_group


def _nodes_of(machine: Machine, cores: Sequence[Core]) -> tuple[int, ...]:
    return tuple(node.id for node in machine.nodes if set(node.cores) & set(cores))


def _notes(machine: Machine, rooms: Sequence[Room], workers: Sequence[WorkerShare]) -> list[str]:
    notes = []
    if any(len(share.node_ids) > 1 for share in workers):
        notes.append("a worker spans NUMA nodes, because no node alone has room for it")
    if any(room.is_shared for room in rooms):
        notes.append(
            "a quota limits the time and not which cores are used: workers may run on all cores of "
            "their NUMA node"
        )
    used = {node_id for room in rooms for node_id in room.node_ids}
    idle = ", ".join(str(node.id) for node in machine.nodes if node.id not in used)
    if idle:
        notes.append(f"NUMA node {idle} stays unused, because no more workers fit")
    return notes


def _problem(machine: Machine, room: Room, demand: ModelDemand, instances: int | None) -> str:
    """Why nothing fits, and what to do about it."""
    wanted = instances or 1
    if wanted > room.width_cores:
        return (
            f"{wanted} workers need a core each and {room.width_cores} may be used here: "
            f"give --instances {room.width_cores} or less"
        )
    one = demand.fixed_bytes + demand.least_kv_bytes
    fitting = room.budget_bytes // one
    if wanted > 1 and fitting:
        advice = f"give --instances {fitting} or less, or use weights that take less memory"
    else:
        advice = "stop other programs, use weights that take less memory (int8, int4), or a machine"
        advice += " with more memory"
    return (
        f"{wanted} worker{'s' if wanted > 1 else ''} of {demand.name} with "
        f"{format_bytes(demand.weight_bytes)} of weights and {format_bytes(demand.least_kv_bytes)} "
        f"of KV cache take {format_bytes(wanted * one)}, and of {format_bytes(machine.free_bytes)} "
        f"free memory {format_bytes(room.budget_bytes)} are left beside the system's: {advice}"
    )
