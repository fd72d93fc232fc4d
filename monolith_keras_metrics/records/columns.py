"""What a column of a batch may be, and how several batches' columns become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.records import times
from monolith_keras_metrics.records.ids import hashed_ids

ArrayLike = Any  # a numpy array, a tf.Tensor: whatever numpy.asarray takes

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
    """Joins one column of several batches: `(rows,)` or `(rows, 1)` each."""
    arrays = [_array(name, part) for part in parts]
    for array, count in zip(arrays, rows, strict=True):
        if array.size != count or len(array) != count:
            raise ValueError(
                f"`{name}` must have shape (batch,) = ({count},). Received: {array.shape}"
            )
    return np.concatenate([converted(name, array.reshape(-1)) for array in arrays])


def id_values(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Ids as int64: integers as they are, text hashed."""
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
    """Times as int64: integers as they are, dates in Unix seconds."""
    if values.dtype.kind != "M":
        return _integers(name, "integers, Unix seconds", values)
    if np.isnat(values).any():
        raise ValueError(f"`{name}` must be a time for each example. Received: dates with NaT")
    return times.of_dates(values)


def _integers(name: str, wanted: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    if values.dtype.kind not in "iu":
        remedy = "; if they are whole, write .astype('int64')" if values.dtype.kind == "f" else ""
        raise TypeError(f"`{name}` must be {wanted}. Received: {values.dtype}{remedy}")
    if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
        raise ValueError(
            f"`{name}` must fit into an int64: below 2**63. Received: uint64, larger values"
        )
    return values.astype(np.int64, copy=False)


def joined_blocks(
    field: str,
    blocks_of_batches: Sequence[Sequence[ArrayLike]],
    rows: Sequence[int],
    targets: int,
) -> list[npt.NDArray[np.float32]]:
    """Join the blocks of batches; returns arrays of shape `(columns, rows)`."""
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
        raise ValueError(f"`{field}` must have {targets} columns, one a target: got {columns}")
    return joined


def columns_of_blocks(blocks: Sequence[npt.NDArray[np.float32]]) -> list[pl.Series]:
    """Return the columns of blocks of shape `(columns, rows)`.

    Slices of one series a block: measured with 2,000 targets, a series a column takes ten times
    as long.
    """
    columns = []
    for block in blocks:
        rows = block.shape[1]
        whole = pl.Series(np.ascontiguousarray(block).reshape(-1))
        columns += [whole.slice(at * rows, rows) for at in range(len(block))]
    return columns


def extra_column(name: str, values: npt.NDArray[Any]) -> tuple[str, pl.Series]:
    """Which object of the message an extra field goes to, and its column there."""
    kind = values.dtype.kind
    if kind == "M":
        # NaT is null, as it is there.
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
    """Decodes strings; what is not UTF-8 is kept readable by replacement."""
    items = values.tolist()
    try:
        text: pl.Series = pl.Series(items, dtype=pl.Binary).cast(pl.String)
    except (pl.exceptions.PolarsError, TypeError, ValueError):  # bytes of no UTF-8; text already
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in items]
        # Lone surrogates are no text either; a Python str may hold them.
        text = pl.Series([t.encode("utf-8", "replace").decode() for t in texts], dtype=pl.String)
    return text
