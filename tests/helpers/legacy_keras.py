"""A training with legacy Keras (`tf_keras`), in a process that is started with
`TF_USE_LEGACY_KERAS=1`: `python legacy_keras.py FOLDER`."""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from monolith_keras_metrics import DeepInsightCallback, DeepInsightLayer, MetricsCallback, cli

keras = tf.keras
assert keras.Model.__module__.startswith("tf_keras")


def main() -> None:
    folder = sys.argv[1]
    rng = np.random.default_rng(0)
    x = {
        "features": rng.normal(size=(300, 4)).astype(np.float32),
        "uid": rng.integers(0, 5000, 300),
        "req_time": np.arange(300),
        "carrier": rng.choice([b"UA", b"DL"], 300),
    }
    y = (rng.random(300) < 0.3).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)
    features = keras.Input((4,), name="features")
    for name, options in {
        "plain": {},
        "eager": {"run_eagerly": True},
        "xla": {"jit_compile": True},
        "steps": {"steps_per_execution": 3},
    }.items():
        model = keras.Model(features, keras.layers.Dense(1, "sigmoid", name="ctr")(features))
        model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", **options)
        recorder = DeepInsightCallback(
            f"{folder}/{name}",
            model_name="m",
            sample_ratio=1.0,
            extra_fields=["carrier"],
            modes=("train", "test"),
            log_measures=True,
        )
        history = model.fit(
            data, validation_data=data.take(1), callbacks=[recorder], verbose=0
        ).history
        assert [
            f"{of}deep_insight_{name}" for of in ("", "val_") for name in ("auc", "calibration")
        ] == [name for name in history if "deep_insight" in name], history
        np.save(f"{folder}/{name}.npy", model.predict(x["features"], verbose=0).ravel())
        assert not type(model.train_function).__module__.startswith("monolith_keras_metrics")

    classes = rng.integers(0, 4, 300)
    heads = {
        "kind": keras.layers.Dense(4, name="kind")(features),
        "ctr": keras.layers.Dense(1, name="ctr")(features),
    }
    model = keras.Model(features, heads)
    model.compile(
        keras.optimizers.SGD(0.0),
        {
            "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "ctr": keras.losses.BinaryCrossentropy(from_logits=True),
        },
    )
    both = tf.data.Dataset.from_tensor_slices((x, {"kind": classes, "ctr": y})).batch(64)
    recorder = DeepInsightCallback(f"{folder}/logits", model_name="m", sample_ratio=1.0)
    model.fit(both, callbacks=[recorder], verbose=0)
    logits = model.predict(x["features"], verbose=0)
    np.savez(f"{folder}/logits.npz", classes=classes, **logits)

    label = keras.Input((), name="label")
    uid = keras.Input((), name="uid", dtype="int64")
    layer = DeepInsightLayer(f"{folder}/layer", model_name="m", target="ctr", sample_ratio=1.0)
    out = layer(keras.layers.Dense(1, "sigmoid")(features), labels=label, uid=uid, req_time=uid)
    model = keras.Model({"features": features, "label": label, "uid": uid}, out)
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
    inputs = {"features": x["features"], "label": y, "uid": x["uid"]}
    model.fit(tf.data.Dataset.from_tensor_slices((inputs, y)).batch(64), verbose=0)
    layer.close()
    model.save(f"{folder}/model.keras")
    loaded = keras.models.load_model(f"{folder}/model.keras")
    assert any(isinstance(part, DeepInsightLayer) for part in loaded.layers)
    np.save(f"{folder}/layer.npy", loaded.predict(inputs, verbose=0).ravel())
    check_steps(folder, {name: x[name] for name in ("features", "uid", "req_time")}, y)
    check_model_inputs(folder, {**x, "a": x["features"] + 1}, y)
    check_metrics(x["features"], y)


def check_metrics(x: np.ndarray, y: np.ndarray) -> None:
    """Emits what is trained; the clock advances by 1 s a step."""

    class Stores(cli.Client):
        def emit_store(self, name: str, value: float, tags: dict[str, str]) -> None:
            stores.setdefault(name, []).append(value)

    def advance(*_: Any, **__: Any) -> None:
        now[0] += 1.0

    stores: dict[str, list[float]] = {}
    now = [0.0]
    model = keras.Sequential([keras.layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
    emitting = MetricsCallback("m", seconds=2.0, clock=lambda: now[0])
    with cli.use_backend(lambda prefix="": Stores()):
        history = model.fit(
            x,
            y,
            batch_size=64,
            validation_data=(x, y),
            callbacks=[keras.callbacks.LambdaCallback(on_batch_begin=advance), emitting],
            verbose=0,
        ).history
    assert stores["training.examples_per_second"] == [64.0, 64.0, 44.0, 0.0], stores
    assert stores["training.loss"][-1] == history["loss"][0], stores
    assert stores["training.val_loss"] == history["val_loss"], stores


class OwnStep(keras.Model):
    """A model that takes an array, with a step that reads the column by its name."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x["features"], training=True)
            loss = self.compute_loss(x, y, y_pred)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        return self.compute_metrics(x, y, y_pred, None)


def check_steps(folder: str, x: dict[str, np.ndarray], y: np.ndarray) -> None:
    """Records a step that reads columns by name, and a Sequential model that is not built yet."""
    features = keras.Input((4,), name="features")
    own = OwnStep(features, keras.layers.Dense(1, "sigmoid", name="ctr")(features))
    unbuilt = keras.Sequential([keras.layers.Dense(1, "sigmoid", name="ctr")])
    for name, model in {"own_step": own, "sequential": unbuilt}.items():
        model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
        recorder = DeepInsightCallback(f"{folder}/{name}", model_name="m", sample_ratio=1.0)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)
        model.fit(data, callbacks=[recorder], verbose=0)
        np.save(f"{folder}/{name}.npy", model.predict(x["features"], verbose=0).ravel())


def check_model_inputs(folder: str, x: dict[str, np.ndarray], y: np.ndarray) -> None:
    """Evaluates and predicts with what `model_inputs` leaves; legacy Keras pairs by name."""
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("absl").addHandler(handler)
    features, more = keras.Input((4,), name="features"), keras.Input((4,), name="more")
    x["more"] = x["features"] - 1
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)
    for inputs in ({"features": features, "more": more}, [features, more]):
        joined = keras.layers.Concatenate()([features, more])
        model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(joined))
        model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
        recorder = DeepInsightCallback(f"{folder}/inputs", model_name="m")
        model.fit(data, callbacks=[recorder], verbose=0)
        take = recorder.model_inputs(model)
        clean = {"features": x["features"], "more": x["more"]}
        clean = clean if isinstance(inputs, dict) else list(clean.values())
        predicted = model.predict(clean, verbose=0)
        for given in (take(x), tf.data.Dataset.from_tensor_slices(x).batch(64).map(take)):
            np.testing.assert_allclose(model.predict(given, verbose=0), predicted, atol=1e-6)
        loss = model.evaluate(clean, y, verbose=0)
        np.testing.assert_allclose(model.evaluate(data.map(take), verbose=0), loss, atol=1e-6)
    assert not [text for text in warnings if "position" in text]


if __name__ == "__main__":
    main()
