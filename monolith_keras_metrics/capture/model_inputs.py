"""What a model and its steps get of a dataset's `x`."""

from __future__ import annotations

import contextlib
import functools
import re
import textwrap
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import tensorflow as tf
from absl import logging

from monolith_keras_metrics.capture.captured import replaced_method
from monolith_keras_metrics.capture.compat import is_legacy, keras
from monolith_keras_metrics.capture.input_columns import x_of


class ModelInputs:
    """Takes columns that a model has no input for out of a dataset's `x`.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._takes_array: bool | None = None  # known since it was tried
        self._step: Callable[[Any], Any] | None = None
        self._step_takes_all = False  # known since the step was tried with less
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
        x = x_of(data)
        if not isinstance(x, Mapping):
            return data
        if isinstance(data, (tuple, list)):
            return (self._picked(x, bookkeeping), *data[1:])
        inputs = self._picked(x, bookkeeping, whole=_has_own_step(self._model))
        # Keras takes a bare list for (x, y).
        return (inputs,) if isinstance(inputs, (tuple, list)) else inputs

    def run(
        self, make_step: Callable[[], Callable[[Any], Any]], data: Any, bookkeeping: Collection[str]
    ) -> Any:
        """Call a model's step with what `of` returns of a batch.

        A custom step may read columns by name, as in `self(x["features"])`, where the model
        itself takes an array. So a custom step that fails with what the model takes is called
        with the dict of all columns, and gets it from then on.

        Args:
            make_step: Makes the step: once, and again where the first one fails, since a
                `tf.function` may create variables only in its first call.
            data: Like that of `of`.
            bookkeeping: Names of columns that are for the records.

        Returns:
            What the step returns.

        Raises:
            Exception: What the step raised where it got further, if it fails both ways.
        """
        if self._step_takes_all:
            return self._run_with_all(data)
        self._step = self._step or make_step()
        try:
            return self._step(self.of(data, bookkeeping))
        except tf.errors.OpError:
            raise
        except Exception as error:
            if not _has_own_step(self._model) or not isinstance(x_of(data), Mapping):
                raise
            first_error = error
        self._step = make_step()
        try:
            result = self._run_with_all(data)
        except Exception as error:
            if _lines_of_step(self._model, error) > _lines_of_step(self._model, first_error):
                raise error from None
            raise first_error from error
        self._step_takes_all = True
        return result

    def _run_with_all(self, data: Any) -> Any:
        x = dict(x_of(data))
        assert self._step is not None
        with replaced_method(self._model, "call", self._without_further_keys):
            return self._step((x, *data[1:]) if isinstance(data, (tuple, list)) else x)

    def _without_further_keys(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a functional model's `call`, which pairs further keys with inputs by position."""
        struct = _input_structure(self._model)
        if is_legacy(self._model) or not isinstance(struct, Mapping):
            return call

        @functools.wraps(call)
        def picked(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(inputs, Mapping) and struct.keys() < inputs.keys():
                inputs = {key: inputs[key] for key in struct}
            return call(inputs, *args, **kwargs)

        return picked

    def check_call(self, error: Exception) -> None:
        """Raises an error that says what to write if a subclassed model's `call` took no dict.

        Args:
            error: What the step raised.
        """
        if self._given is None:
            return
        # A custom step may have failed before or after the call of the model.
        call = f"{type(self._model).__name__}.call()"
        if _has_own_step(self._model) and call not in str(error):
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
        x, struct = x_of(data), _input_structure(self._model)
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


def _has_own_step(model: Any) -> bool:
    """Return True if the model's class defines a `train_step` or `test_step` of its own."""
    steps = (type(model).train_step, type(model).test_step)
    return any(step.__module__.partition(".")[0] not in ("keras", "tf_keras") for step in steps)


def _lines_of_step(model: Any, error: Exception) -> tuple[int, ...]:
    """Return the lines, from the model's own step inwards, in which an error was raised."""
    steps = [type(model).train_step.__code__, type(model).test_step.__code__]
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    begun = next((i for i, (code, _) in enumerate(frames) if code in steps), len(frames))
    return tuple(line for _, line in frames[begun:])


def _input_structure(model: Any) -> Any:
    """The structure of a model's inputs; None for a model that does not say."""
    try:
        return model.input
    except (AttributeError, ValueError, RuntimeError):
        pass
    if isinstance(model, keras.Sequential):
        # Before it is built, legacy Keras has None.
        with contextlib.suppress(AttributeError, TypeError, ValueError, RuntimeError):
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


def _spec(column: Any) -> tf.TensorSpec:
    if isinstance(column, tf.distribute.DistributedValues):
        column = column.values[0]
    return tf.TensorSpec(column.shape, column.dtype)
