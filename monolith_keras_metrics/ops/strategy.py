"""Which `tf.distribute` strategies can record, and what to do under the others."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def check_strategy(strategy: Any) -> None:
    """Raises for a strategy whose steps run in processes that cannot record.

    Args:
        strategy: A `tf.distribute.Strategy`.

    Raises:
        RuntimeError: Under `ParameterServerStrategy`: the coordinator has workers run the steps,
            and those are TensorFlow servers without this process's Python.
    """
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise RuntimeError(
            "Deep Insight cannot record under ParameterServerStrategy: steps run in worker "
            "processes that hold none of this process's Python, and a tf.py_function runs only in "
            "the process that made it. Train with MirroredStrategy or MultiWorkerMirroredStrategy, "
            "where each worker writes its own examples; or have the scheduled function return "
            "uid, req_time, labels and predictions, and write them in the coordinator from "
            "RemoteValue.get() with write_deep_insight_v2"
        )
