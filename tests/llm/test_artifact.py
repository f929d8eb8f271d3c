"""Artifacts: whole or absent, checked, and loaded as what was converted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.errors import ArtifactError, NotFoundError, StorageFull, UnsafeModel, UnsupportedModel
from models.model_key import Weights
from tests.llm.tiny_models import in_memory, make_reference, save_reference
from worker.llm import artifact_writer, loading
from worker.llm.artifact import MANIFEST_NAME, Artifact, Source, file_sha256, open_artifact
from worker.llm.artifact_writer import write_artifact
from worker.llm.checkpoint import INDEX_NAME, Checkpoint
from worker.llm.config import read_model_config
from worker.llm.convert import convert, tensor_count
from worker.llm.decoder import Decoder
from worker.llm.kv_cache import KVCache
from worker.llm.linear import FloatLinear
from worker.llm.loading import StoredTensors, load_model
from worker.llm.packed import Segment, pack_step

SOURCE = Source(repository="test/tiny", commit="c0ffee", digest="d1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_reference(make_reference(), tmp_path / "source")


def write(folder: Path, destination: Path, weights: Weights = Weights.INT8) -> Artifact:
    return write_artifact(folder, destination, weights, source=SOURCE)


def logits(model: Decoder) -> Tensor:
    cache = KVCache(model.config, 4, 8, model.compute_dtype)
    return model.forward(pack_step([Segment(range(3, 20), 0, (2, 0, 3), True)], 8), cache)


@pytest.mark.parametrize("weights", Weights)
@pytest.mark.parametrize("tied", [False, True])
def test_a_loaded_artifact_computes_what_the_converted_model_does(
    weights: Weights, tied: bool, tmp_path: Path
) -> None:
    folder = save_reference(make_reference(tie_word_embeddings=tied), tmp_path / "source")
    artifact = open_artifact(write(folder, tmp_path / "out", weights).folder, verify=True)
    stored = StoredTensors(artifact.tensor_files)
    converted = dict(convert(read_model_config(folder), weights, Checkpoint(folder)))
    assert stored.keys() == converted.keys()
    assert all(torch.equal(stored[name], converted[name]) for name in converted)
    # Floating-point kernels may sum in another order where memory is aligned otherwise.
    found, expected = logits(load_model(artifact)), logits(in_memory(folder, weights))
    tolerance = 1e-5 if weights is Weights.FP32 else 0.05
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("weights", Weights)
@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}, {"attention_bias": True}])
def test_tensor_count_is_what_convert_yields(
    weights: Weights, options: dict[str, bool], tmp_path: Path
) -> None:
    folder = save_reference(make_reference(**options), tmp_path)
    config = read_model_config(folder)
    assert len(list(convert(config, weights, Checkpoint(folder)))) == tensor_count(config, weights)


def test_the_manifest_says_what_was_made_of_what(folder: Path, tmp_path: Path) -> None:
    (folder / "LICENSE.txt").write_text("terms")
    seen: list[tuple[int, int]] = []
    artifact = write_artifact(
        folder,
        tmp_path / "out",
        Weights.INT4,
        source=SOURCE,
        progress=lambda done, total: seen.append((done, total)),
    )
    manifest = json.loads((artifact.folder / MANIFEST_NAME).read_text())
    assert manifest["source"] == {
        "repository": "test/tiny",
        "revision": None,
        "commit": "c0ffee",
        "digest": "d1",
    }
    assert manifest["recipe"]["weights"] == "int4"
    assert manifest["recipe"]["group"] == 128
    assert manifest["tools"]["torch"] == torch.__version__
    present = {path.name for path in artifact.folder.iterdir()} - {MANIFEST_NAME}
    assert set(manifest["files"]) == present >= {"config.json", "LICENSE.txt"}
    assert all(
        file["sha256"] == file_sha256(artifact.folder / name)
        for name, file in manifest["files"].items()
    )
    assert seen == [(done, len(seen)) for done in range(1, len(seen) + 1)]


def test_equal_artifacts_have_equal_digests(folder: Path, tmp_path: Path) -> None:
    first, second = write(folder, tmp_path / "a"), write(folder, tmp_path / "b")
    other = write(folder, tmp_path / "c", Weights.INT4)
    assert first.digest == second.digest != other.digest


def test_int4_is_stored_as_plain_nibbles_and_scales(folder: Path, tmp_path: Path) -> None:
    (file,) = write(folder, tmp_path / "out", Weights.INT4).tensor_files
    tensors = load_file(file)
    assert tensors["layers.0.gate_up.weight"].dtype == torch.uint8
    assert tensors["layers.0.gate_up.weight"].shape == (224, 32)
    assert tensors["layers.0.down.scale"].shape == (64, 1)  # 112 inputs, filled up to 128
    assert tensors["lm_head.weight"].dtype == torch.uint8
    assert tensors["embedding.weight"].dtype == torch.bfloat16


def test_a_damaged_byte_is_found(folder: Path, tmp_path: Path) -> None:
    artifact = write(folder, tmp_path / "out")
    (file,) = artifact.tensor_files
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    open_artifact(artifact.folder, verify=False)  # sizes are right
    with pytest.raises(ArtifactError, match=f"{file.name} is damaged"):
        open_artifact(artifact.folder, verify=True)


@pytest.mark.parametrize("verify", [True, False])
def test_missing_and_shortened_files_are_found(folder: Path, tmp_path: Path, verify: bool) -> None:
    artifact = write(folder, tmp_path / "out")
    (file,) = artifact.tensor_files
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ArtifactError, match="cut short"):
        open_artifact(artifact.folder, verify=verify)
    file.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        open_artifact(artifact.folder, verify=verify)
    with pytest.raises(ArtifactError, match="missing or damaged"):
        load_model(artifact)


def test_a_tensor_that_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    artifact = write(folder, tmp_path / "out")
    (file,) = artifact.tensor_files
    tensors = load_file(file)
    del tensors["layers.1.down.scale"]
    save_file(tensors, file)
    with pytest.raises(ArtifactError, match=r"layers\.1\.down\.scale"):
        load_model(artifact)


@pytest.mark.parametrize("weights", [Weights.BF16, Weights.INT8, Weights.INT4])
@pytest.mark.parametrize("name", ["embedding.weight", "layers.0.mlp_norm.weight",
                                  "layers.1.qkv.weight", "layers.0.down.bias"])  # fmt: skip
def test_a_tensor_of_another_kind_is_named(tmp_path: Path, weights: Weights, name: str) -> None:
    folder = save_reference(make_reference(mlp_bias=True), tmp_path / "source")
    artifact = write(folder, tmp_path / "out", weights)
    (file,) = artifact.tensor_files
    tensors = load_file(file)
    for wrong in (tensors[name][:-1], tensors[name].to(torch.float16)):
        save_file(tensors | {name: wrong.contiguous()}, file)
        with pytest.raises(ArtifactError, match=rf"{name} is .* not "):
            load_model(artifact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "format 2"),
        (lambda m: m.pop("source"), "cannot be read"),
        (lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": ""}}), "outside of itself"),
    ],
)
def test_a_foreign_manifest_is_refused(
    folder: Path, tmp_path: Path, change: object, message: str
) -> None:
    artifact = write(folder, tmp_path / "out")
    manifest = json.loads((artifact.folder / MANIFEST_NAME).read_text())
    assert callable(change)
    change(manifest)
    (artifact.folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=message):
        open_artifact(artifact.folder, verify=False)


def test_a_folder_without_manifest_is_no_artifact(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="nightshift model add"):
        open_artifact(folder, verify=False)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pt2"])
def test_pickled_weights_alone_are_refused(folder: Path, tmp_path: Path, suffix: str) -> None:
    (folder / "model.safetensors").rename(folder / f"model{suffix}")
    with pytest.raises(UnsafeModel, match="safetensors"):
        write(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickled_weights_beside_safetensors_are_left_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")
    assert "pytorch_model.bin" not in write(folder, tmp_path / "out").manifest.files


def test_a_folder_without_weights_is_told_so(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match=r"no \*\.safetensors"):
        write(folder, tmp_path / "out")


def test_weights_that_do_not_fit_the_configuration_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    with pytest.raises(UnsupportedModel, match="do not belong together"):
        write(folder, tmp_path / "out")
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UnsupportedModel, match=r"no tensor model\.layers\.2"):
        write(folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_refused(
    folder: Path, tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    tensors = {n: t.to(dtype) for n, t in load_file(folder / "model.safetensors").items()}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UnsupportedModel, match="infinite values or NaN"):
        write(folder, tmp_path / "out")


def test_shards_give_the_same_artifact_as_one_file(tmp_path: Path) -> None:
    reference = make_reference()
    reference.save_pretrained(tmp_path / "one")
    reference.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    for weights in (Weights.BF16, Weights.INT8):
        one = write(tmp_path / "one", tmp_path / "a" / weights, weights)
        many = write(tmp_path / "many", tmp_path / "b" / weights, weights)
        assert one.digest == many.digest


def test_a_shard_index_may_not_leave_its_folder(tmp_path: Path) -> None:
    make_reference().save_pretrained(tmp_path / "many", max_shard_size="40KB")
    path = tmp_path / "many" / INDEX_NAME
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = "../../secret.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(UnsafeModel, match="outside"):
        Checkpoint(tmp_path / "many")


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": null}', "[" * 100_000, "no JSON"]
)
def test_a_shard_index_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / INDEX_NAME).write_text(text)
    with pytest.raises(UnsupportedModel, match="cannot be read"):
        Checkpoint(folder)


def test_a_large_model_is_written_in_several_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_writer, "FILE_BYTES", 20_000)
    artifact = write(folder, tmp_path / "out", Weights.BF16)
    assert len(artifact.tensor_files) > 4
    found, expected = logits(load_model(artifact)), logits(in_memory(folder, Weights.BF16))
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


def test_files_whose_tensors_were_packed_are_not_kept_in_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_writer, "FILE_BYTES", 20_000)
    monkeypatch.setattr(loading, "SMALL_TENSOR_BYTES", 0)
    artifact = write(folder, tmp_path / "out", Weights.BF16)
    stored = StoredTensors(artifact.tensor_files)
    for name in stored:
        tensor = stored[name]
        assert len(mapped_files(artifact.folder)) == 1
        del tensor


def mapped_files(folder: Path) -> set[str]:
    """The files of a folder that this process has mapped into memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if str(folder) in line}


def test_a_tied_output_layer_shares_the_memory_of_the_embedding(tmp_path: Path) -> None:
    folder = save_reference(make_reference(tie_word_embeddings=True), tmp_path)
    model = in_memory(folder, Weights.BF16)
    assert isinstance(model._weights.lm_head, FloatLinear)
    assert model._weights.lm_head._weight.data_ptr() == model._weights.embedding.weight.data_ptr()


def test_code_that_a_model_names_is_not_passed_on(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"A": "b.C"}, "bos_token": "<s>"}')
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    config = json.loads((folder / "config.json").read_text())
    config |= {"_attn_implementation": "org/kernel", "trust_remote_code": True}
    (folder / "config.json").write_text(json.dumps(config))
    artifact = write(folder, tmp_path / "out")
    assert "modeling_evil.py" not in artifact.manifest.files
    assert json.loads((artifact.folder / "tokenizer_config.json").read_text()) == {
        "bos_token": "<s>"
    }
    stored = json.loads((artifact.folder / "config.json").read_text())
    assert not {"_attn_implementation", "trust_remote_code"} & stored.keys()
    assert read_model_config(artifact.folder) == read_model_config(folder)


def test_an_error_leaves_nothing_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Iterator[tuple[str, Tensor]]:
        yield "embedding.weight", torch.zeros(4)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact_writer, "convert", full)
    with pytest.raises(StorageFull, match="no space left"):
        write(folder, tmp_path / "registry" / "int8")
    assert list((tmp_path / "registry").iterdir()) == []


def test_writing_again_replaces_the_artifact(folder: Path, tmp_path: Path) -> None:
    first = write(folder, tmp_path / "registry" / "x", Weights.INT8)
    second = write(folder, tmp_path / "registry" / "x", Weights.INT4)
    assert second.digest != first.digest
    assert open_artifact(tmp_path / "registry" / "x", verify=True).weights is Weights.INT4
    assert [path.name for path in (tmp_path / "registry").iterdir()] == ["x"]


KILLED = """
import os, signal, sys
from pathlib import Path
from models.model_key import Weights
from worker.llm.artifact import Source
from worker.llm.artifact_writer import write_artifact
def die(done, total):
    if done == total:
        os.kill(os.getpid(), signal.SIGKILL)
write_artifact(Path(sys.argv[1]), Path(sys.argv[2]), Weights.INT8,
               source=Source(repository="x", digest="x"), progress=die)
"""


def test_a_killed_writer_leaves_nothing_visible_and_the_next_one_cleans_up(
    folder: Path, tmp_path: Path
) -> None:
    destination = tmp_path / "registry" / "int8"
    command = [sys.executable, "-c", KILLED, str(folder), str(destination)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    left = list(destination.parent.iterdir())
    assert left
    assert all(path.name.startswith(".") for path in left)
    write(folder, destination)
    assert list(destination.parent.iterdir()) == [destination]


def test_an_artifact_can_be_moved(folder: Path, tmp_path: Path) -> None:
    artifact = write(folder, tmp_path / "out")
    shutil.move(artifact.folder, tmp_path / "moved")
    shutil.rmtree(folder)
    moved = open_artifact(tmp_path / "moved", verify=True)
    assert moved.digest == artifact.digest
    assert torch.isfinite(logits(load_model(moved))).all()
