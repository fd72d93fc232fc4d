"""A line on the terminal that shows how far long work is."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from monolith_keras_metrics.insight import portions

SECONDS = 1.0  # shorter work shows nothing
_WIDTH = 30


@contextlib.contextmanager
def shown(name: str) -> Iterator[None]:
    """Show the progress of what is done within, on stderr, if that is a terminal.

    Args:
        name: What is done.
    """
    if not sys.stderr.isatty():
        yield
        return
    read = portions.Read()
    over = threading.Event()
    thread = threading.Thread(target=_draw, args=(name, read, over), daemon=True)
    thread.start()
    token = portions.WATCHED.set(read)
    try:
        yield
    finally:
        portions.WATCHED.reset(token)
        over.set()
        thread.join()


def _draw(name: str, read: portions.Read, over: threading.Event) -> None:
    """Draw the line from time to time until it is over, and then remove it."""
    begin = time.monotonic()
    wait = SECONDS
    while not over.wait(wait):
        wait = 0.2
        seconds = time.monotonic() - begin
        print(f"\r\x1b[K{name}: {_how_far(read)}{seconds:.0f} s", end="", file=sys.stderr)
        sys.stderr.flush()
    if wait != SECONDS:
        print("\r\x1b[K", end="", file=sys.stderr)
        sys.stderr.flush()


def _how_far(read: portions.Read) -> str:
    """Return a bar; nothing if the number of records is not known."""
    if not read.total:
        return ""
    share = min(1.0, read.records / read.total)
    bar = "█" * round(share * _WIDTH)
    return f"|{bar:<{_WIDTH}}| {read.records:,} of {read.total:,} records, "
