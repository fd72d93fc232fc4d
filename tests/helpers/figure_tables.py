"""Small tables as `summary` and others return them, for figures."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import polars as pl

from monolith_keras_metrics.insight.figures import Figure

START = dt.datetime(2013, 1, 1, tzinfo=dt.timezone.utc)
HOSTILE = ["</script><img src=x onerror=alert(1)>", "a & b < c", "&lt;", "%{x}", "\x00\x1b[31m", ""]


def windows(*hours: int) -> list[dt.datetime]:
    return [START + dt.timedelta(hours=hour) for hour in hours]


def over_hours(values: list[float | None], **more: Any) -> pl.DataFrame:
    """A table of `summary(window="1h", interval=0.95)` with these AUCs."""
    return pl.DataFrame(
        {
            "target": ["ctr"] * len(values),
            "window": windows(*range(len(values))),
            "examples": [100] * len(values),
            "auc": values,
            "auc_low": [None if one is None else one - 0.05 for one in values],
            "auc_high": [None if one is None else one + 0.05 for one in values],
            **more,
        },
        schema_overrides={"auc": pl.Float64, "auc_low": pl.Float64, "auc_high": pl.Float64},
    )


def of_slices(names: list[str], values: list[float], width: float = 0.05) -> pl.DataFrame:
    """A table of `summary(by="country", interval=0.95)` with these calibrations."""
    return pl.DataFrame(
        {
            "target": ["ctr"] * len(names),
            "country": names,
            "examples": range(1000, 1000 - len(names), -1),
            "calibration": values,
            "calibration_low": [one - width for one in values],
            "calibration_high": [one + width for one in values],
        }
    )


def compared(**measures: tuple[float, float, float, float]) -> pl.DataFrame:
    """A table of `compare`: of each measure `a`, `b`, and the interval of the difference."""
    columns: dict[str, list[Any]] = {"target": ["ctr"], "examples": [100]}
    for name, (a, b, low, high) in measures.items():
        columns |= {f"{name}_a": [a], f"{name}_b": [b], f"{name}_diff": [b - a]}
        columns |= {f"{name}_diff_low": [low], f"{name}_diff_high": [high]}
    return pl.DataFrame(columns)


def is_json(figure: Figure) -> bool:
    return bool(json.loads(json.dumps(figure, allow_nan=False)) == figure)
