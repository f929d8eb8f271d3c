"""Who may import whom, as data, and the checker that reads it; tests/test_layers.py applies it.

Reads source text only: an import counts wherever it stands, also inside a function or under
TYPE_CHECKING, and also when it is spelled `import_module("…")`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TORCH = ("torch", "transformers", "safetensors.torch", "intel_extension_for_pytorch")
QUEUE = ("celery", "kombu", "redis")
SQL = ("sqlalchemy", "alembic", "psycopg", "sqlite3")
STORE = ("models.store", "models.database", "models.tables", "models.migrations")
HTTP = ("fastapi", "starlette")


@dataclass(frozen=True, slots=True)
class Rule:
    """Files under `where` (folders or files, from the root) import none of `forbidden`.

    What is `allowed` may be part of what is forbidden.
    """

    where: tuple[str, ...]
    forbidden: tuple[str, ...]
    except_in: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()


RULES = (
    Rule(("models",), (*TORCH, *QUEUE, *HTTP, "worker", "cli", "api")),
    Rule(
        ("models", "worker", "cli", "api"),
        SQL,
        except_in=(
            "models/clock.py",
            "models/database.py",
            "models/database_errors.py",
            "models/migrations",
            "models/store",
            "models/tables.py",
        ),
    ),
    Rule(("api",), (*TORCH, "worker", "cli")),
    Rule(("worker",), (*HTTP, "cli", "api")),
    Rule(
        ("worker/engine", "worker/llm"),
        (*QUEUE, *STORE, "models.settings", "worker.jobs", "worker.backends", "worker.celery_app"),
    ),
    Rule(("worker/engine/scheduler.py", "worker/engine/block_manager.py"), (*TORCH, "worker.llm")),
    Rule(
        ("worker/backends",),
        (*QUEUE, *STORE, "models.settings", "worker.jobs", "worker.celery_app"),
    ),
    Rule(("worker/planning",), (*QUEUE, *STORE, "models.settings", "worker.jobs")),
    # What runs beside an engine process has no use for a second copy of torch.
    Rule(
        (
            "worker/backends/messages.py",
            "worker/backends/process.py",
            "worker/backends/process_environment.py",
            "worker/celery_app.py",
            "worker/dispatcher.py",
            "worker/embedded.py",
            "worker/jobs",
            "worker/llm/hub_place.py",
            "worker/llm/ipex/cpu.py",
            "worker/llm/ipex/recipe.py",
            "worker/llm/artifact_use.py",
            "worker/llm/layer_weights.py",
            "worker/llm/pull.py",
            "worker/llm/registry.py",
            "worker/llm/registry_care.py",
            "worker/llm/remote_registry.py",
            "worker/llm/shared_contents.py",
            "worker/llm/shared_place.py",
            "worker/planning",
            "worker/tasks.py",
        ),
        TORCH,
    ),
    Rule(("cli",), TORCH),
    # A user's program loads it: of the project it has the errors and nothing else.
    Rule(
        ("nightshift",),
        (*TORCH, *QUEUE, *SQL, *HTTP, "models", "worker", "cli", "api"),
        allowed=("models.errors",),
    ),
    Rule(("models", "worker", "api"), ("nightshift",)),
)


def python_files(root: Path, where: tuple[str, ...]) -> Iterator[Path]:
    """Every Python file under the folders, and the files named themselves."""
    for name in where:
        path = root / name
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def violations(root: Path, rules: tuple[Rule, ...] = RULES) -> list[str]:
    """One sentence for each import that a rule forbids."""
    return [
        f"{path.relative_to(root)}:{line} imports {module}"
        for rule in rules
        for path in python_files(root, rule.where)
        if not _is_in(path, root, rule.except_in)
        for line, module in imports(path, root)
        if _is_below(module, rule.forbidden) and not _is_below(module, rule.allowed)
    ]


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that the file may import.

    `from a import b` counts as `a.b`, because b may be a module; a prefix of that matches too.
    """
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parents = package[: len(package) - level + 1] if level else ()
                base = ".".join((*parents, module) if module else parents)
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]):
                if ast.unparse(func).rpartition(".")[2] in ("import_module", "__import__"):
                    yield node.lineno, name


def _is_below(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def _is_in(path: Path, root: Path, names: tuple[str, ...]) -> bool:
    return any(path.is_relative_to(root / name) for name in names)
