"""`summary`: the measures of each target, group of records and window of time."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from monolith_keras_metrics.insight.rows import By, Time, Visits
from monolith_keras_metrics.insight.state import check_interval
from monolith_keras_metrics.insight.states import Records, state_of


def summary(
    records: Records,
    by: By = (),
    window: str | None = None,
    *,
    time: Time = "req_time",
    measures: str | Sequence[str] | None = None,
    interval: float | None = None,
    weighted: bool = True,
    visits: Visits = "first",
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
            Only the columns that are needed are read, in portions. Or a run, as `open_run` takes
            it: then states are kept in its folder `.insight/`, and only new files are read the next
            time.
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
        minimum_users: The values of a group with fewer users are null. So are those of further
            groups, the smallest, where one that is hidden would be a total of fewer columns of
            `by` (and `window`) less the groups that are shown.

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
    check_interval(interval)
    state = state_of(
        records,
        by,
        window,
        time=time,
        measures=measures,
        intervals=interval is not None,
        weighted=weighted,
        visits=visits,
        exact=exact,
    )
    return state.finish(measures, interval, minimum_users)
