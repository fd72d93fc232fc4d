"""Detection of the end of Keras's `fit` from another thread.

Keras calls no callback when `fit` ends with an exception. A background thread therefore checks
periodically if `fit` is still on the stack of its thread.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from types import FrameType

_FUNCTIONS = ("fit", "evaluate")
_PACKAGES = ("keras", "tf_keras")


class EndOfCaller:
    """A check, callable from any thread, that a call has ended.

    Args:
        frame: The frame of the call, in the current thread.
    """

    def __init__(self, frame: FrameType) -> None:
        self._thread = threading.get_ident()
        self._held = [frame]  # released at the end, because it keeps the caller's variables alive

    def __call__(self) -> bool:
        """Return True if the call has ended."""
        running: FrameType | None = sys._current_frames().get(self._thread)
        kept = self._held[:]  # another thread may release it meanwhile
        while running is not None and kept:
            if running is kept[0]:
                return False
            running = running.f_back
        self._held.clear()
        return True

    def is_end_of(self, frame: FrameType | None) -> bool:
        """Return True if this checks the call `frame`, which has not ended."""
        return frame is not None and self._held[:] == [frame]


def innermost_call(
    functions: Sequence[str] = _FUNCTIONS, packages: Sequence[str] = _PACKAGES
) -> FrameType | None:
    """Return the frame of the innermost Keras call on the current stack.

    Args:
        functions: Names of the functions to look for.
        packages: Packages that define them.

    Returns:
        The frame, or None if there is no such call on the stack.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not (
        frame.f_code.co_name in functions
        and str(frame.f_globals.get("__name__")).partition(".")[0] in packages
    ):
        frame = frame.f_back
    return frame


def end_of_caller(
    functions: Sequence[str] = _FUNCTIONS, packages: Sequence[str] = _PACKAGES
) -> EndOfCaller | None:
    """Return a check that the innermost Keras call on the current stack has ended.

    Args:
        functions: Names of the functions to look for.
        packages: Packages that define them.

    Returns:
        The check, callable from any thread, or None if there is no such call on the stack.

    Example:
    >>> def fit():
    ...     return end_of_caller(packages=["monolith_keras_metrics"])
    >>> ended = fit()
    >>> ended()
    True
    >>> end_of_caller() is None
    True
    """
    frame = innermost_call(functions, packages)
    return None if frame is None else EndOfCaller(frame)
