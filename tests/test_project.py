"""The project as a whole: documents that tell the truth, pins that pin, and the house rules."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.app import build_command
from models.settings import ENV_PREFIX, Settings
from tests.documents import (
    ROOT,
    broken_links,
    commands,
    is_test,
    markdown_files,
    named_tests,
)

if TYPE_CHECKING:
    from typer._click.core import Command

CODE = ("api", "cli", "models", "nightshift", "worker", "benchmarks", "tests", "tools")
MAX_FILE_LINES = 400  # the aim is 300; a table of cases may go beyond
MAX_FUNCTION_LINES = 60
TEXT_SUFFIXES = {"", ".cfg", ".ini", ".jsonl", ".mako", ".md", ".py", ".sh", ".toml", ".txt"}
TEXT_SUFFIXES |= {".json", ".yaml", ".yml"}


def python_files() -> list[Path]:
    found = (path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py")))
    # The benchmarks' own folder for what they download and install.
    return [path for path in found if not path.is_relative_to(ROOT / "benchmarks" / "work")]


def project_files() -> Iterator[Path]:
    """Every text file that a clone holds: what git knows, and what it would add."""
    arguments = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in listed.split("\0"):
        if name and Path(name).suffix in TEXT_SUFFIXES and (ROOT / name).is_file():
            yield ROOT / name


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))


# --- documents ---------------------------------------------------------------------------------


@pytest.mark.parametrize("document", markdown_files(), ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("# One\n[a](gone.md) [b](a.md#one) [c](#two) [d](https://example.org)\n")
    assert broken_links(document) == ["gone.md", "#two"]


@pytest.mark.parametrize("document", markdown_files(), ids=lambda path: path.name)
def test_every_test_named_in_a_document_exists(document: Path) -> None:
    assert [name for name in sorted(named_tests(document)) if not is_test(name)] == []


def test_a_test_that_does_not_exist_is_found(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "`tests/documents.py::is_test` `tests/documents.py::gone` `tests/gone.py`\n"
    )
    assert [name for name in sorted(named_tests(document)) if not is_test(name)] == [
        "tests/documents.py::gone",
        "tests/gone.py",
    ]


@pytest.mark.parametrize("document", markdown_files(), ids=lambda path: path.name)
def test_every_command_in_a_document_exists(document: Path) -> None:
    for words in commands(document):
        assert problem_with(words) is None, f"{' '.join(words)}: {problem_with(words)}"


@pytest.mark.parametrize(
    "command",
    [
        "make tea",
        "make",
        "nightshift fly",
        "nightshift model sell NAME",
        "nightshift run prompts.jsonl --modle x",
        "export NIGHTSHIFT_DATABASE=x",
        ".venv/bin/python -m pytest tests/test_nothing.py",
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    assert problem_with(command.split()) is not None


def problem_with(words: list[str]) -> str | None:
    """What is wrong with a command of a document, or None."""
    match words:
        case ["make", target, *_]:
            return None if target in make_targets() else f"no target {target}"
        case ["make"]:
            return "no target given"
        case ["nightshift", *rest]:
            return problem_with_command_line(build_command(), rest)
        case ["export", *variables]:
            unknown = [name for name in map(variable_name, variables) if not is_setting(name)]
            return f"no setting {unknown}" if unknown else None
        case [".venv/bin/python", "-m", "pytest", *rest]:
            gone = [
                word for word in rest if word.startswith("tests") and not (ROOT / word).exists()
            ]
            return f"no such tests: {gone}" if gone else None
    return None


def problem_with_command_line(command: Command, words: list[str]) -> str | None:
    """Follow the words through the command tree, then look at their flags."""
    options = {name for parameter in command.params for name in parameter.opts}
    while words and (inner := getattr(command, "commands", None)):
        if words[0] not in inner:
            return f"no command {words[0]}"
        command, words = inner[words[0]], words[1:]
        options |= {name for parameter in command.params for name in parameter.opts}
    flags = {word.partition("=")[0] for word in words if word.startswith("-")} - {"-", "--help"}
    return f"no option {sorted(flags - options)}" if flags - options else None


def variable_name(assignment: str) -> str:
    return assignment.partition("=")[0]


def is_setting(name: str) -> bool:
    return name.removeprefix(ENV_PREFIX).lower() in Settings.model_fields


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert set(re.findall(r"^  make (\S+)", shown, flags=re.MULTILINE)) == make_targets()


def test_the_changelog_has_a_place_for_the_next_change() -> None:
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_nothing_names_a_machine_it_was_written_on() -> None:
    folders = "|".join(("work", "root", "opt/wheels", "opt/pypi", "home/[a-z]+", "tmp/[a-z]+"))
    machine_path = re.compile(rf"(?<![\w.}}~])/(?:{folders})/")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in project_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if machine_path.search(line)
    ]
    assert found == []


# --- packaging ---------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["cli", "models", "nightshift", "worker"])
def test_packages_come_from_this_checkout(package: str) -> None:
    assert importlib.import_module(package).__file__ == str(ROOT / package / "__init__.py")


@pytest.mark.parametrize("lock", ["constraints.txt", "constraints-ipex.txt"])
def test_every_direct_dependency_is_pinned(lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    is_ipex = "ipex" in lock
    extras = [
        requirements
        for name, requirements in project["optional-dependencies"].items()
        if name.startswith("ipex") is is_ipex
    ]
    wanted = [requirement for group in (project["dependencies"], *extras) for requirement in group]
    pins = re.findall(
        r"^([\w.-]+)==", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    missing = {distribution(requirement) for requirement in wanted} - set(map(distribution, pins))
    assert missing == set()


def distribution(requirement: str) -> str:
    """The normalized name in front of extras and versions."""
    name = re.split(r"[\[<>=!~ ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_project_cannot_be_uploaded_by_accident() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "Private :: Do Not Upload" in project["classifiers"]


# --- house rules -------------------------------------------------------------------------------


def test_files_and_functions_stay_short() -> None:
    assert [complaint for path in python_files() for complaint in too_long(path)] == []


def test_a_long_function_is_found(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("def long():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES + 1))
    assert too_long(path) == [f"long.py: long has {MAX_FUNCTION_LINES + 1} lines"]


def too_long(path: Path) -> list[str]:
    source = path.read_text(encoding="utf-8")
    lines = source.count("\n")
    complaints = [f"{path.name} has {lines} lines"] if lines > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            # The signature is not counted: a command's options are a list, not logic.
            length = node.end_lineno - node.body[0].lineno + 1
            if length > MAX_FUNCTION_LINES:
                complaints.append(f"{path.name}: {node.name} has {length} lines")
    return complaints


def test_every_package_says_what_it_is() -> None:
    packages = [path for path in python_files() if path.name == "__init__.py"]
    assert [
        path for path in packages if ast.get_docstring(ast.parse(path.read_text())) is None
    ] == []


def test_nothing_is_left_for_later() -> None:
    # Spelled in two halves, so that this file does not hold what it looks for.
    halves = [("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("NotImplemented", "Error")]
    halves += [
        ("pragma: no", " cover"),
        ("mark.sk", "ip("),
        ("pytest.sk", "ip("),
        ("mark.x", "fail"),
    ]
    words = ["".join(pair) for pair in halves]
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in python_files()
        for word in words
        if re.search(rf"(?<!\w){re.escape(word)}", path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_only_a_missing_instruction_of_the_processor_skips_a_test() -> None:
    marker = "mark.sk" + "ipif("
    lines = [line for path in python_files() for line in path.read_text().splitlines()]
    assert [line for line in lines if marker in line and "this CPU has no" not in line] == []


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"util.py", "utils.py", "common.py", "helpers.py", "misc.py"}
    assert [path for path in python_files() if path.name in drawers] == []
