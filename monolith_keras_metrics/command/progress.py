"""A line on the terminal that shows how far long work is."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from monolith_keras_metrics.insight import steps

SECONDS = 1.0  # shorter work shows nothing
_MOST, _LEAST = 30, 6  # cells of a bar
_CLEAR = "\r\x1b[K"


@contextlib.contextmanager
def shown(name: str) -> Iterator[None]:
    """Show the progress of what is done within, on stderr, if that is a terminal.

    Args:
        name: What is done.
    """
    if not sys.stderr.isatty():
        yield
        return
    watch = steps.Watch()
    over = threading.Event()
    thread = threading.Thread(target=_draw, args=(name, watch, over), daemon=True)
    thread.start()
    token = steps.WATCHED.set(watch)
    try:
        yield
    finally:
        steps.WATCHED.reset(token)
        over.set()
        thread.join()


def _draw(name: str, watch: steps.Watch, over: threading.Event) -> None:
    """Draw the line from time to time until it is over, and then remove it."""
    begin = time.monotonic()
    wait = SECONDS
    while not over.wait(wait):
        wait = 0.2
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        line = line_of(name, watch, int(time.monotonic() - begin), width - 1)
        print(f"{_CLEAR}{line}", end="", file=sys.stderr, flush=True)
    if wait != SECONDS:
        print(_CLEAR, end="", file=sys.stderr, flush=True)


def line_of(name: str, watch: steps.Watch, seconds: int, width: int) -> str:
    """Return the line, at most as wide as the terminal: a longer one could not be removed.

    Args:
        name: What is done.
        watch: How far it is.
        seconds: For how long it has been done.
        width: The number of columns.
    """
    step = watch.step or steps.Step("starting")
    words = " ".join([*([f"{watch.part}:"] if watch.part else []), step.doing])
    end = f", {seconds} s"
    fewer = step.doing
    if step.total:
        share = min(1.0, step.done / step.total)
        end = f"{step.done:,} of {step.total:,} {step.unit}{end}"
        room = min(_MOST, width - len(f"{name}: {words} || {end}"))
        if room >= _LEAST:
            return f"{name}: {words} |{'█' * round(share * room):<{room}}| {end}"
        end, fewer = f", {end}", f"{step.doing}, {share:.0%}"
    for line in (f"{name}: {words}{end}", f"{words}{end}", f"{fewer}, {seconds} s"):
        if len(line) <= width:
            break
    return line[:width]
