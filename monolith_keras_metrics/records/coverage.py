"""`Coverage`: the counts that a process keeps beside its records, and the file that holds them."""

from __future__ import annotations

import datetime
import json
from typing import Any, NamedTuple

COUNTS = ("accepted", "unsampled", "written", "dropped", "failed", "waiting")
_MOST = 2**63 - 1  # what a column of a frame can hold


class Coverage(NamedTuple):
    """What had become of a process's examples at one moment.

    `accepted == unsampled + written + dropped + failed + waiting` always holds.

    Attributes:
        run: The training.
        accepted, unsampled, written, dropped, failed, waiting: As in `Stats`.
        as_of: The moment, in Unix seconds.
        ended: Whether the process accepts no more examples, so that these counts are its last.
    """

    run: str
    accepted: int
    unsampled: int
    written: int
    dropped: int
    failed: int
    waiting: int
    as_of: float
    ended: bool

    @property
    def moment(self) -> datetime.datetime:
        """Return `as_of` in UTC."""
        return datetime.datetime.fromtimestamp(self.as_of, datetime.timezone.utc)


def encode(coverage: Coverage) -> bytes:
    """Return the contents of a file: one JSON object.

    Example:
    >>> encode(Coverage("ctr", 10, 5, 3, 0, 0, 2, 1_790_000_000.5, False))[:40]
    b'{"run": "ctr", "accepted": 10, "unsample'
    """
    return json.dumps(coverage._asdict()).encode() + b"\n"


def decode(data: bytes) -> Coverage:
    """Return the coverage in a file. Its contents are untrusted; unknown names are ignored.

    Raises:
        ValueError: If it holds none. The message says why.
    """
    try:
        found: Any = json.loads(data)
        coverage = Coverage(*(found[name] for name in Coverage._fields))
        coverage.run.encode()  # raises for a lone surrogate
        _ = coverage.moment  # raises for one that no calendar has
    except (ArithmeticError, LookupError, AttributeError, OSError, RecursionError, TypeError) as e:
        raise ValueError(f"it holds no counts: {e!r:.200}") from e
    counts = [getattr(coverage, name) for name in COUNTS]
    if not all(type(count) is int and 0 <= count <= _MOST for count in counts):
        raise ValueError(f"its counts are no numbers of examples: {counts!r:.200}")
    if counts[0] != sum(counts[1:]):
        raise ValueError(f"its counts do not add up: {counts}")
    if type(coverage.ended) is not bool:
        raise ValueError(f"`ended` is neither true nor false: {coverage.ended!r:.200}")
    return coverage
