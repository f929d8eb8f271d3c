"""Reads a node's description from /sys and /proc below a root; tests have trees of recorded files.

Which CPUs and memory nodes may be used is what the kernel says of this process: that is its
affinity within the cpusets of its control groups, of either version.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil

from worker.backends.cgroups import cpu_quotas, memory_left_bytes, memory_limits_bytes
from worker.backends.machine import CPU_FOLDER, SYSTEM_ROOT, hyperthreads_of
from worker.backends.system_files import text_of
from worker.planning.cpu_lists import parse_cpus
from worker.planning.description import Cache, Core, Machine, Node

_NODES = Path("sys/devices/system/node")
_CACHE_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# What a node gives without swapping; the kernel tells it of the whole machine only.
_FREE_OF_NODE = ("MemFree", "Active(file)", "Inactive(file)", "KReclaimable")


def read_machine(root: Path = SYSTEM_ROOT) -> Machine:
    """The description of this node, as far as this process may use it."""
    allowed = _allowed_cpus(root)
    whole = _memory_bytes(text_of(root / "proc/meminfo"))
    memory = psutil.virtual_memory() if not whole else None
    total = memory.total if memory else whole["MemTotal"]
    free = memory.available if memory else whole["MemAvailable"]
    free = max(0, min([free, *memory_left_bytes(root)]))
    return Machine(
        nodes=tuple(_nodes(root, allowed, free)),
        total_bytes=min([total, *memory_limits_bytes(root)]),
        free_bytes=free,
        quota_cores=min(cpu_quotas(root), default=None),
        caches=tuple(_caches(root, allowed)),
    )


def _allowed_cpus(root: Path) -> tuple[int, ...]:
    listed = _fields(text_of(root / "proc/self/status")).get("Cpus_allowed_list", "")
    online = parse_cpus(text_of(root / CPU_FOLDER / "online"))
    cpus = parse_cpus(listed)
    if online:
        cpus = tuple(cpu for cpu in cpus if cpu in online)
    return cpus or tuple(range(os.cpu_count() or 1))


def _nodes(root: Path, allowed: Iterable[int], free_bytes: int) -> Iterator[Node]:
    """The NUMA nodes that have a usable core; one of everything where the system knows of none."""
    usable, found = set(allowed), False
    for folder in sorted((root / _NODES).glob("node[0-9]*"), key=_number):
        cpus = usable.intersection(parse_cpus(text_of(folder / "cpulist")))
        if cpus:
            found = True
            yield Node(_number(folder), _cores(root, cpus), _free_bytes(root, folder))
    if not found:
        yield Node(0, _cores(root, usable), free_bytes)


def _cores(root: Path, cpus: Iterable[int]) -> tuple[Core, ...]:
    siblings: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for cpu in sorted(cpus):
        listed = parse_cpus(hyperthreads_of(root, cpu))
        siblings[listed or (cpu,)].append(cpu)
    return tuple(Core(tuple(own), _cache_group(root, own[0])) for own in siblings.values())


def _cache_group(root: Path, cpu: int) -> int:
    """The first CPU that shares the last-level cache, as the name of the group."""
    levels = {
        int(text_of(folder / "level") or 0): parse_cpus(text_of(folder / "shared_cpu_list"))
        for folder in _cache_folders(root, cpu)
    }
    sharing = levels[max(levels)] if levels else ()
    return sharing[0] if sharing else 0


def _caches(root: Path, cpus: Iterable[int]) -> Iterator[Cache]:
    """Each cache once, whichever of its CPUs tells of it."""
    seen = {
        (
            int(text_of(folder / "level") or 0),
            text_of(folder / "size").strip(),
            shared,
        )
        for cpu in cpus
        for folder in _cache_folders(root, cpu)
        if (shared := text_of(folder / "shared_cpu_list").strip())
    }
    counts = Counter((level, _cache_bytes(size)) for level, size, _ in seen)
    for (level, size_bytes), count in sorted(counts.items()):
        yield Cache(level, size_bytes, count)


def _cache_folders(root: Path, cpu: int) -> Iterator[Path]:
    for folder in sorted((root / CPU_FOLDER / f"cpu{cpu}/cache").glob("index[0-9]*")):
        if text_of(folder / "type").strip() != "Instruction":
            yield folder


def _cache_bytes(text: str) -> int:
    unit = _CACHE_UNITS.get(text[-1:], 1)
    return int(text.rstrip("KMG") or 0) * unit


def _free_bytes(root: Path, node: Path) -> int:
    """Nothing where this process gets no memory of the node."""
    mems = _fields(text_of(root / "proc/self/status")).get("Mems_allowed_list")
    if mems is not None and _number(node) not in parse_cpus(mems):
        return 0
    prefix = f"Node {_number(node)} "
    memory = _memory_bytes(text_of(node / "meminfo").replace(prefix, ""))
    return sum(memory.get(name, 0) for name in _FREE_OF_NODE)


def _memory_bytes(text: str) -> dict[str, int]:
    """The figures of a file like /proc/meminfo, which are in kB."""
    return {
        name: int(value.split()[0]) * 1024
        for name, value in _fields(text).items()
        if value.split()[:1] and value.split()[0].isdigit()
    }


def _fields(text: str) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _number(folder: Path) -> int:
    return int(folder.name.lstrip("node"))
