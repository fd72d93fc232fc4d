"""Classification of errors: those that may pass, and those that never will.

An error *may pass* if it is due to the records' destination (full, unavailable, forbidden, over
quota, or limited in the size of files), or if this process has no descriptors or memory left. The
records then wait. Any other error may be due to the records themselves (their schema, a value), and
would recur at every attempt.

Each library reports a full disk in its own way:

| library | error |
| --- | --- |
| Python, Polars for JSON Lines | `OSError` |
| Polars for Parquet | `ComputeError: … No space left on device (os error 28)` |
| TensorFlow | `ResourceExhaustedError: PATH; No space left on device` |
"""

from __future__ import annotations

import errno
import os
import re

# Polars' forms of a system error: from Rust, from Rust's debug output (in a panic), and from a
# Python file object.
_POLARS_SYSTEM_ERROR = re.compile(r"\(os error \d+\)|\bOs \{ code: \d+|\[Errno \d+\]")
# TensorFlow's errors that the records cause.
_NEVER_IN_TENSORFLOW = {
    "AlreadyExistsError",
    "DataLossError",
    "InvalidArgumentError",
    "OutOfRangeError",
    "UnimplementedError",
}
_SYSTEM_MESSAGES = {os.strerror(code) for code in errno.errorcode}


def may_pass(error: BaseException) -> bool:
    """Return True if the operation may succeed later with the same records.

    An error that was raised from another one (`raise … from …`) may pass if that one may.

    Example:
    >>> may_pass(PermissionError("read-only")), may_pass(ValueError("uid is not a number"))
    (True, False)
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if _is_temporary(cause):
            return True
        seen.add(id(cause))
        cause = cause.__cause__
    return False


def _is_temporary(error: BaseException) -> bool:
    if isinstance(error, (OSError, MemoryError)):
        return True
    library = _library(error)
    if library == "polars":
        return bool(_POLARS_SYSTEM_ERROR.search(str(error)))
    if library == "tensorflow":
        names = {kind.__name__ for kind in type(error).__mro__}
        return names.isdisjoint(_NEVER_IN_TENSORFLOW) or _quotes_system(error)
    return False


def _library(error: BaseException) -> str | None:
    """Return "polars" or "tensorflow" for an error of that library, without importing it."""
    for kind in type(error).__mro__:
        name = f"{kind.__module__}.{kind.__name__}"
        if name.startswith(("polars.", "pyo3_runtime.")):
            return "polars"
        if name.startswith("tensorflow.") and kind.__name__ == "OpError":
            return "tensorflow"
    return None


def _quotes_system(error: BaseException) -> bool:
    """Return True for errors like "PATH; File too large", whatever their class in TensorFlow."""
    text = str(getattr(error, "message", ""))
    return text.rpartition("; ")[2] in _SYSTEM_MESSAGES
