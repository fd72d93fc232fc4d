"""Watching a run for all viewers at once, in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from monolith_keras_metrics.insight.page.live import Live

LOOK_SECONDS = 0.5
STATE_SECONDS = 10.0  # the page takes a connection that is silent for longer for lost

_T = TypeVar("_T")
_busy: set[threading.Thread] = set()


async def in_daemon(work: Callable[[], _T]) -> _T:
    """Return what a call returns, made in a thread of its own that does not keep the process alive.

    A search can take a minute, and cannot be stopped. A pool's thread would be waited for.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[_T] = loop.create_future()

    def tell(set_it: Callable[[Any], None], value: Any) -> None:
        if not result.done():  # nobody waits any longer
            set_it(value)

    def run() -> None:
        set_it: Callable[[Any], None] = result.set_result
        value: Any
        try:
            value = work()
        except Exception as error:
            set_it, value = result.set_exception, error
        _busy.discard(threading.current_thread())
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, set_it, value)

    thread = threading.Thread(target=run, daemon=True, name="deep-insight page")
    _busy.add(thread)
    thread.start()
    return await result


def is_busy() -> bool:
    """Return True if a call of `in_daemon` has not ended yet."""
    return bool(_busy)


class Watch:
    """One look at a run, which wakes all viewers; none while there are no viewers.

    All methods are called in the event loop.

    Args:
        live: The run.
        ending: Returns True once the server is to end, which waits for its answers to end.
        look_seconds: How often to look.
    """

    def __init__(
        self, live: Live, ending: Callable[[], bool], look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._live = live
        self._ending = ending
        self._look_seconds = look_seconds
        self._viewers = 0
        self._task: asyncio.Task[None] | None = None
        self._searching: asyncio.Task[None] | None = None
        self._ended = False
        self._bell = asyncio.Event()  # of the next message
        self._message = ""

    @property
    def is_looking(self) -> bool:
        """Return True while it looks."""
        return self._task is not None and not self._task.done()

    async def states(self) -> AsyncIterator[str]:
        """Yield the state of the run to a viewer: at once, when it changes, and now and then."""
        self._viewers += 1
        try:
            if not self.is_looking:
                self._task = asyncio.create_task(self._look())
            bell = self._bell  # taken first: what rings while a slow viewer is told is not missed
            yield self._state()
            while not self._ended:
                await bell.wait()
                bell = self._bell
                if not self._ended:
                    yield self._message
        finally:
            self._viewers -= 1
            if not self._viewers:
                self.stop()

    def search(self) -> None:
        """Start a search for wrong slices, unless one is under way."""
        if self._searching is None or self._searching.done():
            self._searching = asyncio.create_task(in_daemon(self._live.search))

    def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
        self._task = None

    async def _look(self) -> None:
        told, at = self._live.version, time.monotonic()
        while True:
            await in_daemon(self._live.look)
            if self._ending():
                self._ended = True
                self._bell.set()
                return
            self.search()
            if self._live.version != told or time.monotonic() > at + STATE_SECONDS:
                told, at = self._live.version, time.monotonic()
                self._message = self._state()
                bell, self._bell = self._bell, asyncio.Event()
                bell.set()
            await asyncio.sleep(self._look_seconds)

    def _state(self) -> str:
        state = {
            "version": self._live.version,
            "quiet_seconds": round(self._live.quiet_seconds, 1),
        }
        return f"event: state\ndata: {json.dumps(state)}\n\n"
