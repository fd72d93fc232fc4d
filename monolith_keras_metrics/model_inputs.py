"""Which columns of a dataset's `x` are bookkeeping, and which are the model's inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from monolith_keras_metrics.versions import keras


@dataclasses.dataclass(frozen=True)
class InputColumns:
    """The columns of `x` that go into the records.

    Attributes:
        uid: Name of the column of user ids.
        req_time: Name of the column of request times.
        sample_rate: Name of the column of sample rates, which a dataset may lack.
        extra_fields: Names of the columns that are recorded as they are.
        example_id: Name of the column of examples' ids; None for none.
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
                f"`extra_fields` must not repeat {again}, recorded as {', '.join(arguments)}"
            )
        if len(set(names)) < len(names):
            raise ValueError(
                f"{', '.join(f'`{one}`' for one in arguments)} must be different columns. "
                f"Received: {names}"
            )

    def take(self, model: Any, data: Any, *, required: bool) -> tuple[dict[str, Any], Any]:
        """Splits a batch of data into recorded columns and what the model's step gets.

        Args:
            model: The model.
            data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`; `x` should be a dict.
            required: Whether to record; else columns are only taken out.

        Returns:
            The columns by name, and `data` without those that the model has no input for.

        Raises:
            TypeError: If `x` is no dict, or a column has a wrong dtype.
            ValueError: If a column is missing, or has a wrong shape.
        """
        rest = list(data) if isinstance(data, (tuple, list)) else [data]
        x = rest[0] if rest else None
        if not isinstance(x, Mapping):
            if not required:
                return {}, data
            raise TypeError(
                "DeepInsightCallback needs the dataset's `x` as a dict of columns, with "
                f"{self.uid!r} and {self.req_time!r} among them. Received: {type(x).__name__}"
            )
        columns = self._columns(x) if required else {}
        inputs = self._model_inputs(model, x)
        return columns, (inputs, *rest[1:]) if isinstance(data, (tuple, list)) else (inputs,)

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

    def _model_inputs(self, model: Any, x: Mapping[str, Any]) -> Any:
        """What the model gets, in the structure that its inputs have."""
        names = {self.uid, self.req_time, self.sample_rate, self.example_id, *self.extra_fields}
        features = {name: value for name, value in x.items() if name not in names}
        struct = _input_structure(model)
        if isinstance(struct, Mapping):
            wanted = {str(key): str(key) for key in struct}
        elif isinstance(struct, (list, tuple)) and all(hasattr(i, "name") for i in struct):
            wanted = {i.name: i.name for i in struct}
        elif hasattr(struct, "name"):
            # A model of one input takes the one column that is no bookkeeping, whatever its name.
            name = struct.name if struct.name in x or len(features) != 1 else next(iter(features))
            wanted = {struct.name: name}
        elif isinstance(model, keras.Sequential) and len(features) == 1:
            return next(iter(features.values()))
        else:
            return dict(x)  # a subclassed model takes what it wants from the dict
        if missing := [name for name in wanted.values() if name not in x]:
            raise ValueError(
                "The dataset's `x` must have a column for each input of the model. "
                f"Missing: {missing}; columns: {sorted(map(str, x))}"
            )
        if isinstance(struct, Mapping):
            return {key: x[key] for key in struct}
        values = [x[name] for name in wanted.values()]
        return values if isinstance(struct, (list, tuple)) else values[0]


def _input_structure(model: Any) -> Any:
    """The structure of a functional model's inputs; None for a model that has none."""
    try:
        return model.input
    except (AttributeError, ValueError, RuntimeError):
        return None


def _check_column(argument: str, name: str, column: Any, kinds: str) -> None:
    if isinstance(column, tf.distribute.DistributedValues):
        column = column.values[0]  # of this process's first replica: the others are like it
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
    """Tell what became of a column of floats on its way, and what to write."""
    lost = {
        "id": "which rounds ids above 16,777,216",
        "time": "which rounds today's times to multiples of 128 s",
    }[kinds]
    return (
        f", floats.\nKeras makes float32 of a float64 column of NumPy or pandas, {lost}. Write "
        f"x[{name!r}].astype('int64') before it is handed to fit"
    )
