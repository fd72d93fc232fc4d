"""Which clients this process has open, and what becomes of them when it exits or forks."""

from __future__ import annotations

import atexit
import itertools
import multiprocessing.util
import os
from collections.abc import Callable
from typing import Protocol

from absl import logging


class Client(Protocol):
    """What is asked of a client here."""

    def close(self) -> None:
        """Writes what was accepted."""

    def detach(self) -> None:
        """In a forked process: leaves everything to the process that it came from."""


_numbers = itertools.count(1)
_open: dict[int, Client] = {}
_openers: dict[int, Callable[[], Client]] = {}
_used_in: int | None = None  # the process that has made clients
_forked = False  # from a process that had made one


def check_process() -> None:
    """Raises where no client can work.

    Raises:
        RuntimeError: In a process that was forked from one which had made a client.
    """
    if _forked:
        raise RuntimeError(
            "A DeepInsightClient cannot work in a process that was forked from one which had "
            "made a client: Polars' threads stayed there. Start this process with "
            "multiprocessing.get_context('spawn') or 'forkserver'"
        )


def add(client: Client) -> int:
    """Registers an open client, which is closed when the process exits; returns its number."""
    global _used_in
    if _used_in != os.getpid():
        _used_in = os.getpid()
        atexit.register(_close_all)
        # Processes of `multiprocessing` end without `atexit`.
        multiprocessing.util.Finalize(None, _close_all, exitpriority=0)
    number = next(_numbers)
    _open[number] = client
    return number


def add_opener(opener: Callable[[], Client]) -> int:
    """Return a number for whichever client `opener` returns: a graph that holds it stays valid.

    Args:
        opener: Returns an open client, and opens one if there is none. It is kept as long as the
            process lives: graphs do not say when they are gone.
    """
    number = next(_numbers)
    _openers[number] = opener
    return number


def remove(number: int) -> None:
    """Says that a client is closed."""
    _open.pop(number, None)


def find(number: int) -> Client | None:
    """Returns the client with this number; None if there is none, or it is closed.

    For a number of `add_opener`, this opens it.
    """
    opener = _openers.get(number)
    return _open.get(number) if opener is None else opener()


def numbers() -> list[int]:
    """Returns the numbers of the clients that are open."""
    return sorted(_open)


def _close_all() -> None:
    for client in list(_open.values()):
        try:
            client.close()
        except Exception as error:  # the next client's records matter too
            logging.error("Deep insight: %s at exit: %s", type(error).__name__, error)


def _forget_in_child() -> None:
    global _forked
    _forked = _forked or _used_in is not None
    # The threads stayed with the parent, which writes what both have in their queues.
    for client in _open.values():
        client.detach()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
