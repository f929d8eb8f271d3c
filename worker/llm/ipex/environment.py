"""Whether this is the environment that IPEX is installed in. Imports neither torch nor IPEX."""

from __future__ import annotations

from importlib.util import find_spec

from models.errors import SettingsError


def require_ipex() -> None:
    """Raise SettingsError where IPEX is not installed."""
    if find_spec("intel_extension_for_pytorch") is None:
        raise SettingsError(
            "the ipex backend is not installed here: make its environment with "
            "`make install-ipex`, and use the `nightshift` in .venv-ipex/bin"
        )
