"""Stop strings are found wherever the text is cut, and nothing of them leaks out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.backends.stop_strings import StopStrings


def _run(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    stopping = StopStrings(stops)
    text = "".join(stopping.push(piece) for piece in pieces)
    return text + stopping.flush(), stopping.found


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    pieces=st.lists(st.text("abc", max_size=5), max_size=8),
)
def test_the_text_ends_before_the_stop_that_is_complete_first(
    stops: list[str], pieces: list[str]
) -> None:
    whole = "".join(pieces)
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    text, found = _run(tuple(stops), pieces)
    assert found == bool(ends)
    if ends:
        seen = whole[: min(ends)]
        longest = max((stop for stop in stops if seen.endswith(stop)), key=len)
        assert text == seen.removesuffix(longest)
    else:
        assert text == whole


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    text=st.text("abc", max_size=12),
)
def test_what_was_passed_on_never_has_to_be_taken_back(stops: list[str], text: str) -> None:
    stopping = StopStrings(tuple(stops))
    passed = ""
    for character in text:
        passed += stopping.push(character)
        assert not any(passed.endswith(stop) for stop in stops)
        assert text.startswith(passed)


def test_text_that_may_begin_a_stop_is_held_back_and_released() -> None:
    stopping = StopStrings(("END",))
    assert stopping.push("xE") == "x"
    assert stopping.push("N") == ""
    assert stopping.push("Q") == "ENQ"
    assert stopping.push("E") == ""
    assert stopping.flush() == "E"


def test_nothing_comes_after_a_stop() -> None:
    stopping = StopStrings(("\n",))
    assert stopping.push("a\nb") == "a"
    assert (stopping.push("c"), stopping.flush(), stopping.found) == ("", "", True)


@pytest.mark.parametrize("first", ["a", "xa"])
def test_an_unarmed_stop_is_text_but_may_begin_an_armed_one(first: str) -> None:
    stopping = StopStrings(("ab",))
    assert stopping.push("ab", armed=False) == "ab"
    assert not stopping.found
    assert stopping.push(first, armed=False) == first[:-1]
    assert stopping.push("b") == ""
    assert stopping.found
