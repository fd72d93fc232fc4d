"""Several callbacks on one model: side by side, nested, and left over from a fit that failed."""

from __future__ import annotations

import gc
import pathlib
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
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

from monolith_keras_metrics.capture.train_function import RecordingFunction


def two_outputs() -> keras.Model:
    features = keras.Input((4,), name="features")
    outputs = {n: keras.layers.Dense(1, "sigmoid", name=n)(features) for n in ("click", "buy")}
    return keras.Model(features, outputs)


def check_as_it_was(net: keras.Model) -> None:
    assert not isinstance(net.train_function, RecordingFunction)
    assert not isinstance(net.test_function, RecordingFunction)
    assert not {"compute_metrics", "compute_loss", "call"} & set(vars(net))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reverse"),
    [
        ({}, False),
        ({}, True),
        ({"jit_compile": True, "steps_per_execution": 3}, True),
        ({"run_eagerly": True}, False),
    ],
)
def test_three_callbacks_in_one_fit(
    options: dict[str, Any], reverse: bool, tmp_path: pathlib.Path
) -> None:
    """Each has its own sink, ratio, mode, columns and targets, and gets all that it asks for."""
    x, clicks, buys = columns(), labels(seed=1), labels(seed=2)
    x["user"] = x["uid"][::-1].copy()
    net = frozen(two_outputs(), loss=dict.fromkeys(("click", "buy"), "mse"), **options)
    predicted = predictions_of(net, x["features"])
    data = dataset(x, {"click": clicks, "buy": buys})
    recorders = [
        callback(tmp_path / "all", extra_fields=EXTRA),
        callback(f"jsonl:{tmp_path / 'lines'}", sample_ratio=0.3, uid="user", targets=["buy"]),
        callback(tmp_path / "test", modes=("test",), targets={"click": "ctr"}),
    ]
    net.fit(
        data,
        validation_data=data.take(1),
        callbacks=recorders[:: -1 if reverse else 1],
        verbose=0,
    )
    check_as_it_was(net)
    everything = read(tmp_path / "all")
    expected = {"click": (clicks, predicted["click"]), "buy": (buys, predicted["buy"])}
    assert sorted(everything["label"].struct.fields) == sorted(expected)
    order = {name: expected[name] for name in everything["label"].struct.fields}
    check_records(everything, x, order, 1e-5)
    assert everything["extra_int"].struct.field("hour").to_list() == x["hour"].tolist()
    first = {name: values[:BATCH] for name, values in x.items()}
    ctr = {"ctr": (clicks[:BATCH], predicted["click"][:BATCH])}
    check_records(read(tmp_path / "test"), first, ctr, 1e-5)
    assert recorders[1].stats is not None
    assert recorders[1].stats.accepted == ROWS
    assert recorders[1].stats.written == (x["user"] % 1000 < 300).sum() > 0


@pytest.mark.slow
def test_the_same_two_callbacks_again_trace_nothing(tmp_path: pathlib.Path) -> None:
    net, traces = model(), []
    original = net.train_step
    net.train_step = lambda data: (traces.append(1), original(data))[1]
    frozen(net)
    both = [callback(tmp_path / "a"), callback(tmp_path / "b")]
    data = dataset(columns(), labels())
    net.fit(data, callbacks=both, verbose=0)
    once = len(traces)
    net.fit(data, callbacks=both, verbose=0)
    assert len(traces) == once > 0
    net.fit(data, callbacks=both[1:], verbose=0)
    assert [read(tmp_path / name).height for name in "ab"] == [2 * ROWS, 3 * ROWS]


@pytest.mark.slow
def test_callbacks_of_earlier_fits_are_not_kept_for_ever(tmp_path: pathlib.Path) -> None:
    """One callback is in every fit, beside one that is new each time."""
    net, data = frozen(model()), dataset(columns(), labels())
    always, others = callback(tmp_path / "always"), []
    for day in range(5):
        other = callback(tmp_path / f"{day}")
        others.append(weakref.ref(other))
        net.fit(data, callbacks=[always, other], verbose=0)
        del other
    gc.collect()
    assert others[0]() is None
    assert read(tmp_path / "always").height == 5 * ROWS
    assert [read(tmp_path / f"{day}").height for day in range(5)] == [ROWS] * 5


class At(keras.callbacks.Callback):
    """Does something once, after the second step of a fit."""

    def __init__(self, action: Callable[[], Any]) -> None:
        super().__init__()
        self.action = action

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            action, self.action = self.action, lambda: None
            action()


def fail() -> None:
    raise RuntimeError("as told")


@pytest.mark.slow
def test_a_fit_within_a_fit(tmp_path: pathlib.Path) -> None:
    """On one model: each callback gets what its own fit trains on, and nothing else."""
    x, y, net = columns(), labels(), frozen(model())
    inner_x, inner_y = columns(100, seed=5), labels(100, seed=6)
    outer, inner = callback(tmp_path / "outer"), callback(tmp_path / "inner")

    def nested() -> None:
        net.fit(dataset(inner_x, inner_y), callbacks=[inner], verbose=0)
        net.fit(inner_x["features"], inner_y, verbose=0)  # nobody records this

    net.fit(dataset(x, y), callbacks=[outer, At(nested)], verbose=0)
    check_as_it_was(net)
    check_records(read(tmp_path / "outer"), x, {"ctr": (y, predictions_of(net, x["features"]))})
    expected = predictions_of(net, inner_x["features"])
    check_records(read(tmp_path / "inner"), inner_x, {"ctr": (inner_y, expected)})


def test_a_callback_that_records_a_fit_refuses_another_within(tmp_path: pathlib.Path) -> None:
    net, data = frozen(model()), dataset(columns(), labels())
    recorder = callback(tmp_path)
    again = At(lambda: net.fit(data, callbacks=[recorder], verbose=0))
    with pytest.raises(RuntimeError, match="fit inside another.*one DeepInsightCallback per call"):
        net.fit(data, callbacks=[recorder, again], verbose=0)
    net.fit(data, callbacks=[recorder], verbose=0)
    check_as_it_was(net)
    assert read(tmp_path).height == 2 * BATCH + ROWS


def test_evaluate_within_a_fit(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model())
    own, other = callback(tmp_path / "own"), callback(tmp_path / "other", modes=("test",))

    def evaluate() -> None:
        net.evaluate(dataset(x, y), callbacks=[other], verbose=0)
        net.evaluate(x["features"], y, verbose=0)

    net.fit(dataset(x, y), callbacks=[own, At(evaluate)], verbose=0)
    check_as_it_was(net)
    assert read(tmp_path / "own")["mode"].to_list() == ["train"] * ROWS
    assert read(tmp_path / "other")["mode"].to_list() == ["test"] * ROWS


@pytest.mark.parametrize("others", [0, 1])
def test_callbacks_left_over_from_a_fit_that_failed(others: int, tmp_path: pathlib.Path) -> None:
    """They record no more, get what they accepted, and are in nobody's way."""
    x, y, net = columns(), labels(), frozen(model())
    left = [callback(tmp_path / "left"), callback(tmp_path / "too")]
    with pytest.raises(RuntimeError, match="as told"):
        net.fit(dataset(x, y), callbacks=[*left, At(fail)], verbose=0)
    following = [callback(tmp_path / "next"), left[0]][: 1 + others]
    net.fit(dataset(x, y), callbacks=following, verbose=0)
    check_as_it_was(net)
    assert read(tmp_path / "next").height == ROWS
    assert read(tmp_path / "too").height == 2 * BATCH
    assert read(tmp_path / "left").height == 2 * BATCH + others * ROWS


class Full:
    """A sink that takes nothing."""

    def __init__(self, when: str) -> None:
        self.when = when

    def write(self, frame: Any) -> None:
        if self.when == "write":
            raise PermissionError("this disk is read-only")

    def flush(self) -> None:
        if self.when == "flush":
            raise PermissionError("this disk is read-only")

    def close(self) -> None: ...


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("when", ["write", "flush"])
def test_the_sink_of_one_fails(when: str, first: bool, tmp_path: pathlib.Path) -> None:
    """`on_error="raise"` ends fit with its error; what the others accepted is written."""
    net, data = frozen(model()), dataset(columns(), labels())
    failing = callback(Full(when), on_error="raise")
    good = callback(tmp_path)
    with pytest.raises(PermissionError, match="read-only"):
        net.fit(
            data.repeat(), steps_per_epoch=9, callbacks=[failing, good][:: 1 if first else -1],
            verbose=0,
        )  # fmt: skip
    check_as_it_was(net)
    assert good.stats is not None
    assert read(tmp_path).height == good.stats.written == good.stats.accepted > 0


def test_the_wrong_column_of_one_ends_fit_for_all(tmp_path: pathlib.Path) -> None:
    net, x = frozen(model()), columns()
    good, bad = callback(tmp_path / "a"), callback(tmp_path / "b", uid="user")
    with pytest.raises(ValueError, match="`uid` must name a column .*uid='user'"):
        net.fit(dataset(x, labels()), callbacks=[good, bad], verbose=0)
    check_as_it_was(net)
    net.fit(dataset(x, labels()), callbacks=[good], verbose=0)
    np.testing.assert_array_equal(read(tmp_path / "a")["uid"], x["uid"])
