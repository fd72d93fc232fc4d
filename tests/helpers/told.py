"""Items as a watched run tells them."""

from __future__ import annotations

from typing import Any

from monolith_keras_metrics.insight.items import Alert, Culprit, Series, Window

HOUR = 3_600
NINE = 1_790_000_000 // HOUR * HOUR  # when the first window begins


def window(number: int, *series: Series, late: int = 0, model: str = "ctr") -> Window:
    """The window that is the item of this number; its measures depend on the number."""
    default = (
        Series("click", None, None, {"auc": 0.5 + number / 1024, "calibration": None}),
        Series("click", "country", "US", {"auc": 0.25 + number / 1024, "calibration": 1.0}),
    )
    start = NINE + (number - 1) * HOUR
    return Window(number, model, start, start + HOUR, series or default, late)


def alert(number: int, state: Any = "firing", **changes: Any) -> Alert:
    """An alert about clicks in the US."""
    fields: dict[str, Any] = {
        "name": "too sure",
        "rule": "0.95 <= calibration <= 1.05",
        "target": "click",
        "group": {"country": "US"},
        "severity": "page",
        "at": NINE + number * HOUR,
        "since": NINE,
        "span": "6h",
        "value": 1.25,
        "low": 1.125,
        "high": 1.375,
        "evidence": 250.0,
        "asked": 100.0,
        "culprits": (Culprit("country=US and <device>=tv", 0.75, 1_000, 1.5),),
        "text": "click: calibration 1.25 over 6h & above 1.05, mostly <device>=tv",
        "model": "ctr",
    }
    return Alert(number=number, state=state, **(fields | changes))
