"""How well a model predicts: counts, calibration, AUC, log loss, per target and per slice.

Three rules hold for every measure:

- A record whose label or prediction is null, NaN or infinite, or whose weight is no positive
  number, is *invalid*: it is counted as such and takes no part in anything else.
- What is undefined is null: AUC or normalised entropy where all labels are equal, calibration
  where there is no positive. It is never 0 or 0.5, which are answers.
- AUC, log loss, normalised entropy and the rate of positives are for labels 0 and 1. Where a group
  has any other label, they are null. The mean prediction and calibration serve regression too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight import dataset

By: TypeAlias = "str | pl.Expr | Sequence[str | pl.Expr]"

_MEASURES = (
    "examples",
    "invalid",
    "users",
    "positive_rate",
    "mean_prediction",
    "calibration",
    "auc",
    "log_loss",
    "normalised_entropy",
)
# A saturated sigmoid gives exactly 0 or 1, and a single wrong one would make the log loss
# infinite. This is float32's machine epsilon, the limit that scikit-learn uses for float32.
_EPSILON = 2.0**-23


def summary(frame: pl.LazyFrame | pl.DataFrame, by: By = (), weighted: bool = True) -> pl.DataFrame:
    """Measures each target, and each group within it.

    With weights w, labels y and predictions p, sums going over the valid records of a group:

    - `positive_rate` is sum(w y) / sum(w); `mean_prediction` is sum(w p) / sum(w);
    - `calibration` is sum(w p) / sum(w y): above 1 the model promises too much;
    - `auc`: see `auc_expression`;
    - `log_loss` is -sum(w (y ln p + (1 - y) ln(1 - p))) / sum(w), with p kept 2^-23 away from 0
      and 1; null where a prediction is outside [0, 1], which is a logit then;
    - `normalised_entropy` is `log_loss` over that of always predicting the positive rate r,
      -(r ln r + (1 - r) ln(1 - r)). Below 1, the model knows more than the average.
      (He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook", section 3.)

    Training and test records are measured together unless `frame` is filtered, or grouped, by
    `mode`.

    Args:
        frame: Records, as `open_run` gives them, filtered perhaps.
        by: What to group by: the name of a column or of an extra field, a Polars expression over
            the columns of `long_form`, or several of these.
        weighted: Whether a record weighs 1 / `sample_rate`, which undoes the down-sampling of
            examples; else each weighs 1.

    Returns:
        A row for each target, in the order of the records' fields, and group, in ascending order:
        `target`, the groups' columns, `examples` (valid records) and `invalid` ones, `users` (how
        many uids the examples have), which are counts and never weighted, and the measures above.

    Raises:
        ValueError: If `frame` does not hold records, or `by` names something that is not there or
            has a name that the result needs.

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
    names, groups = _groups(frame, by)
    keys = [f"by.{i}" for i in range(len(groups))]
    label, prediction = (pl.col(name).cast(pl.Float64) for name in ("label", "predict"))
    weight = 1 / pl.col("sample_rate").cast(pl.Float64) if weighted else pl.lit(1.0)
    valid = pl.all_horizontal(v.is_finite() for v in (label, prediction, weight)) & (weight > 0)
    results = []
    for rows in dataset.by_target(frame):
        columns = rows.select(
            "target",
            *(group.alias(key) for key, group in zip(keys, groups, strict=True)),
            # What is invalid becomes null, which sums, counts and AUC pass over.
            valid=valid.fill_null(False),
            user=pl.when(valid).then("uid"),
            y=pl.when(valid).then(label),
            p=pl.when(valid).then(prediction),
            w=pl.when(valid).then(weight),
        )
        sums = columns.sort("p").group_by("target", *keys).agg(_sums())
        results.append(sums.sort(keys, nulls_last=True) if keys else sums)
    return (
        pl.concat(results)
        .with_columns(_measures())
        .select(
            "target", *(pl.col(k).alias(n) for k, n in zip(keys, names, strict=True)), *_MEASURES
        )
        .collect()
    )


def auc(
    labels: npt.ArrayLike, predictions: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float | None:
    """The area under the ROC curve of arrays; `auc_expression` says what that is.

    Args:
        labels: 0 or 1, shape `(n,)`.
        predictions: Scores of any range, shape `(n,)`.
        weights: Not negative, shape `(n,)`; None means that each is 1.

    Returns:
        A number in [0, 1]; None where there is no positive or no negative, or where a label is
        neither 0 nor 1. Pairs of which a label or prediction is not finite are left out.

    Raises:
        ValueError: If shapes differ, or a weight is negative or not finite.

    Example:
    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    >>> auc([0, 1, 1], [0.5, 0.5, 0.9])  # one pair is a tie, which counts half
    0.75
    >>> auc([1, 1], [0.2, 0.3]) is None
    True
    """
    y, p = (np.asarray(values, np.float64) for values in (labels, predictions))
    w = np.ones(y.shape) if weights is None else np.asarray(weights, np.float64)
    if y.ndim != 1 or not y.shape == p.shape == w.shape:
        raise ValueError(
            "`labels`, `predictions` and `weights` must have one shape (n,). "
            f"Received: {y.shape}, {p.shape} and {w.shape}"
        )
    if not (np.isfinite(w) & (w >= 0)).all():
        raise ValueError("`weights` must be finite and not negative")
    valid = np.isfinite(y) & np.isfinite(p)
    columns = pl.DataFrame({"y": y[valid], "p": p[valid], "w": w[valid]})
    area: float | None = columns.sort("p").select(auc_expression("y", "p", "w")).item()
    return area


def auc_expression(label: str, prediction: str, weight: str) -> pl.Expr:
    """The area under the ROC curve, as an aggregation of a frame that is sorted by prediction.

    Sorting a frame once costs a tenth of sorting within its groups (measured); a group keeps the
    order of its rows.

    It is the weighted share of the pairs of a positive and a negative that are in order, a tie
    counting half (Mann and Whitney's U): the sum of w_i w_j ([p_i > p_j] + [p_i = p_j] / 2) over
    positives i and negatives j, divided by the sum of w_i w_j.

    Args:
        label: The column of labels, 0 or 1. Null where the record is to be left out, as in
            the two other columns.
        prediction: The column of scores, ascending; no NaN.
        weight: The column of weights.

    Returns:
        An expression of one Float64 value a group; null where there is no positive or no
        negative weight, or where a label is neither 0 nor 1.

    Example:
    Positives weigh 3 together, negatives 1. Out of 3, the pairs in order are worth 2.

    >>> frame = pl.DataFrame({"y": [1, 0, 1], "p": [0.1, 0.5, 0.9], "w": [1.0, 1.0, 2.0]})
    >>> round(frame.select(auc_expression("y", "p", "w")).item(), 6)
    0.666667
    """
    y, p, w = pl.col(label), pl.col(prediction), pl.col(weight)
    positive, negative = w * y, w * (1 - y)
    seen = negative.cum_sum()
    # Where a run of equal predictions begins and ends: negatives below it, and up to its end.
    # Their mean is what a positive in the run has below itself, ties counting half.
    # At the ends of a group the neighbour is null.
    begins, ends = ((p != p.shift(by)).fill_null(True) for by in (1, -1))
    below = pl.when(begins).then(seen - negative).forward_fill()
    up_to = pl.when(ends).then(seen).backward_fill()
    area = (positive * (below + up_to)).sum() / 2
    pairs = positive.sum() * negative.sum()
    # Sums of products of tiny numbers may round to 1 and a bit.
    return pl.when(pairs > 0, _binary(label)).then((area / pairs).clip(0, 1))


def _groups(frame: pl.LazyFrame | pl.DataFrame, by: By) -> tuple[list[str], list[pl.Expr]]:
    """Names and expressions of what to group by."""
    items = [by] if isinstance(by, (str, pl.Expr)) else list(by)
    known = dataset.long_form(frame).collect_schema().names()
    names, groups = [], []
    for item in items:
        if isinstance(item, str):
            if item not in known:
                raise ValueError(f"`by` must be among {known}. Received: by={item!r}")
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


def _binary(label: str) -> pl.Expr:
    return ((pl.col(label) == 0) | (pl.col(label) == 1)).all()


def _sums() -> list[pl.Expr]:
    """What a group's measures are made from."""
    y, p, w = pl.col("y"), pl.col("p"), pl.col("w")
    near = p.clip(_EPSILON, 1 - _EPSILON)
    loss = -(y * near.log() + (1 - y) * (1 - near).log())
    return [
        pl.col("valid").sum().cast(pl.Int64).alias("examples"),
        (~pl.col("valid")).sum().cast(pl.Int64).alias("invalid"),
        pl.col("user").drop_nulls().n_unique().cast(pl.Int64).alias("users"),
        w.sum().alias("weights"),
        (w * y).sum().alias("labels"),
        (w * p).sum().alias("predictions"),
        (w * loss).sum().alias("losses"),
        _binary("y").alias("binary"),
        p.is_between(0, 1).all().alias("probabilities"),
        auc_expression("y", "p", "w").alias("auc"),
    ]


def _measures() -> list[pl.Expr]:
    """The measures, from a group's sums."""
    weights, labels, predictions = pl.col("weights"), pl.col("labels"), pl.col("predictions")
    some = weights > 0
    rate = labels / weights
    log_loss = pl.when(some, "binary", "probabilities").then(pl.col("losses") / weights)
    entropy = -(rate * rate.log() + (1 - rate) * (1 - rate).log())
    return [
        pl.when(some, "binary").then(rate).alias("positive_rate"),
        pl.when(some).then(predictions / weights).alias("mean_prediction"),
        pl.when(labels > 0).then(predictions / labels).alias("calibration"),
        log_loss.alias("log_loss"),
        pl.when(rate.is_between(0, 1, closed="none"))
        .then(log_loss / entropy)
        .alias("normalised_entropy"),
    ]
