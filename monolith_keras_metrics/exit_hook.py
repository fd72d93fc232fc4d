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
- A second signal, once the first is unwinding the stack, ends the process at once.
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
from collections.abc import Callable
from types import FrameType

from absl import logging

from monolith_keras_metrics import cli, task_context

_Over = Callable[[], bool]
_Handler = Callable[[int, FrameType | None], object] | int | None

sig_no: int | None = None
"""The signal that is ending the process; `None` until one came."""

_chaining = False  # the earlier handler is running
_unwinding = False  # the earlier handler has run, and `SystemExit` is on its way up
_installs: list[_Over | None] = []  # for each `install` without its `uninstall`: is it over?
_pid = os.getpid()  # who installed
_earlier: dict[int, _Handler] = {}  # what was there before us
_told_off_main_thread = False


def sig_handler(signo: int, frame: FrameType | None) -> None:
    """Notes the signal, runs the handler that was there before, and exits.

    Args:
        signo: The signal's number; it becomes the exit status.
        frame: What was interrupted; for the earlier handler.

    Raises:
        SystemExit: Always, unless the earlier handler raises something else, the process ends at
            once because an earlier signal is already unwinding the stack, or what this was
            installed for is over, so that the earlier handler alone is called.

    Example:
        >>> import signal
        >>> earlier = signal.signal(signal.SIGTERM, sig_handler)  # what `install` does
        >>> _ = signal.signal(signal.SIGTERM, earlier)
    """
    global sig_no, _chaining, _unwinding
    if signo in _earlier and signal.getsignal(signo) is sig_handler and not _going_on():
        _put_back()
        signal.raise_signal(signo)
        return
    if _unwinding and _installs:
        # Whoever asks twice does not want to wait for what is being written.
        signal.signal(signo, signal.SIG_DFL)
        os.kill(os.getpid(), signo)
    sig_no = int(signo)  # not `Signals.SIGTERM`, should somebody call us with it
    # We may be called while the earlier handler runs: by that handler, as what was there before
    # *it* (it was set in an earlier training), or for another signal. Both mean: exit.
    if not _chaining:
        earlier = _earlier.get(signo)
        _chaining = True
        try:
            if callable(earlier) and earlier is not signal.default_int_handler:
                earlier(signo, frame)
        finally:
            _chaining, _unwinding = False, True
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


def install(over: _Over | None = None) -> bool:
    """Puts the handlers and the exit hook in place, until `uninstall`.

    Calls nest: the last `uninstall` takes them away. A handler that the program has set since the
    first call is from the next call on an earlier handler like any other. Each call says that the
    program goes on training, whatever signal came before: the next is a first signal again. Off
    the main thread, where Python allows no handlers, it logs one warning and does nothing.

    Args:
        over: Tells, from any thread and without taking a lock, whether what this is for is over,
            should nobody call `uninstall`.

    Returns:
        Whether they are in place.

    Example:
        >>> installed = install()
        >>> try:
        ...     pass  # train
        ... finally:
        ...     uninstall()
    """
    global _unwinding, _pid
    if not _on_main_thread():
        _tell_off_main_thread()
        return False
    if _pid != os.getpid():
        _pid = os.getpid()  # forked in the middle of a training that is not ours
        _installs.clear()
    _unwinding = False
    _going_on()
    _installs.append(over)
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
    """Puts back what was there before `install`.

    A handler that the program has set since then stays. So does the exit hook, if a signal came:
    its counter is yet to be emitted. Without an `install` on the main thread nothing happens. Off
    the main thread it is the next signal, or the next call there, that puts back.

    Args:
        over: What was given to `install`.
    """
    if over in _installs and (_on_main_thread() or over is not None):
        _installs.remove(over)
    if _on_main_thread() and not _going_on():
        _put_back()


def _going_on() -> bool:
    """Whether there is anything left that was installed for."""
    _installs[:] = [over for over in _installs if over is None or not over()]
    return bool(_installs)


def _put_back() -> None:
    for signo, earlier in list(_earlier.items()):
        # Where another handler has come on top of ours, what was before us is kept in mind: the
        # other one may yet call ours.
        if signal.getsignal(signo) is sig_handler:
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
