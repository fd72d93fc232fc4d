"""Conversion and checks of the arguments of the write operations.

A wrong dtype, rank or length raises an error when the operation is called or traced, as far as
static shapes are known. The `tf.py_function` checks the values for the rest.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from monolith_keras_metrics.ops.strategy import check_strategy
from monolith_keras_metrics.pipeline.client import open_client
from monolith_keras_metrics.records.batch import Batch, Layout

_FLOATS = (tf.float32, tf.float64, tf.float16, tf.bfloat16)
# TensorFlow has no dtype for dates.
_ABOUT_DATES = "; Unix seconds are .astype('datetime64[s]').astype('int64')"


class Argument(NamedTuple):
    """A tensor argument.

    Attributes:
        name: Its name in errors.
        tensor: The tensor.
        shape: The required shape: `("batch",)`, `("num_targets", "batch")`, or `()` for a scalar.
    """

    name: str
    tensor: Any
    shape: tuple[str, ...] = ("batch",)


def integers(name: str, value: Any, *, is_scalar: bool = False) -> Argument:
    """Return an int64 argument of shape `(batch,)`, or a scalar one."""
    tensor = _converted(name, value, "of dtype int64", (tf.int64,), tf.int64)
    return Argument(name, tensor, () if is_scalar else ("batch",))


def ids(name: str, value: Any) -> Argument:
    """Return an argument of shape `(batch,)`: int64, or text (recorded as its hash)."""
    is_text = isinstance(next(iter(tf.nest.flatten(value)), None), (bytes, str))
    like = tf.string if is_text else tf.int64
    kind = "of dtype int64 or string"
    return Argument(name, _converted(name, value, kind, (tf.int64, tf.string), like))


def floats(name: str, value: Any, *shape: str) -> Argument:
    """Return a float32 argument, of shape `(batch,)` by default."""
    tensor = _converted(name, value, "of a float dtype", _FLOATS, tf.float32)
    return Argument(name, tf.cast(tensor, tf.float32), shape or ("batch",))


def extra_field(name: str, value: Any) -> Argument:
    """Return a float32, int64 or string argument of shape `(batch,)`."""
    dtypes = (tf.float32, tf.int64, tf.string)
    kind = "of one of the dtypes float32, int64, string"
    return Argument(name, _converted(name, value, kind, dtypes))


def write_examples(
    handle: Any,
    layout: Layout,
    columns: Mapping[str, Argument],
    extras: Sequence[Argument],
    return_msgs: bool,
    use_zero_train_time: bool,
) -> tf.Tensor:
    """Check shapes, and submit a batch to the client when the operation runs.

    Args:
        handle: The client's handle, a scalar int64.
        layout: The layout of the batch.
        columns: The arguments of `Batch` by name. Blocks have the targets as first axis, if any.
        extras: The extra fields.
        return_msgs: Whether to return the messages.
        use_zero_train_time: Whether to write 0 instead of the current time.

    Returns:
        Strings, shape `(batch,)`.

    Raises:
        TypeError, ValueError: If the handle or an argument is invalid.
        RuntimeError: If the steps of the strategy run in processes that cannot record.
    """
    check_strategy(tf.distribute.get_strategy())
    handle = integers("deep_insight_client_tensor", handle).tensor
    if handle.shape.rank not in (0, None):
        raise ValueError(
            "`deep_insight_client_tensor` must be the scalar that deep_insight_client returned. "
            f"Received: shape {tuple(handle.shape)}"
        )
    if (number := tf.get_static_value(handle)) is not None:
        open_client(int(number))  # raises early if there is no such client
    arguments = [*columns.values(), *extras]
    num_targets = len(layout.targets)
    batch = _check_shapes(arguments, [one.tensor for one in arguments], num_targets)

    @tf.autograph.experimental.do_not_convert
    def run(handle: Any, *tensors: Any) -> Any:
        rows = _check_shapes(arguments, tensors, num_targets) or 0
        values = [tensor.numpy() for tensor in tensors]
        given: dict[str, Any] = dict(zip(columns, values, strict=False))
        for name in ("labels", "predictions", "sample_rates"):
            given[name] = [given[name].T]
        if "epoch" in given:
            given["epoch"] = int(given["epoch"])
        given["train_time"] = 0 if use_zero_train_time else int(time.time())
        client = open_client(int(handle))
        written = client.accept(Batch(layout, rows, **given, extras=values[len(columns) :]))
        return client.messages(written) if return_msgs else None

    inputs = [handle, *(one.tensor for one in arguments)]
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


def _converted(
    name: str, value: Any, kind: str, dtypes: tuple[tf.DType, ...], like: tf.DType | None = None
) -> tf.Tensor:
    """Return the value as a tensor; raise, instead of casting, if it has another dtype.

    Args:
        name: Name of the argument.
        value: A tensor, an array, or Python values.
        kind: The dtypes, for the error.
        dtypes: The dtypes that the tensor may have.
        like: The dtype that Python values get.
    """
    has_dtype = tf.is_tensor(value) or isinstance(value, (np.ndarray, np.generic))
    try:
        tensor = tf.convert_to_tensor(value, None if has_dtype else like)
    except (TypeError, ValueError) as error:  # also for sparse and ragged tensors, and for dates
        received = f"{value!r:.200}"
        if has_dtype:
            received = f"{type(value).__name__} of dtype {value.dtype.name}"
            received += _ABOUT_DATES if getattr(value.dtype, "kind", "") == "M" else ""
        raise TypeError(f"`{name}` must be {kind}, and dense. Received: {received}") from error
    if tensor.dtype not in dtypes:
        raise TypeError(
            f"`{name}` must be {kind}. Received: {tensor.dtype.name}; cast it with tf.cast"
        )
    return tensor


def _check_shapes(
    arguments: Sequence[Argument], tensors: Sequence[Any], num_targets: int
) -> int | None:
    """Check shapes as far as they are known, and return the batch size, or None if unknown."""
    batch: int | None = None
    first = ""
    for (name, _, wanted), tensor in zip(arguments, tensors, strict=True):
        shape = tensor.shape
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
