"""How well a model predicts: counts, calibration, AUC, log loss, errors, per target and slice.

Four rules hold for every measure:

- Measures take first visits: a record of an example that the model had already learned from is
  counted under `revisits` and takes no part in anything else (see `visits`).
- A record whose prediction is null, NaN or infinite, whose label is infinite, or whose weight is no
  positive number is *invalid*; another one whose label is missing, null or NaN, is *unlabelled*.
  They are counted as such and take no part in anything else.
- What is undefined is null: AUC or normalised entropy where all labels are equal, calibration
  where there is no positive. It is never 0 or 0.5, which are answers.
- AUC, log loss, normalised entropy and the rate of positives are for labels 0 and 1. Where a group
  has any other label, they are null. The mean prediction and calibration serve regression too;
  `mae`, `rmse` and `bias` are for targets that have other labels than 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import polars as pl

from monolith_keras_metrics.insight import long
from monolith_keras_metrics.insight.ranking import auc_expression, is_binary
from monolith_keras_metrics.insight.visits import FIRST, FirstVisits
from monolith_keras_metrics.records.schema import VALUES

By: TypeAlias = "str | pl.Expr | Sequence[str | pl.Expr]"

_COUNTS = ("examples", "unlabelled", "invalid", "revisits", "users")
_MEASURES = (
    *_COUNTS,
    "positive_rate",
    "mean_prediction",
    "calibration",
    "auc",
    "log_loss",
    "normalised_entropy",
    "mae",
    "rmse",
    "bias",
)
# A saturated sigmoid gives exactly 0 or 1, and a single wrong one would make the log loss
# infinite. This is float32's machine epsilon, the limit that scikit-learn uses for float32.
_EPSILON = 2.0**-23
_ROWS_AT_ONCE = 1_000_000  # of all targets that are measured together: bounds memory


def summary(
    records: pl.LazyFrame | pl.DataFrame,
    by: By = (),
    weighted: bool = True,
    visits: Literal["first", "all"] = "first",
) -> pl.DataFrame:
    """Measures each target, and each group within it.

    With weights w, labels y and predictions p, sums going over the valid records of a group:

    - `positive_rate` is sum(w y) / sum(w); `mean_prediction` is sum(w p) / sum(w);
    - `calibration` is sum(w p) / sum(w y): above 1 the model promises too much;
    - `auc`: see `auc_expression`;
    - `log_loss` is -sum(w (y ln p + (1 - y) ln(1 - p))) / sum(w), with p kept 2^-23 away from 0
      and 1;
    - `normalised_entropy` is `log_loss` over that of always predicting the positive rate r,
      -(r ln r + (1 - r) ln(1 - r)). Below 1, the model knows more than the average.
      (He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook", section 3.)
    - `mae` is sum(w |p - y|) / sum(w), `rmse` the root of sum(w (p - y)^2) / sum(w), `bias`
      sum(w (p - y)) / sum(w): above 0 the model promises too much. Null for targets whose labels
      are all 0 or 1.

    Where a target's labels are 0 and 1 and any of its predictions is outside [0, 1], its
    predictions are logits: `calibration`, `log_loss` and `normalised_entropy` are null, in groups
    too whose own predictions would not show it.

    Training and test records are measured together unless `records` is filtered, or grouped, by
    `mode`.

    Args:
        records: Records, as `open_run` gives them, or rows of `long_form`, filtered perhaps. They
            are read into memory, without the columns that are not needed.
        by: What to group by: the name of a column or of an extra field, a Polars expression over
            the columns of `long_form`, or several of these.
        weighted: Whether a record weighs 1 / `sample_rate`, which undoes the down-sampling of
            examples; else each weighs 1.
        visits: `"first"`: of an example that was trained on several times, only the first epoch's
            record is measured, and of one that several attempts have trained on, only the last
            attempt's; `"all"`: every record. An epoch that is a part of a stream
            (`steps_per_epoch`) visits other examples: record an `example_id`, which tells, or
            give `"all"`. To see how measures change over epochs, give `by="epoch"` with `"all"`.

    Returns:
        A row for each target, in the order of the records' fields, and group, in ascending order:
        `target`, the groups' columns, the counts `examples` (valid records), `unlabelled`,
        `invalid`, `revisits` and `users` (how many uids the examples have), which are never
        weighted, and the measures above.

    Raises:
        ValueError: If `records` does not hold records, `by` names something that is not there or
            has a name that the result needs, or `visits` is something else.

    Example:
    Of the pairs of a positive and a negative, (.35, .1), (.8, .1) and (.8, .4) are in order and
    (.35, .4) is not: AUC is 3/4. Predictions sum up to 1.65 and labels to 2.

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
    if visits not in ("first", "all"):
        raise ValueError(f"`visits` must be 'first' or 'all'. Received: visits={visits!r}")
    names, groups, frames = _opened(records.lazy(), by, visits == "first")
    keys = [f"by.{i}" for i in range(len(groups))]
    columns = [
        *(group.alias(key) for key, group in zip(keys, groups, strict=True)),
        *_inputs(weighted),
    ]
    results: list[pl.DataFrame] = []
    waiting: list[pl.DataFrame] = []
    targets: list[str] = []

    def measure() -> None:
        rows = pl.concat(waiting).sort("p")
        results.append(rows.group_by("target", *keys).agg(_sums()))
        waiting.clear()

    for rows in frames:
        waiting.append(rows.select("target", *columns))
        targets += waiting[-1].get_column("target").head(1).to_list()
        if sum(frame.height for frame in waiting) >= _ROWS_AT_ONCE:
            measure()
    if waiting or not results:
        measure()
    order = pl.col("target").replace_strict(targets, range(len(targets)), return_dtype=pl.Int64)
    return (
        pl.concat(results)
        .with_columns(_of_targets())
        .with_columns(_measures())
        .sort(order, *keys, nulls_last=True)
        .select(
            "target", *(pl.col(k).alias(n) for k, n in zip(keys, names, strict=True)), *_MEASURES
        )
    )


def _opened(
    records: pl.LazyFrame, by: By, first_only: bool
) -> tuple[list[str], list[pl.Expr], Iterator[pl.DataFrame]]:
    """Return names and expressions of the groups, and the rows of each target, one after another.

    The rows have the columns that are needed, and `FIRST`: True if they are to be measured.
    """
    schema = records.collect_schema()
    form = None if long.is_long(schema) else long.take_apart(records)
    plain = schema.names() if form is None else list(form.kept)
    if "uid" not in plain:
        raise ValueError(
            "`records` must have a column 'uid', which tells users. "
            f"Received: columns {schema.names()}"
        )
    names, groups = _groups(plain if form is None else [*plain, *form.names], by)
    extras = [name for name in plain if name not in schema]
    first = FirstVisits.of(records, extras) if first_only else None
    needed = {"uid", *(root for group in groups for root in group.meta.root_names())}
    needed |= {"target", *VALUES} if form is None else form.columns_of_values
    needed |= set(first.columns if first else ())
    source = records if form is None else form.records
    there = source.collect_schema().names()
    frame = source.select(name for name in there if name in needed).collect()
    frame = frame.with_columns((first.expression if first else pl.lit(True)).alias(FIRST))
    if form is not None:
        return names, groups, long.by_target(form, frame)
    if "sample_rate" not in there:
        frame = frame.with_columns(sample_rate=pl.lit(1.0))
    return names, groups, iter(frame.partition_by("target", maintain_order=True))


def _groups(known: Sequence[str], by: By) -> tuple[list[str], list[pl.Expr]]:
    """Names and expressions of what to group by."""
    items = [by] if isinstance(by, (str, pl.Expr)) else list(by)
    names, groups = [], []
    for item in items:
        if isinstance(item, str):
            if item not in known:
                raise ValueError(f"`by` must be among {list(known)}. Received: by={item!r}")
            group = pl.col(item)
        elif item.meta.has_multiple_outputs():
            raise ValueError(f"`by` must be expressions of one column each. Received: {item}")
        else:
            group = item
        name = group.meta.output_name()
        if name in names or name in ("target", *_MEASURES):
            raise ValueError(
                f"`by` must have names of its own; {name!r} is taken. Rename it, as in "
                f"pl.col({name!r}).alias('group')"
            )
        names.append(name)
        groups.append(group)
    return names, groups


def _inputs(weighted: bool) -> list[pl.Expr]:
    """What becomes of each row: a count, or the label, prediction and weight to measure."""
    label, prediction = (pl.col(name).cast(pl.Float64) for name in ("label", "predict"))
    weight = 1 / pl.col("sample_rate").cast(pl.Float64) if weighted else pl.lit(1.0)
    sound = (
        prediction.is_finite()
        & weight.is_finite()
        & (weight > 0)
        & ~label.is_infinite().fill_null(False)
    ).fill_null(False)
    labelled = label.is_finite().fill_null(False)
    valid = pl.col(FIRST) & sound & labelled
    return [
        valid.alias("valid"),
        (pl.col(FIRST) & sound & ~labelled).alias("unlabelled"),
        (pl.col(FIRST) & ~sound).alias("invalid"),
        (~pl.col(FIRST)).alias("revisits"),
        # What is not measured becomes null, which sums, counts and AUC pass over.
        pl.when(valid).then("uid").alias("user"),
        pl.when(valid).then(label).alias("y"),
        pl.when(valid).then(prediction).alias("p"),
        pl.when(valid).then(weight).alias("w"),
    ]


def _sums() -> list[pl.Expr]:
    """What a group's measures are made from."""
    y, p, w = pl.col("y"), pl.col("p"), pl.col("w")
    near = p.clip(_EPSILON, 1 - _EPSILON)
    loss = -(y * near.log() + (1 - y) * (1 - near).log())
    return [
        pl.col("valid").sum().cast(pl.Int64).alias("examples"),
        pl.col("unlabelled", "invalid", "revisits").sum().cast(pl.Int64),
        pl.col("user").drop_nulls().n_unique().cast(pl.Int64).alias("users"),
        w.sum().alias("weights"),
        (w * y).sum().alias("labels"),
        (w * p).sum().alias("predictions"),
        (w * loss).sum().alias("losses"),
        (w * (p - y)).sum().alias("errors"),
        (w * (p - y).abs()).sum().alias("distances"),
        (w * (p - y) ** 2).sum().alias("squares"),
        is_binary("y").alias("binary"),
        p.is_between(0, 1).all().alias("probabilities"),
        auc_expression("y", "p", "w").alias("auc"),
    ]


def _of_targets() -> list[pl.Expr]:
    """What all groups of a target have in common: one group may not show it."""
    return [
        pl.col("binary").all().over("target").alias("all_binary"),
        pl.col("probabilities").all().over("target"),
    ]


def _measures() -> list[pl.Expr]:
    """The measures, from a group's sums."""
    weights, labels, predictions = pl.col("weights"), pl.col("labels"), pl.col("predictions")
    some = weights > 0
    regression = some & ~pl.col("all_binary")
    logits = pl.col("all_binary") & ~pl.col("probabilities")
    rate = labels / weights
    log_loss = pl.when(some, "binary", "probabilities").then(pl.col("losses") / weights)
    entropy = -(rate * rate.log() + (1 - rate) * (1 - rate).log())
    return [
        pl.when(some, "binary").then(rate).alias("positive_rate"),
        pl.when(some).then(predictions / weights).alias("mean_prediction"),
        pl.when(labels > 0, ~logits).then(predictions / labels).alias("calibration"),
        log_loss.alias("log_loss"),
        pl.when(rate.is_between(0, 1, closed="none"))
        .then(log_loss / entropy)
        .alias("normalised_entropy"),
        pl.when(regression).then(pl.col("distances") / weights).alias("mae"),
        pl.when(regression).then((pl.col("squares") / weights).sqrt()).alias("rmse"),
        pl.when(regression).then(pl.col("errors") / weights).alias("bias"),
    ]
