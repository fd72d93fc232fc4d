"""`slices`: where is the model wrong?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from absl import logging

from monolith_keras_metrics.insight import long, steps
from monolith_keras_metrics.insight.finish import finish
from monolith_keras_metrics.insight.measures import MEASURES, Measure
from monolith_keras_metrics.insight.portions import rows_of
from monolith_keras_metrics.insight.rows import Visits, lazy, plan_of
from monolith_keras_metrics.insight.slice_fields import Field, chosen_fields, field_of
from monolith_keras_metrics.insight.slice_search import Found, Search
from monolith_keras_metrics.insight.slice_sums import Errors
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.tables import PARTS, Form

_EVERYTHING = ("everything", "true")
_SHOWN = [
    MEASURES["mean_prediction"],
    Measure("mean_label", "Σwy / Σw", ("labels", "weights")),
    MEASURES["calibration"],
]
_NUMBER = "by.number"
_COLUMNS = {
    "target": pl.String,
    "slice": pl.String,
    "where": pl.String,
    "examples": pl.Int64,
    "users": pl.Int64,
    "mean_prediction": pl.Float64,
    "mean_label": pl.Float64,
    "calibration": pl.Float64,
    "calibration_low": pl.Float64,
    "calibration_high": pl.Float64,
    "impact": pl.Float64,
    "share": pl.Float64,
    "e_value": pl.Float64,
}


def slices(
    records: pl.LazyFrame | pl.DataFrame,
    fields: str | Sequence[str] | None = None,
    depth: int = 2,
    minimum_examples: int = 200,
    false_discovery_rate: float = 0.05,
    *,
    most: int = 20,
    weighted: bool = True,
    visits: Visits = "first",
) -> pl.DataFrame:
    """Find the slices of records for which the model predicts too much, or too little.

    Every value of the fields, and every pair of values of two fields, is a slice. Of those whose
    predictions and labels differ by more than chance, the smallest that explain it are returned:
    if one country is wrong, it is that country, and not also its devices and hours. If nothing is
    wrong, the result is empty, but for `false_discovery_rate` of the cases at most.

    Errors of the same user are not independent, so the evidence is by user: see `slice_sums`.

    If the target as a whole is wrong, its row comes first: its slice is `"everything"`, and further
    slices are those that differ from the whole.

    Args:
        records: Records, as `open_run` returns them, or rows of `long_form`, filtered if you like.
        fields: The names of extra fields, or of columns. Default: all extra fields, and columns
            that you have added. Texts, booleans, and numbers with up to 20 different values are
            taken by value, and other numbers by deciles. Cast a number that is a name to text.
            Null is a value.
        depth: 1 for single values, 2 for pairs, too.
        minimum_examples: The smallest number of examples of a slice.
        false_discovery_rate: Of the slices that are found, the largest share that is right, on
            average. It is divided among the targets.
        most: The largest number of slices of a target, besides `"everything"`. Those with the
            clearest evidence are found first. Each takes about as long as the first.
        weighted: Whether a record weighs 1 / `sample_rate`, as for `summary`.
        visits: Which visits of an example are counted, as for `summary`.

    Returns:
        A row per target and slice, by falling `impact`; no rows if nothing is wrong: `target`;
        `slice`, such as `"country=DE, device=ios"`; `where`, the same as an SQL condition
        (`long_form(records).filter(pl.sql_expr(where))` has the slice's records); and of these
        records, as `summary` gives them, `examples` and `users`, never weighted; `mean_prediction`;
        `mean_label`, which is the positive rate if labels are 0 and 1; `calibration`, with its
        interval of 95 %, `calibration_low` and `calibration_high`; `impact`, |Σw(p - y)|, by how
        many labels the predictions are wrong; `share`, the part of the target's excess that the
        slice carries; and `e_value`, the evidence.

        For `share`, each example belongs to one of the slices found that have it, to a pair first,
        or to the rest. The excess is the sum of |Σw(p - y)| over these, so what is too much in one
        slice does not cancel what is too little in another.

        If a slice was right, its `e_value` would be 1 or less on average, and reach 1,000 at most
        once in 1,000 times. If the row "everything" is there, the evidence of others is that they
        differ from the whole.

        Targets with labels 0 and 1 and predictions outside [0, 1], which are logits, are not tried;
        a warning is logged.

    Raises:
        ValueError: If `records` does not hold records, or has no field to slice by; or if an
            argument is invalid.
        ModuleNotFoundError: If SciPy, which intervals need, is not installed.

    Example:
    Both countries have 1,000 users. Every second one clicks, and so the model says, but for
    country B it says 0.75.

    >>> records = pl.DataFrame({
    ...     "uid": range(2000),
    ...     "country": ["A"] * 1000 + ["B"] * 1000,
    ...     "label": [{"ctr": float(user % 2)} for user in range(2000)],
    ...     "predict": [{"ctr": 0.5}] * 1000 + [{"ctr": 0.75}] * 1000,
    ... })
    >>> slices(records).select("slice", "examples", "calibration", "impact", "share").rows()
    [('country=B', 1000, 1.5, 250.0, 1.0)]
    """
    if isinstance(depth, bool) or depth not in (1, 2):
        raise ValueError(
            f"`depth` must be 1 (single values) or 2 (pairs, too). Received: depth={depth!r}"
        )
    if minimum_examples < 1:
        raise ValueError(
            "`minimum_examples` must be at least 1. "
            f"Received: minimum_examples={minimum_examples!r}"
        )
    if most < 1:
        raise ValueError(f"`most` must be at least 1. Received: most={most!r}")
    if not 0 < false_discovery_rate < 1:
        raise ValueError(
            "`false_discovery_rate` must be between 0 and 1. "
            f"Received: false_discovery_rate={false_discovery_rate!r}"
        )
    source = lazy(records)
    names = chosen_fields(source, fields)
    targets = max(1, _number_of_targets(source))
    rate = false_discovery_rate / targets
    plan = plan_of(source, names, None, "req_time", weighted, visits, ())
    results = [pl.DataFrame(schema=_COLUMNS)]
    for number, frame in enumerate(rows_of(plan), 1):
        steps.begin_part(f"target {number} of {targets}")
        valid = frame.filter("valid").sort("user")
        errors = Errors.of_rows(valid)
        if errors is None:
            target = valid.get_column("target")[0]
            logging.warning("slices: the predictions of %r are logits, and are not tried", target)
            continue
        fields_of_target = [
            field_of(name, valid.get_column(key), minimum_examples)
            for name, key in zip(names, plan.keys, strict=True)
        ]
        found = Search(errors, fields_of_target, depth, minimum_examples, rate, most).run()
        if found:
            results.append(_table(valid, errors, fields_of_target, found))
    return pl.concat(results)


def _number_of_targets(records: pl.LazyFrame) -> int:
    if not long.is_long(records.collect_schema()):
        return len(long.take_apart(records).values)
    return int(records.select(pl.col("target").n_unique()).collect().item())


def _table(
    rows: pl.DataFrame, errors: Errors, fields: Sequence[Field], found: Sequence[Found]
) -> pl.DataFrame:
    """Return the rows of the result for a target."""
    everything = rows.with_columns(pl.lit(-1).alias(_NUMBER))  # tells which labels there are
    of_slices = [
        rows.filter(pl.Series(one.records)).with_columns(pl.lit(number).alias(_NUMBER))
        for number, one in enumerate(found)
    ]
    form = Form(("number",), True, False, PARTS, ("sums", "users"))
    state = State.of_rows([everything, *of_slices], [_NUMBER], form)
    measured = finish(state, _SHOWN, interval=0.95).filter(pl.col(_NUMBER) >= 0)
    excesses = np.array([one.excess for one in found])
    is_whole = np.array([not one.slice.fields for one in found])
    rest = errors.errors.sum() - excesses.sum()  # 0 if the whole was found
    total = np.abs(excesses).sum() + abs(rest)
    texts = [_words(one, fields) for one in found]
    table = measured.with_columns(
        pl.Series("slice", [text for text, _ in texts]),
        pl.Series("where", [where for _, where in texts]),
        pl.Series("impact", [abs(float(errors.errors[one.records].sum())) for one in found]),
        pl.Series("share", np.abs(excesses) / total),
        pl.Series("e_value", np.exp(np.minimum([one.log_e for one in found], 700.0))),
        pl.Series("whole", is_whole),
    )
    return table.sort("whole", "impact", descending=True).select([*_COLUMNS])


def _words(found: Found, fields: Sequence[Field]) -> tuple[str, str]:
    """Return a slice as text and as SQL."""
    if not found.slice.fields:
        return _EVERYTHING
    pairs = [(fields[at], value) for at, value in zip(*found.slice, strict=True)]
    return (
        ", ".join(field.texts[value] for field, value in pairs),
        " AND ".join(field.conditions[value] for field, value in pairs),
    )
