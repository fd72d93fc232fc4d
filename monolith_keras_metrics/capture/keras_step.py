"""A model's train (or test) function that also returns the step's columns.

Keras's `make_train_function` wraps `train_step` into a function of an iterator that returns logs.
The function here does the same, with two additions. It removes bookkeeping columns from `x` before
the model sees it. Besides the logs, it returns those columns and the arguments of
`compute_metrics(x, y, y_pred)` (see `captured`). A recorded step therefore has a few more outputs,
but no call from the graph into Python. Bookkeeping columns never enter the inner step, so XLA can
compile that step whatever their dtype.

The rest follows Keras (`keras/src/backend/tensorflow/trainer.py`): the inner step is a
`tf.function` with the model's `jit_compile`, the model's strategy runs the replicas and averages
their logs, one call runs `steps_per_execution` steps and returns the logs of the last one, and the
end of the data ends the call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from monolith_keras_metrics.capture.captured import Blocks, PairTargets, captured_calls
from monolith_keras_metrics.capture.compat import steps_per_execution
from monolith_keras_metrics.capture.input_columns import x_of

Step = Callable[[Any], Any]


class Columns(NamedTuple):
    """The columns that one call of a step function returns.

    Attributes:
        bookkeeping: Columns from `x`, each of shape `(rows,)`.
        blocks: Labels and predictions, one block per recorder.
    """

    bookkeeping: dict[str, Any]
    blocks: Blocks


def make_step_function(
    model: Any,
    step: Step,
    take_columns: Callable[[Any], dict[str, Any]],
    run_step: Callable[[Callable[[], Step], Any], Any],
    pair_targets: PairTargets | None,
    *,
    outputs: bool = False,
    counter: Any = None,
) -> Callable[[Any], Iterator[tuple[Any, Columns]]]:
    """Return a function of an iterator that runs steps and yields logs and columns.

    Args:
        model: A compiled Keras model.
        step: The model's `train_step` or `test_step`.
        take_columns: Returns the bookkeeping columns of a batch of data.
        run_step: Calls the step that its first argument makes with the step's part of a batch.
        pair_targets: Pairs the labels and predictions of a step; None to record none.
        outputs: Whether to use the model's output as predictions if the step passes none on.
        counter: Legacy Keras's variable that counts steps, or None.

    Returns:
        A function that takes an iterator over data and yields `(logs, columns)`: once for a
        `tf.data` iterator, once per step for others. At the end of the data it raises
        `tf.errors.OutOfRangeError`, or yields nothing.
    """
    strategy = model.distribute_strategy
    steps = steps_per_execution(model)
    inner_step = _on_replicas(model, step, pair_targets, outputs)

    def make_inner_step() -> Any:
        if model.run_eagerly:
            return inner_step
        jit_compile = model.jit_compile or None
        return tf.function(inner_step, reduce_retracing=True, jit_compile=jit_compile)

    def one_step(data: Any) -> tuple[Any, Columns]:
        data = _without_optionals(data)
        bookkeeping = take_columns(data)
        logs, blocks = run_step(make_inner_step, data)
        if counter is not None:
            counter.assign_add(1)
        return logs, Columns(_joined(strategy, bookkeeping), blocks)

    @tf.autograph.experimental.do_not_convert
    def execution(iterator: Any) -> tuple[Any, Columns]:
        data = iterator.get_next()
        if isinstance(steps, int) and steps == 1:
            return one_step(data)
        # A call without data must change nothing, as in Keras. The graph would still run what needs
        # no data, such as the optimizer's counter. TensorFlow drops control dependencies on inputs
        # of a function, hence the operation in between; nothing else may feed the step from within.
        with tf.control_dependencies(tf.nest.flatten(data, expand_composites=True)):
            has_data = tf.no_op()
        with tf.control_dependencies([has_data]):
            logs, columns = one_step(data)
        return _more_steps(iterator, one_step, steps, logs, columns)

    if not model.run_eagerly:
        execution = tf.function(execution, reduce_retracing=True)

    def function(iterator: Any) -> Iterator[tuple[Any, Columns]]:
        if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
            yield execution(iterator)
        else:
            for _, data in zip(range(int(steps)), iterator):  # noqa: B905 (as many as there are)
                yield one_step(tf.nest.map_structure(_copy_array, data))

    return function


def _on_replicas(model: Any, step: Step, pair_targets: PairTargets | None, outputs: bool) -> Any:
    """Return a function that runs a step on all replicas and returns logs and blocks."""
    strategy = model.distribute_strategy

    @tf.autograph.experimental.do_not_convert
    def inner_step(data: Any) -> Any:
        if pair_targets is None:
            logs = strategy.run(lambda data: step(_copied(data)), args=(data,))
            return _mean(strategy, logs), ()
        with captured_calls(model, outputs=outputs) as captured:

            def replica_step(data: Any) -> Any:
                captured.begin()
                logs = step(_copied(data))
                return logs, captured.paired(pair_targets, x_of(data))

            logs, blocks = strategy.run(replica_step, args=(data,))
        return _mean(strategy, logs), _joined(strategy, blocks)

    return inner_step


def _more_steps(
    iterator: Any,
    one_step: Callable[[Any], tuple[Any, Columns]],
    steps: Any,
    logs: Any,
    columns: Columns,
) -> tuple[Any, Columns]:
    """Run the steps after the first in a loop of the graph, and concatenate their columns."""
    flat = tf.nest.flatten(columns)
    # The element shape is unknown because batches may differ in their number of rows.
    arrays = [
        tf.TensorArray(
            column.dtype,
            size=1,
            dynamic_size=True,
            infer_shape=False,
            element_shape=tf.TensorShape([None, *column.shape[1:]]),
        ).write(0, column)
        for column in flat
    ]
    # A ragged log is several tensors, and what is None stays None.
    flat_logs = tf.nest.flatten(logs, expand_composites=True)
    is_log = [log is not None for log in flat_logs]
    values = [tf.convert_to_tensor(log) for log in itertools.compress(flat_logs, is_log)]

    def go_on(index: Any, following: Any, *_: Any) -> Any:
        return tf.logical_and(index < tf.cast(steps, tf.int32), following.has_value())

    def body(index: Any, following: Any, values: Any, arrays: Any) -> Any:
        new_logs, new_columns = one_step(following.get_value())
        arrays = [
            a.write(index, c) for a, c in zip(arrays, tf.nest.flatten(new_columns), strict=True)
        ]
        new_values = itertools.compress(tf.nest.flatten(new_logs, expand_composites=True), is_log)
        values = [tf.cast(new, old.dtype) for old, new in zip(values, new_values, strict=True)]
        # The last step must not consume another batch.
        following = tf.cond(
            index + 1 < tf.cast(steps, tf.int32),
            iterator.get_next_as_optional,
            lambda: following,
        )
        return index + 1, following, values, arrays

    _, _, values, arrays = tf.while_loop(
        go_on, body, (tf.constant(1), iterator.get_next_as_optional(), values, arrays)
    )
    last = iter(values)
    flat_logs = [next(last) if there else None for there in is_log]
    logs = tf.nest.pack_sequence_as(logs, flat_logs, expand_composites=True)
    return logs, tf.nest.pack_sequence_as(columns, [array.concat() for array in arrays])


def _copied(data: Any) -> Any:
    """Copy the dicts and lists in a batch, because the step may `pop` labels from them."""
    return tf.nest.map_structure(lambda value: value, data)


def _without_optionals(data: Any) -> Any:
    """Replace empty optionals with None, which Keras passes through `tf.data` in this form."""
    return tf.nest.map_structure(
        lambda value: None if isinstance(value, tf.experimental.Optional) else value, data
    )


def _mean(strategy: Any, logs: Any) -> Any:
    """Average logs over the replicas."""
    if strategy.num_replicas_in_sync == 1:
        return logs
    return tf.nest.map_structure(lambda log: strategy.reduce("MEAN", log, axis=None), logs)


def _joined(strategy: Any, columns: Any) -> Any:
    """Concatenate the rows of this process's replicas."""
    if strategy.num_replicas_in_sync == 1:
        return columns

    def join(column: Any) -> Any:
        parts = strategy.experimental_local_results(column)
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)

    return tf.nest.map_structure(join, columns)


def _copy_array(value: Any) -> Any:
    """Copy an array to a tensor, because the caller may change the array after the step."""
    return tf.convert_to_tensor(value.copy()) if isinstance(value, np.ndarray) else value
