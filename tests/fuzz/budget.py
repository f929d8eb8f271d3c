"""How much is tried: the same few examples in every `make test`, many others in `make fuzz`."""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

LONG: Final = "fuzz"  # the profile that `make fuzz` chooses
_MANY_TIMES: Final = 60


def examples(number: int) -> settings:
    """The settings of a test that tries so many examples."""
    is_long = settings.get_current_profile_name() == LONG
    return settings(
        max_examples=number * (_MANY_TIMES if is_long else 1),
        derandomize=not is_long,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        print_blob=is_long,
    )
