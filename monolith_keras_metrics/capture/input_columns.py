"""The columns of a dataset's `x` that go into the records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from monolith_keras_metrics.records.columns import ABOUT_FLOATS, EXTRA, ID, NUMBER, TIME, Kind


@dataclasses.dataclass(frozen=True)
class InputColumns:
    """The columns of `x` that go into the records.

    Attributes:
        uid: Name of the column of user ids.
        req_time: Name of the column of request times.
        sample_rate: Name of the optional column of sample rates.
        extra_fields: Names of the columns that are recorded unchanged.
        example_id: Name of the column of example ids, or None.
    """

    uid: str
    req_time: str
    sample_rate: str
    extra_fields: Sequence[str]
    example_id: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.extra_fields, str):
            raise TypeError(
                "`extra_fields` must be a list of names. "
                f"Received: extra_fields={self.extra_fields!r}"
            )
        object.__setattr__(self, "extra_fields", tuple(self.extra_fields))
        own = {name: column for name, column, _ in self._arguments() if name != "extra_fields"}
        for argument, name in own.items():
            if not isinstance(name, str) or not name:
                raise ValueError(
                    f"`{argument}` must be the name of a column. Received: {argument}={name!r}"
                )
        names = list(own.values())
        if again := [name for name in self.extra_fields if name in names]:
            raise ValueError(
                f"`extra_fields` must not repeat {again}: {', '.join(own)} are always "
                f"recorded. Received: extra_fields={list(self.extra_fields)}"
            )
        if len(set(names)) < len(names):
            raise ValueError(
                f"{', '.join(f'`{one}`' for one in own)} must be different columns. "
                f"Received: {names}"
            )

    def _arguments(self) -> list[tuple[str, str, Kind]]:
        """Return each column with the callback's argument that names it, and what it may hold."""
        return [
            ("uid", self.uid, ID),
            ("req_time", self.req_time, TIME),
            ("sample_rate", self.sample_rate, NUMBER),
            *([] if self.example_id is None else [("example_id", self.example_id, ID)]),
            *(("extra_fields", name, EXTRA) for name in self.extra_fields),
        ]

    @property
    def names(self) -> frozenset[str]:
        """Return the names of the columns."""
        return frozenset(name for _, name, _ in self._arguments())

    def of(self, data: Any) -> dict[str, Any]:
        """Return the recorded columns of a batch of data.

        Args:
            data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`; `x` must be a dict.

        Returns:
            The columns by name.

        Raises:
            TypeError: If `x` is not a dict, or a column has a wrong dtype.
            ValueError: If a column is missing, or has a wrong shape.
        """
        x = x_of(data)
        if not isinstance(x, Mapping):
            raise TypeError(
                "DeepInsightCallback needs the dataset's `x` as a dict of columns, with "
                f"{self.uid!r} and {self.req_time!r} among them. " + self._received(x)
            )
        found = {}
        for argument, name, kind in self._arguments():
            if name in x:
                what = f"`{argument}`: column {name!r}"
                check_column(what, x[name], kind, _about_floats(name, kind))
                found[name] = x[name]
            elif argument != "sample_rate":
                raise ValueError(
                    f"`{argument}` must name a column of the dataset's `x`. "
                    f"Received: {argument}={name!r}; columns: {sorted(map(str, x))}"
                )
        return found

    def _received(self, x: Any) -> str:
        """Return what an `x` that is not a dict is, in a user's terms, and how to pass a dict."""
        others = f"{self.uid!r}: …, {self.req_time!r}: …"
        if isinstance(x, (tuple, list)):
            return (
                f"Received: a list of {len(x)} arrays.\n"
                f"Instead of a list [a, b] write fit({{'a': a, 'b': b, {others}}}, y), where 'a' "
                "and 'b' are the names of the model's keras.Inputs"
            )
        received, shape = type(x).__name__, getattr(x, "shape", None)
        if shape is not None:
            rows = ", ".join(map(str, shape[1:]))
            received = f"an array or a DataFrame of shape (batch,{rows and ' '}{rows})"
        return (
            f"Received: {received}.\n"
            f"Instead of an array `x` write fit({{'features': x, {others}}}, y); instead of a "
            "DataFrame `df` whose columns are the model's inputs, fit(dict(df), y)"
        )


def x_of(data: Any) -> Any:
    """Return `x` of a batch, which is `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`."""
    return (data[0] if data else None) if isinstance(data, (tuple, list)) else data


def check_column(what: str, column: Any, kind: Kind, about_floats: str = ABOUT_FLOATS) -> None:
    """Raise if a column of a batch is not a dense tensor of shape `(batch,)` or `(batch, 1)`.

    Args:
        what: The column, for the error.
        column: A tensor, an array, or the values of several replicas.
        kind: What the column may hold.
        about_floats: The end of the error for floats instead of integers.

    Raises:
        TypeError, ValueError: If the dtype or the shape, as far as it is known, is wrong.
    """
    if isinstance(column, tf.distribute.DistributedValues):
        column = column.values[0]  # all replicas of this process have the same dtype and rank
    if isinstance(column, (tf.SparseTensor, tf.RaggedTensor)) or not hasattr(column, "dtype"):
        raise TypeError(
            f"{what} must be a dense tensor of shape (batch,). Received: {type(column).__name__}"
        )
    dtype = tf.as_dtype(column.dtype)
    kind.check(what, np.dtype(dtype.as_numpy_dtype), f"dtype {dtype.name}", about_floats)
    shape = tf.TensorShape(column.shape)
    if shape.rank is not None and shape.rank != 1 and shape[1:] != [1]:
        raise ValueError(f"{what} must have shape (batch,) or (batch, 1). Received: {tuple(shape)}")


def _about_floats(name: str, kind: Kind) -> str:
    """Return the text that explains a conversion to float32, and how to avoid it."""
    lost = "today's times to multiples of 128 s" if kind is TIME else "ids above 16,777,216"
    return (
        f".\nKeras converts float64 columns of NumPy or pandas to float32, which rounds {lost}. "
        f"Convert the column with x[{name!r}].astype('int64') before you pass it to fit"
    )
