"""Cores and memory are those that a container allows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from worker.backends.machine import (
    free_memory_bytes,
    peak_rss_bytes,
    total_memory_bytes,
    usable_cores,
)

MIB = 1024**2


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _v2(root: Path) -> Path:
    return _write(
        root,
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/box/memory.max": "max\n",
            "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/memory.max": f"{300 * MIB}\n",
            "sys/fs/cgroup/pod/memory.current": f"{120 * MIB}\n",
            "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {20 * MIB}\n",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
        },
    )


def _v1(root: Path) -> Path:
    return _write(
        root,
        {
            "proc/self/cgroup": "5:memory:/elsewhere\n1:cpu,cpuacct:/elsewhere\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{300 * MIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{120 * MIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"cache 3\ntotal_inactive_file {20 * MIB}\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )


@pytest.mark.parametrize("make", [_v1, _v2])
def test_container_limits_bind(make: Callable[[Path], Path], tmp_path: Path) -> None:
    root = make(tmp_path)
    assert free_memory_bytes(root) == 200 * MIB
    assert total_memory_bytes(root) == 300 * MIB
    assert usable_cores(root) == 1


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"},
        {
            "proc/self/cgroup": "5:memory:/\n1:cpu:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
)
def test_without_limits_the_machine_counts(files: dict[str, str], tmp_path: Path) -> None:
    root = _write(tmp_path, files)
    total = psutil.virtual_memory().total
    assert total_memory_bytes(root) == total
    assert 0 < free_memory_bytes(root) <= total
    assert 1 <= usable_cores(root) <= (psutil.cpu_count() or 1)


def test_hyperthreads_of_one_core_count_once(tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    folder = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    whole = ",".join(map(str, cpus))
    root = _write(tmp_path, {folder.format(cpu): f"{whole}\n" for cpu in cpus})
    assert usable_cores(root) == 1


def test_this_process_has_a_peak_of_memory() -> None:
    # may shrink in between, and the peak is rounded to pages
    assert peak_rss_bytes() >= psutil.Process().memory_info().rss // 2
