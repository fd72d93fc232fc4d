"""What the names of a process's files begin with, in a run's folder and in a journal's."""

from __future__ import annotations

STEM = r"worker-\d{5,19}\.attempt-\d{16,19}"
"""A pattern for it."""


def stem_of(worker: int, attempt: int) -> str:
    """Return what the names begin with.

    Example:
    >>> stem_of(3, 1_790_000_000_000_000)
    'worker-00003.attempt-1790000000000000'
    """
    return f"worker-{worker:05d}.attempt-{attempt:016d}"


def worker_of(stem: str) -> int:
    """Return the worker that a stem names."""
    return int(stem.partition(".")[0].rpartition("-")[2])


def attempt_of(stem: str) -> int:
    """Return the attempt that a stem names."""
    return int(stem.rpartition("-")[2])
