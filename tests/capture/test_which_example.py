"""`epoch`, `example_id`, ids that are text, and units of time, through the callback and the ops."""

from __future__ import annotations

import json
import logging
import pathlib
from typing import Any

import keras
import numpy as np
import pandas as pd
import polars as pl
import pytest
import tensorflow as tf
from training import ROWS, columns, dataset, frozen, labels, model, read

from monolith_keras_metrics import (
    DeepInsightCallback,
    DeepInsightLayer,
    deep_insight_client,
    insight,
    write_deep_insight,
    write_deep_insight_from_features,
    write_deep_insight_v2,
)
from monolith_keras_metrics.deep_insight_ops import client_of
from monolith_keras_metrics.records.ids import hashed_ids

NAMES = np.array([f"user-{number}" for number in range(ROWS)], object)


@pytest.fixture(scope="module")
def net() -> keras.Model:
    """One that all tests here train."""
    return frozen(model())


def record(net: keras.Model, x: dict[str, Any], sink: Any, **options: Any) -> DeepInsightCallback:
    x = {name: column for name, column in x.items() if name != "carrier"}  # bytes: not for Keras
    fit = {name: options.pop(name) for name in ("epochs", "initial_epoch") if name in options}
    recorder = DeepInsightCallback(
        sink, model_name="m", **{"sample_ratio": 1.0, "extra_fields": [], **options}
    )
    net.fit(x, labels(), batch_size=100, shuffle=False, callbacks=[recorder], verbose=0, **fit)
    return recorder


def test_the_epoch_is_what_keras_tells_callbacks(net: keras.Model, tmp_path: pathlib.Path) -> None:
    """Validation is of the epoch that it follows, `evaluate` alone of none."""
    data = dataset(columns(), labels(), 100)
    recorder = DeepInsightCallback(
        tmp_path, model_name="m", sample_ratio=1.0, modes=("train", "test"), example_id="hour"
    )
    net.fit(data, epochs=4, initial_epoch=2, validation_data=data, callbacks=[recorder], verbose=0)
    records = read(tmp_path)
    counted = records.group_by("mode", "epoch").len().sort("mode", "epoch").rows()
    assert counted == [("test", 2, ROWS), ("test", 3, ROWS), ("train", 2, ROWS), ("train", 3, ROWS)]
    assert records.columns[-7:] == [
        "mode", "epoch", "example_id", "run", "attempt", "worker", "position"
    ]  # fmt: skip
    net.evaluate(data, callbacks=[recorder], verbose=0)
    last = records["attempt"].max()
    alone = read(tmp_path).filter(pl.col("attempt") > last)
    assert alone["mode"].unique().to_list() == ["test"]
    assert alone["epoch"].to_list() == [None] * ROWS


def test_after_a_fit_that_failed_there_is_no_epoch(
    net: keras.Model, tmp_path: pathlib.Path
) -> None:
    class Failing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            raise KeyError("mine")

    data = dataset(columns(), labels(), 100)
    recorder = DeepInsightCallback(
        tmp_path, model_name="m", sample_ratio=1.0, modes=("train", "test")
    )
    with pytest.raises(KeyError, match="mine"):
        net.fit(data, callbacks=[recorder, Failing()], verbose=0)
    net.evaluate(data, callbacks=[recorder], verbose=0)
    records = read(tmp_path)
    assert records.filter(mode="train")["epoch"].to_list() == [0] * 100
    assert records.filter(mode="test")["epoch"].to_list() == [None] * ROWS


@pytest.mark.parametrize("scheme", ["parquet", "jsonl", "tfrecord"])
def test_text_ids_are_hashed(net: keras.Model, tmp_path: pathlib.Path, scheme: str) -> None:
    """Sampling goes by the hash, so the same users are sampled everywhere."""
    hashes = hashed_ids(NAMES)
    ids = np.array([f"example {number}" for number in range(ROWS)], object)
    x = {**columns(), "uid": NAMES, "example": ids}
    record(net, x, f"{scheme}:{tmp_path}", example_id="example", sample_ratio=0.5)
    kept = hashes % 1000 < 500
    records = insight.open_run(f"{scheme}:{tmp_path}").collect().sort("position")
    assert records["uid"].to_list() == hashes[kept].tolist()
    assert records["example_id"].to_list() == hashed_ids(ids)[kept].tolist()
    assert records["position"].to_list() == np.flatnonzero(kept).tolist()


def test_example_ids_that_are_integers(net: keras.Model, tmp_path: pathlib.Path) -> None:
    x = {**columns(), "example": np.arange(ROWS) + 2**40}
    record(net, x, tmp_path, example_id="example", uid_hash_key=b"k")
    assert read(tmp_path)["example_id"].to_list() == x["example"].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"example_id": "colour"}, r"`example_id` must name a column .*example_id='colour'"),
        ({"example_id": "price"}, r"`example_id`: column 'price' must be integers or text"),
        ({"example_id": "uid"}, r"`example_id` must be different columns"),
        ({"example_id": ""}, r"`example_id` must be the name of a column"),
        ({"example_id": "hour", "extra_fields": ["hour"]}, r"`extra_fields` must not repeat"),
    ],
)
def test_an_example_id_that_is_none(
    net: keras.Model, options: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        record(net, columns(), tmp_path, **options)


def test_float_columns_are_told_in_the_users_own_terms(
    net: keras.Model, tmp_path: pathlib.Path
) -> None:
    """What Keras hands on is not what the user had."""
    x = columns()
    for name, lost in (("req_time", "multiples of 128 s"), ("uid", "ids above 16,777,216")):
        floats = {**x, name: x[name].astype("float64")}
        with pytest.raises(TypeError) as raised:
            record(net, floats, tmp_path)
        text = str(raised.value)
        assert f"`{name}`: column '{name}' must be integers" in text
        assert lost in text
        assert f"x['{name}'].astype('int64')" in text


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "parts"), [("milliseconds", 10**3), ("nanoseconds", 10**9)])
def test_times_of_another_unit_are_converted_with_one_warning(
    net: keras.Model,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    unit: str,
    parts: int,
) -> None:
    x = columns()
    with caplog.at_level(logging.WARNING):
        record(net, {**x, "req_time": x["req_time"] * parts + 7}, tmp_path, epochs=2)
    assert read(tmp_path)["req_time"].to_list() == x["req_time"].tolist() * 2
    warnings = [line.getMessage() for line in caplog.records if "`req_time`" in line.getMessage()]
    assert warnings == [
        f"Deep insight: `req_time` has values in {unit}. They are converted to seconds"
    ]


def test_dates_as_the_readme_says(net: keras.Model, tmp_path: pathlib.Path) -> None:
    """Keras and TensorFlow take none themselves."""
    x = columns()
    for dates in (
        x["req_time"].astype("M8[s]").astype("M8[ns]"),
        pd.Series(pd.to_datetime(x["req_time"], unit="s")),
    ):
        with pytest.raises(ValueError, match="datetime64"):
            record(net, {**x, "req_time": dates}, tmp_path)
    seconds = dates.astype("datetime64[s]").astype("int64")
    record(net, {**x, "req_time": seconds.to_numpy()}, tmp_path)
    assert read(tmp_path)["req_time"].to_list() == x["req_time"].tolist()


def test_float64_and_boolean_fields(net: keras.Model, tmp_path: pathlib.Path) -> None:
    """Of a `tf.data.Dataset` they keep their value; `fit(x=dict)` makes float32 of them first."""
    wide = 2.0**24 + 1 + np.arange(ROWS)
    x = {**columns(), "wide": wide, "new": np.arange(ROWS) % 3 == 0}
    recorder = DeepInsightCallback(
        tmp_path, model_name="m", sample_ratio=1.0, extra_fields=["wide", "new", "price"]
    )
    net.fit(dataset(x, labels(), 100), callbacks=[recorder], verbose=0)
    records = read(tmp_path)
    assert records["extra_float"].struct.field("wide").to_list() == wide.tolist()
    assert records["extra_float"].struct.field("price").dtype == pl.Float32
    assert records["extra_int"].struct.field("new").to_list() == x["new"].astype(int).tolist()


def test_no_batch_that_can_be_recorded(net: keras.Model, tmp_path: pathlib.Path) -> None:
    """`fit` ends at its first step, whatever `on_error` says."""
    x = {**columns(), "uid": np.full(ROWS, 2**63, np.uint64)}
    steps: list[int] = []
    counting = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, _: steps.append(batch)
    )
    for on_error in ("warn", "raise"):
        recorder = DeepInsightCallback(tmp_path, model_name="m", on_error=on_error)
        with pytest.raises(ValueError, match=r"The first batch of model 'm'.*`uid` must fit"):
            net.fit(dataset(x, labels(), 100), callbacks=[recorder, counting], verbose=0, epochs=3)
    assert steps == []
    assert list(tmp_path.glob("*")) == []


def messages_of(call: Any, way: str, **arguments: Any) -> list[dict[str, Any]]:
    """What an operation returns of two examples of one target, eagerly or in a graph."""
    handle = deep_insight_client(is_fake=True)
    of_v2 = call is write_deep_insight_v2
    uids = arguments.pop("uids", [1, 2])
    values = {"uids": uids} if not of_v2 else {
        "extra_fields_values": [uids], "extra_fields_keys": ["uid"], "targets": ["ctr"]
    }  # fmt: skip
    floats = tf.constant([[0.5, 0.25]] if of_v2 else [0.5, 0.25])
    for name in ("labels", "preds", "sample_rates"):
        values[name] = floats
    values |= {"req_times": tf.constant([7, 8], tf.int64), "model_name": "m", "sample_ratio": 1.0}

    def run() -> Any:
        return call(handle, return_msgs=True, **{**values, **arguments})

    try:
        texts = (run if way == "eager" else tf.function(run))()
        return [json.loads(text) for text in texts.numpy()]
    finally:
        client_of(handle).close()


@pytest.mark.parametrize("way", ["eager", "graph"])
@pytest.mark.parametrize("call", [write_deep_insight, write_deep_insight_v2])
def test_the_operations_take_them_too(call: Any, way: str) -> None:
    hashes = hashed_ids(["user-1234567", "é"]).tolist()
    texts = tf.constant(["user-1234567", "é"])
    first, second = messages_of(call, way, uids=texts, example_ids=texts, epoch=3)
    assert [first["uid"], second["uid"]] == hashes
    assert [first["example_id"], second["example_id"]] == hashes
    assert first["epoch"] == second["epoch"] == 3
    first, second = messages_of(
        call, way, uids=np.array(["user-1234567", "é"], object), example_ids=[5, 6],
        epoch=tf.constant(0, tf.int64),
    )  # fmt: skip
    assert [first["uid"], second["uid"]] == hashes
    assert (first["example_id"], second["example_id"], second["epoch"]) == (5, 6, 0)
    first, _ = messages_of(call, way)
    assert not {"epoch", "example_id"} & set(first)


@pytest.mark.parametrize("way", ["eager", "graph"])
def test_the_layer_and_the_features_take_them_too(way: str, tmp_path: pathlib.Path) -> None:
    texts, times = tf.constant([["user-1234567"], ["é"]]), tf.constant([7, 8], tf.int64)
    hashes = hashed_ids(["user-1234567", "é"]).tolist()
    layer = DeepInsightLayer(tmp_path, model_name="m", sample_ratio=1.0)

    def through_layer() -> Any:
        return layer(
            tf.constant([0.5, 0.25]), tf.constant([1.0, 0.0]), texts, times, training=True,
            example_id=texts, epoch=3,
        )  # fmt: skip

    (through_layer if way == "eager" else tf.function(through_layer))()
    layer.close()
    records = read(tmp_path)
    assert records["uid"].to_list() == records["example_id"].to_list() == hashes
    assert records["epoch"].to_list() == [3, 3]
    handle = deep_insight_client(is_fake=True)
    features = {"uid": texts, "req_time": times, "sample_rate": tf.ones(2)}

    def from_features() -> Any:
        return write_deep_insight_from_features(
            features, 1.0, "m", tf.zeros(2), tf.zeros(2), deep_insight_client_tensor=handle,
            return_msgs=True, example_ids=texts, epoch=2,
        )  # fmt: skip

    told = (from_features if way == "eager" else tf.function(from_features))().numpy()
    client_of(handle).close()
    assert [json.loads(text)["example_id"] for text in told] == hashes
    assert [(json.loads(text)["uid"], json.loads(text)["epoch"]) for text in told] == [
        (hashes[0], 2), (hashes[1], 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"example_ids": [1, 2, 3]}, r"`example_ids` must have shape \(batch,\) with batch = 2"),
        ({"example_ids": [1.5, 2.5]}, r"`example_ids` must be of dtype int64 or string"),
        ({"epoch": [1, 2]}, r"`epoch` must have shape \(\).* \(2,\)"),
        ({"epoch": 1.5}, r"`epoch` must be of dtype int64"),
        ({"uids": tf.constant([1.0, 2.0])}, r"`uids` must be of dtype int64 or string.*float32"),
        (
            {"req_times": np.array(["2024-01-01"] * 2, "M8[ns]")},
            r"`req_times` must be of dtype int64.*datetime64\[ns\]; Unix seconds are \.astype",
        ),
    ],
)
def test_wrong_arguments_of_the_operations(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        messages_of(write_deep_insight, "eager", **arguments)


def test_the_operations_write_times_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    """Monolith's messages, to the bit; a warning says what readers will take them for."""
    milliseconds = tf.constant([1_700_000_000_000, 1_700_000_000_001], tf.int64)
    with caplog.at_level(logging.WARNING):
        first, second = messages_of(write_deep_insight, "eager", req_times=milliseconds)
    assert [first["req_time"], second["req_time"]] == milliseconds.numpy().tolist()
    (warning,) = [line.getMessage() for line in caplog.records]
    assert "values that look like milliseconds" in warning
