"""Sorts the errors of all libraries into those that may pass and those that never will.

An error *may pass* when its cause is the place that records go to (it is full, away, forbidden,
over quota, or takes no file as large as this one), or when this process has no descriptor or
memory left. Records wait for it. Any other error may be about these very records (their schema, a
value), and is the same however often they are tried.

Each library says it in its own way, for a disk without room:

| library | what it raises |
| --- | --- |
| Python, Polars for JSON Lines | `OSError` |
| Polars for Parquet | `ComputeError: … No space left on device (os error 28)` |
| TensorFlow | `ResourceExhaustedError: PATH; No space left on device` |
"""

from __future__ import annotations

import errno
import os
import re

# How Polars quotes an error of the system: from Rust, from Rust's debug output (in a panic), and
# from a Python file object.
_POLARS_SYSTEM_ERROR = re.compile(r"\(os error \d+\)|\bOs \{ code: \d+|\[Errno \d+\]")
# Not InvalidArgument, DataLoss, Unimplemented, OutOfRange, AlreadyExists: these are the records'.
_PASSING_IN_TENSORFLOW = {
    "AbortedError",
    "CancelledError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InternalError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownError",
}
_SYSTEM_MESSAGES = {os.strerror(code) for code in errno.errorcode}


def may_pass(error: BaseException) -> bool:
    """Return True if what failed can work later with the same records.

    An error that was raised from another one (`raise … from …`) passes if that one does.

    Example:
    >>> may_pass(PermissionError("read-only")), may_pass(ValueError("uid is no number"))
    (True, False)
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if _passes(cause):
            return True
        seen.add(id(cause))
        cause = cause.__cause__
    return False


def _passes(error: BaseException) -> bool:
    if isinstance(error, (OSError, MemoryError)):
        return True
    library = _library(error)
    if library == "polars":
        return bool(_POLARS_SYSTEM_ERROR.search(str(error)))
    if library == "tensorflow":
        names = {kind.__name__ for kind in type(error).__mro__}
        return not names.isdisjoint(_PASSING_IN_TENSORFLOW) or _quotes_system(error)
    return False


def _library(error: BaseException) -> str | None:
    """Return "polars" or "tensorflow" if the error is one of theirs. Imports neither."""
    for kind in type(error).__mro__:
        name = f"{kind.__module__}.{kind.__name__}"
        if name.startswith(("polars.", "pyo3_runtime.")):
            return "polars"
        if name.startswith("tensorflow.") and kind.__name__ == "OpError":
            return "tensorflow"
    return None


def _quotes_system(error: BaseException) -> bool:
    """Return True for "PATH; File too large" and its like, whatever class TensorFlow gives it."""
    text = str(getattr(error, "message", ""))
    return text.rpartition("; ")[2] in _SYSTEM_MESSAGES
