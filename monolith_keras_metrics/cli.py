"""The metrics client: where counters go.

By default they go nowhere: `get_cli` returns a new `Client`, which answers every call with
nothing. A back end (Prometheus, StatsD, OpenTelemetry, or your own) can be put behind `get_cli`
for the process with `set_backend`, and taken away again.

Telemetry never takes training down: a back end that cannot be had is logged once, as an error,
and the counters go nowhere. What the back end's client does in `emit_*` is its own; this module
does not wrap it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from absl import logging

_METHODS = ("emit_counter", "emit_store", "emit_timer")


class MetricsClient(Protocol):
    """What the package calls on a metrics client."""

    def emit_counter(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Adds `value` to the counter `name`."""

    def emit_store(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Sets the gauge `name` to `value`."""

    def emit_timer(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Adds `value` to the distribution `name`."""


Backend = Callable[..., MetricsClient]
"""Makes a metrics client from the arguments that `get_cli` was given (the prefix, usually)."""


class Client:
    """A metrics client that does nothing: no threads, no I/O, no logging.

    Every attribute is a callable that takes anything and returns `None`. Not so the names that
    Python and IPython look up to learn what an object can do (`__deepcopy__`, `_repr_html_`):
    a no-op there would be taken for an answer, and break copying, pickling and display.

    Args:
        *args: Ignored.
        **kwargs: Ignored.

    Example:
        >>> Client("monolith.training").emit_counter("deep_insight.written", 3, {"target": "ctr"})
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Ignores its arguments."""

    # These three would be answered by `__getattr__` too. They are spelt out so that type checkers
    # see a `MetricsClient`.
    def emit_counter(self, *args: object, **kwargs: object) -> None:
        """Does nothing."""

    def emit_store(self, *args: object, **kwargs: object) -> None:
        """Does nothing."""

    def emit_timer(self, *args: object, **kwargs: object) -> None:
        """Does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Returns a callable that does nothing.

        Args:
            name: Any name.

        Returns:
            A callable that takes anything and returns `None`.

        Raises:
            AttributeError: `name` is `__dunder__`, `_repr_*_` or `_ipython_*`.
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
    """Takes anything and does nothing."""


_lock = threading.Lock()
_backend: Backend | None = None
_failure_logged = False


def get_cli(*args: object, **kwargs: object) -> MetricsClient:
    """Returns a metrics client.

    Args:
        *args: For the back end, which usually takes a prefix for the names. Ignored without one.
        **kwargs: As `args`.

    Returns:
        What the back end makes of the arguments. A new `Client` where none is set, or where it
        raises or returns what has not the three methods of a `MetricsClient`; the first such
        failure of a back end is logged as an error.

    Example:
        >>> get_cli("monolith.training").emit_store("deep_insight.lag_seconds", 0.5, {})
    """
    # Read once, without the lock: another thread may take the back end away at any moment, and
    # the exit hook must never wait here.
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
    """Puts a back end behind `get_cli`, for the whole process.

    Clients that `get_cli` gave out before are not affected.

    Args:
        backend: Called by every `get_cli(...)` with the same arguments, of which there may be
            none, from any thread; it may return the same client each time. `None` takes the back
            end away.

    Returns:
        The back end that was set before, or `None`.

    Raises:
        TypeError: `backend` is neither callable nor `None`.

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
    with _lock:
        previous, _backend = _backend, backend
        _failure_logged = False
    return previous


def has_backend() -> bool:
    """Return True if a back end is set, so that what is emitted goes somewhere."""
    return _backend is not None


@contextlib.contextmanager
def use_backend(backend: Backend | None) -> Iterator[None]:
    """Puts a back end behind `get_cli` for the length of a `with` block.

    The block is for the whole process, not for one thread. A counter that is emitted when the
    process ends, such as that of the exit hook, comes after the block: `set_backend` is for that.

    Args:
        backend: As for `set_backend`.

    Yields:
        Nothing.

    Raises:
        TypeError: `backend` is neither callable nor `None`.

    Example:
        >>> with use_backend(lambda prefix="": Client()):
        ...     get_cli("monolith.training").emit_timer("deep_insight.write_seconds", 0.1, {})
    """
    previous = set_backend(backend)
    try:
        yield
    finally:
        set_backend(previous)


def _log_failure(backend: Backend) -> None:
    """Logs the exception being handled, unless this back end has failed before."""
    global _failure_logged
    with _lock:
        first = backend is _backend and not _failure_logged
        _failure_logged = _failure_logged or first
    if first:
        # Its name alone: the repr of a partial would tell its arguments, a token among them.
        name = getattr(backend, "__qualname__", type(backend).__name__)
        logging.exception("The metrics back end %s gives no client; counters are lost.", name)
