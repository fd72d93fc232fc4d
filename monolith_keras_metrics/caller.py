"""Whether a function that called us has ended, told from another thread.

Keras calls no callback when `fit` ends with an exception. So whoever must know looks, now and
then, whether `fit` is still among the functions that its thread is running.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType


def ended_of_caller(*inner: str) -> Callable[[], bool]:
    """Returns a function that tells whether our caller has ended.

    Args:
        *inner: Parts of names of modules: callers in these are passed over.

    Example:
    >>> def call():
    ...     return ended_of_caller()
    >>> ended = call()
    >>> ended()
    True
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and any(name in frame.f_globals.get("__name__", "") for name in inner):
        frame = frame.f_back
    thread = threading.get_ident()
    held = [frame]  # let go of at the end: it keeps the caller's variables

    def ended() -> bool:
        if held[0] is None:
            return True
        running: FrameType | None = sys._current_frames().get(thread)
        while running is not None:
            if running is held[0]:
                return False
            running = running.f_back
        held[0] = None
        return True

    return ended
