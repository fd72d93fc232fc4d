"""Trainings under a `tf.distribute` strategy, in processes of their own.

    python strategies.py mirrored|multi_worker|parameter_server FOLDER [STEPS_PER_EXECUTION ...]

Each number of steps is a training of its own, whose records are in the folder of that name in
FOLDER. Devices and clusters are set up once in a process's life, so each strategy has its own
process. `TF_CONFIG` tells a process of a cluster who it is.
"""

from __future__ import annotations

import os
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import tensorflow as tf
from training import columns, dataset, frozen, labels, model

from monolith_keras_metrics import DeepInsightCallback, DeepInsightClient, write_deep_insight


def make_strategy(name: str) -> tf.distribute.Strategy:
    if name == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        device = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [device, device])
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if resolver.task_type in ("worker", "ps"):
        tf.distribute.Server(
            resolver.cluster_spec(),
            job_name=resolver.task_type,
            task_index=resolver.task_id,
            protocol="grpc",
        ).join()
    return tf.distribute.ParameterServerStrategy(resolver)


def refused(strategy: tf.distribute.Strategy, folder: str) -> None:
    """The errors under `ParameterServerStrategy`, and the way that works there."""
    with strategy.scope():
        net = frozen(model())
        recorder = DeepInsightCallback(folder, model_name="m")
        recorder.set_model(net)
    try:
        recorder.on_train_begin()
    except RuntimeError as error:
        print("callback:", error)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    client = DeepInsightClient(folder)

    def write(*columns: tf.Tensor) -> tf.Tensor:
        return write_deep_insight(client.handle, *columns, "m", sample_ratio=1.0)

    def step() -> tuple[tf.Tensor, ...]:
        ids, floats = tf.range(3, dtype=tf.int64), tf.ones([3])
        return ids, ids, floats, floats, floats

    try:
        coordinator.schedule(tf.function(lambda: strategy.run(lambda: write(*step()))))
        coordinator.join()
    except RuntimeError as error:
        print("operation:", error)
    result = coordinator.schedule(tf.function(lambda: strategy.run(step)))
    write(*map(tf.convert_to_tensor, result.fetch()))
    client.close()
    print(f"collected in the coordinator: {client.stats().written} of 3")


def main() -> None:
    name, folder, *steps = sys.argv[1:]
    strategy = make_strategy(name)
    if name == "parameter_server":
        refused(strategy, folder)
    for number in steps:
        train(strategy, f"{folder}/{number}", int(number))


def train(strategy: tf.distribute.Strategy, folder: str, steps: int) -> None:
    """Train a model of known weights, with so many steps in each execution."""
    x, y = columns(), labels()
    # Under a strategy Keras averages the first batch over replicas, to know its shapes: no strings.
    del x["carrier"]
    with strategy.scope():
        net = model()
        net.set_weights([np.linspace(-1, 1, 4)[:, np.newaxis], np.array([-1.0])])
        frozen(net, steps_per_execution=steps, jit_compile=False)
    recorder = DeepInsightCallback(
        folder, model_name="m", sample_ratio=1.0, extra_fields=("price", "hour")
    )
    net.fit(dataset(x, y), callbacks=[recorder], verbose=2)
    print("recorded", recorder.stats)


if __name__ == "__main__":
    main()
