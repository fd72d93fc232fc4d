"""How measures have changed: the newest windows of time, compared with all before."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import polars as pl

from monolith_keras_metrics.insight import adding
from monolith_keras_metrics.insight.finish import jackknife
from monolith_keras_metrics.insight.grouping import grouped
from monolith_keras_metrics.insight.layers import Layers, layers_of
from monolith_keras_metrics.insight.measures import Measure
from monolith_keras_metrics.insight.rows import WINDOW
from monolith_keras_metrics.insight.state import State

_LEAST = 4  # windows of a run, before any is compared
_SHARE = 7  # of the windows, one in so many is recent: of a week, a day
_IS_RECENT = "recent"
# Of several measures and targets, one is often outside its interval of 95 % by chance.
_CLEAR = 0.999
SCHEMA = {
    "target": pl.String,
    "measure": pl.String,
    "before": pl.Float64,
    "recent": pl.Float64,
    "diff": pl.Float64,
    "diff_low": pl.Float64,
    "diff_high": pl.Float64,
    "clear": pl.Boolean,
}


def recent_since(state: State) -> dt.datetime | None:
    """Return when the newest windows of a state begin; None if it has too few windows."""
    windows = state.groups.get_column(_window_of(state)).drop_nulls().unique().sort()
    windows = windows.filter(windows.dt.year().is_between(1, 9999))  # Python has no others
    if windows.len() < _LEAST:
        return None
    since: dt.datetime = windows[-max(1, windows.len() // _SHARE)]
    return since


def changes(
    state: State, since: dt.datetime, measures: Sequence[Measure], interval: float
) -> pl.DataFrame:
    """Return how measures have changed.

    Args:
        state: A state by window, with its users in parts.
        since: When the newest windows begin.
        measures: The measures.
        interval: The probability of the intervals, which are paired by user.

    Returns:
        A row per target and measure: `before`, `recent`, `diff` (recent - before) with its
        interval, and `clear`, which is True if even an interval of 99.9 % does not hold 0.
    """
    is_recent = (pl.col(_window_of(state)) >= since).alias(_IS_RECENT)
    both = _regrouped(state, state.groups.select("target", is_recent))
    layers = layers_of(both, measures)
    before, recent = (_side(layers, state.targets, recent) for recent in (False, True))
    there = before.there & recent.there
    frames = []
    for measure in measures:
        one, other = before.of[measure.name], recent.of[measure.name]
        low, high = jackknife(other - one, there, recent.shares, "plain", interval)
        lowest, highest = jackknife(other - one, there, recent.shares, "plain", _CLEAR)
        columns = {
            "before": one[:, 0],
            "recent": other[:, 0],
            "diff": (other - one)[:, 0],
            "diff_low": low,
            "diff_high": high,
        }
        frames.append(
            pl.DataFrame({"target": state.targets, **columns}, nan_to_null=True).with_columns(
                pl.lit(measure.name).alias("measure"),
                pl.Series("clear", (lowest > 0) | (highest < 0)),
            )
        )
    empty = pl.DataFrame(schema=SCHEMA)
    return pl.concat([empty, *(frame.select(list(SCHEMA)) for frame in frames)]).drop_nulls("diff")


def _side(layers: Layers, targets: Sequence[str], recent: bool) -> Layers:
    """Return the layers of one side, a row per target."""
    wanted = pl.DataFrame({"target": list(targets), _IS_RECENT: [recent] * len(targets)})
    numbered = layers.groups.select("target", _IS_RECENT).with_row_index("at")
    found = wanted.join(numbered, on=["target", _IS_RECENT], how="left", maintain_order="left")
    at = found.get_column("at").cast(pl.Int64).fill_null(-1).to_numpy()
    return layers.at(at, found)


def _window_of(state: State) -> str:
    return state.keys[state.form.groups.index(WINDOW)]


def _regrouped(state: State, groups: pl.DataFrame) -> State:
    """Return the state with other groups: those with equal rows become one."""
    distinct, numbers = grouped(groups)
    tables = adding.added([state], [numbers], state.form)
    form = state.form._replace(groups=tuple(distinct.columns[1:]))
    return State(form, state.targets, distinct, tables)
