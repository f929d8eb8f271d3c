"""Makes what trials need and keeps it: environments of peers, models in every engine's format.

Everything is made by a process of its own and appears under its name only when it is complete.
Must not know how anything is measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engines import EngineSpec
from benchmarks.shapes import Shape
from benchmarks.workloads import Workload, build_short, build_workload, write_workload

PROJECT = Path(__file__).resolve().parents[1]
DEMO_MODEL = PROJECT / "examples" / "demo-model"
_IPEX_PYTHON = PROJECT / ".venv-ipex" / "bin" / "python"
_DEMO_VOCABULARY = 256  # ids below this are ordinary tokens of every byte-level tokenizer


@dataclass(frozen=True, slots=True)
class Workshop:
    """The git-ignored folder with everything that is made, for one shape of model."""

    root: Path
    shape: Shape

    def python(self, spec: EngineSpec) -> str:
        """The interpreter of an engine's environment, which is created when it is not there."""
        if spec.environment is None:
            return sys.executable
        if spec.environment == "ipex":
            _run(["make", "--no-print-directory", "install-ipex"])
            return str(_IPEX_PYTHON)
        _run(["benchmarks/create_environment.sh", spec.environment])
        return str(self._environment(spec.environment) / "python")

    def workload_file(self, workload: Workload) -> Path:
        """The workload as a file, written anew."""
        path = self._folder("workloads") / f"{workload.name}.json"
        write_workload(workload, path)
        return path

    def model(self, kind: str) -> Path:
        """The model in an engine's format, made when it is not there."""
        family, _, weights = kind.partition("-")
        if kind == "bf16":
            return self._once(kind, ["-m", "benchmarks.model", self.shape.name])
        if kind == "w8a8":
            return self._once(kind, ["-m", "benchmarks.w8a8", str(self.model("bf16"))])
        if kind == "demo":
            return self._add_model(str(DEMO_MODEL), "demo-model", "int8")
        if family == "nightshift":
            home = self._add_model(str(self.model("bf16")), "benchmark", weights)
            return home / "registry" / "benchmark" / weights
        if family == "openvino":
            return self._export_openvino(weights)
        if family == "gguf":
            return self._write_gguf(weights)
        if family == "ipex":
            return self._quantize_with_ipex(kind, *weights.split("-"))
        raise KeyError(kind)

    def _export_openvino(self, weights: str) -> Path:
        options = ["--weight-format", weights]
        if weights == "int4":
            options += ["--group-size", "128", "--ratio", "1.0", "--sym"]
        command = [str(self._environment("openvino") / "optimum-cli"), "export", "openvino"]
        options += ["--model", str(self.model("bf16")), "--task", "text-generation-with-past"]
        return self._make(f"openvino-{weights}", [*command, *options])

    def _quantize_with_ipex(self, kind: str, weights: str, lowp: str) -> Path:
        group = "128" if weights == "int4" else "-1"
        module = ["-m", "benchmarks.peers.ipex_model", str(self.model("bf16"))]
        return self._make(kind, [str(_IPEX_PYTHON), *module, weights, lowp, group])

    def _write_gguf(self, file_type: str) -> Path:
        target = self._folder("models") / f"{file_type}.gguf"
        if not target.exists():
            partial = target.with_name(f"partial-{target.name}")
            module = ["-m", "benchmarks.peers.llama_cpp_model", str(self.model("bf16"))]
            python = str(self._environment("llama_cpp") / "python")
            _run([python, *module, str(partial), file_type])
            partial.rename(target)
        return target

    def _add_model(self, source: str, name: str, weights: str) -> Path:
        """Register a model as a user does; returns the home folder that holds it."""
        home = self._folder("home")
        arguments = ["model", "add", source, "--name", name, "--weights", weights]
        _run([sys.executable, "-m", "cli", *arguments], NIGHTSHIFT_HOME=str(home))
        return home

    def _once(self, kind: str, arguments: Sequence[str]) -> Path:
        return self._make(kind, [sys.executable, *arguments])

    def _make(self, name: str, command: Sequence[str]) -> Path:
        """Run a command that fills the folder given as its last argument."""
        target = self._folder("models") / name
        if not target.exists():
            partial = target.with_name(f"partial-{name}")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _run([*command, str(partial)])
            partial.rename(target)
        return target

    def _folder(self, name: str) -> Path:
        folder = self.root / self.shape.name / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _environment(self, name: str) -> Path:
        return self.root / "environments" / name / "bin"


def make_workload(name: str) -> Workload:
    """The workload of that name; "short" is for the demo model."""
    return build_short(_DEMO_VOCABULARY) if name == "short" else build_workload(name)


def _run(command: Sequence[str], **variables: str) -> None:
    """Run a command with its output on stderr; raises CalledProcessError."""
    subprocess.run(
        command,
        cwd=PROJECT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | variables,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=True,
    )
