"""Bytes and states by name, as they are kept in the store of a watched run."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, MutableMapping

from monolith_keras_metrics.insight.state import Kept, Memory, State


class Blobs(MutableMapping[str, Kept]):
    """Bytes and states by name. Changes are kept in memory until the store commits.

    A state is encoded when it is written, since most are replaced before.

    Args:
        execute: Executes a statement with values, and returns its cursor.
    """

    def __init__(self, execute: Callable[..., sqlite3.Cursor]) -> None:
        self._execute = execute
        self._changed: dict[str, Kept | None] = {}

    @property
    def has_changes(self) -> bool:
        """Return True if there is something to write."""
        return bool(self._changed)

    def __getitem__(self, name: str) -> Kept:
        if name in self._changed:
            blob = self._changed[name]
        else:
            row = self._execute("SELECT blob FROM blobs WHERE name = ?", name).fetchone()
            blob = row[0] if row else None
        if blob is None:
            raise KeyError(name)
        return blob

    def __setitem__(self, name: str, blob: Kept) -> None:
        self._changed[name] = blob

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._changed[name] = None

    def __contains__(self, name: object) -> bool:
        if name in self._changed:
            return self._changed[str(name)] is not None
        return bool(self._execute("SELECT 1 FROM blobs WHERE name = ?", name).fetchone())

    def __iter__(self) -> Iterator[str]:
        known = {name for (name,) in self._execute("SELECT name FROM blobs").fetchall()}
        known |= self._changed.keys()
        return iter(sorted(name for name in known if self._changed.get(name, b"") is not None))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the changes within a transaction."""
        put = (
            (name, blob.to_bytes() if isinstance(blob, State) else blob)
            for name, blob in self._changed.items()
            if blob is not None
        )
        connection.executemany("INSERT OR REPLACE INTO blobs VALUES (?, ?)", put)
        gone = ((name,) for name, blob in self._changed.items() if blob is None)
        connection.executemany("DELETE FROM blobs WHERE name = ?", gone)

    def forget(self) -> None:
        """Forget the changes, which are written."""
        self._changed = {}


class Prefixed(MutableMapping[str, Kept]):
    """The blobs whose names begin with a prefix.

    Args:
        blobs: All blobs.
        prefix: The prefix.
    """

    def __init__(self, blobs: Memory, prefix: str) -> None:
        self._blobs = blobs
        self._prefix = prefix

    def __getitem__(self, name: str) -> Kept:
        return self._blobs[self._prefix + name]

    def __setitem__(self, name: str, blob: Kept) -> None:
        self._blobs[self._prefix + name] = blob

    def __delitem__(self, name: str) -> None:
        del self._blobs[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        size = len(self._prefix)
        return (name[size:] for name in self._blobs if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)
