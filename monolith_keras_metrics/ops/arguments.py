"""Conversion and checks of the arguments of the write operations.

A wrong dtype, rank or length raises an error when the operation is called or traced, as far as
static shapes are known. The `tf.py_function` checks the values for the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from monolith_keras_metrics.ops.strategy import check_strategy
from monolith_keras_metrics.pipeline.client import open_client
from monolith_keras_metrics.records.batch import Batch

# TensorFlow has no dtype for dates.
_ABOUT_DATES = "; Unix seconds are .astype('datetime64[s]').astype('int64')"

MakeBatch = Callable[[Mapping[str, Any], int, int], Batch]

_EXTRA_DTYPES = (tf.float32, tf.int64, tf.string)


class Argument(NamedTuple):
    """A tensor argument.

    Attributes:
        tensor: The tensor.
        shape: The required shape: `("batch",)`, `("num_targets", "batch")`, or `()` for a scalar.
    """

    tensor: Any
    shape: tuple[str, ...]


def integers(name: str, value: Any) -> Argument:
    """Return an int64 argument of shape `(batch,)`."""
    return Argument(_converted(name, value, tf.int64), ("batch",))


def ids(name: str, value: Any) -> Argument:
    """Return an argument of shape `(batch,)`: int64, or text (recorded as its hash)."""
    dtype = tf.string if _is_text(value) else tf.int64
    return Argument(_converted(name, value, dtype, "of dtype int64 or string"), ("batch",))


def scalar(name: str, value: Any) -> Argument:
    """Return a scalar int64 argument."""
    return Argument(_converted(name, value, tf.int64), ())


def floats(name: str, value: Any, *shape: str) -> Argument:
    """Return a float32 argument, of shape `(batch,)` by default."""
    tensor = _converted(name, value, tf.float32)
    return Argument(tf.cast(tensor, tf.float32), shape or ("batch",))


def extra_field(name: str, value: Any) -> Argument:
    """Return a float32, int64 or string argument of shape `(batch,)`."""
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be convertible to a tensor. Received: {value!r:.200}"
        ) from error
    if tensor.dtype not in _EXTRA_DTYPES:
        wanted = ", ".join(dtype.name for dtype in _EXTRA_DTYPES)
        raise TypeError(
            f"`{name}` must have one of the dtypes {wanted}. Received: {tensor.dtype.name}; cast "
            "it with tf.cast, ids to int64"
        )
    return Argument(tensor, ("batch",))


def write_examples(
    handle: Any,
    arguments: Mapping[str, Argument],
    make_batch: MakeBatch,
    num_targets: int,
    return_msgs: bool,
    use_zero_train_time: bool,
) -> tf.Tensor:
    """Check shapes, and submit a batch to the client when the operation runs.

    Args:
        handle: The client's handle, a scalar int64.
        arguments: The tensors by name.
        make_batch: Makes the batch from their values by name, the number of rows and the time.
        num_targets: Required length of the axis `"num_targets"`.
        return_msgs: Whether to return the messages.
        use_zero_train_time: Whether to write 0 instead of the current time.

    Returns:
        Strings, shape `(batch,)`.

    Raises:
        TypeError, ValueError: If the handle or an argument is invalid.
        RuntimeError: If the steps of the strategy run in processes that cannot record.
    """
    check_strategy(tf.distribute.get_strategy())
    handle = _converted("deep_insight_client_tensor", handle, tf.int64)
    if handle.shape.rank not in (0, None):
        raise ValueError(
            "`deep_insight_client_tensor` must be the scalar that deep_insight_client returned. "
            f"Received: shape {tuple(handle.shape)}"
        )
    if (number := tf.get_static_value(handle)) is not None:
        open_client(int(number))  # raises early if there is no such client
    names = list(arguments)
    batch = _check_shapes(
        {name: arguments[name].tensor.shape for name in names}, arguments, num_targets
    )

    @tf.autograph.experimental.do_not_convert
    def run(handle: Any, *tensors: Any) -> Any:
        shapes = {name: tensor.shape for name, tensor in zip(names, tensors, strict=True)}
        rows = _check_shapes(shapes, arguments, num_targets) or 0
        values = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        client = open_client(int(handle))
        train_time = 0 if use_zero_train_time else int(time.time())
        written = client.accept(make_batch(values, rows, train_time))
        return client.messages(written) if return_msgs else None

    inputs = [handle, *(arguments[name].tensor for name in names)]
    if tf.executing_eagerly():
        # In a py_function, TensorFlow aborts the process if a signal handler exits.
        texts = run(*inputs)
        return tf.fill([batch], "") if texts is None else tf.constant(texts, tf.string)
    if return_msgs:
        msgs = tf.py_function(run, inputs, tf.string)
        msgs.set_shape([batch])
        return msgs
    operation = tf.py_function(run, inputs, [])
    # `tf.size` works for any rank, and the operation itself reports a wrong one.
    rows = tf.size(inputs[1], out_type=tf.int64) if batch is None else batch
    # The result depends on the operation, so that a session that fetches it writes.
    with tf.control_dependencies([operation] if isinstance(operation, tf.Operation) else []):
        msgs = tf.fill([rows], "")
    msgs.set_shape([batch])
    return msgs


def _is_text(value: Any) -> bool:
    if tf.is_tensor(value):
        return bool(value.dtype == tf.string)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind in "OSU"
    return isinstance(next(iter(tf.nest.flatten(value)), None), (bytes, str))


def _converted(name: str, value: Any, dtype: tf.DType, kind: str = "") -> tf.Tensor:
    """Return the value as a tensor; raise, instead of casting, if its dtype is of another kind."""
    kind = kind or _kind(dtype)
    if not (tf.is_tensor(value) or isinstance(value, (np.ndarray, np.generic))):
        try:
            return tf.convert_to_tensor(value, dtype)
        except (TypeError, ValueError) as error:
            raise TypeError(f"`{name}` must be {kind}. Received: {value!r:.200}") from error
    try:
        received = tf.as_dtype(value.dtype)
    except TypeError as error:  # TensorFlow has no such dtype, as for dates
        remedy = "" if value.dtype.kind != "M" else _ABOUT_DATES
        raise TypeError(f"`{name}` must be {kind}. Received: {value.dtype}{remedy}") from error
    if received != dtype and not (dtype.is_floating and received.is_floating):
        raise TypeError(f"`{name}` must be {kind}. Received: {received.name}; cast it with tf.cast")
    try:
        return tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:  # sparse or ragged tensors; objects that are not text
        raise TypeError(
            f"`{name}` must be a dense tensor {kind}. Received: {type(value).__name__}"
        ) from error


def _kind(dtype: tf.DType) -> str:
    return "of a float dtype" if dtype.is_floating else f"of dtype {dtype.name}"


def _check_shapes(
    shapes: Mapping[str, tf.TensorShape], arguments: Mapping[str, Argument], num_targets: int
) -> int | None:
    """Check shapes as far as they are known, and return the batch size, or None if unknown."""
    batch: int | None = None
    first = ""
    for name, shape in shapes.items():
        wanted = arguments[name].shape
        if shape.rank is None:
            continue
        text = f"({', '.join(wanted)}{',' if len(wanted) == 1 else ''})"
        if shape.rank != len(wanted):
            column = shape.rank > 0 and shape[-1] == 1
            raise ValueError(
                f"`{name}` must have shape {text}. Received: {tuple(shape)}"
                + ("; take its single column with tf.reshape(…, [-1])" if column else "")
            )
        if len(wanted) == 2 and shape[0] not in (num_targets, None):
            raise ValueError(
                f"`{name}` must have shape {text} with num_targets = {num_targets}. "
                f"Received: {tuple(shape)}"
            )
        if not wanted or shape[-1] is None:
            continue
        if batch is None:
            batch, first = int(shape[-1]), name
        elif shape[-1] != batch:
            raise ValueError(
                f"`{name}` must have shape {text} with batch = {batch}, as `{first}` has. "
                f"Received: {tuple(shape)}"
            )
    return batch
