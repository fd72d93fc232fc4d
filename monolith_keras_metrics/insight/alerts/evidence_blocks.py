"""The states of closed windows, added up in blocks of time, from which spans are made.

A span of 7 days with windows of an hour is 28 blocks of 6 hours. So the number of states that are
kept does not grow with the number of windows, and a look at a span adds up a few of them. A span
then ends with the window that was closed last, and begins with a block: it may be up to a block
shorter than it is said to be.

Blocks are kept by whoever follows the run, as states that become bytes when they are committed.
The newest stay decoded for the next look.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from absl import logging

from monolith_keras_metrics.insight.state import Memory, State

_MOST = 28  # blocks of a span
_DECODED_ROWS = 100_000  # of the tables of states that stay decoded: about 20 MB


class Span(NamedTuple):
    """A span of time that ends with the window that was closed last.

    Attributes:
        seconds: Its length: blocks without a rest.
        size: The length of its blocks, in seconds: windows without a rest.
    """

    seconds: int
    size: int

    @classmethod
    def of(cls, seconds: int, window: int) -> Span:
        """Return the span that is at least so long, of windows of this length.

        Example:
        >>> Span.of(6 * 3600, 3600), Span.of(7 * 86_400, 3600), Span.of(60, 3600)
        (Span(seconds=21600, size=3600), Span(seconds=604800, size=21600), \
Span(seconds=3600, size=3600))
        """
        windows = math.ceil(seconds / window)
        size = window * math.ceil(windows / _MOST)
        return cls(size * math.ceil(seconds / size), size)


class Blocks:
    """The blocks of one question about the records.

    Args:
        name: What tells them from those of other questions, in the names of what is kept.
        spans: The spans that are made of them.
        memory: Where they are kept.
    """

    def __init__(self, name: str, spans: Iterable[Span], memory: Memory) -> None:
        self._name = name
        self._memory = memory
        self._decoded: dict[str, State] = {}  # the one that was used last is last
        self._decoded_rows = 0
        self._keep: dict[int, int] = {}
        for span in spans:
            self._keep[span.size] = max(span.seconds, self._keep.get(span.size, 0))
        self._starts: dict[int, set[int]] = {size: set() for size in self._keep}
        for key in [key for key in memory if key.startswith(f"alerts/{name}/")]:
            size, start = map(int, key.split("/")[2:])
            if size in self._starts:
                self._starts[size].add(start)
            else:  # of a span that is not asked about any more, and would have a gap
                del memory[key]

    @property
    def longest(self) -> int:
        """Return the length of the longest span, in seconds."""
        return max(self._keep.values())

    def add(self, start: int, end: int, state: State) -> None:
        """Add the state of a window, and delete what no span needs any more.

        Args:
            start: When the window begins.
            end: When it ends.
            state: Its state.
        """
        for size, keep in self._keep.items():
            there = self._starts[size]
            block = start // size * size
            before = self._load(size, block) if block in there else None
            added = state if before is None else State.merge([before, state])
            key = self._key(size, block)
            self._memory[key] = added
            self._stays(key, added)
            there.add(block)
            for old in [old for old in there if old < end - keep]:
                there.remove(old)
                del self._memory[self._key(size, old)]
                self._forget(self._key(size, old))

    def starts(self, size: int) -> list[int]:
        """Return when the blocks of a length begin, the newest first."""
        return sorted(self._starts[size], reverse=True)

    def since(self, size: int, cuts: Iterable[int]) -> Iterator[tuple[int, State | None]]:
        """Yield for each cut the state of all blocks that begin then or later; None for none.

        Args:
            size: The length of the blocks.
            cuts: Times. They are yielded in descending order.
        """
        starts = self.starts(size)
        state: State | None = None
        for cut in sorted({*cuts}, reverse=True):
            newer = [start for start in starts if start >= cut]
            starts = starts[len(newer) :]
            found = (self._load(size, start) for start in newer)
            states = [*([] if state is None else [state]), *(one for one in found if one)]
            state = State.merge(states) if states else None
            yield cut, state

    def _load(self, size: int, start: int) -> State | None:
        """Return a block; None if another version of this package kept it."""
        key = self._key(size, start)
        state = self._forget(key)
        if state is None:
            try:
                state = State.of_kept(self._memory[key])
            except ValueError as error:
                logging.warning("watch: a block of records is left out: %s", error)
                return None
        self._stays(key, state)
        return state

    def _stays(self, key: str, state: State) -> None:
        """Have a state stay decoded, instead of those that were not used for long."""
        self._forget(key)
        self._decoded[key] = state
        self._decoded_rows += state.height
        while self._decoded_rows > _DECODED_ROWS:
            self._forget(next(iter(self._decoded)))

    def _forget(self, key: str) -> State | None:
        """Return a state that stayed decoded, and does not any more; None if it did not."""
        state = self._decoded.pop(key, None)
        self._decoded_rows -= 0 if state is None else state.height
        return state

    def _key(self, size: int, start: int) -> str:
        return f"alerts/{self._name}/{size}/{start}"


def forget_others(memory: Memory, names: Sequence[str]) -> None:
    """Delete all blocks but those of some names."""
    for key in [*memory]:
        parts = key.split("/")
        if parts[0] == "alerts" and len(parts) == 4 and parts[1] not in names:
            del memory[key]
