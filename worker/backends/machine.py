"""What this machine gives to one process: cores and memory, container limits included.

Must not know torch: threads are counted before it is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from worker.backends.cgroups import cpu_quotas, memory_left_bytes, memory_limits_bytes
from worker.backends.system_files import text_of

SYSTEM_ROOT = Path("/")
CPU_FOLDER = Path("sys/devices/system/cpu")


def usable_cores(root: Path = SYSTEM_ROOT) -> int:
    """Physical cores that this process may use: affinity and CPU quota, at least one.

    Two hyperthreads of one core share its vector units, so they count as one.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len({hyperthreads_of(root, cpu) or str(cpu) for cpu in os.sched_getaffinity(0)})
    else:
        cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(1, min([cores, *map(int, cpu_quotas(root))]))


def hyperthreads_of(root: Path, cpu: int) -> str:
    """The CPUs of the same core, as the kernel lists them; empty where it does not tell."""
    path = root / CPU_FOLDER / f"cpu{cpu}/topology/thread_siblings_list"
    return text_of(path).strip()


def free_memory_bytes(root: Path = SYSTEM_ROOT) -> int:
    """Memory that can still be taken without swapping or meeting a container's limit."""
    return max(0, min([int(psutil.virtual_memory().available), *memory_left_bytes(root)]))


def total_memory_bytes(root: Path = SYSTEM_ROOT) -> int:
    """The machine's memory, or the smallest container limit where that is less."""
    return min([int(psutil.virtual_memory().total), *memory_limits_bytes(root)])


def peak_rss_bytes() -> int:
    """The most memory that this process ever held.

    VmHWM, because getrusage also counts what the parent held when it started this process.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no procfs on this system
    return int(psutil.Process().memory_info().rss)
