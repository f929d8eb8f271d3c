"""Writes docs/settings.md, docs/parameters.md and docs/api.md from the code they describe.

    python -m tools.write_docs

A test fails when a file is not what this script would write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from models.params import DecodingParams
from models.settings import Settings, variable_name
from models.wire.decoding import ADVICE, HARMLESS_AT, IDENTIFIERS
from tools.write_api_docs import api_page

DOCS = Path(__file__).parent.parent / "docs"
_HEADER = "<!-- written by `python -m tools.write_docs`: change the code, then run it -->\n"
_KINDS = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "`true`, `false`",
    "array": "list",
    "object": "object",
}
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "maxItems": "of at most {}",
}
_NO_BOUND = 2**31 - 1  # said of a number, it only means that a tensor can hold it
_MIB = 1024**2

Schema = Mapping[str, Any]


def settings_page() -> str:
    """docs/settings.md."""
    rows = [
        (f"`{variable_name(name)}`", _default(schema), _values(schema), schema["description"])
        for name, schema in _properties(Settings)
    ]
    intro = (
        "# Settings\n\n"
        "Every setting is an environment variable; where a command has a flag for it, the flag "
        "wins.\nAn unknown `NIGHTSHIFT_` variable is an error, an empty one counts as unset.\n"
        "Times are seconds, sizes are bytes. `HF_TOKEN` and `HF_HOME` are read by the Hugging "
        "Face Hub's own client.\n\n"
    )
    return _HEADER + intro + _table(("Variable", "Default", "Values", "Meaning"), rows)


def parameters_page() -> str:
    """docs/parameters.md."""
    rows = [
        (f"`{name}`", _default(schema), _values(schema), schema["description"])
        for name, schema in _properties(DecodingParams)
    ]
    intro = (
        "# Decoding parameters\n\n"
        "Fields of a request's body, of a plain line beside its prompt, or columns of a table; "
        "`null` counts as not given.\nA field that is in none of these tables is refused by name. "
        "\"The model's\" is the value in the model's `generation_config.json`, and without one the "
        "neutral value.\n\n"
    )
    table = _table(("Field", "Default", "Values", "Meaning"), rows)
    return _HEADER + intro + table + _other_fields()


def _other_fields() -> str:
    """The fields of OpenAI's API that are known and have no effect here."""
    harmless = [(name, "any text", "") for name in IDENTIFIERS]
    harmless += [
        (name, ", ".join(f"`{json.dumps(value)}`" for value in values), ADVICE.get(name, "")[2:])
        for name, values in HARMLESS_AT.items()
    ]
    intro = (
        "\n# Fields of OpenAI's API without an effect\n\n"
        "They are accepted at the values at which they change nothing, and refused at all others."
        "\n\n"
    )
    rows = [(f"`{name}`", values or "none", advice) for name, values, advice in sorted(harmless)]
    return intro + _table(("Field", "Accepted", "Instead"), rows)


def pages() -> dict[Path, str]:
    """Every generated file and its contents."""
    return {
        DOCS / "settings.md": settings_page(),
        DOCS / "parameters.md": parameters_page(),
        DOCS / "api.md": _HEADER + api_page(),
    }


def _properties(model: type[BaseModel]) -> list[tuple[str, Schema]]:
    schema = model.model_json_schema(by_alias=False)
    definitions = schema.get("$defs", {})
    found = []
    for name, field in schema["properties"].items():
        kinds = [part for part in field.get("anyOf", [field]) if part.get("type") != "null"]
        kind = definitions.get(kinds[0].get("$ref", "").rpartition("/")[2], {}) | kinds[0]
        found.append((name, kind | field))
    return found


def _default(schema: Schema) -> str:
    value = schema.get("default")
    if value is None or value == []:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value >= _MIB and value % _MIB == 0:
        return f"`{value}` ({value // _MIB} MiB)"
    return f"`{value}`"


def _values(schema: Schema) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    bounds = [
        text.format(_short(schema[name]))
        for name, text in _BOUNDS.items()
        if name in schema and schema[name] != _NO_BOUND
    ]
    return " ".join([_KINDS[schema["type"]], ", ".join(bounds)]).strip()


def _short(bound: float) -> str:
    return "2⁶³" if bound == 2**63 else str(bound)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    """Write every page."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
