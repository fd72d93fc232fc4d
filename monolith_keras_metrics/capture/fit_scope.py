"""`FitScope`: detects that a call of Keras's `fit` or `evaluate` has ended.

Keras calls no callback if `fit` ends with an exception. The ways to learn that a call has ended:

1. `end` is called: from `on_train_end`, or after the exception of a step.
2. Its frame is no longer among the functions that its thread is running. Any thread can look.
3. If no frame was found: the model has a new history, since another call of `fit` began.
"""

from __future__ import annotations

import gc
import sys
import threading
from types import FrameType
from typing import Any

_FUNCTIONS = ("fit", "evaluate")
_PACKAGES = ("keras", "tf_keras")
_COLLECTION = threading.Lock()  # while garbage collection is off


class FitScope:
    """The innermost call of Keras that the current thread is in.

    Args:
        model: The model.

    Example:
    >>> scope = FitScope(model=None)  # outside of a call: nothing but `end` shows the end
    >>> scope.is_over()
    False
    >>> scope.end()
    >>> scope.is_over()
    True
    """

    def __init__(self, model: Any) -> None:
        frame = innermost_call()
        self._thread = threading.get_ident()
        self._ended = False
        # Released at the end: it keeps the caller's variables alive.
        self._frames = [] if frame is None else [frame]
        self._has_frame = frame is not None
        self._model, self._history = model, getattr(model, "history", None)

    def end(self) -> None:
        """Note that the call has ended."""
        self._ended = True
        self._frames.clear()
        self._model = self._history = None

    def is_over(self) -> bool:
        """Return True if the call has ended. Any thread may ask."""
        if not self._ended and not (self._is_running() if self._has_frame else self._is_latest()):
            self.end()
        return self._ended

    def contains(self, frame: FrameType | None) -> bool:
        """Return True if this is the call `frame`, or may be it, and has not ended.

        Args:
            frame: The frame of a call, from `innermost_call`.
        """
        if not self._has_frame:
            return not self.is_over()
        return frame is not None and self._frames[:] == [frame]

    def _is_latest(self) -> bool:
        return getattr(self._model, "history", None) is self._history

    def _is_running(self) -> bool:
        running = _running(self._thread)
        kept = self._frames[:]  # another thread may release it meanwhile
        while running is not None and kept:
            # Seen once, in CPython 3.11: what `f_back` of a running thread returned was no frame.
            if running is kept[0] or not isinstance(running, FrameType):
                return True
            running = running.f_back
        return False


def _running(thread: int) -> FrameType | None:
    """Return the frame that a thread is running."""
    # CPython 3.11 and older hold a lock while they make the frames. A garbage collection that
    # begins meanwhile, and finds a `threading.local`, waits for that lock without end (gh-106883).
    with _COLLECTION:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames().get(thread)
        finally:
            if was_enabled:
                gc.enable()


def innermost_call() -> FrameType | None:
    """Return the frame of the Keras call that we are in, the innermost of several; or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not (
        frame.f_code.co_name in _FUNCTIONS
        and str(frame.f_globals.get("__name__")).partition(".")[0] in _PACKAGES
    ):
        frame = frame.f_back
    return frame
