"""One compute thread for every test here: the matrices are small and the machine is shared.

And what is made once for all of them: the compiled kernels, a server of buckets.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.llm.bucket_server import serve_buckets
from worker.llm.native.kernels import Kernels


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Restore what was set, for tests elsewhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def kernel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are kept."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def kernels(kernel_folder: Path) -> Kernels:
    """Raises where the CPU has not what they need: for tests that need it."""
    return Kernels(kernel_folder)


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[str]:
    """Its URL."""
    with serve_buckets() as url:
        yield url
