"""Trains a model as Keras has it and as the callback has it, and holds one against the other.

    python both_ways.py

holds them against each other on two replicas: devices are set up once in a process's life.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import polars as pl
import tensorflow as tf

from monolith_keras_metrics import DeepInsightCallback

FEATURES = 3
ROWS = 27
BATCH = 6  # an even number, for two replicas; five batches, the last one short

Columns = dict[str, np.ndarray]
Use = Callable[[keras.Model, Columns, list[keras.callbacks.Callback]], Any]


class Counted:
    """A sink that keeps nothing but the number of rows it got."""

    rows = 0

    def write(self, frame: pl.DataFrame) -> None:
        self.rows += frame.height

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class Seen(keras.callbacks.Callback):
    """Notes all that Keras tells a callback."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, int | None, Any]] = []

    def _steps(self) -> int | None:
        return (getattr(self, "params", None) or {}).get("steps")

    def on_train_begin(self, logs: Any = None) -> None:
        self.events.append(("train begin", self._steps(), exact(logs)))

    def on_train_end(self, logs: Any = None) -> None:
        self.events.append(("train end", self._steps(), exact(logs)))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.events.append(("epoch begin", epoch, exact(logs)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.events.append(("epoch end", epoch, exact(logs)))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.events.append(("train batch begin", batch, exact(logs)))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.events.append(("train batch end", batch, exact(logs)))

    def on_test_begin(self, logs: Any = None) -> None:
        self.events.append(("test begin", None, exact(logs)))

    def on_test_end(self, logs: Any = None) -> None:
        self.events.append(("test end", None, exact(logs)))

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.events.append(("test batch begin", batch, exact(logs)))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.events.append(("test batch end", batch, exact(logs)))


class Leaf(NamedTuple):
    """One value, to its last bit, and its kind."""

    kind: str
    dtype: str
    value: Any

    def near(self, other: Leaf, tolerance: float) -> bool:
        if self[:2] != other[:2] or np.shape(self.value) != np.shape(other.value):
            return False
        return bool(np.allclose(self.value, other.value, rtol=tolerance, atol=tolerance))


def exact(logs: Any) -> Any:
    """Return a structure with the keys in their order, and each value as a `Leaf`."""
    if logs is None:
        return None
    if isinstance(logs, dict):
        return [(key, exact(value)) for key, value in logs.items()]
    if isinstance(logs, (list, tuple)):
        return [exact(value) for value in logs]
    if isinstance(logs, tf.RaggedTensor):
        return exact([logs.values, logs.row_splits])
    array = np.asarray(logs)
    return Leaf(type(logs).__name__, str(array.dtype), array.tolist())


class Outcome(NamedTuple):
    """What there is to see of one way.

    Attributes:
        events: What a callback was told, in order.
        returned: What the use returned, `History.history` for instance.
        state: Values of all variables: weights, the optimizer's, metrics', seeds.
        steps: Training steps that the optimizer has counted.
    """

    events: list[Any]
    returned: Any
    state: list[Any]
    steps: int

    def of(self, event: str) -> list[int | None]:
        """The indices of all events of a kind."""
        return [index for name, index, _ in self.events if name == event]


def columns(rows: int = ROWS) -> Columns:
    """The dataset's `x`."""
    rng = np.random.default_rng(rows)
    return {
        "features": rng.normal(size=(rows, FEATURES)).astype(np.float32),
        "uid": np.arange(rows) + 1,
        "req_time": 1_700_000_000 + np.arange(rows),
    }


def labels(x: Columns) -> np.ndarray:
    return (x["features"].sum(axis=1) > 0).astype(np.float32)


def weights(x: Columns) -> np.ndarray:
    return (1 + np.arange(len(x["features"])) % 3).astype(np.float32)


def dataset(x: Columns, *, weighted: bool = False, batch: int = BATCH) -> tf.data.Dataset:
    parts = (x, labels(x), weights(x)) if weighted else (x, labels(x))
    return tf.data.Dataset.from_tensor_slices(parts).batch(batch)


class Steps(keras.metrics.Metric):
    """Counts the steps since the metrics were reset."""

    def __init__(self) -> None:
        super().__init__(name="steps")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.count.assign_add(1.0)

    def result(self) -> Any:
        return self.count + 0.0

    def reset_state(self) -> None:
        self.count.assign(0.0)


class Noisy(keras.layers.Layer):
    """Adds noise, has a loss of its own, and counts in a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(7)

    def build(self, shape: Any) -> None:
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, inputs: Any, training: bool = False) -> Any:
        self.add_loss(1e-2 * keras.ops.mean(keras.ops.square(inputs)))
        if not training:
            return inputs
        self.calls.assign(self.calls + 1.0)
        noise = keras.random.normal(keras.ops.shape(inputs), stddev=0.1, seed=self.seeds)
        return inputs + noise


def plain_model() -> keras.Model:
    """One layer."""
    keras.utils.set_random_seed(1)
    features = keras.Input((FEATURES,), name="features")
    output = keras.layers.Dense(1, "sigmoid", name="ctr")(features)
    return keras.Model({"features": features}, output)


def rich_model() -> keras.Model:
    """All that a step may change or add up."""
    keras.utils.set_random_seed(1)
    features = keras.Input((FEATURES,), name="features")
    hidden = keras.layers.Dense(
        4, kernel_regularizer=keras.regularizers.L2(0.01), activity_regularizer="l1"
    )(features)
    hidden = keras.layers.BatchNormalization()(hidden)
    hidden = keras.layers.Dropout(0.5, seed=3)(Noisy()(hidden))
    output = keras.layers.Dense(1, "sigmoid", name="ctr")(hidden)
    return keras.Model({"features": features}, output)


def compiled(net: keras.Model, **options: Any) -> keras.Model:
    """Compiles a model with metrics that have states."""
    given = {
        "loss": "binary_crossentropy",
        "metrics": [Steps(), "mae"],
        "weighted_metrics": [keras.metrics.MeanSquaredError(name="mse")],
        "jit_compile": False,
        **options,
    }
    net.compile(keras.optimizers.Adam(0.05), **given)
    net.optimizer.build(net.trainable_variables)
    return net


class BothWays:
    """A model that is used both ways from the same state.

    Args:
        net: A compiled model.
    """

    def __init__(self, net: keras.Model) -> None:
        self.net = net
        self._start = [(variable, variable.numpy()) for variable in self._variables()]
        self.recorded_rows = 0

    def compare(self, use: Use, x: Columns, tolerance: float = 0.0) -> Outcome:
        """Asserts that a use of the model has the same outcome both ways.

        Args:
            use: Uses the model with columns and callbacks. Only those that the model has inputs
                for are given where it is not recorded.
            x: The columns.
            tolerance: By how much numbers may differ; 0 has them be equal to the last bit.

        Returns:
            The outcome.
        """
        recorded, own = self.recorded(use, x), self.own(use, x)
        check_same(recorded, own, tolerance)
        return recorded

    def recorded(self, use: Use, x: Columns) -> Outcome:
        """Return the outcome of a use that is recorded."""
        sink = Counted()
        recorder = DeepInsightCallback(
            sink, model_name="m", sample_ratio=1.0, modes=("train", "test"), flush_seconds=60.0
        )
        outcome = self._outcome(use, x, [recorder])
        self.recorded_rows = sink.rows
        return outcome

    def own(self, use: Use, x: Columns) -> Outcome:
        """Return the outcome of a use with Keras's own functions."""
        return self._outcome(use, {"features": x["features"]}, [])

    def _outcome(self, use: Use, x: Columns, callbacks: list[Any]) -> Outcome:
        for variable, value in self._start:
            variable.assign(value)
        keras.utils.set_random_seed(5)
        seen = Seen()
        before = int(self.net.optimizer.iterations.numpy())
        returned = use(self.net, x, [*callbacks, seen])
        state = [exact(variable.numpy()) for variable in self._variables()]
        steps = int(self.net.optimizer.iterations.numpy()) - before
        return Outcome(seen.events, exact(returned), state, steps)

    def _variables(self) -> list[Any]:
        return [*self.net.variables, *self.net.optimizer.variables, *self.net.metrics_variables]


def check_same(found: Any, expected: Any, tolerance: float = 0.0, where: str = "outcome") -> None:
    """Asserts that two structures are the same, and says where they are not."""
    if isinstance(expected, Leaf) and isinstance(found, Leaf) and tolerance:
        assert found.near(expected, tolerance), f"{where}: {found} is not near {expected}"
    elif isinstance(expected, (list, tuple)) and not isinstance(expected, Leaf):
        assert isinstance(found, (list, tuple)), f"{where}: {found} is not like {expected}"
        assert len(found) == len(expected), f"{where}: {found}\nis not as long as\n{expected}"
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            check_same(one, other, tolerance, f"{where}[{index}]")
    else:
        assert found == expected, f"{where}: {found} is not {expected}"


def fit_and_evaluate(net: keras.Model, x: Columns, callbacks: list[Any]) -> Any:
    """Fits with validation, and evaluates."""
    history = net.fit(
        dataset(x, weighted=True),
        validation_data=dataset(x, weighted=True),
        initial_epoch=1,
        epochs=3,
        callbacks=callbacks,
        verbose=0,
    )
    results = net.evaluate(dataset(x), callbacks=callbacks, verbose=0)
    return history.epoch, history.history, results


def fit_and_single_batches(net: keras.Model, x: Columns, callbacks: list[Any]) -> Any:
    """Fits, and goes on with single batches, which nobody records."""
    net.fit(dataset(x), callbacks=callbacks, verbose=0)
    return single_batches(net, {"features": x["features"]})


def single_batches(net: keras.Model, x: Columns) -> Any:
    """Trains and tests on batches, and returns their logs."""
    batch = {name: column[:BATCH] for name, column in x.items()}
    y, weight = labels(batch), weights(batch)
    net.reset_metrics()  # Keras does so at the beginning of an epoch only
    return [
        net.train_on_batch(batch, y, return_dict=True),
        net.train_on_batch(batch, y, weight),
        net.train_on_batch(batch, y, class_weight={0: 1.0, 1: 3.0}),
        net.test_on_batch(batch, y, return_dict=True),
        net.test_on_batch(batch, y, weight),
    ]


def fit_once(net: keras.Model, x: Columns, callbacks: list[Any]) -> Any:
    """Fits for one epoch."""
    return net.fit(dataset(x, weighted=True), callbacks=callbacks, verbose=0).history


def mirrored() -> None:
    """Holds the two ways against each other on two replicas."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    device = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [device, device])
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    outcomes = []
    for steps in (1, 2):
        with strategy.scope():
            net = compiled(plain_model(), steps_per_execution=steps)
        ways = BothWays(net)
        # With several steps a call Keras's own function fails on replicas; so what is recorded
        # there is held against its single steps.
        recorded = ways.recorded(fit_once, columns())
        assert recorded.steps == 5
        assert ways.recorded_rows == ROWS
        outcomes.append(recorded if steps > 1 else ways.own(fit_once, columns()))
        if steps == 1:
            check_same(recorded, outcomes[0])
    check_same(outcomes[1][1:], outcomes[0][1:])
    print(f"the same on {strategy.num_replicas_in_sync} replicas")


if __name__ == "__main__":
    mirrored()
