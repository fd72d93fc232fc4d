"""What is recorded is trained as Keras itself would have trained it.

`keras_step` stands in for the train and test functions that Keras makes, and these differ from one
Keras to the next. So each test uses a model twice from the same state, recorded and not: logs, the
steps and indices that callbacks see, results and all variables must be the same with the Keras
that is installed, to the last bit but where a test says why not.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import both_ways
import keras
import pytest
import tensorflow as tf
import warm
from both_ways import BATCH, ROWS, BothWays, Columns, columns, compiled, dataset, labels, weights
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

BATCHES = -(-ROWS // BATCH)


@functools.cache
def plain(steps: int = 1) -> BothWays:
    """One layer, whose own function is traced once for all tests."""
    return BothWays(compiled(both_ways.plain_model(), steps_per_execution=steps))


@functools.cache
def ends_a_call() -> bool:
    """Return True if data may end within a call of Keras's own function: in Keras 3.3 an error,
    which takes the logs of the call's steps with it."""
    seen = both_ways.Seen()
    net = plain(2).net
    net.fit(dataset({"features": columns(3)["features"]}, batch=1), callbacks=[seen], verbose=0)
    return [event for event, *_ in seen.events].count("train batch end") == 2


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_execution": 2},
        {"steps_per_execution": 7, "run_eagerly": True},
    ],
    ids=str,
)
def test_all_that_a_step_may_change(options: dict[str, Any]) -> None:
    """Regularizers, losses of layers, layers and metrics with states, seeds, weights of examples,
    validation, `evaluate`, a first epoch that is not 0; then single batches, no more recorded."""
    x = columns(2 * BATCH if not ends_a_call() else ROWS)
    if not ends_a_call() and options["steps_per_execution"] > 2:
        options = {**options, "steps_per_execution": 2}
    ways = BothWays(compiled(both_ways.rich_model(), **options))
    recorded = ways.compare(both_ways.fit_and_evaluate, x)
    rows = len(x["features"])
    assert recorded.steps == 2 * -(-rows // BATCH)
    assert recorded.of("epoch begin") == [1, 2]
    assert ways.recorded_rows == 5 * rows  # two epochs, each with validation, and `evaluate`
    if ends_a_call():
        ways.compare(both_ways.fit_and_single_batches, x)


def test_steps_that_are_compiled() -> None:
    """Rows of one length, for XLA compiles each length anew."""
    net = compiled(both_ways.plain_model(), steps_per_execution=3, jit_compile=True)
    ways, x = BothWays(net), columns(3 * BATCH)

    def use(net: keras.Model, x: Columns, callbacks: list[Any]) -> Any:
        data = dataset(x, weighted=True)
        history = net.fit(data, validation_data=data, epochs=2, callbacks=callbacks, verbose=0)
        assert net.jit_compile is True
        return history.history

    recorded = ways.compare(use, x)
    assert recorded.of("train batch end") in ([2, 2], [0, 0])  # Keras 3.3 passes the first step's
    assert ways.recorded_rows == 4 * 3 * BATCH


@pytest.mark.parametrize("steps", [1, 3])
def test_single_batches_that_are_recorded(steps: int) -> None:
    """`train_on_batch` and `test_on_batch` pass an iterator that is none of `tf.data`."""

    def use(net: keras.Model, x: Columns, callbacks: list[Any]) -> Any:
        told = keras.callbacks.CallbackList(callbacks, model=net)
        told.on_train_begin()
        told.on_test_begin()
        results = both_ways.single_batches(net, x)
        told.on_test_end()
        told.on_train_end()
        return results

    if steps > 1 and not ends_a_call():
        pytest.skip("this Keras takes no single batch where steps_per_execution is not 1")
    ways = plain(steps)
    recorded = ways.compare(use, columns())
    assert recorded.steps == 3
    assert ways.recorded_rows == 5 * BATCH


class Sequence(keras.utils.PyDataset):
    """Batches by their number."""

    def __init__(self, x: Columns) -> None:
        super().__init__()
        self.x = x

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, index: int) -> Any:
        batch = {n: c[index * BATCH : (index + 1) * BATCH] for n, c in self.x.items()}
        return batch, labels(batch)


def generator(x: Columns) -> Iterator[Any]:
    sequence = Sequence(x)
    for index in range(len(sequence)):
        yield sequence[index]


def unknown(x: Columns, batch: int = BATCH) -> tf.data.Dataset:
    """A dataset that does not say how long it is."""
    return dataset(x, batch=batch).filter(lambda *_: True)


FEEDS: dict[str, Callable[[Columns], dict[str, Any]]] = {
    "all": lambda x: {"x": dataset(x)},
    "a whole number of calls": lambda x: {"x": dataset({n: c[: 3 * BATCH] for n, c in x.items()})},
    "unknown": lambda x: {"x": unknown(x)},
    "fewer steps": lambda x: {"x": unknown(x), "steps_per_epoch": 2},
    "as many steps": lambda x: {"x": dataset(x), "steps_per_epoch": BATCHES},
    "more steps": lambda x: {"x": dataset(x), "steps_per_epoch": BATCHES + 3},
    "more steps than an unknown number": lambda x: {
        "x": unknown(x),
        "steps_per_epoch": BATCHES + 3,
    },
    "endless": lambda x: {"x": dataset(x).repeat(), "steps_per_epoch": 4},
    "nothing": lambda x: {"x": unknown(x).take(0)},
    "a generator that ends early": lambda x: {"x": generator(x), "steps_per_epoch": 4},
    "a sequence": lambda x: {"x": Sequence(x), "shuffle": False},
    "shuffled arrays": lambda x: {"x": x, "y": labels(x), "batch_size": BATCH},
    "weights of examples": lambda x: {
        "x": x,
        "y": labels(x),
        "sample_weight": weights(x),
        "batch_size": BATCH,
    },
    "weights of classes": lambda x: {"x": dataset(x), "class_weight": {0: 1.0, 1: 3.0}},
}


@pytest.mark.parametrize("feed", FEEDS)
def test_data_that_end_anywhere(feed: str) -> None:
    def use(net: keras.Model, x: Columns, callbacks: list[Any]) -> Any:
        return net.fit(**FEEDS[feed](x), epochs=2, callbacks=callbacks, verbose=0).history

    if not ends_a_call() and feed != "a whole number of calls":
        pytest.skip("data that end within a call of several steps are an error in this Keras")
    ways = plain(3)
    ways.compare(use, columns())
    assert ways.recorded_rows > 0 or feed == "nothing"


@settings(max_examples=4)
@given(
    rows=st.integers(1, 12),
    batch=st.integers(1, 5),
    steps=st.sampled_from([1, 2, 3, 7]),
    steps_per_epoch=st.none() | st.integers(1, 8),
    known=st.booleans(),
)
@example(rows=7, batch=1, steps=7, steps_per_epoch=None, known=True)
@example(rows=5, batch=2, steps=2, steps_per_epoch=3, known=False)
@example(rows=1, batch=1, steps=1, steps_per_epoch=1, known=False)
def test_any_sizes(
    rows: int, batch: int, steps: int, steps_per_epoch: int | None, known: bool
) -> None:
    # In single steps what needs no data, a count of steps say, may still be done when there are no
    # more: in Keras as here, and a race. In Keras 3.3, in calls of several steps as well.
    known = known or steps == 1
    assume(steps == 1 or ends_a_call())

    def use(net: keras.Model, x: Columns, callbacks: list[Any]) -> Any:
        data = dataset(x, batch=batch) if known else unknown(x, batch)
        return net.fit(
            data, steps_per_epoch=steps_per_epoch, epochs=2, callbacks=callbacks, verbose=0
        ).history

    ways = plain(steps)
    recorded = ways.compare(use, columns(rows))
    assert recorded.steps >= 1
    assert ways.recorded_rows >= (1 if steps == 1 else recorded.steps)


def test_training_that_is_stopped_within_an_epoch() -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch >= 2

    def use(net: keras.Model, x: Columns, callbacks: list[Any]) -> Any:
        return net.fit(dataset(x), callbacks=[*callbacks, Stop()], verbose=0).history

    recorded = plain().compare(use, columns())
    assert recorded.steps == 3


class OwnLogs(keras.Model):
    """A step whose logs are of all kinds, and not in the order of the alphabet."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.compute_metrics(x, y, y_pred)
        rows = tf.shape(y)[0]
        return {
            "loss": loss,
            "vector": y_pred[:, 0],
            "ragged": tf.RaggedTensor.from_row_lengths(y_pred[:, 0], [rows - 1, 1]),
            "nothing": None,
            "nested": {"rows": rows, "half": tf.cast(loss, tf.float16)},
            "constant": tf.constant(2.5),
            "all right": loss > 0.0,
        }


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=str)
@pytest.mark.parametrize("steps", [1, 2])
def test_logs_of_all_kinds(steps: int, options: dict[str, Any]) -> None:
    """What the train function returns, before Keras makes numbers of it."""
    model = both_ways.plain_model()
    net = compiled(OwnLogs(model.input, model.output), steps_per_execution=steps, **options)

    def use(net: keras.Model, x: Columns, callbacks: list[Any]) -> Any:
        told = keras.callbacks.CallbackList(callbacks, model=net)
        net.make_train_function()
        net.reset_metrics()
        told.on_train_begin()
        iterator = iter(dataset(x))
        results = [net.train_function(iterator) for _ in range(4 // steps)]
        told.on_train_end()
        return results

    ways = BothWays(net)
    ways.compare(use, columns())
    assert ways.recorded_rows == 4 * BATCH


def test_two_replicas() -> None:
    """Logs are averaged over the replicas as Keras does; in a process of its own."""
    process = warm.Popen([both_ways.__file__], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-4000:]
    assert "the same on 2 replicas" in output
