"""Files of /sys and /proc as Linux writes them, below a folder of the test's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CPUS = "sys/devices/system/cpu"
NODES = "sys/devices/system/node"


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """Write each file with a newline at its end; returns the root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def two_sockets(root: Path) -> Path:
    """Two sockets of four cores with two hyperthreads each; the second has two last-level caches.

    A third node is memory alone, as CXL devices are.
    """
    files = {
        f"{CPUS}/online": "0-15",
        "proc/self/status": status("0-15", "0-2"),
        "proc/meminfo": "MemTotal:  134217728 kB\nMemFree:  9 kB\nMemAvailable:  83886080 kB",
        "proc/self/cgroup": "0::/",
    }
    for cpu in range(16):
        core = cpu % 8
        last_level = "0-3,8-11" if core < 4 else "4-5,12-13" if core < 6 else "6-7,14-15"
        files |= cache_files(cpu, 0, 1, "Data", "48K", f"{core},{core + 8}")
        files |= cache_files(cpu, 1, 1, "Instruction", "32K", f"{core},{core + 8}")
        files |= cache_files(cpu, 2, 2, "Unified", "2048K", f"{core},{core + 8}")
        files |= cache_files(cpu, 3, 3, "Unified", "32M", last_level)
        files[f"{CPUS}/cpu{cpu}/topology/thread_siblings_list"] = f"{core},{core + 8}"
    for node, cpus in enumerate(("0-3,8-11", "4-7,12-15", "")):
        files[f"{NODES}/node{node}/cpulist"] = cpus
        files[f"{NODES}/node{node}/meminfo"] = node_memory(node)
    return write_files(root, files)


def status(cpus: str, mems: str) -> str:
    """/proc/self/status, as far as it matters."""
    return (
        f"Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{mems}"
    )


def cache_files(
    cpu: int, index: int, level: int, kind: str, size: str, shared: str
) -> dict[str, str]:
    """One cache as one of its CPUs tells of it."""
    folder = f"{CPUS}/cpu{cpu}/cache/index{index}"
    return {
        f"{folder}/level": str(level),
        f"{folder}/type": kind,
        f"{folder}/size": size,
        f"{folder}/shared_cpu_list": shared,
    }


def node_memory(node: int) -> str:
    """A node of 64 GiB, of which 40 GiB are free or hold files."""
    figures = {
        "MemTotal": 64 << 20,
        "MemFree": 30 << 20,
        "MemUsed": 34 << 20,
        "Active(file)": 4 << 20,
        "Inactive(file)": 5 << 20,
        "FilePages": 10 << 20,
        "KReclaimable": 1 << 20,
    }
    lines = [f"Node {node} {name}:  {value} kB" for name, value in figures.items()]
    return "\n".join([*lines, f"Node {node} HugePages_Total:     0"])
