"""SciPy, where it is needed and installed."""

from __future__ import annotations

import importlib
from typing import Any


def scipy_module(name: str, need: str) -> Any:
    """Import a module of SciPy.

    Args:
        name: The module, such as `"stats"`.
        need: What needs it, for the error.

    Raises:
        ModuleNotFoundError: If SciPy is not installed.
    """
    try:
        return importlib.import_module(f"scipy.{name}")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{need} needs SciPy. Install it with: pip install 'monolith-keras-metrics[insight]'"
        ) from None
