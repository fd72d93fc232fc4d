"""`log_measures=True`: the measures of each epoch's records in `logs`, for every callback."""

from __future__ import annotations

import csv
import math
import pathlib
import threading
from typing import Any

import keras
import numpy as np
import polars as pl
import pytest
from training import ROWS, callback, columns, dataset, frozen, labels, model

from monolith_keras_metrics import DeepInsightCallback, Layout
from monolith_keras_metrics.capture import epoch_logs, epoch_measures
from monolith_keras_metrics.insight import open_run, summary
from monolith_keras_metrics.records.frame import to_frame
from monolith_keras_metrics.testing import CollectingSink, FailingSink, example_batch

AUC, CALIBRATION = "deep_insight_auc", "deep_insight_calibration"


def fit(net: keras.Model, data: Any, *callbacks: Any, **options: Any) -> dict[str, list[float]]:
    history: dict[str, list[float]] = net.fit(
        data, callbacks=list(callbacks), verbose=0, **options
    ).history
    return history


def learning(**options: Any) -> keras.Model:
    """A model whose predictions are different in each epoch."""
    net = model()
    net.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", **options)
    return net


def measured(records: pl.DataFrame, names: list[str]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """The measures of written records by mode, epoch and target."""
    rows = summary(records, by=["mode", "epoch"], visits="all", measures=names)
    return {(row[0], row[1], row[2]): row[3:] for row in
            rows.select("mode", "epoch", "target", *names).rows()}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_they_are_those_of_the_written_records(steps: int, tmp_path: pathlib.Path) -> None:
    """With several targets, a label that is missing, an invalid rate, an amount, two fits."""
    x = columns()
    x["sample_rate"][::7] = 0.0  # no weight: invalid
    bought = labels(seed=2)
    bought[::5] = -1.0
    y = {"click": labels(), "buy": bought, "price": np.abs(x["price"]) * 10}
    features = keras.Input((4,), name="features")
    heads = {
        "click": keras.layers.Dense(1, "sigmoid", name="click")(features),
        "buy": keras.layers.Dense(1, "sigmoid", name="buy")(features),
        "price": keras.layers.Dense(1, "softplus", name="price")(features),
    }
    losses = {"click": "binary_crossentropy", "buy": "binary_crossentropy", "price": "mse"}
    net = keras.Model(features, heads)
    net.compile(keras.optimizers.SGD(0.01), losses, steps_per_execution=steps)
    recorder = callback(
        tmp_path,
        sample_ratio=0.5,
        modes=("train", "test"),
        missing_label=-1.0,
        log_measures=True,
    )
    held_out = dataset(columns(100, seed=5), {name: of[:100] for name, of in y.items()})
    histories = [
        fit(net, dataset(x, y), recorder, validation_data=held_out, epochs=2) for _ in range(2)
    ]
    records = open_run(tmp_path).collect()
    attempts = records["attempt"].unique().sort().to_list()
    assert len(attempts) == 2
    for attempt, history in zip(attempts, histories, strict=True):
        wanted = measured(records.filter(attempt=attempt), ["auc", "calibration"])
        assert len(wanted) == 2 * 2 * 3
        keys = [key for key in history if "deep_insight" in key]
        assert sorted(keys) == sorted(
            f"{of}deep_insight_{target}_{name}"
            for of in ("", "val_")
            for target, names in (
                ("click", ("auc", "calibration")),
                ("buy", ("auc", "calibration")),
                ("price", ("calibration",)),  # which has no AUC
            )
            for name in names
        )
        for (mode, epoch, target), (auc, calibration) in wanted.items():
            of = "val_" if mode == "test" else ""
            got = history[f"{of}deep_insight_{target}_calibration"][epoch]
            assert got == pytest.approx(calibration, rel=1e-12)
            if target != "price":
                got = history[f"{of}deep_insight_{target}_auc"][epoch]
                assert got == pytest.approx(auc, rel=1e-12)


def test_callbacks_see_them_wherever_they_stand(tmp_path: pathlib.Path) -> None:
    """Those before the recorder, and those after it. The AUC of a frozen model never improves."""
    x, y, net = columns(), labels(), frozen(model())
    recorder = callback(tmp_path / "run", log_measures=True)
    stopping = keras.callbacks.EarlyStopping(AUC, mode="max", patience=2)
    slowing = keras.callbacks.ReduceLROnPlateau(CALIBRATION, mode="min", patience=1, factor=0.5)
    path = str(tmp_path / "{epoch}-{deep_insight_auc:.2f}.weights.h5")
    saving = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    logger = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    net.optimizer.learning_rate = 1e-30
    history = fit(net, dataset(x, y), stopping, logger, recorder, slowing, saving, epochs=9)
    assert len(history[AUC]) == 3
    assert stopping.stopped_epoch == 2
    assert float(net.optimizer.learning_rate) < 1e-30
    assert len(list(tmp_path.glob(f"*-{history[AUC][0]:.2f}.weights.h5"))) == 3
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row[AUC]) for row in rows] == history[AUC]
    assert [float(row[CALIBRATION]) for row in rows] == history[CALIBRATION]


def test_many_frames_add_up(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a long epoch do, whose states are merged while it runs."""
    monkeypatch.setattr(epoch_measures, "_ROWS_AT_ONCE", 1)
    monkeypatch.setattr(epoch_measures, "_MOST_STATES", 2)
    names = ["log_loss", "auc", "delay_p50"]
    x, y = columns(), labels()
    recorder = callback(tmp_path, log_measures=names, queue_rows=64)  # a frame a batch or so
    history = fit(learning(), dataset(x, y, 16), recorder, epochs=2)
    for (_, epoch, _), values in measured(open_run(tmp_path).collect(), names).items():
        got = [history[f"deep_insight_{name}"][epoch] for name in names]
        assert got == pytest.approx(list(values), rel=1e-12)


def test_keys_are_there_without_records(tmp_path: pathlib.Path) -> None:
    """No user is in the sample; `validation_freq` leaves validation out of an epoch."""
    recorder = callback(tmp_path, sample_ratio=0.0, modes=("train", "test"), log_measures=True)
    data = dataset(columns(), labels())
    history = fit(
        frozen(model()), data, recorder, validation_data=data, validation_freq=2, epochs=3
    )
    assert [len(history[of + AUC]) for of in ("", "val_")] == [3, 1]
    assert all(math.isnan(value) for value in history[AUC] + history[CALIBRATION])


def test_an_epoch_that_is_late_is_nan(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    gate: threading.Event,
    warnings_logged: list[str],
) -> None:
    """Some of its records are made only when the next has begun. All are written."""
    monkeypatch.setattr(epoch_logs, "_LONGEST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(epoch_logs, "_NEXT_WAIT_SECONDS", 600.0)
    monkeypatch.setattr(epoch_measures, "_ROWS_AT_ONCE", 1)
    add, seen = epoch_measures.EpochMeasures.add, []

    def slowly(self: epoch_measures.EpochMeasures, frame: pl.DataFrame) -> None:
        if seen:
            gate.wait()
        seen.append(frame.height)
        add(self, frame)

    monkeypatch.setattr(epoch_measures.EpochMeasures, "add", slowly)
    go_on = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: epoch and gate.set())
    recorder = callback(tmp_path, log_measures=True, queue_rows=250)  # the first frame has fewer
    history = fit(learning(), dataset(columns(), labels()), recorder, go_on, epochs=2)
    assert 0 < seen[0] <= 250
    records = open_run(tmp_path).collect()
    assert records.height == 2 * ROWS
    auc, calibration = measured(records, ["auc", "calibration"])["train", 1, "ctr"]
    assert history[AUC] == pytest.approx([math.nan, auc], rel=1e-12, nan_ok=True)
    assert history[CALIBRATION] == pytest.approx([math.nan, calibration], rel=1e-12, nan_ok=True)
    (warning,) = [line for line in warnings_logged if "measures" in line]
    assert "epoch 0" in warning


def test_what_comes_too_late_is_not_kept() -> None:
    layout = Layout("m", ("ctr",), sample_ratio=1.0, mode="train", epochs=True)
    measures = epoch_measures.EpochMeasures(["auc"])
    frames = [to_frame([example_batch(layout=layout, epoch=epoch)]) for epoch in (0, 1)]
    measures.forget(0)
    for frame in frames:
        measures.add(frame)
    assert measures.take("train", 0) is None
    assert measures.take("train", 1) is not None


@pytest.mark.parametrize(("method", "lost"), [("of_rows", [True, True]), ("finish", [True, False])])
def test_a_failure_costs_the_values_only(
    method: str,
    lost: list[bool],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    warnings_logged: list[str],
) -> None:
    """One failure to add records up leaves later epochs without values, too."""
    real, failures = getattr(epoch_measures.State, method), []

    def fails_once(*arguments: Any, **options: Any) -> Any:
        if not failures:
            failures.append(method)
            raise MemoryError("as told")
        return real(*arguments, **options)

    monkeypatch.setattr(epoch_measures.State, method, fails_once)
    monkeypatch.setattr(epoch_measures, "_ROWS_AT_ONCE", 1)
    recorder = callback(tmp_path, log_measures=True)
    history = fit(frozen(model()), dataset(columns(), labels()), recorder, epochs=2)
    assert [math.isnan(value) for value in history[AUC]] == lost
    assert open_run(tmp_path).collect().height == 2 * ROWS
    assert len([line for line in warnings_logged if "as told" in line]) == 1


def test_a_sink_that_fails_costs_no_value(tmp_path: pathlib.Path) -> None:
    """With `on_error="raise"`, its error ends the training nevertheless."""
    data = dataset(columns(), labels())
    recorder = callback(FailingSink(), log_measures=True, spool=None, exit_timeout=0.1)
    history = fit(frozen(model()), data, recorder)
    assert not math.isnan(history[AUC][0])
    strict = callback(FailingSink(), log_measures=True, on_error="raise", exit_timeout=0.1)
    with pytest.raises(OSError, match="."):
        fit(frozen(model()), data, strict)


def test_the_list_of_callbacks_is_as_it_was(tmp_path: pathlib.Path) -> None:
    """A `CallbackList` of the user's, in two trainings, the first of which fails."""

    class Stops(keras.callbacks.Callback):
        stops = True

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.stops:
                raise RuntimeError("as told")

    net, stops, recorder = frozen(model()), Stops(), callback(tmp_path, log_measures=True)
    listed = keras.callbacks.CallbackList([stops, recorder], add_history=True, model=net, epochs=1)
    before, data = list(listed.callbacks), dataset(columns(), labels())
    with pytest.raises(RuntimeError, match="as told"):
        net.fit(data, callbacks=listed, verbose=0)
    Stops.stops = False
    history = net.fit(data, callbacks=listed, verbose=0).history
    assert len(history[AUC]) == 1
    assert listed.callbacks == before


def test_a_loop_of_the_users_own() -> None:
    """It passes `logs` to the callback, and reads them afterwards."""
    net, x, y = frozen(model()), columns(), labels()
    sink = CollectingSink()
    recorder = callback(sink, log_measures=True)
    recorder.set_params({"verbose": 0})
    recorder.set_model(net)
    net.make_train_function()
    recorder.on_train_begin()
    for epoch in range(2):
        recorder.on_epoch_begin(epoch)
        for batch in dataset(x, y):
            net.train_function(iter([batch]))
        logs: dict[str, float] = {}
        recorder.on_epoch_end(epoch, logs)
        assert set(logs) == {AUC, CALIBRATION}
    recorder.on_train_end()
    assert sink.records().height == 2 * ROWS


def test_two_callbacks_do_not_mix(warnings_logged: list[str]) -> None:
    """The keys have one owner; a warning says so, once."""
    every, few = (
        callback(CollectingSink("a"), log_measures=True),
        callback(CollectingSink("b"), sample_ratio=0.1, log_measures=True),
    )
    alone = fit(frozen(net := model()), dataset(columns(), labels()), few)
    both = fit(net, dataset(columns(), labels()), every, few, epochs=2)
    assert both[AUC] == [alone[AUC][0]] * 2
    assert len([line for line in warnings_logged if AUC in line]) == 1


@pytest.mark.parametrize("given", ["auc", ["gauc"], ["auc", "area"], 3])
def test_arguments_are_checked(given: Any) -> None:
    with pytest.raises(ValueError, match="`log_measures` must be True, False or a list of names"):
        DeepInsightCallback("runs", model_name="m", log_measures=given)
