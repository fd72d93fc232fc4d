"""What a column of a batch may hold, and the conversion of columns, joined into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.records import times
from monolith_keras_metrics.records.ids import hashed_ids

ArrayLike = Any  # a numpy array, a tf.Tensor: anything that numpy.asarray takes

ABOUT_FLOATS = "; convert whole numbers with .astype('int64')"


class Kind(NamedTuple):
    """What a column may hold.

    Attributes:
        wanted: Its values, for errors.
        dtypes: The kinds of its NumPy dtype. "V" is bfloat16.
    """

    wanted: str
    dtypes: str

    def check(
        self, what: str, dtype: np.dtype[Any], received: str = "", about_floats: str = ABOUT_FLOATS
    ) -> None:
        """Raise a TypeError if a column may not have this dtype.

        Args:
            what: The column, for the error.
            dtype: Its dtype.
            received: A description of the dtype for the error. Default: its name.
            about_floats: The end of the error for floats instead of integers.
        """
        if dtype.kind not in self.dtypes:
            remedy = about_floats if dtype.kind == "f" else ""
            raise TypeError(f"{what} must be {self.wanted}. Received: {received or dtype}{remedy}")


ID = Kind("integers or text", "iuOSUT")
TIME = Kind("integers, Unix seconds", "iuM")
NUMBER = Kind("real numbers", "fiubV")
EXTRA = Kind("floats, integers, dates or strings", "fiubVMOSUT")


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
    ID.check(f"`{name}`", values.dtype)
    if values.dtype.kind in "iu":
        return _int64(name, values)
    try:
        return hashed_ids(values)
    except TypeError as error:
        what = str(error).rpartition("Received: ")[2]
        raise TypeError(
            f"`{name}` must be {ID.wanted}. Received: {values.dtype} with {what}"
        ) from error


def time_values(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return times as int64: integers unchanged, dates in Unix seconds."""
    TIME.check(f"`{name}`", values.dtype)
    if values.dtype.kind != "M":
        return _int64(name, values)
    if np.isnat(values).any():
        raise ValueError(f"`{name}` must be a time for each example. Received: dates with NaT")
    return times.of_dates(values)


def _int64(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
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
            NUMBER.check(f"`{field}`", array.dtype)
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
    EXTRA.check(f"Extra field {name!r}", values.dtype)
    kind = values.dtype.kind
    if kind == "M":
        # NaT becomes null.
        return "extra_int", pl.Series(values.astype("datetime64[ms]")).dt.epoch("s")
    if kind in "iub":
        return "extra_int", pl.Series(values.astype(np.int64, copy=False))
    if kind in "OSUT":
        return "extra_str", _text(values)
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
