"""Limits that control groups set to a process, versions 1 and 2. Torch-free; reads files only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from worker.backends.system_files import text_of

_NO_LIMIT_BYTES = 1 << 60  # cgroup v1 writes a number near 2**63 for "unlimited"


def memory_limits_bytes(root: Path) -> list[int]:
    """Every limit of memory that binds this process."""
    limits = (_memory_limit_bytes(folder) for folder in _cgroups(root, "memory"))
    return [limit for limit in limits if limit is not None]


def memory_left_bytes(root: Path) -> list[int]:
    """What each of these limits still allows; negative where more is used already."""
    return [
        limit - _memory_used_bytes(folder)
        for folder in _cgroups(root, "memory")
        if (limit := _memory_limit_bytes(folder)) is not None
    ]


def cpu_quotas(root: Path) -> list[float]:
    """Cores' worth of time, for every quota that binds this process."""
    return [quota for folder in _cgroups(root, "cpu") if (quota := _cpu_quota(folder))]


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders whose limits bind this process, its own first, then what contains it (v2 and v1).

    Inside a container the path in /proc/self/cgroup may be the host's; then the mount's root,
    which always comes last, is the container's own group.
    """
    mount = root / "sys/fs/cgroup"
    for line in text_of(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or controller in controllers.split(","):
            top = mount if number == "0" else mount / controller
            own = top / path.lstrip("/")
            yield from (own, *(parent for parent in own.parents if parent.is_relative_to(top)))


def _memory_limit_bytes(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        value = _read_number(folder / name)
        if value is not None and value < _NO_LIMIT_BYTES:
            return value
    return None


def _memory_used_bytes(folder: Path) -> int:
    """Memory charged to the group, without file cache that can be dropped at once."""
    v2, v1 = _read_number(folder / "memory.current"), _read_number(folder / "memory.usage_in_bytes")
    inactive = "inactive_file" if v2 is not None else "total_inactive_file"
    droppable = 0
    for line in text_of(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        droppable = int(value) if name == inactive else droppable
    return max(0, (v2 or v1 or 0) - droppable)


def _cpu_quota(folder: Path) -> float | None:
    """Cores' worth of time that the group may use; None: no limit."""
    words = text_of(folder / "cpu.max").split()
    if len(words) == 2 and words[0] != "max":
        return int(words[0]) / int(words[1])
    quota = _read_number(folder / "cpu.cfs_quota_us")
    period = _read_number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _read_number(path: Path) -> int | None:
    """None when there is no such file or it says `max`."""
    text = text_of(path).strip()
    return int(text) if text.isdigit() else None
