"""The states of closed windows, added up in blocks of time, from which spans are made.

A span of 7 days with windows of an hour is 28 blocks of 6 hours. So the number of states that are
kept does not grow with the number of windows, and a look at a span adds up a few of them. A span
then ends with the window that was closed last, and begins with a block: it may be up to a block
shorter than it is said to be.

Blocks are kept as bytes, by whoever follows the run, and loaded one after the other. Those of a few
kilobytes stay decoded for the next look.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import NamedTuple

from absl import logging

from monolith_keras_metrics.insight.state import State

_MOST = 28  # blocks of a span
_SMALL, _DECODED = 1 << 15, 128  # bytes of a state that stays decoded, and how many do


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

    def __init__(
        self, name: str, spans: Iterable[Span], memory: MutableMapping[str, bytes]
    ) -> None:
        self._name = name
        self._memory = memory
        self._keep: dict[int, int] = {}
        for span in spans:
            self._keep[span.size] = max(span.seconds, self._keep.get(span.size, 0))

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
            there = self.starts(size)
            block = start // size * size
            before = self._load(size, block) if block in there else None
            added = state if before is None else State.merge([before, state])
            self._memory[self._key(size, block)] = added.to_bytes()
            for old in there:
                if old < end - keep:
                    del self._memory[self._key(size, old)]

    def starts(self, size: int) -> list[int]:
        """Return when the blocks of a length begin, the newest first."""
        prefix = self._key(size)
        return sorted(
            (int(key.removeprefix(prefix)) for key in self._memory if key.startswith(prefix)),
            reverse=True,
        )

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
        contents = self._memory[self._key(size, start)]
        try:
            return (_decoded if len(contents) <= _SMALL else State.from_bytes)(contents)
        except ValueError as error:
            logging.warning("watch: a block of records is left out: %s", error)
            return None

    def _key(self, size: int, start: int | None = None) -> str:
        return f"alerts/{self._name}/{size}/{'' if start is None else start}"


def forget_others(memory: MutableMapping[str, bytes], names: Sequence[str]) -> None:
    """Delete all blocks but those of some names."""
    for key in [*memory]:
        parts = key.split("/")
        if parts[0] == "alerts" and len(parts) == 4 and parts[1] not in names:
            del memory[key]


@functools.lru_cache(maxsize=_DECODED)
def _decoded(contents: bytes) -> State:
    return State.from_bytes(contents)
