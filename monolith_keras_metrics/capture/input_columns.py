"""The columns of a dataset's `x` that go into the records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


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
    extra_fields: tuple[str, ...]
    example_id: str | None = None

    def __post_init__(self) -> None:
        arguments = ["uid", "req_time", "sample_rate"]
        arguments += [] if self.example_id is None else ["example_id"]
        names = [getattr(self, argument) for argument in arguments]
        for argument, name in zip(arguments, names, strict=True):
            if not isinstance(name, str) or not name:
                raise ValueError(
                    f"`{argument}` must be the name of a column. Received: {argument}={name!r}"
                )
        if again := [name for name in self.extra_fields if name in names]:
            raise ValueError(
                f"`extra_fields` must not repeat {again}: {', '.join(arguments)} are always "
                f"recorded. Received: extra_fields={list(self.extra_fields)}"
            )
        if len(set(names)) < len(names):
            raise ValueError(
                f"{', '.join(f'`{one}`' for one in arguments)} must be different columns. "
                f"Received: {names}"
            )

    @property
    def names(self) -> frozenset[str]:
        """Return the names of the columns."""
        example_id = () if self.example_id is None else (self.example_id,)
        return frozenset(
            (self.uid, self.req_time, self.sample_rate, *example_id, *self.extra_fields)
        )

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
                f"{self.uid!r} and {self.req_time!r} among them. Received: {_described(x)}.\n"
                + self._remedy(x)
            )
        return self._columns(x)

    def _remedy(self, x: Any) -> str:
        """Return the text that shows how to pass `x` as a dict."""
        others = f"{self.uid!r}: …, {self.req_time!r}: …"
        if isinstance(x, (tuple, list)):
            return (
                f"Instead of a list [a, b] write fit({{'a': a, 'b': b, {others}}}, y), where 'a' "
                "and 'b' are the names of the model's keras.Inputs"
            )
        return (
            f"Instead of an array `x` write fit({{'features': x, {others}}}, y); instead of a "
            "DataFrame `df` whose columns are the model's inputs, fit(dict(df), y)"
        )

    def _columns(self, x: Mapping[str, Any]) -> dict[str, Any]:
        columns = {}
        for argument, name, kinds in (
            ("uid", self.uid, "id"),
            ("req_time", self.req_time, "time"),
            ("sample_rate", self.sample_rate, "number"),
            *([("example_id", self.example_id, "id")] if self.example_id is not None else []),
            *(("extra_fields", name, "any") for name in self.extra_fields),
        ):
            if name in x:
                _check_column(argument, name, x[name], kinds)
                columns[name] = x[name]
            elif argument != "sample_rate":
                raise ValueError(
                    f"`{argument}` must name a column of the dataset's `x`. "
                    f"Received: {argument}={name!r}; columns: {sorted(map(str, x))}"
                )
        return columns


def x_of(data: Any) -> Any:
    """Return `x` of a batch, which is `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`."""
    return (data[0] if data else None) if isinstance(data, (tuple, list)) else data


def _described(x: Any) -> str:
    """Return a description of an `x` that is not a dict, in a user's terms."""
    if isinstance(x, (tuple, list)):
        return f"a list of {len(x)} arrays"
    shape = getattr(x, "shape", None)
    if shape is None:
        return type(x).__name__
    rows = ", ".join(["batch", *map(str, tuple(shape)[1:])]) if len(shape) > 1 else "batch,"
    return f"an array or a DataFrame of shape ({rows})"


def _check_column(argument: str, name: str, column: Any, kinds: str) -> None:
    if isinstance(column, tf.distribute.DistributedValues):
        column = column.values[0]  # all replicas of this process have the same dtype and rank
    if isinstance(column, (tf.SparseTensor, tf.RaggedTensor)) or not hasattr(column, "dtype"):
        raise TypeError(
            f"`{argument}`: column {name!r} must be a dense tensor of shape (batch,). "
            f"Received: {type(column).__name__}"
        )
    dtype = tf.as_dtype(column.dtype)
    fits = {
        "id": dtype.is_integer or dtype == tf.string,
        "time": dtype.is_integer,
        "number": dtype.is_integer or dtype.is_floating,
        "any": dtype.is_integer or dtype.is_floating or dtype in (tf.string, tf.bool),
    }[kinds]
    if not fits:
        wanted = {
            "id": "integers or text",
            "time": "integers, Unix seconds",
            "number": "numbers",
            "any": "floats, integers or strings",
        }[kinds]
        raise TypeError(
            f"`{argument}`: column {name!r} must be {wanted}. Received: dtype {dtype.name}"
            + (_about_floats(name, kinds) if dtype.is_floating else "")
        )
    shape = tf.TensorShape(column.shape)
    if shape.rank is not None and not (shape.rank == 1 or (shape.rank == 2 and shape[1] == 1)):
        raise ValueError(
            f"`{argument}`: column {name!r} must have shape (batch,) or (batch, 1). "
            f"Received: {tuple(shape)}"
        )


def _about_floats(name: str, kinds: str) -> str:
    """Return the text that explains a conversion to float32, and how to avoid it."""
    lost = {
        "id": "which rounds ids above 16,777,216",
        "time": "which rounds today's times to multiples of 128 s",
    }[kinds]
    return (
        f".\nKeras converts float64 columns of NumPy or pandas to float32, {lost}. "
        f"Convert the column with x[{name!r}].astype('int64') before you pass it to fit"
    )
