"""Properties of a compiled loss: class labels, logits and the ignored class."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Literal


def classes_of(loss: Any) -> Literal["indices", "one-hot", "either"] | None:
    """Return the encoding of class labels that a loss expects, or None if it is not over classes.

    Args:
        loss: An argument of `compile`: a name, a function or a `Loss`.
    """
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        return "either"  # Keras chooses by the labels' shape
    names = _names(loss)
    if any("sparsecategorical" in name for name in names):
        return "indices"
    if any("categorical" in name for name in names):
        return "one-hot"
    return None


def is_from_logits(loss: Any) -> bool:
    """Return True if the loss treats predictions as logits."""
    return bool(_option(loss, "from_logits"))


def ignored_class(loss: Any) -> int | None:
    """Return the class that the loss ignores (Keras's `ignore_class`), or None."""
    ignored = _option(loss, "ignore_class")
    return None if ignored is None else int(ignored)


def _names(loss: Any) -> set[str]:
    """Return the lower-case names of a loss, its function and its classes."""
    function = getattr(loss, "fn", loss)  # Keras wraps functions
    if isinstance(function, functools.partial):
        function = function.func
    names = [loss]
    if not isinstance(loss, str):
        names = [getattr(function, "__name__", ""), *(one.__name__ for one in type(loss).__mro__)]
    return {str(name).lower().replace("_", "") for name in names}


def _option(loss: Any, name: str) -> Any:
    """Return the value of an argument that a loss was created with, or None."""
    found = getattr(loss, name, None)
    for function in (loss, getattr(loss, "fn", None)):
        if found is None and isinstance(function, functools.partial):
            found = function.keywords.get(name)
    if found is None and hasattr(loss, "get_config"):
        # A custom loss may not support it.
        with contextlib.suppress(Exception):
            found = loss.get_config().get(name)
    return found
