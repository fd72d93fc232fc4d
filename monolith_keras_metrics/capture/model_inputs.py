"""Selection of the columns of a dataset's `x` that a model and its steps get."""

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

from monolith_keras_metrics.capture.captured import replaced_method
from monolith_keras_metrics.capture.compat import is_legacy, keras
from monolith_keras_metrics.capture.input_columns import x_of
from monolith_keras_metrics.threads import WarnOnce


class ModelInputs:
    """The part of a dataset's `x` that a model has inputs for.

    Args:
        model: The model.
        bookkeeping: Names of the columns that are only for the records.
    """

    def __init__(self, model: Any, bookkeeping: Collection[str]) -> None:
        self._model = model
        self._bookkeeping = bookkeeping
        self._takes_array: bool | None = None  # None until both forms have been tried
        self._step: Callable[[Any], Any] | None = None
        self._step_takes_all = False  # True after the step failed with fewer columns
        self._warn_once = WarnOnce()
        self._given: tuple[dict[str, Any], list[str]] | None = None  # x, and its features

    def function(self) -> Callable[..., Any]:
        """Return a function of `x`, `(x, y)` or `(x, y, sample_weight)` that applies `of`.

        The function can be mapped over a `tf.data.Dataset`. It returns a tuple if the model has a
        list of inputs, because `tf.data` would stack a list into one tensor.
        """

        def taken(x: Any, *others: Any) -> Any:
            if isinstance(x, Mapping):
                x = self._picked(x, keep_all=not others and _has_own_step(self._model))
                x = tuple(x) if isinstance(x, list) else x
            if others:
                return (x, *others)
            # Keras reads a dataset's element (a, b) as (x, y), but not an argument of `predict`.
            in_dataset = not tf.executing_eagerly()
            return (x,) if isinstance(x, tuple) and in_dataset else x

        unconverted: Callable[..., Any] = tf.autograph.experimental.do_not_convert(taken)
        return unconverted

    def of(self, data: Any) -> Any:
        """Return the part of a batch that the model's step gets.

        Args:
            data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`. An `x` that is not a dict is
                returned unchanged.

        Returns:
            The same, with `x` in the structure of the model's inputs.

        Raises:
            ValueError: If an input of the model has no column.
        """
        x = x_of(data)
        if not isinstance(x, Mapping):
            return data
        if isinstance(data, (tuple, list)):
            return (self._picked(x), *data[1:])
        inputs = self._picked(x, keep_all=_has_own_step(self._model))
        # Keras reads a bare list as (x, y).
        return (inputs,) if isinstance(inputs, (tuple, list)) else inputs

    def run(self, make_step: Callable[[], Callable[[Any], Any]], data: Any) -> Any:
        """Call a model's step with the part of a batch that `of` returns.

        A custom step may read columns by name, as in `self(x["features"])`, although the model
        itself takes an array. A custom step that fails with the model's inputs is therefore called
        again with the dict of all columns, and gets that dict from then on.

        Args:
            make_step: Makes the step. It is called again for the second try, because a
                `tf.function` may create variables only in its first call.
            data: A batch, as for `of`.

        Returns:
            The result of the step.

        Raises:
            Exception: If both tries fail: the error of the try that got further.
        """
        if self._step_takes_all:
            return self._run_with_all(data)
        self._step = self._step or make_step()
        try:
            return self._step(self.of(data))
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
        """Wrap a functional model's `call`, which would pair extra keys with inputs by position."""
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
        """Raise an error with a remedy if a subclassed model's `call` does not accept a dict.

        Args:
            error: The error that the step raised.
        """
        if self._given is None:
            return
        # A custom step may have failed before or after the call of the model.
        call = f"{type(self._model).__name__}.call()"
        if _has_own_step(self._model) and call not in str(error):
            return
        x, features = self._given
        if _refusal(self._model, x) is None:
            return  # the error has another cause
        text = "A subclassed model gets the dict of all columns or, if its `call` takes an array, "
        with_dict = f"`call` with the dict: {_essence(error)}"
        if len(features) == 1:
            of_array = _refusal(self._model, x[features[0]]) or error
            text += (
                f"the column {features[0]!r}. Both failed. Received: {with_dict}; with the column: "
                f"{_essence(of_array)}.\nCall the model to see the complete error: "
                f"model(x[{features[0]!r}][:2]) if it takes an array; if it takes a dict, "
                f"its columns are {sorted(map(str, x))}"
            )
        else:
            text += (
                f"the only column that is not recorded. Received: columns {features} not recorded; "
                f"{with_dict}.\nIf `call` takes an array, join its inputs into one column, as in "
                "x['features'] = np.concatenate([…], axis=1), and record the others with "
                "DeepInsightCallback(extra_fields=[…]), or drop them. If it takes a dict, read "
                "columns by name, as in x['features']"
            )
        # The traceback has the line of `call`, and Keras drops the cause.
        raise ValueError(text).with_traceback(error.__traceback__) from error

    def warn_of_positions(self, data: Any) -> None:
        """Log a warning, once, if Keras would feed the model's inputs from other columns.

        Args:
            data: A batch, as for `of`.
        """
        x, struct = x_of(data), _input_structure(self._model)
        if not isinstance(x, Mapping) or not isinstance(struct, Mapping):
            return
        inputs, given = sorted(map(str, struct)), sorted(map(str, x))
        if is_legacy(self._model) or given[: len(inputs)] == inputs or _has_own_step(self._model):
            return
        self._warn_once(
            "positions",
            "the model's inputs are a dict with the keys %s. Keras pairs them with "
            "the sorted columns of `x` by position, so without this callback its results are wrong "
            "for the columns %s. For evaluate and predict use "
            "dataset.map(recorder.model_inputs(model)), where `recorder` is this callback. Or give "
            "the model a list of its inputs instead of a dict: Keras takes these by their names",
            inputs,
            given,
        )

    def _picked(self, x: Mapping[str, Any], keep_all: bool = False) -> Any:
        features = {name: value for name, value in x.items() if name not in self._bookkeeping}
        struct = _input_structure(self._model)
        if struct is None:
            return self._unstructured(x, features)
        if isinstance(struct, Mapping):
            names = [str(key) for key in struct]
        else:
            tensors = struct if isinstance(struct, (list, tuple)) else [struct]
            if not all(hasattr(tensor, "name") for tensor in tensors):
                return dict(x)  # nested lists do not name their columns
            names = [tensor.name for tensor in tensors]
            # A model with one input takes the only column that is not bookkeeping, by any name.
            if len(names) == len(features) == 1 and names[0] not in x:
                names = list(features)
        if missing := [name for name in names if name not in x]:
            columns = sorted(map(str, x))
            example = min(map(str, features), default="features")
            raise ValueError(
                "The dataset's `x` must have a column for each input of the model. "
                f"Missing: {missing}; columns: {columns}.\n"
                f"Give each input its column's name, as in keras.Input(…, name={example!r})"
            )
        if keep_all:
            return {name: x[name] for name in x if name in features or name in names}
        if isinstance(struct, Mapping):
            return {key: x[key] for key in struct}
        values = [x[name] for name in names]
        return values if isinstance(struct, (list, tuple)) else values[0]

    def _unstructured(self, x: Mapping[str, Any], features: dict[str, Any]) -> Any:
        """Return the inputs of a model that does not declare its input structure."""
        if isinstance(self._model, keras.Sequential):
            if len(features) == 1:
                return next(iter(features.values()))
            raise ValueError(
                "A Sequential model needs exactly one column of the dataset's `x` that is not "
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
        return dict(x)  # a subclassed model reads columns by name


def _has_own_step(model: Any) -> bool:
    """Return True if the model's class defines a custom `train_step` or `test_step`."""
    steps = (type(model).train_step, type(model).test_step)
    return any(step.__module__.partition(".")[0] not in ("keras", "tf_keras") for step in steps)


def _lines_of_step(model: Any, error: Exception) -> tuple[int, ...]:
    """Return the line numbers of an error's frames, from the model's custom step inwards."""
    steps = [type(model).train_step.__code__, type(model).test_step.__code__]
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    begun = next((i for i, (code, _) in enumerate(frames) if code in steps), len(frames))
    return tuple(line for _, line in frames[begun:])


def _input_structure(model: Any) -> Any:
    """Return the structure of a model's inputs, or None if the model does not declare it."""
    with contextlib.suppress(AttributeError, ValueError, RuntimeError):
        return model.input
    if isinstance(model, keras.Sequential):
        # In legacy Keras, `inputs` is None until the model is built.
        with contextlib.suppress(AttributeError, TypeError, ValueError, RuntimeError):
            return model.inputs[0]
    return None


def _refusal(model: Any, x: Any) -> Exception | None:
    """Return the error that the model's `call` raises when traced with such an `x`, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns about calls that it cannot trace
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
    """Return the most informative line of an error's text, without colour codes."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = re.sub(r"\x1b\[\d*m", "", text).rpartition("Error encountered:")[2]
    text = text.partition("Inputs received:")[0].replace("Exception encountered: ", "")
    # Keras puts triple quotes around a KeyError's text.
    lines = [line.strip().removeprefix("'''").removesuffix("'''") for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Exception encountered when")]
    essence = textwrap.shorten(lines[0] if lines else "without a text", 200, placeholder=" …")
    return f"{type(error).__name__}: {essence.rstrip('.')}"


def _spec(column: Any) -> tf.TensorSpec:
    if isinstance(column, tf.distribute.DistributedValues):
        column = column.values[0]
    return tf.TensorSpec(column.shape, column.dtype)
