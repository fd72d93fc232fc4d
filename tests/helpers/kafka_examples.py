"""Examples that the tests of Kafka hand to a client."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from monolith_keras_metrics.records.batch import Batch, Layout

LAYOUT = Layout("ctr", ("click",), ("text",), 1.0)


def batch(start: int = 0, rows: int = 100, text: bytes = b"x", **changes: Any) -> Batch:
    ids = np.arange(start, start + rows)
    values = {
        "uid": ids % 37,
        "labels": [ids % 2],
        "predictions": [(ids / 1000).astype(np.float32)],
        "extras": [np.full(rows, text, object)],
        **changes,
    }
    return Batch(LAYOUT, rows, req_time=ids, train_time=int(time.time()), **values)
