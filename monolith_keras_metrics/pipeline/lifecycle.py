"""Keep track of the open clients of this process: close them at exit, detach them in forks."""

from __future__ import annotations

import atexit
import itertools
import multiprocessing.util
import os
from collections.abc import Callable
from typing import Protocol

from absl import logging

from monolith_keras_metrics import cli


class Client(Protocol):
    """The methods of a client that this module calls."""

    def close(self) -> None:
        """Write what was accepted."""

    def detach(self) -> None:
        """Leave all work to the parent process. Called in a forked process."""


_numbers = itertools.count(1)
_open: dict[int, Client] = {}
_openers: dict[int, Callable[[], Client]] = {}
_used_in: int | None = None  # pid of the process that has created clients
_forked = False  # True if the parent process had created a client


def check_process() -> None:
    """Raise if no client can work in this process.

    Raises:
        RuntimeError: If this process was forked from one that had created a client.
    """
    if _forked:
        raise RuntimeError(
            "A DeepInsightClient cannot work in a process that was forked from one that had "
            "created a client, because Polars' threads do not survive a fork. Start this process "
            "with multiprocessing.get_context('spawn') or 'forkserver'"
        )


def add(client: Client) -> int:
    """Register an open client, to close it when the process exits; return its number."""
    global _used_in
    if _used_in != os.getpid():
        _used_in = os.getpid()
        cli.prepare_exit()
        atexit.register(_close_all)
        # Processes of `multiprocessing` do not run `atexit` functions.
        multiprocessing.util.Finalize(None, _close_all, exitpriority=0)
        if multiprocessing.parent_process() is not None:
            multiprocessing.util.Finalize(None, cli.flush_at_exit, exitpriority=-1)
    number = next(_numbers)
    _open[number] = client
    return number


def add_opener(opener: Callable[[], Client]) -> int:
    """Return a number for the client that `opener` returns, valid even if the client is replaced.

    Args:
        opener: Returns an open client; opens one if there is none. It is kept until the process
            exits, because graphs that hold the number do not announce their end.
    """
    number = next(_numbers)
    _openers[number] = opener
    return number


def remove(number: int) -> None:
    """Remove a client that is closed."""
    _open.pop(number, None)


def find(number: int) -> Client | None:
    """Return the client with this number; None if there is none or it is closed.

    Opens the client if the number is from `add_opener`.
    """
    opener = _openers.get(number)
    return _open.get(number) if opener is None else opener()


def numbers() -> list[int]:
    """Return the numbers of the open clients."""
    return sorted(_open)


def _close_all() -> None:
    for client in list(_open.values()):
        try:
            client.close()
        except Exception as error:  # the other clients must be closed too
            logging.error("Deep insight: %s at exit: %s", type(error).__name__, error)


def _forget_in_child() -> None:
    global _forked
    _forked = _forked or _used_in is not None
    # Only the parent has the threads, and it writes what is queued.
    for client in _open.values():
        client.detach()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
