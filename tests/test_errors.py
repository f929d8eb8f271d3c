"""The error tree: one root, documented exit codes, and the drawing on top of the module."""

from __future__ import annotations

import re

from models import errors
from models.errors import InputFileError, NightshiftError, RequestRefused


def all_errors() -> list[type[NightshiftError]]:
    """Every error class, a parent before its children, children in their order in the module."""
    found: list[type[NightshiftError]] = [NightshiftError]
    for kind in found:
        found += [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return found


def drawn() -> dict[str, tuple[str | None, int | None]]:
    """Name → (parent, exit code if the drawing gives one), as the module's docstring draws it."""
    tree: dict[str, tuple[str | None, int | None]] = {}
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]*)([A-Z]\w+)(?: +exit (\d))?(?: |$)", line):
            depth = len(found.group(1)) // 4
            if not found.group(1) and found.group(2) != "NightshiftError":
                continue  # a sentence
            parents[depth:] = [found.group(2)]
            code = int(found.group(3)) if found.group(3) else None
            tree[found.group(2)] = (parents[depth - 1] if depth else None, code)
    return tree


def test_the_drawing_is_the_tree() -> None:
    tree = drawn()
    assert set(tree) == {kind.__name__ for kind in all_errors()}
    for kind in all_errors()[1:]:
        assert tree[kind.__name__][0] == (kind.__base__ or object).__name__, kind


def test_the_drawn_exit_codes_are_those_of_the_classes() -> None:
    tree = drawn()
    for kind in all_errors():
        code = tree[kind.__name__][1]
        own = "exit_code" in vars(kind)
        assert (code == kind.exit_code) if own else (code is None), kind
    assert {kind.exit_code for kind in all_errors()} == {1, 2, 3, 4, 5, 6, 7}


def test_every_error_is_documented() -> None:
    for kind in all_errors():
        assert kind.__doc__ and kind.__doc__.strip().endswith("."), kind


def test_input_errors_carry_what_the_api_shows() -> None:
    refused = RequestRefused("no", code="invalid_value", param="n")
    assert (str(refused), refused.code, refused.param) == ("no", "invalid_value", "n")
    assert refused.http_status == 400
    unusable = InputFileError("no", code="empty_file", line=3)
    assert (str(unusable), unusable.code, unusable.line) == ("no", "empty_file", 3)
    assert InputFileError("no").code == "invalid_file"
