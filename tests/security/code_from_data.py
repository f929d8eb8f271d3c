"""Ways in which data can become code, found in source text; `test_no_code_from_data.py` judges."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

# What reads them runs what was written into them.
PICKLING: Final = ("cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve")
BUILT_IN: Final = {"eval", "exec", "compile", "__import__"}
RUNNING: Final = {
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch.export.load", "torch.package"),
    *("numpy.load_library", "code.interact", "runpy.run_path", "runpy.run_module"),
}
SHELLS: Final = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("asyncio.create_subprocess_shell", "pty.spawn", "commands.getoutput"),
}
TRUSTING: Final = ("allow_pickle", "shell", "trust_remote_code", "weights_only")
YAML_LOADERS: Final = {"yaml.load", "yaml.load_all"}
SAFE_LOADERS: Final = {"SafeLoader", "CSafeLoader"}
UNSAFE_YAML: Final = {
    *("yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
}


def violations(source: str) -> list[str]:
    """What of this stands in a module's text, by line number."""
    tree = ast.parse(source)
    names = _imported_names(tree)
    found = [
        (node.lineno, what)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call))
        for what in (_in_call(node, names) if isinstance(node, ast.Call) else _in_import(node))
    ]
    return [f"{line}: {what}" for line, what in sorted(found)]


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """The full name behind each name that an import gives: `from os import system as s`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def _in_import(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    modules = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        modules = [node.module or ""]
    yield from (f"import of {name}" for name in modules if _is_pickling(name))


def _in_call(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    called = _full_name(node.func, names)
    if called in BUILT_IN | RUNNING | SHELLS | UNSAFE_YAML:
        yield f"call of {called}"
    if called in YAML_LOADERS and not _names_safe_loader(node):
        yield f"call of {called} without a safe loader"
    if called.endswith("import_module") and node.args and isinstance(node.args[0], ast.Constant):
        name = str(node.args[0].value)
        yield from [f"import of {name}"] if _is_pickling(name) else []
    for keyword in node.keywords:
        trusts = keyword.arg in TRUSTING and not _is_constant(keyword.value, False)
        if keyword.arg == "weights_only":  # False is the unsafe value of this one
            trusts = not _is_constant(keyword.value, True)
        if trusts:
            yield f"call with {keyword.arg}={ast.unparse(keyword.value)}"


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    """`a.b.c` with the first part as it was imported; empty for what is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (start := _full_name(node.value, names)):
        return f"{start}.{node.attr}"
    return ""


def _names_safe_loader(node: ast.Call) -> bool:
    given = [*node.args[1:], *(word.value for word in node.keywords if word.arg == "Loader")]
    return any(ast.unparse(value).rpartition(".")[2] in SAFE_LOADERS for value in given)


def _is_pickling(module: str) -> bool:
    return module.partition(".")[0] in PICKLING


def _is_constant(node: ast.expr, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
