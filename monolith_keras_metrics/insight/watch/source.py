"""`Source`: the contract of what is watched."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol

import polars as pl

from monolith_keras_metrics.insight.watch.store import Store


class Portion(NamedTuple):
    """Some records that were read.

    Attributes:
        part: The part of the source that they come from, without "/".
        records: The records, as `open_run` gives them.
        heard: When they came, Unix seconds.
    """

    part: str
    records: pl.DataFrame
    heard: float


class Source(Protocol):
    """A run's folder or a topic, which is read from where an earlier process stopped.

    One thread calls it.

    Attributes:
        identity: What tells it from others.
    """

    identity: str

    def load(self, store: Store) -> None:
        """Take up from a store what was read already."""

    def save(self, store: Store) -> None:
        """Write to a store what was read, which is committed together with what came of it."""

    def look(self) -> None:
        """Look for something new. May wait for it, for about a second.

        Raises:
            OSError, ValueError: If it is away, or not what it should be.
        """

    def read(self) -> Iterator[Portion]:
        """Yield some of what is new, oldest first; nothing if there is nothing new.

        Raises:
            OSError: If it is away. What was not yielded yet is yielded later.
        """

    def behind(self) -> Collection[str]:
        """Return the parts with something that was not read yet."""

    def newest(self) -> float | None:
        """Return when the newest records came, Unix seconds; None if none ever did."""

    def recent(self, since: int, until: int, most: int) -> pl.LazyFrame | None:
        """Return the newest records of those read, of some time, and about so many of them."""

    def close(self) -> None:
        """Release what is held open."""
