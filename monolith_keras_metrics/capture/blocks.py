"""The labels and predictions that are recorded for one output.

- Class labels (a loss over classes, or integers with K columns of predictions) become 0 and 1,
  because the measures need binary labels.
- Missing labels become NaN, which the record stores as null.
- Logits become probabilities if the compiled loss has `from_logits=True`.

All conversions run in the graph of the step, and only where needed. Ordinary labels and
predictions are recorded unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from monolith_keras_metrics.capture import losses
from monolith_keras_metrics.capture.outputs import Output

MOST_CLASSES = 32  # maximum number of classes as separate targets if labels are indices


class Block(NamedTuple):
    """Labels and predictions, and the class columns that go with them.

    Attributes:
        labels: Tensors of shape `(rows,)` or `(rows, k)`.
        predictions: Tensors of the same shapes.
        classes: int64, `(rows,)`: the true and the predicted class, for each output whose classes
            are not separate targets.
    """

    labels: tuple[Any, ...] = ()
    predictions: tuple[Any, ...] = ()
    classes: tuple[Any, ...] = ()


def number_of_classes(output: Output) -> int:
    """Return the number of classes of an output, or 0 if its columns are not classes."""
    columns = width(output.name, output.prediction)
    if columns is None or columns < 2 or output.label is None:
        return 0
    of_label = width(f"{output.name} (label)", output.label)
    kind = losses.classes_of(output.loss)
    if of_label == columns:
        return columns if kind in ("one-hot", "either") else 0
    integers = tf.as_dtype(output.label.dtype).is_integer
    if of_label in (1, None) and (kind in ("indices", "either") or integers):
        return columns
    return 0


def block_of(output: Output, names: Sequence[str], missing_label: float | None) -> Block:
    """Return the labels, predictions and classes to record for an output.

    Args:
        output: An output with a label.
        names: Names of its targets: one per column, or one for all the classes.
        missing_label: The label value that marks a missing label.
    """
    prediction = output.prediction
    classes = number_of_classes(output)
    if losses.is_from_logits(output.loss):
        is_softmax = classes or losses.classes_of(output.loss) is not None
        to_probabilities = tf.nn.softmax if is_softmax else tf.sigmoid
        prediction = to_probabilities(tf.cast(prediction, tf.float32))
    mask = _label_mask(output, missing_label)
    if not classes or (len(names) == classes and not _is_index(output)):
        return Block((_masked(output.label, mask),), (prediction,))
    return _block_of_classes(output, prediction, classes, len(names), mask)


def _block_of_classes(
    output: Output, prediction: Any, classes: int, targets: int, mask: Any
) -> Block:
    prediction = tf.convert_to_tensor(prediction)
    if _is_index(output):
        number = tf.reshape(tf.cast(output.label, tf.float32), [-1])
        is_class = (number >= 0) & (number < classes)
        true = tf.cast(tf.where(is_class, number, 0.0), tf.int64)
        class_mask = is_class[:, tf.newaxis]
        mask = class_mask if mask is None else mask & class_mask
        shown = tf.cast(tf.where(tf.math.is_nan(number), -1.0, number), tf.int64)
    else:
        shown = true = tf.argmax(output.label, axis=-1)
        # A weight or mask applies to the complete example.
        mask = None if mask is None else tf.reduce_all(mask, axis=-1, keepdims=True)
    if targets == classes:
        return Block((_masked(tf.one_hot(true, classes), mask),), (prediction,))
    if classes == 2:
        return Block((_masked(tf.cast(true, tf.float32), mask),), (prediction[:, 1],))
    predicted = tf.argmax(prediction, axis=-1)
    is_right = tf.cast(tf.equal(true, predicted), tf.float32)
    highest = tf.reduce_max(prediction, axis=-1)
    return Block((_masked(is_right, mask),), (highest,), (shown, predicted))


def width(name: str, tensor: Any) -> int | None:
    """Return the number of columns of a `(batch,)` or `(batch, k)` tensor; None if unknown."""
    shape = getattr(tensor, "shape", None)
    if shape is None:
        raise ValueError(
            f"{name!r} must be a dense tensor of shape (batch,) or (batch, k). "
            f"Received: {type(tensor).__name__}"
        )
    if getattr(shape, "rank", len(shape) if isinstance(shape, tuple) else None) is None:
        return None
    if not 1 <= len(shape) <= 2:
        raise ValueError(
            f"{name!r} must have shape (batch,) or (batch, k). Received: {tuple(shape)}. "
            "Record sequences with write_deep_insight_v2, one row per example"
        )
    return 1 if len(shape) == 1 else shape[1]


def _is_index(output: Output) -> bool:
    return width(output.name, output.label) != width(output.name, output.prediction)


def _label_mask(output: Output, missing_label: float | None) -> Any:
    """Return the mask of valid labels, `(rows, 1)` or `(rows, k)`; None if all are valid."""
    masks = [
        tf.not_equal(tf.cast(_rows(output.label), tf.float32), float(missing))
        for missing in (missing_label, losses.ignored_class(output.loss))
        if missing is not None
    ]
    if output.weight is not None:
        masks.append(tf.not_equal(_rows(output.weight), 0))
    return functools.reduce(tf.logical_and, masks) if masks else None


def _rows(tensor: Any) -> Any:
    """Return the tensor with shape `(rows, k)`, to avoid broadcasting along the wrong axis."""
    tensor = tf.convert_to_tensor(tensor)
    return tensor[:, tf.newaxis] if tensor.shape.rank == 1 else tensor


def _masked(label: Any, mask: Any) -> Any:
    """Return the labels with NaN where the mask is false, or unchanged without a mask."""
    if mask is None:
        return label
    return tf.where(mask, tf.cast(_rows(label), tf.float32), float("nan"))
