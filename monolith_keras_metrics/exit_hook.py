"""What happens when a signal ends training, and the counter that tells of it.

While it is installed, SIGHUP, SIGINT and SIGTERM end the process by `sys.exit(signo)`: the stack
unwinds, whoever holds data writes it on the way out, and the exit status is the signal's number.
At exit a counter `exit_hook` is emitted. Importing this module installs nothing.

- The handler takes no locks, writes nothing and logs nothing: the main thread that it interrupts
  may hold any lock.
- A handler that the program had set runs first, then the process exits all the same. Python's own
  default handlers are replaced. A signal that is ignored (`nohup`) stays ignored, and a handler
  that C code has set is left alone.
- In an interactive session SIGINT stays Python's.
- A second signal within a second of the first is the same request and does nothing more:
  supervisors signal the group and the process, or send SIGHUP after SIGTERM. What is unwinding
  goes on; an earlier handler that is still running is not interrupted.
- So it is when everything has been uninstalled meanwhile: within a second of a signal Python's
  default handlers are not put back, since they would end the process in the middle of the
  program's own `finally` blocks. A later signal puts them back and gets them.
- While something is installed, a later signal ends the process at once, with its number as the
  exit status: `finally` blocks do not run. Before that, a waiting thread calls the `last_words` of
  each `install` for at most `LAST_WORDS_SECONDS`. A signal more than a second after that one does
  not wait for them.
- Once Python has run the exit hooks, it gives signals back to the system: one that comes in the
  rest of its shutdown ends the process with the system's status for it.
- Whoever installs may say how its end is told, should it not come to `uninstall`: a signal after
  that end is the earlier handler's.
- A process forked from this one has the handlers too, since handlers are inherited; the counter
  is emitted by the process that installed them alone.
"""

from __future__ import annotations

import atexit
import builtins
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from absl import logging

from monolith_keras_metrics import cli, task_context
from monolith_keras_metrics.last_words import LastWords, Words

LAST_WORDS_SECONDS = 5.0
"""How long a later signal waits for `last_words` before the process ends."""

_SAME_REQUEST_SECONDS = 1.0
_Over = Callable[[], bool]
_Handler = Callable[[int, FrameType | None], object] | int | None

sig_no: int | None = None
"""The signal that is ending the process; `None` until one came."""


class _Install(NamedTuple):
    """An `install` without its `uninstall`."""

    over: _Over | None
    last_words: Words | None


_asked_at: float | None = None  # when a signal last asked for the end, by the monotonic clock
_chaining = False  # the earlier handler is running
_chained_frame: FrameType | None = None  # what the earlier handler was given
_ending = False  # the last words are being spoken
_installs: list[_Install] = []
_pid = os.getpid()  # who installed
_earlier: dict[int, _Handler] = {}  # what was there before us
_told_off_main_thread = False


def sig_handler(signo: int, frame: FrameType | None) -> None:
    """Note the signal, run the handler that was there before, and exit.

    Args:
        signo: The signal's number; it becomes the exit status.
        frame: What was interrupted; for the earlier handler.

    Raises:
        SystemExit: For the first signal, unless the earlier handler raises something else, and if
            the earlier handler calls this one. For a signal that is the same request as the first
            it returns; a later one ends the process. If what this was installed for is over, only
            the earlier handler is called.

    Example:
        >>> import signal
        >>> earlier = signal.signal(signal.SIGTERM, sig_handler)  # what `install` does
        >>> _ = signal.signal(signal.SIGTERM, earlier)
    """
    global sig_no, _asked_at, _chaining, _chained_frame
    if _chaining and (frame is None or frame is _chained_frame):
        # The earlier handler calls us, as what was there before *it*: it was set in an earlier
        # training. A signal that interrupts it would come with a frame of its own.
        sys.exit(signo)
    if signo in _earlier and signal.getsignal(signo) is sig_handler and not _going_on():
        if not _is_same_request():
            _put_back()
            signal.raise_signal(signo)
        return
    if _asked_at is not None and _installs:
        _ask_again(int(signo))
        return
    _asked_at = time.monotonic()
    sig_no = int(signo)  # not `Signals.SIGTERM`, should somebody call us with it
    if not _chaining:
        earlier = _earlier.get(signo)
        _chaining, _chained_frame = True, frame
        try:
            if callable(earlier) and earlier is not signal.default_int_handler:
                earlier(signo, frame)
        finally:
            _chaining, _chained_frame = False, None
    sys.exit(signo)


def exit_hook() -> None:
    """Emits the counter `exit_hook` if a signal is what ends the process.

    Its tags are `server_type`, `index` and `sig`, from the task context and `sig_no`; the prefix
    is the environment's `MONOLITH_METRIC_PREFIX`, else `monolith.training`. A metrics client that
    fails is logged, never raised.

    Example:
        >>> exit_hook()  # no signal came: nothing is emitted
    """
    if sig_no is None or _pid != os.getpid():
        return
    try:
        task = task_context.get()
        tags = {"server_type": task.server_type, "index": str(task.index), "sig": str(sig_no)}
        prefix = os.environ.get("MONOLITH_METRIC_PREFIX") or "monolith.training"
        cli.get_cli(prefix).emit_counter("exit_hook", 1, tags)
    except Exception:
        logging.exception("The counter of signal %d could not be emitted.", sig_no)


def install(over: _Over | None = None, last_words: Words | None = None) -> bool:
    """Put the handlers and the exit hook in place, until `uninstall`.

    Calls nest: the last `uninstall` takes them away. A handler that the program has set since the
    first call is from the next call on an earlier handler like any other. Each call says that the
    program goes on training, whatever signal came before: the next is a first signal again. Off
    the main thread, where Python allows no handlers, it logs one warning and does nothing.

    Args:
        over: Tells, from any thread and without taking a lock, whether what this is for is over,
            should nobody call `uninstall`.
        last_words: Called in another thread before a later signal ends the process. Waits for a
            few seconds at most.

    Returns:
        True if they are in place.

    Example:
        >>> installed = install()
        >>> try:
        ...     pass  # train
        ... finally:
        ...     uninstall()
    """
    global _asked_at, _pid
    if not _on_main_thread():
        _tell_off_main_thread()
        return False
    if _pid != os.getpid():
        _pid = os.getpid()  # forked in the middle of a training that is not ours
        _installs.clear()
    _asked_at = None
    _going_on()
    _installs.append(_Install(over, last_words))
    if last_words is not None:
        _last_words.prepare()
    atexit.unregister(exit_hook)  # so that it is there once
    atexit.register(exit_hook)
    for signo in _signals():
        current: _Handler = signal.getsignal(signo)
        if current is None or current is signal.SIG_IGN or current is sig_handler:
            continue
        _earlier[signo] = current
        signal.signal(signo, sig_handler)
    return True


def uninstall(over: _Over | None = None) -> None:
    """Put back what was there before `install`.

    A handler that the program has set since then stays. So does the exit hook, if a signal came:
    its counter is yet to be emitted. Without an `install` on the main thread nothing happens. Off
    the main thread it is the next signal, or the next call there, that puts back; so it is for
    Python's default handlers within a second of a signal.

    Args:
        over: What was given to `install`.
    """
    found = next((one for one in _installs if one.over == over), None)
    if found is not None and (_on_main_thread() or over is not None):
        _installs.remove(found)
    if _on_main_thread() and not _going_on():
        _put_back()


def _going_on() -> bool:
    """Return True if there is anything left that was installed for."""
    _installs[:] = [one for one in _installs if one.over is None or not one.over()]
    return bool(_installs)


def _is_same_request() -> bool:
    """Return True if a signal asked for the end within the last second."""
    return _asked_at is not None and time.monotonic() - _asked_at < _SAME_REQUEST_SECONDS


def _ask_again(signo: int) -> None:
    """End the process, unless this signal belongs to the last request. Waits for nothing."""
    global _asked_at, _ending
    if _is_same_request():
        return
    _asked_at = time.monotonic()
    has_words = any(one.last_words is not None for one in _installs)
    if _ending or not has_words or not _last_words.speak(signo):
        os._exit(signo)
    _ending = True


_last_words = LastWords(
    lambda: [one.last_words for one in list(_installs) if one.last_words is not None],
    LAST_WORDS_SECONDS,
)


def _put_back() -> None:
    for signo, earlier in list(_earlier.items()):
        # Where another handler has come on top of ours, what was before us is kept in mind: the
        # other one may yet call ours.
        is_default = earlier in (signal.SIG_DFL, signal.default_int_handler)
        if signal.getsignal(signo) is sig_handler and not (is_default and _is_same_request()):
            signal.signal(signo, earlier)
            del _earlier[signo]
    if sig_no is None:
        atexit.unregister(exit_hook)


def _signals() -> list[int]:
    """Lists the signals to handle on this platform, in this kind of session."""
    names = ["SIGHUP", "SIGTERM"] if _is_interactive() else ["SIGHUP", "SIGINT", "SIGTERM"]
    return [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows: no SIGHUP


def _is_interactive() -> bool:
    """Tells a notebook, IPython, `python` at its prompt and `python -i`, where SIGINT is theirs."""
    return hasattr(builtins, "get_ipython") or hasattr(sys, "ps1") or bool(sys.flags.interactive)


def _on_main_thread() -> bool:
    """Tells whether Python allows handlers to be set here."""
    return threading.current_thread() is threading.main_thread()


def _tell_off_main_thread() -> None:
    """Logs one warning in the life of the process."""
    global _told_off_main_thread
    if not _told_off_main_thread:
        _told_off_main_thread = True
        logging.warning(
            "Training does not run on the main thread, so signals are not handled: a signal may "
            "end the process before everything is written. Close the client in the main thread."
        )
