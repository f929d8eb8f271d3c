"""The registry and what adds to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.errors import (
    ArtifactError,
    InputError,
    NotFoundError,
    SettingsError,
    UnsafeModel,
    UnsupportedModel,
)
from models.model_key import ModelKey, Weights
from tests.llm.tiny_models import make_reference, save_reference
from tests.llm.tiny_tokenizers import make_byte_level
from worker.llm.add import add_model
from worker.llm.artifact import MANIFEST_NAME, open_artifact
from worker.llm.registry import Registry, RegistryEntry, default_name


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = save_reference(make_reference(vocab_size=400), tmp_path / "My tiny (v1)")
    return make_byte_level(folder)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def test_an_added_model_is_found_listed_and_removed(source: Path, registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="nightshift model add"):
        registry.find(ModelKey("tiny", Weights.INT8))
    entry = add_model(registry, str(source), name="tiny", weights=Weights.INT8)
    assert entry.key == ModelKey("tiny", Weights.INT8)
    assert entry.folder == registry.root / "tiny" / "int8" == registry.find(entry.key)
    assert entry.source == str(source)
    assert entry.architecture == "llama, 2 layers, hidden 64"
    artifact = open_artifact(entry.folder, verify=True)
    assert (entry.digest, entry.bytes) == (artifact.digest, artifact.bytes)
    assert registry.entries() == [entry]
    registry.remove(entry.key)
    assert registry.entries() == []
    assert not entry.folder.exists()
    with pytest.raises(NotFoundError):
        registry.remove(entry.key)


def test_a_folder_is_found_again_from_elsewhere(
    source: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent.parent)
    relative = f"{source.parent.name}/{source.name}"  # like a name on the Hub
    entry = add_model(registry, relative, name="tiny", weights=Weights.INT8)
    assert entry.source == str(source)


def test_whoever_may_read_one_file_of_an_artifact_may_read_all(
    source: Path, registry: Registry
) -> None:
    folder = add_model(registry, str(source), name="tiny", weights=Weights.INT8).folder
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_a_name_alone_means_the_one_format_there_is(source: Path, registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="--name tiny"):
        registry.resolve("tiny", None)
    add_model(registry, str(source), name="tiny", weights=Weights.INT8)
    assert registry.resolve("tiny", None) == ModelKey("tiny", Weights.INT8)
    with pytest.raises(NotFoundError, match="tiny:int4"):
        registry.resolve("tiny", Weights.INT4)
    add_model(registry, str(source), name="tiny", weights=Weights.INT4)
    assert registry.resolve("tiny", Weights.INT4) == ModelKey("tiny", Weights.INT4)
    with pytest.raises(InputError, match="int4, int8"):
        registry.resolve("tiny", None)


def test_the_same_source_is_quantized_once(source: Path, registry: Registry) -> None:
    steps: list[int] = []

    def add() -> str:
        entry = add_model(
            registry, str(source), name="tiny", weights=Weights.INT8,
            progress=lambda done, _: steps.append(done),
        )  # fmt: skip
        return entry.digest

    first = add()
    made = len(steps)
    assert made > 0
    assert add() == first
    assert len(steps) == made
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.001}))
    assert add() != first
    assert len(steps) == 2 * made
    (registry.find(ModelKey("tiny", Weights.INT8)) / "config.json").unlink()  # damage
    add()
    assert len(steps) == 3 * made


ADD = """
import sys
from pathlib import Path
from models.model_key import Weights
from worker.llm.add import add_model
from worker.llm.registry import Registry
steps = []
add_model(Registry(Path(sys.argv[1])), sys.argv[2], name="tiny", weights=Weights.INT8,
          progress=lambda done, total: steps.append(done))
print(len(steps), "torch" in sys.modules)
"""


def test_processes_that_add_the_same_model_share_one_quantization(
    source: Path, registry: Registry
) -> None:
    command = [sys.executable, "-c", ADD, str(registry.root), str(source)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    worked = sorted(int(steps) for steps, _ in answers)
    assert worked[0] == 0 < worked[1]
    # Who finds the artifact there has not even loaded torch.
    assert ("0", "False") in {tuple(answer) for answer in answers}
    open_artifact(registry.find(ModelKey("tiny", Weights.INT8)), verify=True)


def test_looking_models_up_loads_no_torch(registry: Registry) -> None:
    code = (
        "import sys; from pathlib import Path; from worker.llm.registry import Registry;"
        "Registry(Path(sys.argv[1])).entries();"
        "sys.exit(bool({'torch', 'transformers', 'safetensors'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(registry.root)]).returncode == 0


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct"),
        ("/models/My tiny (v1)/", "My-tiny-v1-"),
        ("./.hidden", "hidden"),
        ("x/" + "a" * 200, "a" * 96),
    ],
)
def test_a_model_without_name_is_called_after_its_folder(source: str, name: str) -> None:
    assert default_name(source) == name
    assert str(ModelKey(default_name(source), Weights.INT8)) == f"{name}:int8"


def test_no_name_can_be_made_of_nothing() -> None:
    with pytest.raises(InputError, match="--name"):
        default_name("/")


def test_the_folder_name_is_the_default_name(source: Path, registry: Registry) -> None:
    entry = add_model(registry, str(source), weights=Weights.BF16)
    assert entry.key == ModelKey("My-tiny-v1-", Weights.BF16)


def test_what_is_no_artifact_is_not_listed(source: Path, registry: Registry) -> None:
    entry = add_model(registry, str(source), name="tiny", weights=Weights.INT8)
    for place in ("tiny/int3", "bad name/int8"):
        (registry.root / place).mkdir(parents=True)
        (registry.root / place / MANIFEST_NAME).write_text("{}")
    assert registry.entries() == [entry]
    (entry.folder / MANIFEST_NAME).write_text("{}")
    assert registry.entries() == []
    with pytest.raises(ArtifactError, match="cannot be read"):
        registry.entry(entry.key)


def test_what_is_removed_while_it_is_listed_is_left_out(
    source: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for weights in (Weights.INT4, Weights.INT8):
        entry = add_model(registry, str(source), name="tiny", weights=weights)
    read = Registry.entry

    def remove_int4_before(self: Registry, key: ModelKey) -> RegistryEntry:
        if key.weights is Weights.INT4:
            registry.remove(key)
        return read(self, key)

    monkeypatch.setattr(Registry, "entry", remove_int4_before)
    assert registry.entries() == [entry]


def test_an_artifact_that_is_replaced_is_there_while_the_old_one_is_deleted(
    source: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = add_model(registry, str(source), name="tiny", weights=Weights.INT8)
    (source / "generation_config.json").write_text("{}")
    delete, found = shutil.rmtree, []

    def look(folder: Path, *, ignore_errors: bool = False) -> None:
        if folder.exists():
            found.append(registry.entry(old.key).digest)
        delete(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr("worker.llm.artifact_folder.shutil.rmtree", look)
    new = add_model(registry, str(source), name="tiny", weights=Weights.INT8)
    assert found == [new.digest]
    assert new.digest != old.digest


def test_a_registry_that_cannot_be_written_is_told(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="NIGHTSHIFT_HOME"):
        add_model(Registry(tmp_path / "file"), str(source), name="tiny", weights=Weights.INT8)


def test_a_model_that_cannot_be_used_leaves_no_trace(source: Path, registry: Registry) -> None:
    (source / "tokenizer.json").rename(source / "elsewhere.json")
    with pytest.raises(UnsupportedModel, match="tokenizer"):
        add_model(registry, str(source), name="tiny", weights=Weights.INT8)
    (source / "elsewhere.json").rename(source / "tokenizer.json")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(UnsafeModel, match="pickled"):
        add_model(registry, str(source), name="tiny", weights=Weights.INT8)
    assert registry.entries() == []
    assert [p for p in registry.root.rglob("*") if p.is_dir()] == [registry.root / "tiny"]
