"""`explain`: did the traffic move, or did the model change?"""

from __future__ import annotations

import polars as pl

from monolith_keras_metrics.insight import steps
from monolith_keras_metrics.insight.asks import of_plan
from monolith_keras_metrics.insight.measures import KINDS, MEASURES, Measure
from monolith_keras_metrics.insight.rows import By, Visits, lazy, plan_of
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.tables import Form

EXPLAINED = [name for name, measure in MEASURES.items() if isinstance(measure.value, tuple)]
_COLUMNS = ("share_before", "share_after", "before", "after", "mix", "model")


def explain(
    before: pl.LazyFrame | pl.DataFrame,
    after: pl.LazyFrame | pl.DataFrame,
    by: By,
    measure: str = "calibration",
    *,
    weighted: bool = True,
    visits: Visits = "first",
) -> pl.DataFrame:
    """Divide the change of a measure among groups, into mix and model.

    A measure that is a quotient of sums, such as calibration Σwp / Σwy, is the mean of its values
    v in the groups, weighted by their shares s of the divisor. Its change is the sum over the
    groups of

    - `mix`, (s' - s) · ((v + v') / 2 - V): traffic moved to groups where the measure is higher or
      lower than overall (V, the mean of the overall values before and after);
    - `model`, (s + s') / 2 · (v' - v): the measure changed within the group.

    These add up to the change exactly. Halves of both sides are used so that neither comes first,
    as in the Shapley value of the two causes. What a group adds that has no value on one side
    (since it has no examples there, or no positives) is mix.

    Args:
        before: Records, as `open_run` returns them, or rows of `long_form`.
        after: Records of another time, or another model.
        by: The groups, as for `summary`.
        measure: `"positive_rate"`, `"mean_prediction"`, `"calibration"`, `"log_loss"`, `"brier"`,
            `"mae"` or `"bias"`.
        weighted: Whether a record weighs 1 / `sample_rate`, as for `summary`.
        visits: Which visits of an example are counted, as for `summary`.

    Returns:
        A row per target and group, those that changed most first: `target`; the groups' columns;
        `share_before`, `share_after`, `before` and `after` (the measure; null without examples),
        `mix` and `model`. Targets for which the measure is not defined on both sides have no rows.

    Raises:
        ValueError: If `before` or `after` does not hold records, or an argument is invalid.

    Example:
    The model is unchanged, but clicks of country B, which it over-predicts, are now most.

    >>> def records(of_a, of_b):
    ...     return pl.DataFrame({
    ...         "uid": range(of_a + of_b), "country": ["A"] * of_a + ["B"] * of_b,
    ...         "label": [{"ctr": 1.0}] * (of_a + of_b),
    ...         "predict": [{"ctr": 0.5}] * of_a + [{"ctr": 0.75}] * of_b,
    ...     })
    >>> result = explain(records(3, 1), records(1, 3), by="country")
    >>> result.select("country", "before", "after", "mix", "model").rows()
    [('A', 0.5, 0.5, 0.0625, 0.0), ('B', 0.75, 0.75, 0.0625, 0.0)]
    """
    if measure not in EXPLAINED:
        raise ValueError(f"`measure` must be among {EXPLAINED}. Received: measure={measure!r}")
    sides = []
    both = (("", before, "before"), ("_after", after, "after"))
    for number, (end, records, name) in enumerate(both, 1):
        steps.begin_part(f"run {number} of 2")
        taken = ("target", *_COLUMNS)
        plan = plan_of(lazy(records, name), by, None, "req_time", weighted, visits, taken)
        if not plan.groups:
            raise ValueError("`by` must name at least one group. Received: none")
        form = Form(plan.groups, weighted, False, 1, ("sums",))
        state = of_plan(plan, form)
        sides.append(_quotients(state, MEASURES[measure], end))
    keys = ["target", *plan.keys]
    joined = sides[0].join(sides[1], on=keys, how="full", coalesce=True, nulls_equal=True)
    joined = joined.with_columns(pl.col(*_sums(""), *_sums("_after")).fill_null(0.0))
    for end in ("", "_after"):
        upper, lower = (pl.col(name) for name in _sums(end))
        joined = joined.with_columns(
            (lower / lower.sum().over("target")).alias(f"share{end}"),
            (upper.sum() / lower.sum()).over("target").alias(f"overall{end}"),
            (upper / lower.sum().over("target")).alias(f"part{end}"),
            pl.when(lower > 0).then(upper / lower).alias(f"value{end}"),
        )
    v, w = pl.col("value"), pl.col("value_after")
    moved = pl.col("share_after") - pl.col("share")
    middle = (pl.col("overall") + pl.col("overall_after")) / 2
    added = pl.col("part_after") - pl.col("part")
    model = ((pl.col("share") + pl.col("share_after")) / 2 * (w - v)).fill_null(0.0)
    result = joined.select(
        *keys,
        share_before="share",
        share_after="share_after",
        before="value",
        after="value_after",
        mix=added - model - moved * middle,
        model=model,
    )
    on_both_sides = pl.all_horizontal(
        pl.col(side).is_not_null().any().over("target") for side in ("before", "after")
    )
    size = (pl.col("mix") + pl.col("model")).abs()
    return (
        result.filter(on_both_sides)
        .sort(_order(state), size, *plan.keys, descending=[False, True, *[False] * len(plan.keys)])
        .rename(dict(zip(plan.keys, plan.groups, strict=True)))
    )


def _sums(end: str) -> list[str]:
    return [f"upper{end}", f"lower{end}"]


def _order(state: State) -> pl.Expr:
    """Return the position of each target."""
    targets = state.targets
    return pl.col("target").replace_strict(targets, range(len(targets)), return_dtype=pl.Int64)


def _quotients(state: State, measure: Measure, end: str) -> pl.DataFrame:
    """Return the sums of which a measure is the quotient, for the targets that it is for."""
    assert isinstance(measure.value, tuple)
    groups = state.groups.with_row_index("group")
    sums = state.tables["sums"].drop("part").join(groups, on="group").drop("group")
    binary, probabilities = (
        (pl.col(name).sum() == 0).over("target") for name in ("other_labels", "outside")
    )
    fits = KINDS[measure.kind](binary, probabilities)
    names = zip(_sums(end), measure.value, strict=True)
    return (
        sums.filter(fits)
        .group_by(state.groups.columns)
        .agg(pl.col(column).sum().alias(name) for name, column in names)
    )
