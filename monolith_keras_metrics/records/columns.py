"""Validation and conversion of batches' columns, which are joined into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.records import times
from monolith_keras_metrics.records.ids import hashed_ids

ArrayLike = Any  # a numpy array, a tf.Tensor: anything that numpy.asarray takes

# Kinds of numpy dtypes: complex, dates, objects, text. (bfloat16 is of kind "V", and a number.)
_NO_REAL_NUMBERS = "cmMOSU"


def _array(name: str, values: ArrayLike) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # lists of different lengths
        raise type(error)(f"`{name}` must be an array. Received: {error}") from error


def joined_column(
    name: str,
    parts: Sequence[ArrayLike],
    rows: Sequence[int],
    converted: Callable[[str, npt.NDArray[Any]], npt.NDArray[Any]] = lambda _, values: values,
) -> npt.NDArray[Any]:
    """Join one column of several batches, each of shape `(rows,)` or `(rows, 1)`."""
    arrays = [_array(name, part) for part in parts]
    for array, count in zip(arrays, rows, strict=True):
        if array.size != count or len(array) != count:
            raise ValueError(
                f"`{name}` must have shape (batch,) = ({count},). Received: {array.shape}"
            )
    return np.concatenate([converted(name, array.reshape(-1)) for array in arrays])


def id_values(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return ids as int64: integers unchanged, text hashed."""
    if values.dtype.kind in "OSUT":
        try:
            return hashed_ids(values)
        except TypeError as error:
            what = str(error).rpartition("Received: ")[2]
            raise TypeError(
                f"`{name}` must be integers or text. Received: {values.dtype} with {what}"
            ) from error
    return _integers(name, "integers or text", values)


def time_values(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return times as int64: integers unchanged, dates in Unix seconds."""
    if values.dtype.kind != "M":
        return _integers(name, "integers, Unix seconds", values)
    if np.isnat(values).any():
        raise ValueError(f"`{name}` must be a time for each example. Received: dates with NaT")
    return times.of_dates(values)


def _integers(name: str, wanted: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    if values.dtype.kind not in "iu":
        remedy = "; convert whole numbers with .astype('int64')" if values.dtype.kind == "f" else ""
        raise TypeError(f"`{name}` must be {wanted}. Received: {values.dtype}{remedy}")
    if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
        raise ValueError(
            f"`{name}` must fit into an int64, below 2**63. Received: larger uint64 values"
        )
    return values.astype(np.int64, copy=False)


def joined_blocks(
    field: str,
    blocks_of_batches: Sequence[Sequence[ArrayLike]],
    rows: Sequence[int],
    targets: int,
) -> list[npt.NDArray[np.float32]]:
    """Join the blocks of batches into arrays of shape `(columns, rows)`."""
    joined = []
    for parts in zip(*blocks_of_batches, strict=True):
        arrays = [_array(field, part) for part in parts]
        for array, count in zip(arrays, rows, strict=True):
            if not 1 <= array.ndim <= 2 or len(array) != count:
                raise ValueError(
                    f"`{field}` must have shape (batch,) or (batch, k) with "
                    f"batch = {count}. Received: {array.shape}"
                )
            if array.dtype.kind in _NO_REAL_NUMBERS:
                raise TypeError(f"`{field}` must be real numbers. Received: {array.dtype}")
        block = np.concatenate([a if a.ndim == 2 else a[:, np.newaxis] for a in arrays])
        joined.append(np.ascontiguousarray(block.T, np.float32))
    columns = sum(map(len, joined))
    if columns != targets and not (field == "sample_rate" and columns <= 1):
        raise ValueError(
            f"`{field}` must have {targets} columns, one per target. Received: {columns} columns"
        )
    return joined


def columns_of_blocks(blocks: Sequence[npt.NDArray[np.float32]]) -> list[pl.Series]:
    """Return the columns of blocks of shape `(columns, rows)`.

    They are slices of one series per block: with 2,000 targets, one series per column takes ten
    times as long (measured).
    """
    columns = []
    for block in blocks:
        rows = block.shape[1]
        joined = pl.Series(np.ascontiguousarray(block).reshape(-1))
        columns += [joined.slice(at * rows, rows) for at in range(len(block))]
    return columns


def extra_column(name: str, values: npt.NDArray[Any]) -> tuple[str, pl.Series]:
    """Return the object of the message that holds an extra field, and its column there."""
    kind = values.dtype.kind
    if kind == "M":
        # NaT becomes null.
        return "extra_int", pl.Series(values.astype("datetime64[ms]")).dt.epoch("s")
    if kind in "iub":
        return "extra_int", pl.Series(values.astype(np.int64, copy=False))
    if kind in "OSU":
        return "extra_str", _text(values)
    if kind in _NO_REAL_NUMBERS:
        raise TypeError(
            f"Extra field {name!r} must be floats, integers, dates or strings. "
            f"Received: {values.dtype}"
        )
    wide = kind == "f" and values.dtype.itemsize >= 8
    return "extra_float", pl.Series(values.astype(np.float64 if wide else np.float32, copy=False))


def _text(values: npt.NDArray[Any]) -> pl.Series:
    """Decode strings, with replacement characters for invalid UTF-8."""
    items = values.tolist()
    try:
        text: pl.Series = pl.Series(items, dtype=pl.Binary).cast(pl.String)
    except (pl.exceptions.PolarsError, TypeError, ValueError):  # not UTF-8, or text already
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in items]
        # A Python str may hold lone surrogates, which are replaced as well.
        text = pl.Series([t.encode("utf-8", "replace").decode() for t in texts], dtype=pl.String)
    return text
