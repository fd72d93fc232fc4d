"""Handling of a signal that ends training, and the counter that reports it.

While installed, SIGHUP, SIGINT and SIGTERM end the process by `sys.exit(signo)`: the stack unwinds,
`finally` blocks write what is buffered, and the exit status is the signal's number. At exit, a
counter `exit_hook` is emitted. Importing this module installs nothing.

- The handler takes no locks, writes nothing and logs nothing, since the main thread that it
  interrupts may hold any lock.
- A handler that the program had set runs first, then the process exits. Python's own default
  handlers are replaced. An ignored signal (`nohup`) stays ignored, and a handler set by C code is
  left in place.
- In an interactive session, SIGINT stays Python's.
- A second signal within a second of the first is the same request and has no further effect:
  supervisors signal the group and the process, or send SIGHUP after SIGTERM. Unwinding goes on; an
  earlier handler that is still running is not interrupted.
- The same holds if everything has been uninstalled meanwhile. Within a second of a signal, Python's
  default handlers are not restored, since they would end the process in the middle of the program's
  own `finally` blocks. A later signal restores them and is handled by them.
- While something is installed, a later signal ends the process at once, with its number as the
  exit status: `finally` blocks do not run. Before that, a waiting thread calls the `last_words` of
  each `install` for at most `LAST_WORDS_SECONDS`. A signal more than a second after that one does
  not wait for them.
- After Python has run the exit hooks, it restores the system's handling: a signal during the rest
  of its shutdown ends the process with the system's status for it.
- An `install` may pass a function that reports the end of training, in case `uninstall` is never
  called. After that end, a signal goes to the earlier handler.
- A forked process inherits the handlers. Only the process that installed them emits the counter.
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
"""Maximum time that a later signal waits for `last_words` before the process ends."""

_SAME_REQUEST_SECONDS = 1.0
_Over = Callable[[], bool]
_Handler = Callable[[int, FrameType | None], object] | int | None

sig_no: int | None = None
"""The signal that is ending the process; `None` until one arrives."""


class _Install(NamedTuple):
    """An `install` that has not been followed by its `uninstall`."""

    over: _Over | None
    last_words: Words | None


_asked_at: float | None = None  # when a signal last requested the end, by the monotonic clock
_chaining = False  # the earlier handler is running
_chained_frame: FrameType | None = None  # the frame passed to the earlier handler
_ending = False  # the last words are being called
_installs: list[_Install] = []
_pid = os.getpid()  # the process that installed
_earlier: dict[int, _Handler] = {}  # the handlers that ours replaced


def sig_handler(signo: int, frame: FrameType | None) -> None:
    """Note the signal, run the earlier handler, and exit.

    A signal that belongs to the same request as the first has no effect. A later signal ends the
    process. If nothing is installed any more, only the earlier handler is called.

    Args:
        signo: The signal's number, which becomes the exit status.
        frame: The interrupted frame, for the earlier handler.

    Raises:
        SystemExit: For the first signal, unless the earlier handler raises another exception; and
            if the earlier handler calls this one.

    Example:
        >>> import signal
        >>> earlier = signal.signal(signal.SIGTERM, sig_handler)  # what `install` does
        >>> _ = signal.signal(signal.SIGTERM, earlier)
    """
    global sig_no, _asked_at, _chaining, _chained_frame
    if _chaining and (frame is None or frame is _chained_frame):
        # The earlier handler, set during an earlier training, calls this one as *its* earlier
        # handler. A signal that interrupts it would have another frame.
        sys.exit(signo)
    if signo in _earlier and signal.getsignal(signo) is sig_handler and not _is_installed():
        if not _is_same_request():
            _restore()
            signal.raise_signal(signo)
        return
    if _asked_at is not None and _installs:
        _ask_again(int(signo))
        return
    _asked_at = time.monotonic()
    sig_no = int(signo)  # a plain int, even for a call with `Signals.SIGTERM`
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
    """Emit the counter `exit_hook` if a signal is ending the process.

    Its tags are `server_type` and `index`, from the task context, and `sig`, from `sig_no`. The
    prefix is the environment variable `MONOLITH_METRIC_PREFIX`, by default `monolith.training`. An
    error of the metrics client is logged, never raised.

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
    """Install the handlers and the exit hook until `uninstall`.

    Calls nest: the last `uninstall` removes them. A handler that the program has set since the
    first call is treated as an earlier handler from the next call on. Each call means that the
    program goes on training, whatever signal came before: the next signal is a first one again.
    Off the main thread, where Python allows no handlers, this logs one warning and does nothing.

    Args:
        over: Returns True once the training has ended, in case `uninstall` is never called. It is
            called from any thread and must not take a lock.
        last_words: Called in another thread before a later signal ends the process. It must not
            take more than a few seconds.

    Returns:
        True if the handlers are installed.

    Example:
        >>> installed = install()
        >>> try:
        ...     pass  # train
        ... finally:
        ...     uninstall()
    """
    global _asked_at, _pid
    if not _is_main_thread():
        logging.log_first_n(
            logging.WARNING,
            "Training does not run on the main thread, so signals are not handled: a signal may "
            "end the process before everything is written. Close the client in the main thread.",
            1,
        )
        return False
    if _pid != os.getpid():
        _pid = os.getpid()  # forked during a training of the parent process
        _installs.clear()
    _asked_at = None
    _is_installed()
    _installs.append(_Install(over, last_words))
    if last_words is not None:
        _last_words.prepare()
    cli.prepare_exit()
    atexit.unregister(exit_hook)  # so that it is registered once
    atexit.register(exit_hook)
    for signo in _signals():
        current: _Handler = signal.getsignal(signo)
        if current is None or current is signal.SIG_IGN or current is sig_handler:
            continue
        _earlier[signo] = current
        signal.signal(signo, sig_handler)
    return True


def uninstall(over: _Over | None = None) -> None:
    """Restore the handlers that `install` replaced.

    A handler that the program has set since then stays. So does the exit hook if a signal came,
    since its counter is still to be emitted. Without an `install` on the main thread, nothing
    happens. Off the main thread, the next signal or the next call on the main thread restores the
    handlers. The same holds for Python's default handlers within a second of a signal.

    Args:
        over: The argument that `install` was given.
    """
    found = next((one for one in _installs if one.over == over), None)
    if found is not None and (_is_main_thread() or over is not None):
        _installs.remove(found)
    if _is_main_thread() and not _is_installed():
        _restore()


def _is_installed() -> bool:
    """Return True if any `install` is still in force."""
    _installs[:] = [one for one in _installs if one.over is None or not one.over()]
    return bool(_installs)


def _is_same_request() -> bool:
    """Return True if a signal requested the end within the last second."""
    return _asked_at is not None and time.monotonic() - _asked_at < _SAME_REQUEST_SECONDS


def _ask_again(signo: int) -> None:
    """End the process without waiting, unless the signal belongs to the last request."""
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


def _restore() -> None:
    for signo, earlier in list(_earlier.items()):
        # If another handler has replaced ours, keep the earlier one: the other may still call ours.
        is_default = earlier in (signal.SIG_DFL, signal.default_int_handler)
        if signal.getsignal(signo) is sig_handler and not (is_default and _is_same_request()):
            signal.signal(signo, earlier)
            del _earlier[signo]
    if sig_no is None:
        atexit.unregister(exit_hook)


def _signals() -> list[int]:
    """Return the signals to handle on this platform, in this kind of session."""
    # Notebooks, IPython and an interactive `python` handle SIGINT.
    has_prompt = hasattr(builtins, "get_ipython") or hasattr(sys, "ps1")
    is_interactive = has_prompt or bool(sys.flags.interactive)
    names = ["SIGHUP", "SIGTERM"] if is_interactive else ["SIGHUP", "SIGINT", "SIGTERM"]
    return [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows: no SIGHUP


def _is_main_thread() -> bool:
    """Return True on the main thread, where Python allows handlers to be set."""
    return threading.current_thread() is threading.main_thread()
