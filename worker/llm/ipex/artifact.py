"""A model quantized by IPEX on disk: an artifact like any other, whose recipe says what made it.

Quantized once; loading reads integers and scales and quantizes nothing. safetensors and JSON, no
pickle: `torch.save` of an IPEX model would be one.
"""

from __future__ import annotations

from pathlib import Path

from models.backend_name import BackendName
from models.lowp import Lowp
from worker.llm.artifact import Artifact, Source
from worker.llm.artifact_contents import Contents
from worker.llm.artifact_writer import Making, Progress, write_contents
from worker.llm.checkpoint import Checkpoint
from worker.llm.config import kept_config, parse_model_config, read_config_json, read_model_config
from worker.llm.ipex.model import IpexModel, build_model
from worker.llm.ipex.quantize import quantized_tensors, tensor_count
from worker.llm.ipex.recipe import IpexRecipe, read_recipe
from worker.llm.loading import StoredTensors

TOOLS = ("torch", "safetensors", "transformers", "intel-extension-for-pytorch")


def write_ipex_artifact(
    source_folder: Path,
    destination: Path,
    recipe: IpexRecipe,
    *,
    source: Source,
    progress: Progress | None = None,
) -> Artifact:
    """Quantize the Hugging Face model in `source_folder` into an artifact at `destination`.

    Appears there whole or not at all. Raises UnsafeModel, UnsupportedModel, NotFoundError, and
    StorageFull when the disk cannot hold it.
    """
    raw_config = read_config_json(source_folder)
    config = parse_model_config(raw_config)
    contents = Contents(
        architecture=config.architecture,
        config=kept_config(raw_config),
        tensors=quantized_tensors(config, recipe, Checkpoint(source_folder)),
        n_tensors=tensor_count(config, recipe),
    )
    making = Making(
        weights=recipe.weights,
        recipe=recipe.as_manifest(),
        source=source,
        tools=TOOLS,
        backend=BackendName.IPEX,
    )
    return write_contents(source_folder, destination, contents, making, progress)


def load_ipex_model(
    artifact: Artifact, *, context_tokens: int | None = None, lowp: Lowp | None = None
) -> IpexModel:
    """The model of an artifact that `write_ipex_artifact` made, ready for `generate`.

    `context_tokens` bounds prompt and answer together: IPEX keeps tables for every position.
    `lowp` takes the place of the recipe's. Raises ArtifactError for an artifact of another backend,
    or a damaged one, and InputError where `lowp` needs other weights than the stored ones.
    """
    recipe = read_recipe(artifact.manifest.recipe)
    if lowp is not None:
        recipe = recipe.with_lowp(lowp)
    config = read_model_config(artifact.folder)
    return build_model(config, recipe, StoredTensors(artifact.tensor_files), context_tokens)
