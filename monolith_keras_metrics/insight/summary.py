"""`summary`: the measures of each target, group of records and window of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl

from monolith_keras_metrics.insight.finish import finish
from monolith_keras_metrics.insight.measures import MEASURES, Measure
from monolith_keras_metrics.insight.rows import WINDOW, By, Time, rows_of
from monolith_keras_metrics.insight.state import PARTS, TABLES, Form, State

_COUNTS = ("examples", "unlabelled", "invalid", "revisits", "users")


def summary(
    records: pl.LazyFrame | pl.DataFrame,
    by: By = (),
    window: str | None = None,
    *,
    time: Time = "req_time",
    measures: str | Sequence[str] | None = None,
    interval: float | None = None,
    weighted: bool = True,
    visits: Literal["first", "all"] = "first",
    exact: bool = False,
    minimum_users: int = 0,
) -> pl.DataFrame:
    """Measure each target, and each group and window of time within it.

    `insight.MEASURES` has each measure with its definition, as has the documentation (What each
    number means).

    A measure is null where it is undefined, or if it is not for labels of the target's kind. If a
    target's labels are 0 and 1 and any of its predictions is outside [0, 1], its predictions are
    logits; then only measures that need no probabilities are defined.

    Training and test records are measured together unless `records` is filtered, or grouped, by
    `mode`.

    Args:
        records: Records, as `open_run` returns them, or rows of `long_form`, filtered if you like.
            Only the columns that are needed are read into memory.
        by: The groups: the name of a column or of an extra field, a Polars expression over the
            columns of `long_form`, or several of these.
        window: The length of a window of time, such as `"1h"` or `"1d"`. The result then has a
            column `window` with its start, in UTC.
        time: The column whose time decides the window: `"req_time"` or `"train_time"`.
        measures: The names of the measures. Default: all but `gauc`, `miscalibration` and
            `discrimination`, which cost more than all others; delays only if the records have both
            times.
        interval: The probability of an interval, such as 0.95, to add `NAME_low` and `NAME_high`
            for each measure NAME; needs SciPy, which the extra `insight` installs. Intervals are by
            user: see `finish`.
        weighted: If True, a record weighs 1 / `sample_rate`, which undoes the down-sampling of
            examples; if False, each weighs 1.
        visits: `"first"` measures one record per example: that of the first epoch, or of the last
            attempt if several attempts trained on it. `"all"` measures every record. If an epoch
            is part of a stream (`steps_per_epoch`), later epochs visit other examples: record an
            `example_id`, or pass `"all"`. To compare epochs, pass `by="epoch"` with `"all"`.
        exact: If False, predictions that differ by less than 1 in 256 of their size (or of their
            distance from 1) may count as equal; `auc_error` is then the largest error of `auc`. If
            True, only equal predictions do, and all percentiles are exact, at some cost.
        minimum_users: The values of a group with fewer users are null; and if that is one group of
            a target only, so are those of the smallest other one, so that nobody finds them by
            subtraction.

    Returns:
        A row per target, in the order of the records' fields, and per group and window, in
        ascending order: `target`; the groups' columns; `window`; the counts `examples` (valid
        records), `unlabelled`, `invalid`, `revisits` and `users` (distinct uids of the examples),
        which are never weighted; and the measures above.

    Raises:
        ValueError: If `records` does not hold records, or not what an argument needs; or if an
            argument is invalid.
        ModuleNotFoundError: If SciPy is needed, and is not installed.

    Example:
    Of the pairs of a positive and a negative, (.35, .1), (.8, .1) and (.8, .4) are in order and
    (.35, .4) is not: AUC is 3/4. The predictions add up to 1.65 and the labels to 2.

    >>> records = pl.DataFrame({
    ...     "uid": [1, 1, 2, 3],
    ...     "label": [{"ctr": y} for y in (0.0, 0.0, 1.0, 1.0)],
    ...     "predict": [{"ctr": p} for p in (0.1, 0.4, 0.35, 0.8)],
    ... })
    >>> result = summary(records)
    >>> result.select("target", "examples", "users", "positive_rate", "auc").rows()
    [('ctr', 4, 3, 0.5, 0.75)]
    >>> round(result["calibration"].item(), 6)
    0.825
    """
    chosen = chosen_measures(measures, records.collect_schema().names())
    if interval is not None and not 0 < interval < 1:
        raise ValueError(f"`interval` must be between 0 and 1. Received: interval={interval!r}")
    ends = [f"{name}{end}" for name in MEASURES for end in ("_low", "_high")]
    taken = ["target", WINDOW, *_COUNTS, *MEASURES, *ends]
    rows = rows_of(records.lazy(), by, window, time, weighted, visits, taken)
    needs = {"sums", "users", *(measure.needs for measure in chosen)}
    tables = tuple(name for name in TABLES if name in needs)
    form = Form(rows.groups, weighted, exact, 1, tables)
    if interval is None:
        result = finish(State.of_rows(rows.frames, rows.keys, form), chosen)
    else:
        frames = list(rows.frames) if exact else rows.frames
        of_parts = form._replace(exact=False, parts=PARTS)
        result = finish(
            State.of_rows(frames, rows.keys, of_parts),
            chosen,
            interval,
            State.of_rows(frames, rows.keys, form) if exact else None,
        )
    names = dict(zip(rows.keys, rows.groups, strict=True))
    result = result.rename(names)
    return _suppressed(result, rows.groups, minimum_users) if minimum_users else result


def chosen_measures(names: str | Sequence[str] | None, columns: Sequence[str]) -> list[Measure]:
    """Return the measures of these names; None for those that the columns allow."""
    if names is None:
        timed = {"req_time", "train_time"} <= {*columns}
        return [
            measure
            for measure in MEASURES.values()
            if not measure.on_demand and (timed or measure.needs != "delays")
        ]
    listed = [names] if isinstance(names, str) else list(names)
    for name in listed:
        if name not in MEASURES:
            raise ValueError(
                f"`measures` must be among {list(MEASURES)}. Received: measures={name!r}"
            )
    return [MEASURES[name] for name in dict.fromkeys(listed)]


def _suppressed(result: pl.DataFrame, groups: Sequence[str], minimum_users: int) -> pl.DataFrame:
    """Return the result without the values of groups of few users."""
    users = pl.col("users")
    few = (users < minimum_users) & (users > 0)
    others = pl.when(~few & (users > 0)).then(users.rank("ordinal")).min().over("target")
    smallest = users.rank("ordinal") == others
    hidden = few | (smallest & (few.sum().over("target") == 1)) if groups else few
    values = [name for name in result.columns if name not in ("target", *groups)]
    return result.with_columns(pl.when(~hidden).then(pl.col(values)))
