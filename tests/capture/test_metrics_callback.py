"""`MetricsCallback` in real `fit` calls: what it emits, and what it costs training."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import BATCH, ROWS, callback, columns, dataset, frozen, labels, model, predictions_of

from monolith_keras_metrics import MetricsCallback, cli, counters
from monolith_keras_metrics.capture import metrics_callback, store_emitter
from monolith_keras_metrics.task_context import TaskContext, use_context
from monolith_keras_metrics.testing import Clock, CollectingSink

THREAD = "deep-insight-training"
REST = ROWS % BATCH  # examples of the last step


class Stores(cli.Client):
    """A back end that keeps what is emitted. It may wait first, or raise."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.tags: list[dict[str, str]] = []
        self.gate: threading.Event | None = None
        self.error: Exception | None = None
        self.ended = threading.Event()

    def emit_store(self, name: str, value: float, tags: dict[str, str]) -> None:  # type: ignore[override]
        if self.gate is not None:
            self.gate.wait()
        if self.error is not None:
            raise self.error
        self.values.setdefault(name.removeprefix("training."), []).append(value)
        self.tags.append(tags)
        if name == "training.examples_per_second" and not value:
            self.ended.set()


@pytest.fixture
def stores() -> Iterator[Stores]:
    kept = Stores()
    with cli.use_backend(lambda prefix="": kept):
        yield kept


def data() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((columns()["features"], labels())).batch(BATCH)


def fit(net: keras.Model, data: Any, *callbacks: Any, **options: Any) -> dict[str, list[float]]:
    history: dict[str, list[float]] = net.fit(
        data, callbacks=list(callbacks), verbose=0, **options
    ).history
    return history


def ticking(clock: Clock, validation: float = 0.0) -> keras.callbacks.Callback:
    """A callback that lets a step take 1 second."""

    class Ticking(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            clock.advance(1.0)

        def on_test_begin(self, logs: Any = None) -> None:
            clock.advance(validation)

        def on_test_end(self, logs: Any = None) -> None:
            clock.advance(validation)

    return Ticking()


def test_rates_and_losses_since_the_last_time(stores: Stores) -> None:
    """Five steps an epoch, of a second each; the 5th belongs to the interval after it."""
    net, clock = frozen(model()), Clock()
    fit(
        net,
        data(),
        ticking(clock, validation=100.0),
        MetricsCallback("ctr", seconds=4.0, clock=clock),
        validation_data=data().take(1),
        epochs=2,
    )
    predicted = predictions_of(net, columns()["features"])[:, 0].astype(np.float64)
    losses = -np.log(np.where(labels() == 1, predicted, 1 - predicted))
    assert stores.values["steps_per_second"] == [1.0, 1.0, 0.0]
    # 4 steps in 4 s; then the short one, and 4 of the next epoch, in 5 s
    assert stores.values["examples_per_second"] == [BATCH, ROWS / 5, 0.0]
    assert stores.values["step_loss"] == pytest.approx(
        [losses[: 4 * BATCH].mean(), losses.mean()], rel=1e-5
    )


def test_what_keras_reports(stores: Stores) -> None:
    """At each epoch's end it is what `History` gets, whatever the order of callbacks."""
    net = frozen(model(), metrics=[keras.metrics.MeanAbsoluteError(name="mean error")])
    x, y = columns(), labels()
    recorder = callback(CollectingSink(), modes=("train", "test"), log_measures=True)
    with use_context(TaskContext(worker_index=3, num_workers=4)):
        emitting = MetricsCallback("ctr")
        history = fit(
            net, dataset(x, y), emitting, recorder, validation_data=dataset(x, y), epochs=2
        )
    assert len(history) == 2 * (2 + 2)
    for name, values in history.items():
        assert stores.values[name.replace(" ", "_")] == values
    training = [tags for tags in stores.tags if tags == {"model": "ctr", "worker": "3"}]
    assert len(training) >= 2 * len(history)


@pytest.mark.parametrize("kind", ["unknown size", "several steps an execution", "XLA"])
def test_examples_are_counted(kind: str, stores: Stores) -> None:
    """Each execution takes a second."""
    options = {
        "unknown size": {},
        "several steps an execution": {"steps_per_execution": 2},
        "XLA": {"jit_compile": True},
    }[kind]
    clock = Clock()
    emitting = MetricsCallback("ctr", seconds=1.0, clock=clock)
    given = data()
    if kind == "unknown size":
        given = given.filter(lambda x, y: True)
    if "steps_per_execution" in options:  # Keras 3.3 ends no batch whose execution is cut short
        given = given.take(4)
    fit(frozen(model(), **options), given, ticking(clock), emitting, epochs=2)
    each = [2 * BATCH] * 2 if "steps_per_execution" in options else [*[BATCH] * 4, REST]
    assert stores.values["examples_per_second"] == [*each, *each, 0.0]


class OwnStep(keras.Model):
    """A model with a loss of its own, whose weights are no numbers of examples."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.mean_loss = keras.metrics.Mean("loss")

    @property
    def metrics(self) -> list[Any]:
        return [self.mean_loss]

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        self.mean_loss.update_state(loss, sample_weight=1000.0)
        return {"loss": self.mean_loss.result(), "by_class": tf.stack([loss, loss])}


@pytest.mark.parametrize("batch_size", [None, BATCH])
def test_a_custom_step(batch_size: int | None, stores: Stores) -> None:
    """Its examples are not known, unless told; a log of several numbers is left out."""
    plain, clock = model(), Clock()
    net = frozen(OwnStep(plain.input, plain.output))
    emitting = MetricsCallback("ctr", seconds=1.0, batch_size=batch_size, clock=clock)
    fit(net, data(), ticking(clock), emitting)
    assert stores.values["steps_per_second"] == [*[1.0] * 5, 0.0]
    assert stores.values.get("examples_per_second") == (
        None if batch_size is None else [*[BATCH] * 5, 0.0]
    )
    assert set(stores.values) - {"examples_per_second"} == {"steps_per_second", "loss"}


def test_nothing_is_done_until_a_backend_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """And then it is, in a training that goes on."""
    looks: list[Any] = []
    monkeypatch.setattr(MetricsCallback, "_count", lambda self: looks.append(self))
    stores, seen = Stores(), []

    def second_epoch(epoch: int, _: Any) -> None:
        if epoch:
            seen.append((len(looks), [one.name for one in threading.enumerate()]))
            cli.set_backend(lambda prefix="": stores)

    go_on = keras.callbacks.LambdaCallback(on_epoch_begin=second_epoch)
    try:
        fit(frozen(model()), data(), MetricsCallback("ctr", seconds=1e-9), go_on, epochs=2)
    finally:
        cli.set_backend(None)
    ((counted, threads),) = seen
    assert not counted
    assert THREAD not in threads
    assert looks
    assert len(stores.values["loss"]) > 1


def test_a_training_that_fails(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras tells callbacks nothing, but its rates become 0, and the callback can go on."""
    monkeypatch.setattr(store_emitter, "_POLL_SECONDS", 0.01)

    def stop(epoch: int, _: Any) -> None:
        raise RuntimeError("as told")

    emitting, net = MetricsCallback("ctr"), frozen(model())
    with pytest.raises(RuntimeError, match="as told"):
        fit(net, data(), emitting, keras.callbacks.LambdaCallback(on_epoch_end=stop))
    assert stores.ended.wait(30)
    before = len(stores.values["loss"])
    fit(net, data(), emitting)
    assert len(stores.values["loss"]) > before


def test_a_backend_that_hangs(
    stores: Stores, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_callback, "_LAST_SECONDS", 0.01)
    monkeypatch.setattr(store_emitter, "_MOST_LOOKS", 3)
    stores.gate = gate
    fit(frozen(model()), data(), MetricsCallback("ctr", seconds=1e-9), epochs=2)
    gate.set()
    assert stores.ended.wait(30)
    assert len(stores.values["loss"]) <= 1 + 3  # of 12 looks


def test_a_backend_that_raises(stores: Stores, warnings_logged: list[str]) -> None:
    stores.error = ConnectionError("as told")
    fit(frozen(model()), data(), MetricsCallback("ctr", seconds=1e-9), epochs=2)
    assert len([line for line in warnings_logged if "as told" in line]) == 1


def test_to_prometheus(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by the environment, since this may be the process's only callback."""
    path = tmp_path / "training.prom"
    monkeypatch.setenv(counters.ENVIRONMENT_VARIABLE, f"prometheus:{path}")
    backend: Any = None
    try:
        history = fit(frozen(model()), data(), MetricsCallback("ctr"))
        backend = cli.set_backend(None)
        assert backend.flush(30)
        assert f'training_loss{{model="ctr",worker="0"}} {history["loss"][0]}' in path.read_text()
        assert "# HELP training_step_loss Mean loss of the examples" in path.read_text()
    finally:
        cli.set_backend(None)
        if backend is not None:
            backend.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model_name": ""}, "`model_name` must be"),
        ({"seconds": 0}, "`seconds` must be"),
        ({"batch_size": "64"}, "`batch_size` must be"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        MetricsCallback(**{"model_name": "ctr", **options})
