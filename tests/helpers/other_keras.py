"""A `fit` with a model of the other Keras than `tf.keras` is: `python other_keras.py KERAS FOLDER`.

KERAS is the package that the model is made with. What the callback raises is printed."""

from __future__ import annotations

import importlib
import os
import pathlib
import signal
import sys
import threading

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import tensorflow as tf

from monolith_keras_metrics import DeepInsightCallback


def main() -> None:
    package, folder = sys.argv[1:]
    keras = importlib.import_module(package)
    features = keras.Input((4,), name="features")
    model = keras.Model(features, keras.layers.Dense(1, name="ctr")(features))
    model.compile("sgd", "mse")
    assert not isinstance(model, tf.keras.Model)
    x = {"features": np.zeros((8, 4), np.float32), "uid": np.arange(8), "req_time": np.arange(8)}
    y = np.zeros(8, np.float32)
    recorder = DeepInsightCallback(folder, model_name="m", modes=("train", "test"))
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    messages = set()
    for way in (model.fit, model.evaluate):
        try:
            way(x, y, callbacks=[recorder], verbose=0)
        except TypeError as error:
            messages.add(str(error))
    try:
        recorder.model_inputs(model)
    except TypeError as error:
        messages.add(str(error))
    (message,) = messages
    print(message)

    assert recorder.model is None
    assert recorder.stats is None
    assert not pathlib.Path(folder).exists()
    assert [one.name for one in threading.enumerate() if "insight" in one.name.lower()] == []
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    functions = (model.train_function, model.test_function)
    assert not any(type(one).__module__.startswith("monolith") for one in functions)
    model.fit(x["features"], y, verbose=0)  # as without the callback


if __name__ == "__main__":
    main()
