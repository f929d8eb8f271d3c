"""A machine is read as its files say, within what affinity, cpusets and containers allow."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.planning.trees import status, two_sockets, write_files
from worker.planning.cpu_lists import format_cpus, parse_cpus
from worker.planning.description import Cache, Core
from worker.planning.reading import read_machine

GIB = 1024**3


def test_cores_nodes_caches_and_memory_of_two_sockets(tmp_path: Path) -> None:
    machine = read_machine(two_sockets(tmp_path))
    assert [node.id for node in machine.nodes] == [0, 1]
    assert machine.nodes[0].cores == tuple(Core((n, n + 8), 0) for n in range(4))
    assert [core.cache_group for core in machine.nodes[1].cores] == [4, 4, 6, 6]
    assert (machine.num_cpus, machine.cpus_per_core) == (16, 2)
    assert [node.free_bytes for node in machine.nodes] == [40 * GIB, 40 * GIB]
    assert (machine.total_bytes, machine.free_bytes) == (128 * GIB, 80 * GIB)
    assert machine.quota_cores is None
    assert machine.caches == (
        Cache(1, 48 * 1024, 8),
        Cache(2, 2 * 1024**2, 8),
        Cache(3, 32 * 1024**2, 3),
    )


def test_a_cpuset_leaves_its_cores_and_its_memory(tmp_path: Path) -> None:
    root = write_files(two_sockets(tmp_path), {"proc/self/status": status("2-5,10", "0")})
    machine = read_machine(root)
    assert [[core.cpus for core in node.cores] for node in machine.nodes] == [
        [(2, 10), (3,)],
        [(4,), (5,)],
    ]
    assert [node.free_bytes for node in machine.nodes] == [40 * GIB, 0]


def test_a_cpu_that_is_switched_off_is_not_counted(tmp_path: Path) -> None:
    root = write_files(two_sockets(tmp_path), {"sys/devices/system/cpu/online": "0-7"})
    assert read_machine(root).num_cpus == 8


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/pod/box",
            "sys/fs/cgroup/pod/cpu.max": "650000 100000",
            "sys/fs/cgroup/pod/box/cpu.max": "max 100000",
            "sys/fs/cgroup/pod/box/memory.max": str(16 * GIB),
            "sys/fs/cgroup/pod/box/memory.current": str(3 * GIB),
            "sys/fs/cgroup/pod/box/memory.stat": f"anon 5\ninactive_file {GIB}",
        },
        {
            "proc/self/cgroup": "5:memory:/box\n1:cpu,cpuacct:/box",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "650000",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(16 * GIB),
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(3 * GIB),
            "sys/fs/cgroup/memory/box/memory.stat": f"total_inactive_file {GIB}",
        },
    ],
    ids=["v2", "v1"],
)
def test_a_container_s_limits_bind(files: dict[str, str], tmp_path: Path) -> None:
    machine = read_machine(write_files(two_sockets(tmp_path), files))
    assert machine.quota_cores == 6.5
    assert (machine.total_bytes, machine.free_bytes) == (16 * GIB, 14 * GIB)


def test_a_system_that_tells_nothing_is_one_node(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    (node,) = machine.nodes
    assert machine.num_cpus == os.cpu_count()
    assert machine.total_bytes == psutil.virtual_memory().total
    assert 0 < node.free_bytes == machine.free_bytes


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert {cpu for core in machine.cores for cpu in core.cpus} == os.sched_getaffinity(0)
    assert 0 < machine.free_bytes <= machine.total_bytes


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("", ()), ("3", (3,)), ("0-2", (0, 1, 2)), ("0-1,64-65,70", (0, 1, 64, 65, 70))],
)
def test_lists_of_cpus_are_the_kernel_s(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(f"{text}\n") == cpus
    assert format_cpus(reversed(cpus)) == text
