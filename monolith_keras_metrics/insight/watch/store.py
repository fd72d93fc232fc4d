"""What a watched run has come to, in one SQLite file: where to read on, sums, items, deliveries.

**One transaction.** What was read, the sums that it was added to, the windows that it closed and
the alerts that these raised are committed together. A process that is killed at any moment leaves
either all of them or none, and what was read but not committed is read again. So no record is
skipped or counted twice, and each window is closed once.

**Deliveries.** An item stays here until each publisher has it. Before a publisher is given items,
it is noted up to which number; after it has them, that they are delivered. So of the items of an
interrupted attempt, and only of these, a publisher is told that it may have them already.

**One process** writes the file, and locks another one beside it meanwhile. Others may read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from monolith_keras_metrics.insight import stored
from monolith_keras_metrics.insight.items import Alert, Item, Window, from_json, to_json
from monolith_keras_metrics.insight.watch.blobs import Blobs
from monolith_keras_metrics.journal import locks
from monolith_keras_metrics.records import run_folder

_VERSION = 1_000 + stored.VERSION  # of this file, and of the states in it
FILE = run_folder.WATCH_STATE
_TABLES = """
CREATE TABLE values_ (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE blobs (name TEXT PRIMARY KEY, blob BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE names (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE items (
    number INTEGER PRIMARY KEY, starts INTEGER, item BLOB NOT NULL, amended BLOB);
CREATE INDEX windows ON items (starts) WHERE starts IS NOT NULL;
CREATE TABLE publishers (
    identity TEXT PRIMARY KEY, attempted INTEGER NOT NULL, delivered INTEGER NOT NULL,
    registered INTEGER NOT NULL)
    WITHOUT ROWID;
"""


class Store:
    """The file. Any thread may call any method.

    Changes are kept in memory until `commit`, but for those of deliveries.

    Args:
        folder: Its folder, which is made if it is missing.

    Attributes:
        id: What tells it from others: letters and digits.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If another process has it open, or it is no such file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(folder).expanduser().absolute() / FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._values: dict[str, str] = {}
        self._amended: dict[int, Window] = {}
        self._names: list[str] = []
        self.blobs = Blobs(self._execute)
        self._lock_file = os.open(
            self.path.with_name(run_folder.WATCH_LOCK), os.O_RDWR | os.O_CREAT, 0o666
        )
        try:
            self._take_lock()
            with self._explained():
                self._connection = sqlite3.connect(
                    self.path, timeout=10.0, isolation_level=None, check_same_thread=False
                )
                self._open()
        except BaseException:
            os.close(self._lock_file)
            raise
        self.id = str(self._one("SELECT value FROM values_ WHERE name = 'id'"))
        self._last = self._one("SELECT coalesce(max(number), 0) FROM items")
        self._last = max(self._last, int(self.value("last") or 0))

    def _open(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        if not _check_version(self._connection, self.path):
            with self._transaction():
                for statement in _TABLES.split(";\n"):
                    execute(statement)
                execute("INSERT INTO values_ VALUES ('id', ?)", (secrets.token_hex(8),))
                execute(f"PRAGMA user_version = {_VERSION}")

    def _take_lock(self) -> None:
        try:
            locks.take(self._lock_file)
        except locks.TakenError:
            raise ValueError(
                f"{self.path} is in use: another `watch` follows this run. End it, or name "
                "another folder for the state"
            ) from None
        except OSError as error:  # a file system that has no locks
            logging.warning("deep-insight watch: %s cannot be locked: %s", self.path, error)

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        return _explained(self.path)

    def value(self, name: str) -> Any:
        """Return a value that was set under a name; None if there is none."""
        with self._lock:
            text = self._values.get(name)
            if text is None:
                row = self._execute("SELECT value FROM values_ WHERE name = ?", name).fetchone()
                text = row[0] if row else "null"
        return json.loads(text)

    def set(self, name: str, value: Any) -> None:
        """Set a value, which must be JSON."""
        with self._lock:
            self._values[name] = json.dumps(value)

    def names(self) -> list[str]:
        """Return the committed names."""
        return [name for (name,) in self._execute("SELECT name FROM names").fetchall()]

    def add_names(self, names: Sequence[str]) -> None:
        """Add names, of which there may be many."""
        with self._lock:
            self._names += names

    @property
    def has_changes(self) -> bool:
        """Return True if there is something to commit."""
        return bool(self._values or self._amended or self._names or self.blobs.has_changes)

    @property
    def next_number(self) -> int:
        """Return the number of the next item."""
        return int(self._last) + 1

    def amend(self, window: Window) -> None:
        """Keep what a closed window has come to with late records."""
        with self._lock:
            self._amended[window.start] = window

    def commit(self, items: Sequence[Item] = ()) -> None:
        """Write all changes and new items, or none of them.

        Args:
            items: The items, numbered from `next_number`.

        Raises:
            OSError: If that failed, as with a full disk. Nothing is lost: it may be called again.
        """
        with self._lock, self._explained(), self._transaction():
            last = items[-1].number if items else self._last
            self._values["last"] = json.dumps(last)
            many = self._connection.executemany
            many("INSERT OR REPLACE INTO values_ VALUES (?, ?)", self._values.items())
            self.blobs.write(self._connection)
            many("INSERT OR IGNORE INTO names VALUES (?)", ((name,) for name in self._names))
            rows = (
                (one.number, one.start if isinstance(one, Window) else None, _packed(one))
                for one in items
            )
            many("INSERT INTO items (number, starts, item) VALUES (?, ?, ?)", rows)
            amended = ((_packed(one), start) for start, one in self._amended.items())
            many("UPDATE items SET amended = ? WHERE starts = ?", amended)
        with self._lock:
            self._last = last
            self._values, self._amended, self._names = {}, {}, []
            self.blobs.forget()

    @staticmethod
    def windows_in(folder: pathlib.Path) -> Iterator[Window]:
        """Yield the committed windows, with their late records. Another process may be writing.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it was written by another version, or is damaged.
        """
        with _explained(folder / FILE):
            uri = f"{(folder / FILE).absolute().as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
                _check_version(connection, folder / FILE)
                rows = connection.execute(
                    "SELECT coalesce(amended, item) FROM items WHERE starts IS NOT NULL "
                    "ORDER BY starts"
                )
                for (blob,) in rows:
                    item = _unpacked(blob)
                    assert isinstance(item, Window)
                    yield item

    def shown(self, identity: str) -> list[Item]:
        """Return what a publisher has shown last: its newest window, and what fires, in order."""
        known = "number <= (SELECT delivered FROM publishers WHERE identity = ?)"
        newest = self._execute(
            f"SELECT item FROM items WHERE starts IS NOT NULL AND {known} "  # noqa: S608
            "ORDER BY number DESC LIMIT 1",
            identity,
        ).fetchall()
        found = [*(_unpacked(blob) for (blob,) in newest), *self._firing(known, identity)]
        return sorted(found, key=lambda one: one.number)

    def _firing(self, known: str, *values: object) -> list[Alert]:
        """Return the alerts of some items that have not been resolved by others of them."""
        rows = self._execute(
            f"SELECT item FROM items WHERE starts IS NULL AND {known} ORDER BY number",  # noqa: S608
            *values,
        ).fetchall()
        alerts = [item for (blob,) in rows if isinstance(item := _unpacked(blob), Alert)]
        last = {(one.name, one.target, *sorted(one.group.items())): one for one in alerts}
        return [one for one in last.values() if one.state == "firing"]

    def register(self, identity: str) -> None:
        """Note a publisher.

        A new one is to be given all windows that are kept, and of the alerts before it those that
        still fire.
        """
        self._execute("INSERT OR IGNORE INTO publishers VALUES (?, 0, 0, ?)", identity, self._last)

    def waiting(self, identity: str, most: int) -> tuple[list[Item], int]:
        """Note that a publisher is given the next items, and return them.

        Returns:
            The items, and the largest number that it was given before.

        Raises:
            OSError: If it cannot be noted.
        """
        with self._lock, self._explained():
            while True:
                attempted, delivered, registered = self._execute(
                    "SELECT attempted, delivered, registered FROM publishers WHERE identity = ?",
                    identity,
                ).fetchone()
                rows = self._execute(
                    "SELECT item FROM items WHERE number > ? ORDER BY number LIMIT ?",
                    *(delivered, most),
                ).fetchall()
                found = [_unpacked(blob) for (blob,) in rows]
                items = self._without_past(found, registered) if delivered < registered else found
                if items or not found:
                    break
                self.delivered(identity, found[-1].number)  # all of them are over
            if items and items[-1].number > attempted:
                self._execute(
                    "UPDATE publishers SET attempted = ? WHERE identity = ?",
                    *(items[-1].number, identity),
                )
        return items, attempted

    def _without_past(self, items: Sequence[Item], registered: int) -> list[Item]:
        """Return items without the alerts that were over when a publisher was registered."""
        firing = {one.number for one in self._firing("number <= ?", registered)}
        return [
            one
            for one in items
            if isinstance(one, Window) or one.number in firing or one.number > registered
        ]

    def delivered(self, identity: str, number: int) -> None:
        """Note that a publisher has all items up to a number.

        Raises:
            OSError: If it cannot be noted.
        """
        with self._explained():
            self._execute(
                "UPDATE publishers SET delivered = ? WHERE identity = ?", number, identity
            )

    def backlog(self, identity: str) -> int:
        """Return how many committed items a publisher does not have."""
        return int(
            self._one(
                "SELECT count(*) FROM items WHERE number > "
                "(SELECT delivered FROM publishers WHERE identity = ?)",
                identity,
            )
        )

    def forget_items(self, before: int, identities: Sequence[str]) -> None:
        """Delete windows that begin before a time, and alerts before these.

        Args:
            before: The time, Unix seconds.
            identities: The publishers that must have them. Others are not waited for.
        """
        last = self._one("SELECT max(number) FROM items WHERE starts < ?", before)
        for identity in identities:
            delivered = self._one("SELECT delivered FROM publishers WHERE identity = ?", identity)
            last = min(last or 0, delivered)
        self._execute("DELETE FROM items WHERE number <= ?", last or 0)

    def close(self) -> None:
        """Close the file; what was not committed is gone."""
        with self._lock:
            self._connection.close()
            os.close(self._lock_file)

    def _one(self, statement: str, *values: object) -> Any:
        return self._execute(statement, *values).fetchone()[0]

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        with self._lock, self._explained():
            return self._connection.execute(statement, values)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise


def _packed(item: Item) -> bytes:
    return zlib.compress(to_json(item).encode(), 1)


def _unpacked(blob: bytes) -> Item:
    return from_json(zlib.decompress(blob).decode())


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(f"{path}: {error}") from error
    except (sqlite3.DatabaseError, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged: {error}. Delete it to begin anew: what was published already is "
            "then published again"
        ) from error


def _check_version(connection: sqlite3.Connection, path: pathlib.Path) -> bool:
    """Return True if the file has tables; raise if they are those of another version."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
        raise ValueError(
            f"{path} was written by another version of this package ({version}, not {_VERSION}). "
            "Name another folder for the state: what was published already is then published again"
        )
    return bool(version)
