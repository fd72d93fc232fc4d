"""A check that a `tf.distribute` strategy can record."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def check_strategy(strategy: Any) -> None:
    """Raise if the steps of a strategy run in processes that cannot record.

    Args:
        strategy: A `tf.distribute.Strategy`.

    Raises:
        RuntimeError: For `ParameterServerStrategy`, whose steps run on TensorFlow servers without
            this process's Python.
    """
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise RuntimeError(
            "Deep Insight cannot record under ParameterServerStrategy: steps run in worker "
            "processes without this process's Python, and a tf.py_function runs only in the "
            "process that created it. Train with MirroredStrategy or MultiWorkerMirroredStrategy, "
            "where each worker writes its own examples; or return uid, req_time, labels and "
            "predictions from the scheduled function, read them in the coordinator with "
            "RemoteValue.get(), and write them with write_deep_insight_v2"
        )
