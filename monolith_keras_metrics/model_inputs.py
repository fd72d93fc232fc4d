"""Which columns of a dataset's `x` are bookkeeping, and which are the model's inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import textwrap
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import tensorflow as tf
from absl import logging

from monolith_keras_metrics.versions import is_legacy, keras


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

    @property
    def names(self) -> frozenset[str]:
        """Names of the columns."""
        example_id = () if self.example_id is None else (self.example_id,)
        return frozenset(
            (self.uid, self.req_time, self.sample_rate, *example_id, *self.extra_fields)
        )

    def of(self, data: Any) -> dict[str, Any]:
        """Takes the recorded columns from a batch of data.

        Args:
            data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`; `x` should be a dict.

        Returns:
            The columns by name.

        Raises:
            TypeError: If `x` is no dict, or a column has a wrong dtype.
            ValueError: If a column is missing, or has a wrong shape.
        """
        x = _x_of(data)
        if not isinstance(x, Mapping):
            raise TypeError(
                "DeepInsightCallback needs the dataset's `x` as a dict of columns, with "
                f"{self.uid!r} and {self.req_time!r} among them. Received: {_described(x)}.\n"
                + self._as_dict(x)
            )
        return self._columns(x)

    def _as_dict(self, x: Any) -> str:
        """What to write instead of an `x` that is no dict."""
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


class ModelInputs:
    """Takes columns that a model has no input for out of a dataset's `x`.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._takes_array: bool | None = None  # known since it was tried
        self._warned = False
        self._given: tuple[dict[str, Any], list[str]] | None = None  # x, and its features

    def function(self, bookkeeping: Collection[str]) -> Callable[..., Any]:
        """Return a function of `x`, `(x, y)` or `(x, y, sample_weight)` that does what `of` does.

        The function can be mapped over a `tf.data.Dataset`: it gives tuples where the model has a
        list of inputs, of which `tf.data` would make one tensor.

        Args:
            bookkeeping: Names of columns that are for the records.
        """

        def taken(x: Any, *others: Any) -> Any:
            inputs = x
            if isinstance(x, Mapping):
                data = self.of((x, *others) if others else x, bookkeeping)
                inputs = data[0] if isinstance(data, tuple) else data
                inputs = tuple(inputs) if isinstance(inputs, list) else inputs
            if others:
                return (inputs, *others)
            # Keras takes an element (a, b) of a dataset for (x, y), but not what `predict` gets.
            in_dataset = not tf.executing_eagerly()
            return (inputs,) if isinstance(inputs, tuple) and in_dataset else inputs

        taken_as_it_is: Callable[..., Any] = tf.autograph.experimental.do_not_convert(taken)
        return taken_as_it_is

    def of(self, data: Any, bookkeeping: Collection[str]) -> Any:
        """Return what the model's step gets of a batch of data.

        Args:
            data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`. An `x` that is no dict stays.
            bookkeeping: Names of columns that are for the records.

        Returns:
            The same, with `x` in the structure of the model's inputs.

        Raises:
            ValueError: If the model has an input without a column.
        """
        x = _x_of(data)
        if not isinstance(x, Mapping):
            return data
        if isinstance(data, (tuple, list)):
            return (self._picked(x, bookkeeping), *data[1:])
        inputs = self._picked(x, bookkeeping, whole=_has_own_step(self._model))
        # Keras takes a bare list for (x, y).
        return (inputs,) if isinstance(inputs, (tuple, list)) else inputs

    def check_call(self, error: Exception) -> None:
        """Raises an error that says what to write if a subclassed model's `call` took no dict.

        Args:
            error: What the step raised.
        """
        if self._given is None or _has_own_step(self._model):
            return
        x, features = self._given
        if _refusal(self._model, x) is None:
            return  # it was something else
        # With the traceback, since Keras drops the cause: it has the line of `call`.
        if len(features) == 1:
            of_array = _refusal(self._model, x[features[0]]) or error
            raise ValueError(
                "A subclassed model gets the dict of all columns or, if its `call` takes an array, "
                f"the column {features[0]!r}. It took neither. Received: `call` with the dict: "
                f"{_essence(error)}; with the column: {_essence(of_array)}.\n"
                "Call the model to see all of the error: "
                f"model(x[{features[0]!r}][:2]) if it takes an array; if it takes a dict, "
                f"its columns are {sorted(map(str, x))}"
            ).with_traceback(error.__traceback__) from error
        raise ValueError(
            "A subclassed model gets the dict of all columns or, if its `call` takes an array, the "
            f"one column beside those that are recorded. Received: {features} beside those; "
            f"`call` with the dict: {_essence(error)}.\n"
            "If `call` takes an array, join what it needs into one column, as in x['features'] = "
            "np.concatenate([…], axis=1), and record the others with "
            "DeepInsightCallback(extra_fields=[…]), or drop them. If it takes a dict, read columns "
            "by name, as in x['features']"
        ).with_traceback(error.__traceback__) from error

    def warn_of_positions(self, data: Any) -> None:
        """Warns once if Keras would give the model other columns than those of its inputs' names.

        Args:
            data: Like that of `of`.
        """
        x, struct = _x_of(data), _input_structure(self._model)
        if self._warned or not isinstance(x, Mapping) or not isinstance(struct, Mapping):
            return
        inputs, given = sorted(map(str, struct)), sorted(map(str, x))
        if is_legacy(self._model) or given[: len(inputs)] == inputs or _has_own_step(self._model):
            return
        self._warned = True
        logging.warning(
            "Deep insight: the model's inputs are a dict with the keys %s. Keras pairs them with "
            "the sorted columns of `x` by position, so without this callback it computes wrong "
            "numbers from %s. For evaluate and predict write "
            "dataset.map(recorder.model_inputs(model)), where `recorder` is this callback",
            inputs,
            given,
        )

    def _picked(
        self, x: Mapping[str, Any], bookkeeping: Collection[str], whole: bool = False
    ) -> Any:
        features = {name: value for name, value in x.items() if name not in bookkeeping}
        struct = _input_structure(self._model)
        if struct is None:
            return self._unstructured(x, features)
        if isinstance(struct, Mapping):
            wanted = {str(key): str(key) for key in struct}
        else:
            tensors = struct if isinstance(struct, (list, tuple)) else [struct]
            if not all(hasattr(tensor, "name") for tensor in tensors):
                return dict(x)  # nested lists: nothing tells which column is which
            wanted = {tensor.name: tensor.name for tensor in tensors}
            # A model of one input takes the one column that is no bookkeeping, whatever its name.
            if len(tensors) == 1 and tensors[0].name not in x and len(features) == 1:
                wanted = {tensors[0].name: next(iter(features))}
        if missing := [name for name in wanted.values() if name not in x]:
            columns = sorted(map(str, x))
            example = min(map(str, features), default="features")
            raise ValueError(
                "The dataset's `x` must have a column for each input of the model. "
                f"Missing: {missing}; columns: {columns}.\n"
                f"Give each input its column's name, as in keras.Input(…, name={example!r})"
            )
        if whole:
            return {name: x[name] for name in x if name in features or name in wanted}
        if isinstance(struct, Mapping):
            return {key: x[key] for key in struct}
        values = [x[name] for name in wanted.values()]
        return values if isinstance(struct, (list, tuple)) else values[0]

    def _unstructured(self, x: Mapping[str, Any], features: dict[str, Any]) -> Any:
        """What a model gets that does not say what its inputs are."""
        if isinstance(self._model, keras.Sequential):
            if len(features) == 1:
                return next(iter(features.values()))
            raise ValueError(
                "A Sequential model takes one column of the dataset's `x` beside those that are "
                f"recorded. Received: {sorted(map(str, features))}.\n"
                "Name its column, as in keras.Sequential([keras.Input(…, name='features'), …]), "
                "or record the others with DeepInsightCallback(extra_fields=[…])"
            )
        if len(features) == 1:
            column = next(iter(features.values()))
            if self._takes_array is None:
                self._takes_array = (
                    _refusal(self._model, x) is not None and _refusal(self._model, column) is None
                )
            if self._takes_array:
                return column
        self._given = (dict(x), sorted(map(str, features)))
        return dict(x)  # a subclassed model takes what it wants from the dict


def _x_of(data: Any) -> Any:
    return (data[0] if data else None) if isinstance(data, (tuple, list)) else data


def _has_own_step(model: Any) -> bool:
    """Return True if the model's class defines a `train_step` or `test_step` of its own."""
    steps = (type(model).train_step, type(model).test_step)
    return any(step.__module__.partition(".")[0] not in ("keras", "tf_keras") for step in steps)


def _input_structure(model: Any) -> Any:
    """The structure of a model's inputs; None for a model that does not say."""
    try:
        return model.input
    except (AttributeError, ValueError, RuntimeError):
        pass
    if isinstance(model, keras.Sequential):
        with contextlib.suppress(AttributeError, ValueError, RuntimeError):
            return model.inputs[0]
    return None


def _refusal(model: Any, x: Any) -> Exception | None:
    """Return what the model's `call` raises when it is traced with such an `x`, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras's, of a call that it could not trace
            specs = tf.nest.map_structure(_spec, dict(x) if isinstance(x, Mapping) else x)
            if is_legacy(model):
                tf.function(model.__call__, autograph=False).get_concrete_function(specs)
            else:
                model.compute_output_spec(
                    tf.nest.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), specs)
                )
    except Exception as error:
        return error
    return None


def _essence(error: Exception) -> str:
    """The line of an error's text that says what was wrong, without colours."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = re.sub(r"\x1b\[\d*m", "", text).rpartition("Error encountered:")[2]
    text = text.partition("Inputs received:")[0].replace("Exception encountered: ", "")
    # Keras quotes a KeyError's text three times.
    lines = [line.strip().removeprefix("'''").removesuffix("'''") for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Exception encountered when")]
    essence = textwrap.shorten(lines[0] if lines else "without a text", 200, placeholder=" …")
    return f"{type(error).__name__}: {essence.rstrip('.')}"


def _described(x: Any) -> str:
    """What a user would call an `x` that is no dict."""
    if isinstance(x, (tuple, list)):
        return f"a list of {len(x)} arrays"
    shape = getattr(x, "shape", None)
    if shape is None:
        return type(x).__name__
    rows = ", ".join(["batch", *map(str, tuple(shape)[1:])]) if len(shape) > 1 else "batch,"
    return f"an array or a DataFrame of shape ({rows})"


def _spec(column: Any) -> tf.TensorSpec:
    if isinstance(column, tf.distribute.DistributedValues):
        column = column.values[0]
    return tf.TensorSpec(column.shape, column.dtype)


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
