"""Nothing that the program reads is run: no pickles, no code in models, no shell.

That a worker refuses a pickled message is shown in `tests/faults/test_redis_faults.py`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.documents import ROOT
from tests.security.code_from_data import violations

CODE = ("api", "cli", "models", "nightshift", "worker", "benchmarks", "tools")


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    # The benchmarks' own folder for what they download and install.
    return [path for path in found if not path.is_relative_to(ROOT / "benchmarks" / "work")]


def test_no_module_runs_what_it_reads() -> None:
    found = {str(path.relative_to(ROOT)): violations(path.read_text()) for path in sources(*CODE)}
    assert len(found) > 200
    assert {name: told for name, told in found.items() if told} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import pickle as p",
        "def f():\n    from marshal import loads",
        "import shelve",
        "import dill",
        "from joblib import load",
        "import cloudpickle.compat",
        "import importlib\nimportlib.import_module('pickle')",
        "from importlib import import_module\nimport_module('dill')",
        "__import__(name)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import torch as t\nt.load(path)",
        "from torch import load\nload(path)",
        "import torch\ntorch.jit.load(path)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "from yaml import unsafe_load\nunsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "exec(compile(text, '', 'exec'))",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import subprocess\nsubprocess.run(text, shell=is_long)",
        "import os\nos.system(text)",
        "from os import popen\npopen(text)",
        "M.from_pretrained(name, trust_remote_code=True)",
        "M.from_pretrained(name, trust_remote_code=choice)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "load_state(path, weights_only=False)",
    ],
)
def test_each_way_is_found(line: str) -> None:
    assert violations(line) != []


@pytest.mark.parametrize(
    "line",
    [
        "import re\nre.compile(text)",
        "model.eval()",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)\nyaml.safe_load(text)",
        "M.from_pretrained(name, trust_remote_code=False)",
        "import subprocess\nsubprocess.run([text], shell=False)",
        "import json\njson.load(file)",
        "import numpy\nnumpy.load(path, allow_pickle=False)",
    ],
)
def test_what_is_safe_is_let_through(line: str) -> None:
    assert violations(line) == []


def test_no_statement_of_sql_is_put_together_of_values() -> None:
    """Values are bound; where text is SQL, it is a literal or one with constants in capitals.

    `tests/test_layers.py` shows that nothing outside of `models` speaks SQL.
    """
    found = {path.name: built_sql(path.read_text()) for path in sources("models")}
    assert "turns.py" in found
    assert {name: told for name, told in found.items() if told} == {}


@pytest.mark.parametrize(
    "line",
    [
        'text(f"DELETE FROM files WHERE id = {file_id}")',
        'sa.text("DELETE FROM files WHERE id = %s" % file_id)',
        'connection.exec_driver_sql("SELECT " + name)',
        "literal_column(name)",
    ],
)
def test_sql_put_together_of_values_is_found(line: str) -> None:
    assert built_sql(line) != []


def built_sql(source: str) -> list[str]:
    """Calls that take SQL as text, and are given something else than constants."""
    raw = {"text", "exec_driver_sql", "literal_column"}
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in raw
        and node.args
        and not is_constant(node.args[0])
    ]


def is_constant(node: ast.expr) -> bool:
    match node:
        case ast.Constant():
            return True
        case ast.Name(id=name):
            return name.isupper()
        case ast.IfExp(body=body, orelse=other):
            return is_constant(body) and is_constant(other)
        case ast.JoinedStr(values=values):
            return all(map(is_constant, values))
        case ast.FormattedValue(value=value):
            return is_constant(value)
    return False
