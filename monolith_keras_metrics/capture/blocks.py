"""What is recorded of one output: a block of labels and one of predictions.

- Labels that are classes (a loss over classes, or integers beside K columns of predictions) become
  numbers of 0 and 1, since everything that is measured is measured of such.
- Labels that are missing become NaN, which the record has as null.
- Logits become probabilities, where the compiled loss says that they are logits.

All of it is done in the graph of the step, and only where there is need: a block of ordinary labels
and predictions goes into the record as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from monolith_keras_metrics.capture import losses
from monolith_keras_metrics.capture.outputs import Output

MOST_CLASSES = 32  # that are targets of their own where labels are indices


class Block(NamedTuple):
    """Labels and predictions, and what is recorded of classes beside them.

    Attributes:
        labels: Tensors `(rows,)` or `(rows, k)`.
        predictions: The same.
        classes: int64, `(rows,)`: the true class and the predicted one, for each output of classes
            that are no targets of their own.
    """

    labels: tuple[Any, ...] = ()
    predictions: tuple[Any, ...] = ()
    classes: tuple[Any, ...] = ()


def number_of_classes(output: Output) -> int:
    """Return how many classes an output tells apart; 0 if its columns are no classes."""
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
    """Return what is recorded of an output.

    Args:
        output: An output with a label.
        names: Names of its targets: one a column, or one for all the classes.
        missing_label: The label that stands for none.
    """
    prediction = output.prediction
    classes = number_of_classes(output)
    if losses.is_from_logits(output.loss):
        to_probabilities = tf.nn.softmax if _is_softmax(output, classes) else tf.sigmoid
        prediction = to_probabilities(tf.cast(prediction, tf.float32))
    there = _there(output, missing_label)
    if not classes or (len(names) == classes and not _is_index(output)):
        return Block((_masked(output.label, there),), (prediction,))
    return _block_of_classes(output, prediction, classes, len(names), there)


def _block_of_classes(
    output: Output, prediction: Any, classes: int, targets: int, there: Any
) -> Block:
    prediction = tf.convert_to_tensor(prediction)
    if _is_index(output):
        number = tf.reshape(tf.cast(output.label, tf.float32), [-1])
        of_a_class = (number >= 0) & (number < classes)
        true = tf.cast(tf.where(of_a_class, number, 0.0), tf.int64)
        told = of_a_class[:, tf.newaxis]
        there = told if there is None else there & told
        shown = tf.cast(tf.where(tf.math.is_nan(number), -1.0, number), tf.int64)
    else:
        shown = true = tf.argmax(output.label, axis=-1)
        # One weight or mask is for the whole example.
        there = None if there is None else tf.reduce_all(there, axis=-1, keepdims=True)
    if targets == classes:
        return Block((_masked(tf.one_hot(true, classes), there),), (prediction,))
    if classes == 2:
        return Block((_masked(tf.cast(true, tf.float32), there),), (prediction[:, 1],))
    predicted = tf.argmax(prediction, axis=-1)
    is_right = tf.cast(tf.equal(true, predicted), tf.float32)
    highest = tf.reduce_max(prediction, axis=-1)
    return Block((_masked(is_right, there),), (highest,), (shown, predicted))


def width(name: str, tensor: Any) -> int | None:
    """Columns of a `(batch,)` or `(batch, k)` tensor; None where the shape is not known."""
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
            "Record sequences with write_deep_insight_v2, a row an example"
        )
    return 1 if len(shape) == 1 else shape[1]


def _is_index(output: Output) -> bool:
    return width(output.name, output.label) != width(output.name, output.prediction)


def _is_softmax(output: Output, classes: int) -> bool:
    return bool(classes) or losses.classes_of(output.loss) is not None


def _there(output: Output, missing_label: float | None) -> Any:
    """Which labels count, `(rows, 1)` or `(rows, k)`; None if all do."""
    there = None
    ignored = losses.ignored_class(output.loss)
    for missing in (missing_label, ignored):
        if missing is not None:
            one = tf.not_equal(tf.cast(_rows(output.label), tf.float32), float(missing))
            there = one if there is None else there & one
    if output.weight is not None:
        one = tf.not_equal(_rows(output.weight), 0)
        there = one if there is None else there & one
    return there


def _rows(tensor: Any) -> Any:
    """As `(rows, k)`, so that nothing is spread over the wrong axis."""
    tensor = tf.convert_to_tensor(tensor)
    return tensor[:, tf.newaxis] if tensor.shape.rank == 1 else tensor


def _masked(label: Any, there: Any) -> Any:
    """The labels as they are, or with NaN where they do not count."""
    if there is None:
        return label
    return tf.where(there, tf.cast(_rows(label), tf.float32), float("nan"))
