"""No pinned package has a fault that is known to the project: `docs/advisories.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib.metadata import distributions
from typing import Any

import pytest
from packaging.version import Version

from tests.documents import ROOT

TABLE: dict[str, list[dict[str, Any]]] = tomllib.loads((ROOT / "docs/advisories.toml").read_text())
IPEX_PAGE = (ROOT / "docs/ipex.md").read_text(encoding="utf-8")


def pins_of(file: str) -> dict[str, str]:
    """Versions by name."""
    found = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / file).read_text(), flags=re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


PINS = pins_of("constraints.txt")


def test_no_pin_has_a_known_fault() -> None:
    assert faults(PINS) == []


def test_what_must_never_be_here_is_not() -> None:
    never = {each["package"] for each in TABLE["never"]}
    installed = {each.name.lower().replace("_", "-") for each in distributions()}
    assert "kernels" in never
    assert never & (PINS.keys() | installed) == set()


def test_the_faults_that_come_with_ipex_are_named_one_by_one() -> None:
    said = set(re.findall(r"^\| `\S+` \| ([A-Z]+-\S+) \|", IPEX_PAGE, flags=re.MULTILINE))
    assert said == set(faults(pins_of("constraints-ipex.txt")))
    assert "kernels" not in pins_of("constraints-ipex.txt")


@pytest.mark.parametrize("advisory", TABLE["advisory"], ids=lambda each: each["id"])
def test_each_advisory_would_be_found(advisory: dict[str, str]) -> None:
    assert set(advisory) in (
        {"package", "id", "fixed", "what"},
        {"package", "id", "last_affected", "what"},
    )
    assert advisory["package"] in PINS
    affected = advisory.get("last_affected") or f"{advisory['fixed']}.dev0"
    assert advisory["id"] in faults({**PINS, advisory["package"]: affected})


def faults(pins: Mapping[str, str]) -> list[str]:
    """The ids of the advisories that a pinned version falls under."""
    return [
        each["id"]
        for each in TABLE["advisory"]
        if each["package"] in pins and is_affected(each, pins[each["package"]])
    ]


def is_affected(advisory: Mapping[str, str], version: str) -> bool:
    if "fixed" in advisory:
        return Version(version) < Version(advisory["fixed"])
    return Version(version) <= Version(advisory["last_affected"])
