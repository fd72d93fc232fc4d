"""`comparison`: is one model better than another, and how sure is that?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from monolith_keras_metrics.insight.figures.figure import BLUE, Figure, markup, nothing
from monolith_keras_metrics.insight.figures.forest import (
    BETTER,
    MOST,
    NEAR,
    WORSE,
    Kind,
    Row,
    forest,
    value_text,
)
from monolith_keras_metrics.insight.figures.given import (
    check_measure,
    group_text,
    groups_of,
    label,
    of_target,
    target_of,
)
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.texts import text_of, with_interval, words_of

_OTHER = Kind("different", BLUE, "triangle-up")
_ORDER = (WORSE, _OTHER, NEAR, BETTER)
# At a glance; others are computed from the same, or differ by more than their size by chance.
_COMPARED = ("calibration", "auc", "gauc", "pr_auc", "log_loss", "normalised_entropy", "brier",
             "mae", "rmse")  # fmt: skip


def comparison(table: pl.DataFrame, measures: str | Sequence[str] | None = None) -> Figure:
    """Draw by how much two trainings differ, with intervals: is `b` better than `a`?

    One measure is drawn as it is, and its groups come with those first that are worse for sure.
    Several are drawn as a percentage of the value of `a`, so that they fit one axis. At most 40
    rows are drawn: of groups, those with most examples.

    Args:
        table: What `compare` returns, without `window`, of one target.
        measures: The measures. Default: those at a glance that `table` has.

    Raises:
        ValueError: If `table` has several targets or lacks a column, or a measure is unknown.
    """
    target = target_of(table, ["examples"], "`compare`")
    known = [name for name in _COMPARED if f"{name}_diff" in table.columns]
    names = known if measures is None else [measures] if isinstance(measures, str) else [*measures]
    for name in names:
        check_measure(name, table, f"{name}_diff", "`compare`")
    in_percent = len(names) > 1
    groups = groups_of(table)
    shown = table.sort("examples", descending=True, maintain_order=True).head(MOST)
    rows = [
        row
        for name in names
        for one in shown.iter_rows(named=True)
        if (row := _difference_row(one, name, in_percent, groups)) is not None
    ][:MOST]
    if groups and not in_percent:
        sign = -1 if MEASURES[names[0]].better == "lower" else 1
        rows.sort(key=lambda row: (_ORDER.index(row.kind), sign * row.value))
    title = f"Difference of b and a{of_target(target)}"
    if not rows:
        return nothing(title, "There is nothing to compare: no example is in both.")
    unit = " %" if in_percent else ""
    text = "; ".join(f"{row.label}: {value_text(row)}{unit}, {row.kind.name}" for row in rows[:8])
    words = words_of(names[0])
    axis = "difference (b - a), % of a" if in_percent else f"difference in {words} (b - a)"
    return forest(rows, title, text + ("; …" if len(rows) > 8 else "."), axis, 0.0, False)


def _difference_row(
    row: dict[str, Any], name: str, in_percent: bool, groups: Sequence[str]
) -> Row | None:
    a, b, value = (row.get(f"{name}{end}") for end in ("_a", "_b", "_diff"))
    low, high = (row.get(f"{name}_diff{end}") for end in ("_low", "_high"))
    if a is None or b is None or value is None or (in_percent and not a):
        return None
    better = MEASURES[name].better
    of_group = group_text(row, groups)
    text = of_group if of_group and not in_percent else words_of(name)
    if of_group and in_percent:
        text = f"{text}, {of_group}"
    kind = NEAR
    if low is not None and high is not None and not low <= 0 <= high:
        kind = _verdict(a, b, better)
    hover = f"{markup(label(text))}<br>a {text_of(a)}, b {text_of(b)}<br>"
    hover += f"difference {with_interval(value, low, high)}<br>{kind.name}"
    factor = 100 / abs(a) if in_percent else 1.0
    low, high = (None if end is None else end * factor for end in (low, high))
    return Row(text, value * factor, low, high, hover, kind)


def _verdict(a: float, b: float, better: str | float | None) -> Kind:
    if better is None:
        return _OTHER
    if isinstance(better, float):
        return BETTER if abs(b - better) < abs(a - better) else WORSE
    return BETTER if (b > a) == (better == "higher") else WORSE
