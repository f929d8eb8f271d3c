"""How much is tried: the same few examples in every `make test`, many others in `make fuzz`.

The profiles are of all tests with hypothesis, `examples` is of those in this folder.
"""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

LONG: Final = "fuzz"  # the profile that `make fuzz` chooses
_SAME: Final = "same"
_MANY_TIMES: Final = 60


def load_profiles() -> None:
    """Before tests are imported: nothing depends on how busy the machine is, nor on chance."""
    patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile(LONG, patient)
    settings.register_profile(_SAME, patient, derandomize=True)
    settings.load_profile(_SAME)


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
