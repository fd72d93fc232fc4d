"""Whether Keras's `fit` has ended, told from another thread.

Keras calls no callback when `fit` ends with an exception. So whoever must know looks, now and
then, whether `fit` is still among the functions that its thread is running.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType


def end_of_caller(
    functions: Sequence[str] = ("fit", "evaluate"), packages: Sequence[str] = ("keras", "tf_keras")
) -> Callable[[], bool] | None:
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
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not (
        frame.f_code.co_name in functions
        and str(frame.f_globals.get("__name__")).partition(".")[0] in packages
    ):
        frame = frame.f_back
    if frame is None:
        return None
    thread = threading.get_ident()
    held = [frame]  # let go of at the end: it keeps the caller's variables

    def ended() -> bool:
        running: FrameType | None = sys._current_frames().get(thread)
        kept = held[:]  # another thread may let go meanwhile
        while running is not None and kept:
            if running is kept[0]:
                return False
            running = running.f_back
        held.clear()
        return True

    return ended
