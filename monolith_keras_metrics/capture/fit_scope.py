"""Whether Keras's `fit` has ended, told from another thread.

Keras calls no callback when `fit` ends with an exception. So whoever must know looks, now and
then, whether `fit` is still among the functions that its thread is running.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from types import FrameType

_FUNCTIONS = ("fit", "evaluate")
_PACKAGES = ("keras", "tf_keras")


class EndOfCaller:
    """Tells, to any thread, whether a call has ended.

    Args:
        frame: The call, of the current thread.
    """

    def __init__(self, frame: FrameType) -> None:
        self._thread = threading.get_ident()
        self._held = [frame]  # released at the end: it keeps the caller's variables

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
        """Return True if it is the end of the call `frame` that this tells."""
        return frame is not None and self._held[:] == [frame]


def innermost_call(
    functions: Sequence[str] = _FUNCTIONS, packages: Sequence[str] = _PACKAGES
) -> FrameType | None:
    """Return the frame of the call of Keras that we are in, the innermost of several.

    Args:
        functions: Names of functions that may be the call.
        packages: Where these are.

    Returns:
        The frame; None where no such function has called us.
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
    """Returns a function that tells whether the call of Keras that we are in has ended.

    Args:
        functions: Names of functions that may be the call.
        packages: Where these are.

    Returns:
        The function, for any thread; None where no such function has called us, so that nothing
        tells when what it began will end.

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
