"""Names of series and alerts, for places whose names are paths: TensorBoard, wandb, MLflow.

`auc/ctr` is a measure of a target, `auc by country/ctr/US` that of a value of a field. These places
make a section of what comes before the first slash, so that a measure's values of one field stand
together, apart from those of all records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from monolith_keras_metrics.insight.items import Alert, Item, Series, Window

NO_VALUE = "(none)"
"""What stands for the value of records that have none."""

LATE = "late records"
"""Name of the number of records that came after their window was closed."""


def value_of(series: Series) -> str:
    """Return the value of a series as a text. One that has none is told from an empty text."""
    return NO_VALUE if series.value is None else series.value


def group_of(alert: Alert) -> tuple[str, str]:
    """Return the fields of an alert, and their values; both empty if it is about all records."""
    values = (NO_VALUE if value is None else value for value in alert.group.values())
    return ",".join(alert.group), ",".join(values)


def values_of(window: Window, part: Callable[[str], str]) -> Iterator[tuple[str, float]]:
    """Yield the name of each defined measure of a window, and its value.

    Args:
        window: The window.
        part: Makes a part of a name, such as a value of a field, fit for the place.
    """
    for series in window.series:
        for measure, value in series.measures.items():
            if value is None:
                continue
            if series.field is None:
                yield f"{part(measure)}/{part(series.target)}", value
            else:
                group = f"{part(series.target)}/{part(value_of(series))}"
                yield f"{part(f'{measure} by {series.field}')}/{group}", value
    yield LATE, float(window.late)


def name_of(alert: Alert, part: Callable[[str], str]) -> str:
    """Return the name of an alert: `alerts/calibration off/ctr/US` for a rule by country."""
    values = (NO_VALUE if value is None else value for value in alert.group.values())
    parts = ("alerts", alert.name, *([alert.target] if alert.target else []), *values)
    return "/".join(part(one) for one in parts)


def numbers_of(item: Item, part: Callable[[str], str]) -> list[tuple[str, float]]:
    """Return the name of each number of an item, and the number; 1 for an alert that fires."""
    if isinstance(item, Window):
        return list(values_of(item, part))
    return [(name_of(item, part), float(item.state == "firing"))]


def time_of(item: Item) -> int:
    """Return the time that an item is about, Unix seconds: the end of its window."""
    return item.end if isinstance(item, Window) else item.at
