"""`python -m tests.fuzz.coverage_guided [-max_total_time=300]`: atheris looks for new paths.

It mutates the kept corpus, guided by which lines of the reader an input reaches. What reaches new
ones goes to `corpus/found`, which git ignores; an input that breaks a rule ends the run and is
written to `corpus/new.input`: the ordinary test fails on it until the reader is right. Give it a
name that says what it is, then.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["models"]):
    from tests.fuzz.reading import check_input

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Run libFuzzer with its own flags; it ends the process."""
    found = CORPUS / "found"
    found.mkdir(exist_ok=True)
    folder = Path(tempfile.gettempdir()) / "nightshift-fuzz"
    folder.mkdir(exist_ok=True)
    options = [f"-exact_artifact_path={CORPUS / 'new.input'}", "-max_len=2048"]
    # New inputs are written to the first folder; the others are read.
    arguments = [sys.argv[0], *options, *sys.argv[1:], str(found), str(CORPUS)]
    atheris.Setup(arguments, lambda data: check_input(data, folder))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
