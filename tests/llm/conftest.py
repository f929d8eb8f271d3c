"""One compute thread for every test here: the matrices are small and the machine is shared.

And what is made once for all of them: the compiled kernels, a server of buckets, an artifact to
share.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.backend_name import BackendName
from models.model_key import Weights
from tests.llm.bucket_server import BUCKET, serve_buckets, use_buckets
from tests.llm.shared_files import FilesOfHub, FilesOfUrl, SharedFiles, use_hub
from tests.llm.tiny_models import make_reference, save_reference
from tests.llm.tiny_tokenizers import make_byte_level
from tests.llm.writable_hub import WritableHub, serve_writable_hub
from worker.llm.add import add_model
from worker.llm.artifact import Artifact, open_artifact
from worker.llm.native.kernels import Kernels
from worker.llm.registry import Registry
from worker.llm.remote_registry import RemoteRegistry


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


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small one of this machine, to be shared."""
    home = tmp_path_factory.mktemp("sharing")
    folder = make_byte_level(save_reference(make_reference(vocab_size=400), home / "source"))
    entry = add_model(Registry(home / "registry"), str(folder), name="tiny", weights=Weights.INT8)
    return open_artifact(entry.folder, verify=True)


@pytest.fixture
def writable_hub() -> Iterator[WritableHub]:
    """With an empty repository."""
    with serve_writable_hub() as running:
        yield running


@pytest.fixture(params=["folder", "memory", "s3", "hub"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SharedFiles:
    """An empty place of each kind."""
    match request.param:
        case "folder":
            return FilesOfUrl((tmp_path / "a shared folder").as_uri())
        case "memory":
            return FilesOfUrl(f"memory://{tmp_path}")
        case "hub":
            hub = request.getfixturevalue("writable_hub")
            use_hub(hub, monkeypatch)
            return FilesOfHub(hub)
    use_buckets(request.getfixturevalue("bucket_server"), monkeypatch)
    return FilesOfUrl(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def remote(store: SharedFiles) -> RemoteRegistry:
    """The same place, through Nightshift."""
    return RemoteRegistry(store.url, BackendName.NATIVE)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """That of another node."""
    return Registry(tmp_path / "other")
