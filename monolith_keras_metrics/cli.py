"""The metrics client, which receives counters.

By default, counters are discarded: `get_cli` returns a new `Client`, whose methods do nothing.
`set_backend` puts a back end (Prometheus, StatsD, OpenTelemetry, or a custom one) behind `get_cli`
for the process, and removes it again.

Telemetry never stops training: if a back end returns no client, this is logged once as an error,
and the counters are discarded. Errors from `emit_*` of the back end's client are not caught here.

A back end may have a method `flush(timeout)`, which waits at most `timeout` seconds until what was
emitted has been delivered, and returns True if it has. It is called when the process exits, after
the last counters.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from absl import logging

_METHODS = ("emit_counter", "emit_store", "emit_timer")

_FLUSH_SECONDS = 2.0  # for the last flush of a process that no `exit_by` bounds
_LEAST_FLUSH_SECONDS = 0.5  # in case everything else has used up the time


class MetricsClient(Protocol):
    """The methods of a metrics client that the package calls."""

    def emit_counter(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Add `value` to the counter `name`."""

    def emit_store(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Set the gauge `name` to `value`."""

    def emit_timer(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Add `value` to the distribution `name`."""


Backend = Callable[..., MetricsClient]
"""A callable that makes a metrics client from the arguments of `get_cli`, usually a prefix."""


class Client:
    """A metrics client that does nothing: no threads, no I/O, no logging.

    Every attribute is a callable that accepts any arguments and returns `None`. The exceptions
    are names that Python and IPython look up to learn what an object can do (`__deepcopy__`,
    `_repr_html_`): a no-op there would break copying, pickling and display.

    Args:
        *args: Ignored.
        **kwargs: Ignored.

    Example:
        >>> Client("monolith.training").emit_counter("deep_insight.written", 3, {"target": "ctr"})
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Ignore the arguments."""

    # `__getattr__` would provide these three too. They are spelt out so that type checkers see a
    # `MetricsClient`.
    def emit_counter(self, *args: object, **kwargs: object) -> None:
        """Do nothing."""

    def emit_store(self, *args: object, **kwargs: object) -> None:
        """Do nothing."""

    def emit_timer(self, *args: object, **kwargs: object) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Return a callable that does nothing.

        Args:
            name: Any name.

        Returns:
            A callable that accepts any arguments and returns `None`.

        Raises:
            AttributeError: If `name` is `__dunder__`, `_repr_*_` or `_ipython_*`.
        """
        probe = (
            (name.startswith("__") and name.endswith("__"))
            or (name.startswith("_repr_") and name.endswith("_"))
            or name.startswith("_ipython_")
        )
        if probe:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return _do_nothing


def _do_nothing(*args: object, **kwargs: object) -> None:
    """Accept any arguments and do nothing."""


_lock = threading.Lock()
_backend: Backend | None = None
_failure_logged = False
_exit_by: float | None = None  # by the monotonic clock
_is_prepared = False


def get_cli(*args: object, **kwargs: object) -> MetricsClient:
    """Return a metrics client.

    Args:
        *args: Passed to the back end, which usually takes a prefix for the names. Ignored if no
            back end is set.
        **kwargs: As `args`.

    Returns:
        The back end's client for these arguments. A new `Client` if no back end is set, or if it
        raises or returns an object without the three methods of a `MetricsClient`. The first such
        failure of a back end is logged as an error.

    Example:
        >>> get_cli("monolith.training").emit_store("deep_insight.lag_seconds", 0.5, {})
    """
    # Read once, without the lock: another thread may remove the back end at any moment, and the
    # exit hook must never wait here.
    backend = _backend
    if backend is None:
        return Client()
    try:
        client = backend(*args, **kwargs)
        if not all(callable(getattr(client, name, None)) for name in _METHODS):
            raise TypeError(
                f"A metrics back end must return an object with {', '.join(_METHODS)}. "
                f"Received: an object of type {type(client).__name__}"
            )
    except Exception:
        _log_failure(backend)
        return Client()
    return client


def set_backend(backend: Backend | None) -> Backend | None:
    """Set the back end of `get_cli` for the process.

    Clients that `get_cli` returned earlier are not affected.

    Args:
        backend: Called by every `get_cli(...)` with the same arguments, of which there may be
            none, from any thread. It may return the same client each time. `None` removes the
            back end.

    Returns:
        The back end that was set before, or `None`.

    Raises:
        TypeError: If `backend` is neither callable nor `None`.

    Example:
        >>> previous = set_backend(lambda prefix="": Client())
        >>> _ = set_backend(previous)
    """
    global _backend, _failure_logged
    if backend is not None and not callable(backend):
        raise TypeError(
            "`backend` must be a callable that returns a metrics client, or None. "
            f"Received: backend={backend!r}"
        )
    if backend is not None:
        prepare_exit()
    with _lock:
        previous, _backend = _backend, backend
        _failure_logged = False
    return previous


def has_backend() -> bool:
    """Return True if a back end is set, so that counters are not discarded."""
    return _backend is not None


@contextlib.contextmanager
def use_backend(backend: Backend | None) -> Iterator[None]:
    """Set the back end of `get_cli` for the length of a `with` block.

    The block applies to all threads. A counter that is emitted when the process ends, such as that
    of the exit hook, comes after the block: use `set_backend` for it.

    Args:
        backend: As for `set_backend`.

    Yields:
        Nothing.

    Raises:
        TypeError: If `backend` is neither callable nor `None`.

    Example:
        >>> with use_backend(lambda prefix="": Client()):
        ...     get_cli("monolith.training").emit_timer("deep_insight.write_seconds", 0.1, {})
    """
    previous = set_backend(backend)
    try:
        yield
    finally:
        set_backend(previous)


def exit_by(deadline: float) -> None:
    """Bound the last flush, in case the process is exiting.

    Args:
        deadline: When the process should have ended, by the monotonic clock. At least half a second
            is left for the flush.
    """
    global _exit_by
    _exit_by = deadline


def flush_at_exit() -> None:
    """Have the back end deliver what was emitted, within the time that is left."""
    flush = getattr(_backend, "flush", None)
    if not callable(flush):
        return
    timeout = _FLUSH_SECONDS
    if _exit_by is not None:
        timeout = max(_LEAST_FLUSH_SECONDS, _exit_by - time.monotonic())
    try:
        if not flush(timeout):
            logging.warning("Deep insight: the last counters were not delivered in time.")
    except Exception:
        logging.exception("Deep insight: the last counters could not be delivered.")


def prepare_exit() -> None:
    """Have `flush_at_exit` called when the process exits.

    Whoever registers a function that emits counters at exit calls this before, since functions that
    are registered first run last.
    """
    global _is_prepared
    if not _is_prepared:
        _is_prepared = True
        atexit.register(flush_at_exit)


def _log_failure(backend: Backend) -> None:
    """Log the exception being handled, unless this back end has failed before."""
    global _failure_logged
    with _lock:
        first = backend is _backend and not _failure_logged
        _failure_logged = _failure_logged or first
    if first:
        # Only its name, since the repr of a partial would reveal arguments such as a token.
        name = getattr(backend, "__qualname__", type(backend).__name__)
        logging.exception("The metrics back end %s returned no client; counters are lost.", name)
