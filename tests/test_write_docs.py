"""The generated pages are what the code says now, and name everything that there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.params import DecodingParams
from models.settings import Settings, variable_name
from tools.write_docs import pages, parameters_page, settings_page


@pytest.mark.parametrize("path", list(pages()), ids=lambda path: path.name)
def test_writing_the_page_again_changes_nothing(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == pages()[path], "run `python -m tools.write_docs`"


def test_every_setting_and_parameter_has_a_row_with_a_meaning() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description
        assert f"| `{variable_name(name)}` |" in settings_page()
        assert field.description in settings_page()
    for name, field in DecodingParams.model_fields.items():
        assert field.description
        assert f"| `{name}` |" in parameters_page()
