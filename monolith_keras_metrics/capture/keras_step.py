"""A model's train (or test) function that also gives out the step's columns.

Keras's own `make_train_function` wraps `train_step` into a function of an iterator that returns
logs. The one made here does the same, with two additions: bookkeeping columns are taken out of
`x` before the model sees it, and the function returns, beside the logs, those columns and what
`compute_metrics(x, y, y_pred)` was given (see `captured`). So a recorded step costs a few more
outputs, no call into Python from the graph; and since bookkeeping columns never enter the inner
step, that one can be compiled with XLA, whatever their dtype.

What is taken over from Keras (`keras/src/backend/tensorflow/trainer.py`): the inner step is a
`tf.function` with the model's `jit_compile`, replicas are run by the model's strategy and their
logs averaged, `steps_per_execution` steps make one call, the last one's logs count, and data that
end within a call end it there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from monolith_keras_metrics.capture.captured import Blocks, PairTargets, captured_calls
from monolith_keras_metrics.capture.compat import steps_per_execution

TakeColumns = Callable[[Any], dict[str, Any]]
Step = Callable[[Any], Any]
RunStep = Callable[[Callable[[], Step], Any], Any]


class Columns(NamedTuple):
    """What one call of a step function recorded.

    Attributes:
        bookkeeping: Columns that were taken from `x`, each `(rows,)`.
        blocks: Labels and predictions, for each recorder.
    """

    bookkeeping: dict[str, Any]
    blocks: Blocks


def make_step_function(
    model: Any,
    step: Callable[[Any], Any],
    take_columns: TakeColumns,
    run_step: RunStep,
    pair_targets: PairTargets | None,
    *,
    outputs: bool = False,
    counter: Any = None,
) -> Callable[[Any], Iterator[tuple[Any, Columns]]]:
    """Makes a function of an iterator that runs steps and yields logs and columns.

    Args:
        model: A compiled Keras model.
        step: Its `train_step` or `test_step`.
        take_columns: Returns the bookkeeping columns of a batch of data.
        run_step: Calls the step, which its first argument makes, with what it gets of a batch.
        pair_targets: Pairs the labels and predictions of a step; None to record none.
        outputs: Whether the model's output may stand for predictions that the step passes nowhere.
        counter: A variable that counts steps, which legacy Keras has.

    Returns:
        A function that takes an iterator over data and yields `(logs, columns)`, once for a
        `tf.data` iterator, once a step for others. At the end of the data it raises
        `tf.errors.OutOfRangeError`, or yields nothing.
    """
    strategy = model.distribute_strategy
    steps = steps_per_execution(model)

    @tf.autograph.experimental.do_not_convert
    def inner_step(data: Any) -> Any:
        if pair_targets is None:

            def plain_step(data: Any) -> Any:
                return step(_own(data))

            return _mean(strategy, strategy.run(plain_step, args=(data,))), ()
        with captured_calls(model, outputs=outputs) as captured:

            def replica_step(data: Any) -> Any:
                captured.begin()
                logs = step(_own(data))
                x = data[0] if isinstance(data, (tuple, list)) else data
                return logs, captured.paired(pair_targets, x)

            logs, blocks = strategy.run(replica_step, args=(data,))
        return _mean(strategy, logs), _joined(strategy, blocks)

    def make_inner_step() -> Step:
        made: Step = inner_step
        if not model.run_eagerly:
            made = tf.function(
                inner_step, reduce_retracing=True, jit_compile=model.jit_compile or None
            )
        return made

    def one_step(data: Any) -> tuple[Any, Columns]:
        data = _without_optionals(data)
        bookkeeping = take_columns(data)
        logs, blocks = run_step(make_inner_step, data)
        if counter is not None:
            counter.assign_add(1)
        return logs, Columns(_joined(strategy, bookkeeping), blocks)

    several = not isinstance(steps, int) or steps > 1

    @tf.autograph.experimental.do_not_convert
    def execution(iterator: Any, first: Any = None) -> tuple[Any, Columns]:
        if first is None:
            return one_step(iterator.get_next())
        logs, columns = one_step(first.get_value())
        return _more_steps(iterator, one_step, steps, logs, columns)

    if not model.run_eagerly:
        execution = tf.function(execution, reduce_retracing=True)

    def function(iterator: Any) -> Iterator[tuple[Any, Columns]]:
        if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
            # Where there are no more data, a call of several steps changes nothing. In the graph,
            # what needs no data (the optimizer's count of steps, for one) would still be done.
            first = iterator.get_next_as_optional() if several else None
            if first is not None and not first.has_value():
                raise tf.errors.OutOfRangeError(None, None, "End of sequence")
            yield execution(iterator, first)
        else:
            for _, data in zip(range(int(steps)), iterator):  # noqa: B905 (as many as there are)
                yield one_step(tf.nest.map_structure(_owned, data))

    return function


def _more_steps(
    iterator: Any,
    one_step: Callable[[Any], tuple[Any, Columns]],
    steps: Any,
    logs: Any,
    columns: Columns,
) -> tuple[Any, Columns]:
    """Runs the steps after the first in a loop of the graph, and joins their columns."""
    flat = tf.nest.flatten(columns)
    # Batches may differ in their number of rows, so the arrays know no shape of an element.
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
        # After the last step nothing more may be taken from the data.
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


def _own(data: Any) -> Any:
    """Copies dicts: the step may take labels out of them, with `pop`."""
    if isinstance(data, dict):
        return dict(data)
    if isinstance(data, (tuple, list)) and not hasattr(data, "_fields"):
        return type(data)(map(_own, data))
    return data


def _without_optionals(data: Any) -> Any:
    """Keras passes what is None (sample weights, say) through `tf.data` as empty optionals."""
    if isinstance(data, tf.experimental.Optional):
        return None
    if isinstance(data, Mapping):
        return {key: _without_optionals(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)) and not hasattr(data, "_fields"):
        return type(data)(_without_optionals(value) for value in data)
    return data


def _mean(strategy: Any, logs: Any) -> Any:
    """Averages logs over the replicas."""
    if strategy.num_replicas_in_sync == 1:
        return logs
    return tf.nest.map_structure(lambda log: strategy.reduce("MEAN", log, axis=None), logs)


def _joined(strategy: Any, columns: Any) -> Any:
    """Puts the rows of this process's replicas one after another."""
    if strategy.num_replicas_in_sync == 1:
        return columns

    def join(column: Any) -> Any:
        parts = strategy.experimental_local_results(column)
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)

    return tf.nest.map_structure(join, columns)


def _owned(value: Any) -> Any:
    """Copies arrays that the caller may change once the step is over."""
    return tf.convert_to_tensor(value.copy()) if isinstance(value, np.ndarray) else value
