"""Quantizes with IPEX, as its runner's settings say: MODEL WEIGHTS LOWP GROUP FOLDER.

Run in `.venv-ipex`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from models.lowp import Lowp
from models.model_key import Weights
from worker.llm.artifact import Source
from worker.llm.ipex.artifact import write_ipex_artifact
from worker.llm.ipex.recipe import IpexRecipe


def main() -> None:
    """Fill the folder, which is there and empty."""
    source, weights, lowp, group, target = sys.argv[1:]
    recipe = IpexRecipe(weights=Weights(weights), lowp=Lowp(lowp), group_size=int(group))
    made = Path(target) / "made"
    write_ipex_artifact(Path(source), made, recipe, source=Source(repository=source, digest=""))
    for path in made.iterdir():
        shutil.move(path, target)
    made.rmdir()


if __name__ == "__main__":
    main()
