"""`DeepInsightCallback` in real `fit` calls: what it records, and how it leaves the model."""

from __future__ import annotations

import gc
import pathlib
import time
import weakref
from typing import Any

import keras
import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from training import (
    BATCH,
    EXTRA,
    ROWS,
    callback,
    check_records,
    columns,
    dataset,
    frozen,
    labels,
    model,
    predictions_of,
    read,
)

from monolith_keras_metrics import DeepInsightCallback, cli
from monolith_keras_metrics.capture.train_function import RecordingFunction


def fit(net: keras.Model, data: Any, *callbacks: Any, **options: Any) -> keras.callbacks.History:
    return net.fit(data, callbacks=list(callbacks), verbose=0, **options)


def test_every_row_is_recorded_as_the_model_predicted_it(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model())
    expected = predictions_of(net, x["features"])
    fit(net, dataset(x, y), callback(tmp_path, extra_fields=EXTRA))
    records = read(tmp_path)
    check_records(records, x, {"ctr": (y, expected)})
    np.testing.assert_array_equal(records["extra_float"].struct.field("price"), x["price"])
    np.testing.assert_array_equal(records["extra_int"].struct.field("hour"), x["hour"])
    assert records["extra_str"].struct.field("carrier").to_list() == [
        carrier.decode() for carrier in x["carrier"]
    ]
    assert records["mode"].unique().to_list() == ["train"]
    assert records["model_name"].unique().to_list() == ["m"]
    assert records["position"].to_list() == list(range(ROWS))


def test_only_sampled_users_are_recorded(tmp_path: pathlib.Path) -> None:
    x, y = columns(), labels()
    recorder = callback(tmp_path, sample_ratio=0.1)
    fit(frozen(model()), dataset(x, y), recorder)
    kept = x["uid"] % 1000 < 100
    assert read(tmp_path)["uid"].to_list() == x["uid"][kept].tolist()
    assert recorder.stats is not None
    assert recorder.stats.accepted == ROWS
    assert recorder.stats.written == kept.sum()


def test_default_sample_rate_is_one(tmp_path: pathlib.Path) -> None:
    x, y = columns(), labels()
    del x["sample_rate"]
    fit(frozen(model()), dataset(x, y), callback(tmp_path))
    assert read(tmp_path)["sample_rate"].struct.field("ctr").unique().to_list() == [1.0]


def test_columns_of_shape_batch_1_and_other_names(tmp_path: pathlib.Path) -> None:
    x, y = columns(), labels()
    renamed = {
        "features": x["features"],
        "user": x["uid"][:, np.newaxis],
        "when": x["req_time"][:, np.newaxis].astype(np.int32),
        "rate": x["sample_rate"][:, np.newaxis],
    }
    recorder = callback(tmp_path, uid="user", req_time="when", sample_rate="rate")
    net = frozen(model())
    expected = predictions_of(net, x["features"])
    fit(net, dataset(renamed, y[:, np.newaxis]), recorder)
    check_records(read(tmp_path), x, {"ctr": (y, expected)})


# Older Keras takes no single loss for a dict of outputs.
BY_OUTPUT = {"click": "binary_crossentropy", "buy": "binary_crossentropy"}


def two_outputs(kind: str) -> keras.Model:
    """A model with outputs `click`, of shape (batch, 1), and `buy`, of shape (batch,)."""
    features = keras.Input((4,), name="features")
    click = keras.layers.Dense(1, "sigmoid", name="click")(features)
    buy = keras.layers.Dense(1, "sigmoid")(features)
    buy = keras.layers.Reshape((), name="buy")(buy)
    outputs = [click, buy] if kind == "list" else {"click": click, "buy": buy}
    return keras.Model(features, outputs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["list", "dict"])
def test_several_outputs(kind: str, tmp_path: pathlib.Path) -> None:
    x, clicks, buys = columns(), labels(seed=1), labels(seed=2)
    net = frozen(
        two_outputs(kind), loss=BY_OUTPUT if kind == "dict" else ["binary_crossentropy"] * 2
    )
    predicted = predictions_of(net, x["features"])
    if kind == "list":
        predicted = dict(zip(["click", "buy"], predicted, strict=True))
    y = (clicks, buys) if kind == "list" else {"buy": buys, "click": clicks}
    fit(net, dataset(x, y), callback(tmp_path))
    records = read(tmp_path)
    expected = {"click": (clicks, predicted["click"]), "buy": (buys, predicted["buy"])}
    fields = records["label"].struct.fields
    assert set(fields) == set(expected)
    check_records(records, x, {field: expected[field] for field in fields})


def test_k_columns_are_k_named_targets(tmp_path: pathlib.Path) -> None:
    x = columns()
    y = np.stack([labels(seed=s) for s in range(3)], axis=1)
    features = keras.Input((4,), name="features")
    net = frozen(keras.Model(features, keras.layers.Dense(3, "sigmoid", name="heads")(features)))
    expected = predictions_of(net, x["features"])
    fit(net, dataset(x, y), callback(tmp_path / "list", targets=["x", "y", "z"]))
    fit(net, dataset(x, y), callback(tmp_path / "dict", targets={"heads": ["x", "y", "z"]}))
    for folder in ("list", "dict"):
        check_records(
            read(tmp_path / folder),
            x,
            {name: (y[:, i], expected[:, i]) for i, name in enumerate("xyz")},
        )


@pytest.mark.slow
def test_targets_select_and_rename_outputs(tmp_path: pathlib.Path) -> None:
    x, y = columns(), labels()
    net = frozen(two_outputs("dict"), loss=BY_OUTPUT)
    data = dataset(x, {"click": y, "buy": y})
    fit(net, data, callback(tmp_path / "some", targets=["buy"]))
    fit(net, data, callback(tmp_path / "renamed", targets={"click": "ctr"}))
    assert read(tmp_path / "some")["label"].struct.fields == ["buy"]
    assert read(tmp_path / "renamed")["label"].struct.fields == ["ctr"]


@pytest.mark.slow
def test_second_fit_and_new_compile_record_further_attempts(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model())
    recorder = callback(tmp_path)
    fit(net, dataset(x, y), recorder)
    fit(net, dataset(x, y), recorder, epochs=2)
    frozen(net, metrics=["AUC"])
    fit(net, dataset(x, y), recorder)
    records = read(tmp_path)
    counts = records.group_by("attempt", maintain_order=True).len()["len"].to_list()
    assert counts == [ROWS, 2 * ROWS, ROWS]
    assert records.unique(["run", "attempt", "worker", "position"]).height == 4 * ROWS


def test_a_second_fit_does_not_trace_again(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), model()
    traces = []
    original = net.train_step
    net.train_step = lambda data: (traces.append(1), original(data))[1]
    frozen(net)
    recorder = callback(tmp_path)
    fit(net, dataset(x, y), recorder)
    once = len(traces)
    fit(net, dataset(x, y), recorder)
    assert len(traces) == once > 0


def test_sample_and_class_weights_leave_the_records_alone(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model())
    expected = predictions_of(net, x["features"])
    weights = np.linspace(0, 1, ROWS)
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(32)
    fit(net, data, callback(tmp_path / "sample"))
    fit(net, dataset(x, y), callback(tmp_path / "class"), class_weight={0: 1.0, 1: 3.0})
    for folder in ("sample", "class"):
        check_records(read(tmp_path / folder), x, {"ctr": (y, expected)})


def test_numpy_input_shuffled(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model())
    expected = predictions_of(net, x["features"]).ravel()
    del x["carrier"]  # Keras takes strings from tf.data only
    net.fit(x, y, batch_size=50, shuffle=True, verbose=0, callbacks=[callback(tmp_path)])
    records = read(tmp_path).sort("req_time")
    np.testing.assert_array_equal(records["uid"], x["uid"])
    np.testing.assert_allclose(records["predict"].struct.field("ctr"), expected, atol=1e-6)


@pytest.mark.slow
def test_validation_is_recorded_only_where_asked_for(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model())
    val_x, val_y = columns(100, seed=7), labels(100, seed=8)
    train, validation = dataset(x, y), dataset(val_x, val_y)
    fit(net, train, callback(tmp_path / "train"), validation_data=validation, epochs=2)
    fit(net, train, callback(tmp_path / "both", modes=("train", "test")),
        validation_data=validation)  # fmt: skip
    assert read(tmp_path / "train")["mode"].to_list() == ["train"] * 2 * ROWS
    both = read(tmp_path / "both")
    assert both["mode"].to_list() == ["train"] * ROWS + ["test"] * 100
    expected = predictions_of(net, val_x["features"])
    check_records(both.filter(mode="test"), val_x, {"ctr": (val_y, expected)})


def test_evaluate_alone(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model())
    recorder = callback(tmp_path, modes=("test",))
    net.evaluate(dataset(x, y), callbacks=[recorder], verbose=0)
    expected = net.predict(x["features"], verbose=0, callbacks=[recorder])  # never recorded
    check_records(read(tmp_path), x, {"ctr": (y, expected)})
    assert set(read(tmp_path)["mode"]) == {"test"}


@pytest.mark.slow
def test_logs_are_those_of_plain_training(tmp_path: pathlib.Path) -> None:
    x, y = columns(), labels()
    histories = []
    for recorded in (False, True):
        keras.utils.set_random_seed(3)
        net = model()
        net.compile("adam", "binary_crossentropy", metrics=["AUC", "accuracy"])
        data = dataset(x, y) if recorded else dataset(x["features"], y)
        callbacks = [callback(tmp_path)] if recorded else []
        histories.append(fit(net, data, *callbacks, epochs=3).history)
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_model_is_left_as_it_was(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model())
    before = set(vars(net))
    plain = net.make_train_function() or net.train_function
    fit(net, dataset(x, y), callback(tmp_path / "run", modes=("train", "test")),
        validation_data=dataset(x, y))  # fmt: skip
    assert net.train_function is plain
    added = set(vars(net)) - before
    assert not {"train_step", "test_step", "compute_metrics"} & added
    assert not type(net.test_function).__module__.startswith("monolith_keras_metrics")
    net.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    clone = keras.models.clone_model(net)
    clone.set_weights(net.get_weights())
    expected = predictions_of(net, x["features"])
    np.testing.assert_array_equal(predictions_of(loaded, x["features"]), expected)
    np.testing.assert_array_equal(predictions_of(clone, x["features"]), expected)
    fit(net, dataset(x["features"], y))
    assert read(tmp_path / "run").height == 2 * ROWS


def test_saving_while_training(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model())
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    fit(net, dataset(x, y), saver, callback(tmp_path / "run"), epochs=2)
    keras.models.load_model(tmp_path / "2.keras")
    assert read(tmp_path / "run").height == 2 * ROWS


class Interrupting(keras.callbacks.Callback):
    """Raises at the end of the second step."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            raise self.error


def test_training_that_raises_in_a_callback(tmp_path: pathlib.Path) -> None:
    """The next fit, recorded or not, is right; what was accepted is written."""
    x, y, net = columns(), labels(), frozen(model())
    recorder = callback(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(net, dataset(x, y), recorder, Interrupting(KeyboardInterrupt()))
    fit(net, dataset(x["features"], y))
    assert recorder.stats is not None
    assert recorder.stats.written == 128
    assert read(tmp_path).height == 128
    fit(net, dataset(x, y), recorder)
    assert read(tmp_path).height == 128 + ROWS


def test_training_that_raises_in_a_step(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model())
    plain = net.make_train_function() or net.train_function

    def rows() -> Any:
        for start in range(0, ROWS, 50):
            if start == 150:
                raise RuntimeError("the reader broke")
            piece = slice(start, start + 50)
            yield {"features": x["features"][piece], "uid": x["uid"][piece],
                   "req_time": x["req_time"][piece]}, y[piece]  # fmt: skip

    spec = (
        {
            "features": tf.TensorSpec((None, 4), tf.float32),
            "uid": tf.TensorSpec((None,), tf.int64),
            "req_time": tf.TensorSpec((None,), tf.int64),
        },
        tf.TensorSpec((None,), tf.float32),
    )
    data = tf.data.Dataset.from_generator(rows, output_signature=spec)
    with pytest.raises(tf.errors.OpError, match="the reader broke"):
        fit(net, data, callback(tmp_path))
    assert read(tmp_path)["uid"].to_list() == x["uid"][:150].tolist()
    assert net.train_function is plain


def test_flush_has_all_records_so_far_on_disk(tmp_path: pathlib.Path) -> None:
    """It is for what runs during training. Before and after it there is nothing to flush."""
    recorder = callback(tmp_path)
    on_disk = []

    def count(*_: Any) -> None:
        recorder.flush()
        on_disk.append(read(tmp_path).height)

    recorder.flush()
    counter = keras.callbacks.LambdaCallback(on_epoch_end=count)
    fit(frozen(model()), dataset(columns(), labels()), recorder, counter, epochs=2)
    recorder.flush()
    assert on_disk == [ROWS, 2 * ROWS]


def test_the_summary_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = frozen(model())
    net.fit(dataset(columns(), labels()), verbose=2, callbacks=[callback(tmp_path)])
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line == f"Deep insight: 300 of 300 examples written to {tmp_path}"


def test_counters_go_to_the_metrics_client(tmp_path: pathlib.Path) -> None:
    emitted: dict[str, float] = {}

    class Backend(cli.Client):
        def emit_counter(self, name: str, value: float, tags: dict[str, str]) -> None:
            assert tags == {"model": "m", "worker": "0"}
            emitted[name] = emitted.get(name, 0) + value

    with cli.use_backend(lambda *_: Backend()):
        fit(frozen(model()), dataset(columns(), labels()), callback(tmp_path))
    assert emitted["deep_insight.accepted"] == emitted["deep_insight.written"] == ROWS


def test_a_batch_of_no_rows_is_passed_over(tmp_path: pathlib.Path) -> None:
    x, y = columns(64), labels(64)
    nothing = dataset(x, y).map(lambda x, y: ({k: v[:0] for k, v in x.items()}, y[:0]))
    recorder = callback(tmp_path)
    fit(frozen(model()), dataset(x, y).concatenate(nothing), recorder)
    assert read(tmp_path).height == 64
    assert recorder.stats is not None
    assert recorder.stats.accepted == 64


@pytest.mark.slow
def test_float16_predictions(tmp_path: pathlib.Path) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        net = model()
    finally:
        keras.config.set_dtype_policy("float32")
    frozen(net)
    x, y = columns(), labels()
    expected = predictions_of(net, x["features"])
    fit(net, dataset(x, y), callback(tmp_path))
    check_records(read(tmp_path), x, {"ctr": (y, expected)}, tolerance=1e-3)
    assert read(tmp_path)["predict"].struct.field("ctr").dtype == pl.Float32


class Stops(keras.callbacks.Callback):
    """Raises in the middle of what it is given to."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        raise RuntimeError("as told")

    on_test_batch_end = on_train_batch_end


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_what_follows_a_fit_that_was_left_is_not_recorded(
    method: str, tmp_path: pathlib.Path
) -> None:
    """The model is as it was, whatever is called first."""
    net, x, y = frozen(model()), columns(), labels()
    recorder = DeepInsightCallback(
        tmp_path, model_name="m", sample_ratio=1.0, modes=("train", "test")
    )
    with pytest.raises(RuntimeError, match="as told"):
        getattr(net, method)(dataset(x, y), callbacks=[recorder, Stops()], verbose=0)
    plain = x["features"]
    net.evaluate(plain, y, batch_size=BATCH, verbose=0)
    net.train_on_batch(plain, y)
    net.fit(plain, y, batch_size=BATCH, verbose=0)
    assert recorder.stats is not None
    assert recorder.stats.accepted == BATCH
    assert not isinstance(net.train_function, RecordingFunction)
    assert not isinstance(net.test_function, RecordingFunction)


def test_the_arguments_of_fit_are_free_when_it_has_ended(tmp_path: pathlib.Path) -> None:
    """Nothing that is recorded keeps them until the next garbage collection."""
    net = frozen(model())

    class Freed(keras.callbacks.Callback):
        pass

    gc.collect()
    gc.disable()
    try:
        freed = weakref.ref(callback := Freed())
        recorder = DeepInsightCallback(tmp_path, model_name="m")
        net.fit(dataset(columns(), labels()), callbacks=[recorder, callback], verbose=0)
        del callback
        deadline = time.monotonic() + 30
        while freed() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        gc.enable()
