"""`DeepInsightLayer`: in a functional model, in a `train_step`, saved, loaded and cloned."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import ROWS, check_records, columns, dataset, labels, read

from monolith_keras_metrics import DeepInsightLayer
from monolith_keras_metrics.sinks import parse


def functional(folder: Any) -> tuple[keras.Model, DeepInsightLayer]:
    """A training model whose labels are inputs, with the layer at its end."""
    features = keras.Input((4,), name="features")
    uid = keras.Input((), name="uid", dtype="int64")
    req_time = keras.Input((), name="req_time", dtype="int64")
    hour = keras.Input((), name="hour", dtype="int32")
    label = keras.Input((), name="label")
    predictions = keras.layers.Dense(1, "sigmoid", name="dense")(features)
    layer = DeepInsightLayer(str(folder), model_name="m", target="ctr", sample_ratio=1.0)
    out = layer(predictions, labels=label, uid=uid, req_time=req_time, extra_fields={"hour": hour})
    inputs = {"features": features, "uid": uid, "req_time": req_time, "hour": hour, "label": label}
    return keras.Model(inputs, out), layer


def inputs() -> tuple[dict[str, np.ndarray], np.ndarray]:
    x, y = columns(), labels()
    return {**{k: x[k] for k in ("features", "uid", "req_time", "hour")}, "label": y}, y


def test_in_a_functional_model(tmp_path: pathlib.Path) -> None:
    net, layer = functional(tmp_path)
    x, y = inputs()
    net.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", jit_compile="auto")
    assert net.jit_compile is False  # the layer has told Keras
    expected = net.predict(x, verbose=0)
    net.fit(dataset(x, y), verbose=0)
    net.evaluate(dataset(x, y), verbose=0)  # neither this nor predict records
    layer.close()
    check_records(read(tmp_path), x, {"ctr": (y, expected)})
    assert read(tmp_path)["extra_int"].struct.field("hour").to_list() == x["hour"].tolist()
    assert layer.result() == {"seen": ROWS, "sampled": ROWS, "written": ROWS}


@pytest.mark.slow
def test_saved_loaded_and_cloned(tmp_path: pathlib.Path) -> None:
    net, layer = functional(tmp_path / "run")
    x, y = inputs()
    net.compile("sgd", "binary_crossentropy")
    net.fit(dataset(x, y), verbose=0)
    layer.close()
    net.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), net.predict(x, verbose=0), rtol=1e-6)
    clone = keras.models.clone_model(net)
    for other in (loaded, clone):
        other.compile("sgd", "binary_crossentropy")
        other.fit(dataset(x, y), verbose=0)
        (copy,) = [part for part in other.layers if isinstance(part, DeepInsightLayer)]
        assert copy.get_config() == layer.get_config()
        copy.close()
    assert read(tmp_path / "run")["attempt"].n_unique() == 3
    assert read(tmp_path / "run").height == 3 * ROWS


class WithLayer(keras.Model):
    """A train_step that records like a metric."""

    def __init__(self, folder: Any) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1, "sigmoid")
        self.insight = DeepInsightLayer(str(folder), model_name="m", sample_ratio=1.0)

    def call(self, x: Any) -> Any:
        return self.dense(x["features"])

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        variables = self.dense.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self.insight.update_state(y, y_pred, x["uid"], x["req_time"], x["sample_rate"])
        return {"loss": loss}


def test_in_a_train_step(tmp_path: pathlib.Path) -> None:
    net, x, y = WithLayer(tmp_path), columns(), labels()
    net.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
    net.fit(dataset(x, y), verbose=0)
    net.insight.flush()
    assert net.insight.result() == {"seen": ROWS, "sampled": ROWS, "written": ROWS}
    net.insight.reset_state()
    net.fit(dataset(x, y).take(1), verbose=0)
    net.insight.close()
    assert net.insight.result() == {"seen": 64, "sampled": 64, "written": 64}
    expected = net.predict({"features": x["features"]}, verbose=0)
    check_records(read(tmp_path).head(ROWS), x, {"ctr_head": (y, expected)})


def test_a_fit_after_close_records_again(tmp_path: pathlib.Path) -> None:
    """The traced step finds the client of each fit; an attempt each, and the counts go on."""
    net, layer = functional(tmp_path)
    other = DeepInsightLayer(str(tmp_path / "other"), model_name="o", sample_ratio=1.0)
    x, y = inputs()
    net.compile("sgd", "binary_crossentropy")
    ones = tf.ones([3], tf.int64)
    for times in (1, 2, 3):
        net.fit(dataset(x, y), verbose=0)
        other.update_state(tf.zeros([3]), tf.zeros([3]), ones, ones)
        layer.close()
        layer.close()
        assert layer.result() == dict.fromkeys(("seen", "sampled", "written"), times * ROWS)
        assert read(tmp_path)["attempt"].n_unique() == times
    layer.reset_state()
    net.fit(dataset(x, y), verbose=0)
    layer.close()
    assert layer.result()["written"] == ROWS
    assert read(tmp_path).height == 4 * ROWS
    other.close()
    assert other.result() == {"seen": 9, "sampled": 9, "written": 9}


def test_a_traced_function_records_after_close(tmp_path: pathlib.Path) -> None:
    """The same graph, a second one for another shape, and one whose layer has no other owner."""
    layer = DeepInsightLayer(str(tmp_path), model_name="m", sample_ratio=1.0)
    ids = tf.TensorSpec([None], tf.int64)

    @tf.function
    def step(ids: Any) -> Any:
        layer.update_state(tf.zeros_like(ids), tf.cast(ids, tf.float32) / 10, ids, ids)
        return ids

    for rows in (2, 2, 3):
        step(tf.range(rows, dtype=tf.int64))
        layer.close()
    concrete = step.get_concrete_function(ids)
    concrete(tf.range(4, dtype=tf.int64))
    concrete(tf.range(5, dtype=tf.int64))
    layer.close()
    assert layer.result()["written"] == read(tmp_path).height == 2 + 2 + 3 + 4 + 5
    assert read(tmp_path)["attempt"].n_unique() == 4


def test_predictions_pass_unchanged_and_gradients_too(tmp_path: pathlib.Path) -> None:
    layer = DeepInsightLayer(str(tmp_path), model_name="m", sample_ratio=1.0)
    ones = tf.ones([2], tf.int64)
    predictions = tf.Variable([[0.25], [0.5]])
    with tf.GradientTape() as tape:
        out = layer(predictions, labels=[0.0, 1.0], uid=ones, req_time=ones, training=True)
        loss = tf.reduce_sum(out * 3.0)
    np.testing.assert_array_equal(out, predictions)
    np.testing.assert_array_equal(tape.gradient(loss, predictions), [[3.0], [3.0]])
    layer.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uid": [0.5, 0.5]}, "`uid` must be integers"),
        ({"labels": [[0.0, 1.0], [0.0, 1.0]]}, r"`labels` must have shape \(batch,\)"),
        ({"req_time": [1]}, r"must have shape \(batch,\)|batch = 1"),
    ],
)
def test_wrong_input(change: dict[str, Any], message: str, tmp_path: pathlib.Path) -> None:
    layer = DeepInsightLayer(str(tmp_path), model_name="m")
    good: dict[str, Any] = {"labels": [0.0, 1.0], "uid": [1, 2], "req_time": [1, 2]}
    with pytest.raises((TypeError, ValueError), match=message):
        layer.update_state(predictions=tf.constant([0.5, 0.5]), **{**good, **change})
    layer.close()


URI = (
    "kafka://a:9092,b:9092/t?security.protocol=SASL_SSL&sasl.mechanism=PLAIN&sasl.username=me"
    "&sasl.password=hush%26hush&ssl.key.location=%2Fkeys%2Fme&ssl.key.password=sesame"
    "&sasl.oauthbearer.token.endpoint.url=https%3A%2F%2Fid%2Ftoken"
)
SECRETS = ("hush", "sesame")


class TestSecretsOfASink:
    def test_are_not_saved_and_the_rest_is(
        self, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        features = keras.Input((4,))
        layer = DeepInsightLayer([URI, "jsonl:run"], model_name="m", name="recorder")
        net = keras.Model(features, keras.layers.Dense(1)(features))
        net.recorder = layer
        kept = URI.replace("&sasl.password=hush%26hush", "").replace("&ssl.key.password=sesame", "")
        assert layer.get_config()["sink"] == [kept, "jsonl:run"]
        layer.get_config()
        (warning,) = [entry.getMessage() for entry in caplog.records]
        for part in (
            "'recorder'",
            "sasl.password, ssl.key.password of kafka://a:9092,b:9092/t",
            "layer.sink = 'kafka://",
        ):
            assert part in warning
        path = tmp_path / "layer.json"
        path.write_text(keras.saving.serialize_keras_object(layer).__repr__())
        assert not any(secret in path.read_text() for secret in SECRETS)
        assert not any(secret in text for secret in SECRETS for text in (warning, repr(layer)))

    def test_are_given_again_after_loading(self, caplog: pytest.LogCaptureFixture) -> None:
        layer = DeepInsightLayer(URI, model_name="m")
        loaded = DeepInsightLayer.from_config(layer.get_config())
        assert "sasl.password" not in loaded.sink
        loaded.sink = URI
        assert loaded.sink == URI
        with pytest.raises(ValueError, match="each option must be name=value") as caught:
            loaded.sink = "kafka://a:9092/t?sasl.password"
        assert loaded.sink == URI
        assert not any(secret in str(caught.value) for secret in SECRETS)

    def test_without_any_nothing_is_told(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KAFKA_BROKER_LIST", "a:9092")
        monkeypatch.setenv("KAFKA_TOPIC_NAME", "t")
        for sink in ("kafka://a:9092/t", "kafka:", "runs/a?b&password=c"):
            assert DeepInsightLayer(sink, model_name="m").get_config()["sink"] == sink
        assert caplog.records == []


def test_another_sink_is_written_to_from_then_on(tmp_path: pathlib.Path) -> None:
    layer = DeepInsightLayer(str(tmp_path / "a"), model_name="m", sample_ratio=1.0)
    ones = tf.ones([2], tf.int64)
    for name in ("a", "b"):
        layer.sink = str(tmp_path / name)
        layer.update_state(tf.zeros([2]), tf.zeros([2]), ones, ones)
    layer.close()
    assert read(tmp_path / "a").height == read(tmp_path / "b").height == 2
    assert layer.result()["written"] == 4


def test_a_sink_object_cannot_be_saved() -> None:
    class Nowhere:
        def write(self, frame: Any) -> None: ...
        def flush(self) -> None: ...
        def close(self) -> None: ...

    layer = DeepInsightLayer(Nowhere(), model_name="m")
    with pytest.raises(TypeError, match=r"`sink` must be a folder or a URI.*Nowhere.*get_config"):
        layer.get_config()


def test_a_secret_does_not_go_into_a_saved_model() -> None:
    with pytest.raises(ValueError, match="saved with the model"):
        DeepInsightLayer("run", model_name="m", client_options={"uid_hash_key": b"k"})


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("sasl.password", True),
        ("ssl.key.password", True),
        ("ssl.keystore.password", True),
        ("ssl.key.pem", True),
        ("sasl.oauthbearer.client.secret", True),
        ("sasl.oauthbearer.config", True),
        ("sasl.oauthbearer.assertion.private.key.passphrase", True),
        ("sasl.oauthbearer.assertion.private.key.pem", True),
        ("sasl.username", False),
        ("sasl.oauthbearer.client.id", False),
        ("sasl.oauthbearer.token.endpoint.url", False),
        ("sasl.oauthbearer.assertion.private.key.file", False),
        ("ssl.certificate.pem", False),
        ("ssl.key.location", False),
        ("ssl.keystore.location", False),
        ("linger.ms", False),
    ],
)
def test_which_options_are_secrets(name: str, secret: bool) -> None:
    kept, names = parse(f"kafka://a/t?client.id=c&{name}=x").to_save()
    assert names == [name] * secret
    assert kept == "kafka://a/t?client.id=c" + f"&{name}=x" * (not secret)
