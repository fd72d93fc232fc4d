"""Deep Insight for Keras: record a model's predictions while it trains.

`import monolith_keras_metrics` is cheap: TensorFlow is imported when a name that needs it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from monolith_keras_metrics.capture.callback import DeepInsightCallback as DeepInsightCallback
    from monolith_keras_metrics.capture.layer import DeepInsightLayer as DeepInsightLayer
    from monolith_keras_metrics.capture.metrics_callback import MetricsCallback as MetricsCallback
    from monolith_keras_metrics.deep_insight_ops import client_of as client_of
    from monolith_keras_metrics.deep_insight_ops import deep_insight_client as deep_insight_client
    from monolith_keras_metrics.deep_insight_ops import write_deep_insight as write_deep_insight
    from monolith_keras_metrics.deep_insight_ops import (
        write_deep_insight_from_features as write_deep_insight_from_features,
    )
    from monolith_keras_metrics.deep_insight_ops import (
        write_deep_insight_v2 as write_deep_insight_v2,
    )
    from monolith_keras_metrics.pipeline.client import DeepInsightClient as DeepInsightClient
    from monolith_keras_metrics.pipeline.options import Options as Options
    from monolith_keras_metrics.records.batch import Batch as Batch
    from monolith_keras_metrics.records.batch import Layout as Layout

_HOMES = {
    "Batch": "records.batch",
    "DeepInsightCallback": "capture.callback",
    "DeepInsightClient": "pipeline.client",
    "DeepInsightLayer": "capture.layer",
    "Layout": "records.batch",
    "MetricsCallback": "capture.metrics_callback",
    "Options": "pipeline.options",
    "client_of": "deep_insight_ops",
    "deep_insight_client": "deep_insight_ops",
    "write_deep_insight": "deep_insight_ops",
    "write_deep_insight_from_features": "deep_insight_ops",
    "write_deep_insight_v2": "deep_insight_ops",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
