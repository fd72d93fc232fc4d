"""Measures of a model per target and slice: counts, calibration, AUC, log loss, errors.

Four rules hold for every measure:

- Measures use first visits. A record of an example that the model had already learned from is
  counted under `revisits` and excluded from everything else (see `visits`).
- A record is *invalid* if its prediction is null, NaN or infinite, its label is infinite, or its
  weight is not a positive number. Any other record whose label is null or NaN is *unlabelled*.
  Both are counted as such and excluded from everything else.
- An undefined measure is null: AUC and normalised entropy if all labels are equal, calibration if
  there is no positive. It is never 0 or 0.5, which are valid results.
- AUC, log loss, normalised entropy and the positive rate are for labels 0 and 1. They are null for
  a group with any other label. Mean prediction and calibration serve regression too. `mae`, `rmse`
  and `bias` are for targets with labels other than 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import polars as pl

from monolith_keras_metrics.insight import long
from monolith_keras_metrics.insight.ranking import auc_expression, is_binary
from monolith_keras_metrics.insight.visits import FIRST, first_visits
from monolith_keras_metrics.records.schema import VALUES

By: TypeAlias = "str | pl.Expr | Sequence[str | pl.Expr]"

_COUNTS = ("examples", "unlabelled", "invalid", "revisits", "users")
# A saturated sigmoid gives exactly 0 or 1. One such wrong prediction would make the log loss
# infinite. This is float32's machine epsilon, the limit that scikit-learn uses for float32.
_EPSILON = 2.0**-23
_ROWS_AT_ONCE = 1_000_000  # of the targets that are measured together; bounds memory


def summary(
    records: pl.LazyFrame | pl.DataFrame,
    by: By = (),
    weighted: bool = True,
    visits: Literal["first", "all"] = "first",
) -> pl.DataFrame:
    """Measure each target, and each group within it.

    With weights w, labels y and predictions p, and sums over the valid records of a group:

    - `positive_rate` is sum(w y) / sum(w); `mean_prediction` is sum(w p) / sum(w);
    - `calibration` is sum(w p) / sum(w y): above 1 the model over-predicts;
    - `auc`: see `auc_expression`;
    - `log_loss` is -sum(w (y ln p + (1 - y) ln(1 - p))) / sum(w), with p clipped to
      [2^-23, 1 - 2^-23];
    - `normalised_entropy` is `log_loss` divided by that of always predicting the positive rate r,
      -(r ln r + (1 - r) ln(1 - r)). Below 1, the model is better than that constant.
      (He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook", section 3.)
    - `mae` is sum(w |p - y|) / sum(w), `rmse` the root of sum(w (p - y)^2) / sum(w), `bias`
      sum(w (p - y)) / sum(w): above 0 the model over-predicts. All three are null for targets
      whose labels are all 0 or 1.

    If a target's labels are 0 and 1 and any of its predictions is outside [0, 1], its predictions
    are logits. Then `calibration`, `log_loss` and `normalised_entropy` are null in all of its
    groups.

    Training and test records are measured together unless `records` is filtered, or grouped, by
    `mode`.

    Args:
        records: Records, as `open_run` returns them, or rows of `long_form`, filtered if you like.
            Only the columns that are needed are read into memory.
        by: The groups: the name of a column or of an extra field, a Polars expression over the
            columns of `long_form`, or several of these.
        weighted: If True, a record weighs 1 / `sample_rate`, which undoes the down-sampling of
            examples; if False, each weighs 1.
        visits: `"first"` measures one record per example: that of the first epoch, or of the last
            attempt if several attempts trained on it. `"all"` measures every record. If an epoch
            is part of a stream (`steps_per_epoch`), later epochs visit other examples: record an
            `example_id`, or pass `"all"`. To compare epochs, pass `by="epoch"` with `"all"`.

    Returns:
        A row per target, in the order of the records' fields, and per group, in ascending order:
        `target`; the groups' columns; the counts `examples` (valid records), `unlabelled`,
        `invalid`, `revisits` and `users` (distinct uids of the examples), which are never
        weighted; and the measures above.

    Raises:
        ValueError: If `records` does not hold records; if `by` names a missing column, or has a
            name that the result needs; or if `visits` is invalid.

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
        # What a single group of a target may not show.
        .with_columns(
            pl.col("binary").all().over("target").alias("all_binary"),
            pl.col("probabilities").all().over("target"),
        )
        .with_columns(_measures())
        .sort(order, *keys, nulls_last=True)
        .select(
            "target", *(pl.col(k).alias(n) for k, n in zip(keys, names, strict=True)), *_MEASURES
        )
    )


def _opened(
    records: pl.LazyFrame, by: By, first_only: bool
) -> tuple[list[str], list[pl.Expr], Iterator[pl.DataFrame]]:
    """Return the names and expressions of the groups, and an iterator of each target's rows.

    The rows have the columns that are needed, and `FIRST`, which is True for those to measure.
    """
    schema = records.collect_schema()
    form = None if long.is_long(schema) else long.take_apart(records)
    plain = schema.names() if form is None else list(form.kept)
    if "uid" not in plain:
        raise ValueError(
            "`records` must have a column 'uid', which identifies users. "
            f"Received: columns {schema.names()}"
        )
    names, groups = _groups(plain if form is None else [*plain, *form.names], by)
    extras = [name for name in plain if name not in schema]
    first = first_visits(records, extras) if first_only else pl.lit(True)
    needed = {"uid", *(name for one in (*groups, first) for name in one.meta.root_names())}
    needed |= {"target", *VALUES} if form is None else form.columns_of_values
    source = records if form is None else form.records
    there = source.collect_schema().names()
    frame = source.select(name for name in there if name in needed).collect()
    frame = frame.with_columns(first.alias(FIRST))
    if form is not None:
        return names, groups, long.by_target(form, frame)
    if "sample_rate" not in there:
        frame = frame.with_columns(sample_rate=pl.lit(1.0))
    return names, groups, iter(frame.partition_by("target", maintain_order=True))


def _groups(known: Sequence[str], by: By) -> tuple[list[str], list[pl.Expr]]:
    """Return the names and expressions of the groups."""
    items = [by] if isinstance(by, (str, pl.Expr)) else list(by)
    names, groups = [], []
    for item in items:
        if isinstance(item, str):
            if item not in known:
                raise ValueError(f"`by` must be among {list(known)}. Received: by={item!r}")
            group = pl.col(item)
        elif item.meta.has_multiple_outputs():
            raise ValueError(f"`by` must give one column per expression. Received: {item}")
        else:
            group = item
        name = group.meta.output_name()
        if name in names or name in ("target", *_MEASURES):
            raise ValueError(
                f"`by` must have distinct names that the result does not use. Received: {name!r}. "
                f"Rename it, as in pl.col({name!r}).alias('group')"
            )
        names.append(name)
        groups.append(group)
    return names, groups


def _inputs(weighted: bool) -> list[pl.Expr]:
    """Return the columns of each row to aggregate: counts, label, prediction and weight."""
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
        # Excluded values become null, which sums, counts and AUC ignore.
        pl.when(valid).then("uid").alias("user"),
        pl.when(valid).then(label).alias("y"),
        pl.when(valid).then(prediction).alias("p"),
        pl.when(valid).then(weight).alias("w"),
    ]


def _sums() -> list[pl.Expr]:
    """Return the sums from which a group's measures are computed."""
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


def _measures() -> list[pl.Expr]:
    """Return the measures, computed from a group's sums, in the order of the result."""
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
        pl.col("auc"),
        log_loss.alias("log_loss"),
        pl.when(rate.is_between(0, 1, closed="none"))
        .then(log_loss / entropy)
        .alias("normalised_entropy"),
        pl.when(regression).then(pl.col("distances") / weights).alias("mae"),
        pl.when(regression).then((pl.col("squares") / weights).sqrt()).alias("rmse"),
        pl.when(regression).then(pl.col("errors") / weights).alias("bias"),
    ]


_MEASURES = (*_COUNTS, *(measure.meta.output_name() for measure in _measures()))
