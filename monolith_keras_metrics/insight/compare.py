"""`compare`: two trainings of the same stream, example by example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from monolith_keras_metrics.insight import steps
from monolith_keras_metrics.insight.asks import chosen_measures
from monolith_keras_metrics.insight.curves import Array
from monolith_keras_metrics.insight.finish import jackknife
from monolith_keras_metrics.insight.layers import Layers, layers_of
from monolith_keras_metrics.insight.measures import MEASURES, Measure
from monolith_keras_metrics.insight.pairs import Pairs, default_on
from monolith_keras_metrics.insight.rows import WINDOW, By, Time, Visits, lazy, plan_of
from monolith_keras_metrics.insight.state import State, check_interval
from monolith_keras_metrics.insight.tables import PARTS, Form, needed

_COUNTS = ("examples", "only_a", "only_b", "ambiguous")


def compare(
    a: pl.LazyFrame | pl.DataFrame,
    b: pl.LazyFrame | pl.DataFrame,
    on: str | Sequence[str] | None = None,
    by: By = (),
    window: str | None = None,
    interval: float | None = 0.95,
    *,
    time: Time = "req_time",
    measures: str | Sequence[str] | None = None,
    weighted: bool = True,
    visits: Visits = "first",
) -> pl.DataFrame:
    """Compare two trainings on the examples that both of them recorded.

    Both models are measured on the same examples, and an interval of the difference leaves out the
    same users of both. What is hard about these examples and users is hard for both, so it cancels
    out: the interval is narrower than that of two separate summaries, and a smaller difference is
    found.

    Args:
        a: The records of one training, such as the one in production.
        b: The records of the other, such as the candidate.
        on: The columns or extra fields that identify an example. Default: `example_id` if both have
            it, else `uid` and `req_time`.
        by: The groups, as for `summary`. A pair is in the group of its record in `a`.
        window: The length of a window of time, as for `summary`.
        interval: The probability that an interval holds the true difference; None for none.
            Intervals need SciPy, which the extra `insight` installs.
        time: The column whose time decides the window.
        measures: The names of the measures. Default: as for `summary`, without delays.
        weighted: Whether a record weighs 1 / `sample_rate`, as for `summary`.
        visits: Which visits of an example are counted, as for `summary`.

    Returns:
        A row per target, group and window: `target`; the groups' columns; `window`; `examples`
        (pairs), `only_a` and `only_b` (examples of one training only), `ambiguous` (examples that
        are more than once in `a` or `b`: left out); and for each measure NAME, `NAME_a`, `NAME_b`,
        `NAME_diff` (b - a), `NAME_diff_low` and `NAME_diff_high`.

    Raises:
        ValueError: If `a` or `b` does not hold records, or lacks a column of `on`; or if an
            argument is invalid.
        ModuleNotFoundError: If SciPy is needed, and is not installed.

    Example:
    >>> def records(*predictions):
    ...     return pl.DataFrame({
    ...         "uid": [1, 1, 2, 3], "req_time": [60, 61, 60, 60],
    ...         "label": [{"ctr": y} for y in (0.0, 0.0, 1.0, 1.0)],
    ...         "predict": [{"ctr": p} for p in predictions],
    ...     })
    >>> a, b = records(0.1, 0.4, 0.35, 0.8), records(0.1, 0.3, 0.35, 0.8)
    >>> result = compare(a, b, measures="auc", interval=None)
    >>> result.select("examples", "auc_a", "auc_b", "auc_diff").rows()
    [(4, 0.75, 1.0, 0.25)]
    """
    check_interval(interval)
    chosen = [
        measure
        for measure in chosen_measures(measures, ())
        if measures is not None or measure.scale is not None
    ]
    ends = ("_a", "_b", "_diff", "_diff_low", "_diff_high")
    taken = ["target", WINDOW, *_COUNTS, *(name + end for name in MEASURES for end in ends)]
    rows = paired(a, b, on, by, window, time, weighted, visits, taken)
    one, other = rows.layers(chosen, 1 if interval is None else PARTS)
    columns: dict[str, Array] = {}
    for measure in chosen:
        name = measure.name
        difference = other.of[name] - one.of[name]
        columns |= {f"{name}_a": one.of[name][:, 0], f"{name}_b": other.of[name][:, 0]}
        columns[f"{name}_diff"] = difference[:, 0]
        if interval is not None:
            low, high = jackknife(difference, one.there, one.shares, "plain", interval)
            if name in one.raised:
                more = np.abs(other.raised[name] - one.raised[name])
                low, high = low - more, high + more
            columns |= {f"{name}_diff_low": low, f"{name}_diff_high": high}
    found = one.groups.select("target", *rows.keys).with_columns(
        pl.Series(name, column, nan_to_null=True) for name, column in columns.items()
    )
    result = rows.pairs.counts.join(
        found, on=["target", *rows.keys], how="left", nulls_equal=True, maintain_order="left"
    )
    return result.rename(dict(zip(rows.keys, rows.groups, strict=True)))


class Paired(NamedTuple):
    """The pairs of two trainings, and the groups that they are in.

    Attributes:
        pairs: The pairs.
        groups: The names of the groups.
        keys: Their columns in the rows.
        weighted: Whether a record weighs 1 / `sample_rate`.
    """

    pairs: Pairs
    groups: tuple[str, ...]
    keys: tuple[str, ...]
    weighted: bool

    def layers(self, measures: Sequence[Measure], parts: int) -> tuple[Layers, Layers]:
        """Return the measures of either training on the pairs."""
        tables = needed(measures, parts)
        # Of two models that are nearly the same, coarse cells would blur what differs.
        form = Form(self.groups, self.weighted, False, parts, tables, coarse=False)
        states = []
        adding = steps.begin("adding up", 2, "trainings")
        for side in ("a", "b"):
            states.append(State.of_rows([self.pairs.rows(side)], self.keys, form))
            adding.done += 1
        one, other = (layers_of(state, measures) for state in states)
        return one, other


def paired(
    a: pl.LazyFrame | pl.DataFrame,
    b: pl.LazyFrame | pl.DataFrame,
    on: str | Sequence[str] | None,
    by: By,
    window: str | None,
    time: Time,
    weighted: bool,
    visits: Visits,
    taken: Sequence[str],
) -> Paired:
    """Return the pairs of two trainings.

    Args:
        a: The records of one training.
        b: The records of the other.
        on: As for `compare`, as are those that follow.
        by: The groups.
        window: The length of a window, or None.
        time: The column whose time decides the window.
        weighted: Whether a record weighs 1 / `sample_rate`.
        visits: Which visits of an example are counted.
        taken: Names of a result's columns, which no group may have.
    """
    both = [lazy(a, "a"), lazy(b, "b")]
    names = _on(both[0], both[1], on)
    of_a, of_b = (
        plan_of(records, by, window, time, weighted, visits, taken, names) for records in both
    )
    return Paired(Pairs(of_a, of_b), of_a.groups, of_a.keys, weighted)


def _on(a: pl.LazyFrame, b: pl.LazyFrame, on: str | Sequence[str] | None) -> list[str]:
    if on is not None:
        return [on] if isinstance(on, str) else list(on)
    return default_on(a.collect_schema().names(), b.collect_schema().names())
