"""From the evidence about rules to verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight.curves import Array
from monolith_keras_metrics.insight.evidence import (
    Estimates,
    errors_needed,
    log_either,
    log_evidence,
)
from monolith_keras_metrics.insight.finish import SCALES
from monolith_keras_metrics.insight.layers import Layers
from monolith_keras_metrics.insight.measures import Measure, Scale
from monolith_keras_metrics.insight.rules import Rule

VERDICTS = ("broken", "undecided", "holds")  # worst first
# The columns of the result, besides the groups.
COLUMNS = (
    *("rule", "target", "examples", "value", "low", "high"),
    *("evidence", "asked", "verdict", "reason"),
)
# With less, estimates are too far from normal, and their errors too badly known.
_PARTS_NEEDED = 20
EVENTS_NEEDED = 20


class Bound(NamedTuple):
    """One bound of a rule.

    Attributes:
        estimates: Estimates of what is compared with the bound.
        at: The bound, on the scale of the estimates.
        side: 1 if the rule asks for values above the bound, -1 if for values below it.
    """

    estimates: Estimates
    at: float
    side: int


class Question(NamedTuple):
    """A rule, and what is known about it.

    Attributes:
        rule: The rule.
        value: The value of each group.
        measure: The measure that the rule is about; None for counts.
        bounds: Each of its bounds; none if the value is known exactly.
        scale: Where the errors of the value are symmetric; None if it has no interval.
    """

    rule: Rule
    value: Array
    measure: Measure | None = None
    bounds: tuple[Bound, ...] = ()
    scale: Scale | None = None


def verdicts(
    questions: Sequence[Question],
    layers: Layers,
    names: Mapping[str, str],
    moves: int | None,
    false_alarms: float,
) -> pl.DataFrame:
    """Return a row per rule, target and group, as `check` does.

    Args:
        questions: The questions.
        layers: The groups, with `effective_examples` and `positive_rate`.
        names: The names of the groups' columns in the result, by those in `layers`.
        moves: As for `log_evidence`.
        false_alarms: The largest permitted probability of a false alarm in any row.
    """
    groups = layers.groups.select("target", *names, "examples")
    number = groups.height * sum(bool(question.bounds) for question in questions)
    asked = max(number, 1) / false_alarms
    frames = [
        groups.with_columns(
            pl.lit(question.rule.text).alias("rule"),
            *answer(question, layers, asked, moves).columns(),
        )
        for question in questions
    ]
    worst = pl.col("verdict").replace_strict(VERDICTS, range(len(VERDICTS)), return_dtype=pl.Int64)
    return (
        pl.concat(frames)
        .sort(worst, -pl.col("evidence"), nulls_last=True, maintain_order=True)
        .select("rule", "target", *names, *COLUMNS[2:])
        .rename(dict(names))
    )


class Answer(NamedTuple):
    """What is known about a rule, of each group.

    Attributes:
        value: The value; NaN if it is not defined.
        low: The lower end of its interval; NaN if there is none.
        high: The upper end.
        evidence: The evidence that the rule is broken; NaN if there is too little to tell.
        asked: The evidence from which it is broken; NaN if the value has no error.
        verdict: Of `VERDICTS`.
        reason: Why it is undecided.
    """

    value: Array
    low: Array
    high: Array
    evidence: Array
    asked: Array
    verdict: list[str]
    reason: list[str | None]

    def columns(self) -> list[pl.Series]:
        """Return them as columns of the result, with null for NaN."""
        return [
            *(
                pl.Series(name, one, pl.Float64, nan_to_null=True)
                for name, one in zip(self._fields[:5], self[:5], strict=True)
            ),
            pl.Series("verdict", self.verdict, pl.String),
            pl.Series("reason", self.reason, pl.String),
        ]


def answer(
    question: Question, layers: Layers, asked: float, moves: int | None, with_ends: bool = True
) -> Answer:
    """Return what is known about a rule.

    Args:
        question: The question.
        layers: The groups, as for `verdicts`.
        asked: The evidence from which the rule is broken.
        moves: As for `log_evidence`.
        with_ends: Whether to have `low` and `high`, which cost more than all else.
    """
    examples = layers.groups.get_column("examples").to_numpy().astype(np.float64)
    value = question.value
    nothing = np.full(value.shape, np.nan)
    low = high = against = nothing
    if question.bounds:
        lacking = _lacking(question, layers)
        enough = np.array([not reason for reason in lacking], np.bool_)
        against, in_favour = weighed(question.bounds, examples, moves)
        broken = enough & (against >= math.log(asked))
        holds = enough & (in_favour >= math.log(asked))
        with np.errstate(over="ignore"):
            against = np.where(enough, np.exp(against), np.nan)
        if question.scale is not None and with_ends:
            estimates, back = question.bounds[0].estimates, SCALES[question.scale][1]
            with np.errstate(over="ignore", invalid="ignore"):
                ends = estimates.interval(errors_needed(asked, examples, moves))
                low, high = (np.where(enough & np.isfinite(end), back(end), np.nan) for end in ends)
    else:
        known = np.isfinite(value)
        kept = np.array([question.rule.is_kept_by(one) for one in value], np.bool_)
        broken, holds = known & ~kept, known & kept
        lacking = ["" if one else "it is not defined for these records" for one in known]
    verdict = np.where(broken, VERDICTS[0], np.where(holds, VERDICTS[2], VERDICTS[1])).tolist()
    reasons = [
        (reason or "no evidence either way yet") if one == "undecided" else None
        for one, reason in zip(verdict, lacking, strict=True)
    ]
    of_all = np.full(value.shape, asked if question.bounds else np.nan)
    return Answer(value, low, high, against, of_all, verdict, reasons)


def weighed(bounds: Sequence[Bound], examples: Array, moves: int | None) -> tuple[Array, Array]:
    """Return the logarithm of the evidence that any bound is broken, and that all are kept.

    Args:
        bounds: The bounds of a rule.
        examples: The number of examples of each group.
        moves: As for `log_evidence`.
    """
    against, in_favour = [], []
    for bound in bounds:
        inside = bound.side * bound.estimates.distance(bound.at)
        against.append(log_evidence(-inside, examples, moves))
        in_favour.append(log_evidence(inside, examples, moves))
    return log_either(against, in_favour), np.min(in_favour, axis=0)


def _lacking(question: Question, layers: Layers) -> list[str]:
    """Return for each group what is missing for any verdict; empty if nothing is."""
    measure = question.measure
    assert measure is not None  # only measures are tested
    parts: npt.NDArray[np.int64] = layers.there.sum(axis=1)
    with np.errstate(invalid="ignore"):
        rate = layers.of["positive_rate"][:, 0]
        fewer = np.minimum(rate, 1 - rate) * layers.of["effective_examples"][:, 0]
        of_labels = measure.kind in ("no logits", "binary", "probability")
        few = np.logical_and(of_labels, fewer < EVENTS_NEEDED)
    moved = np.stack([bound.estimates.moved for bound in question.bounds])
    known = np.isfinite(moved.sum(axis=(0, 2)))
    reasons = []
    for at, examples in enumerate(layers.groups.get_column("examples")):
        if not examples:
            reason = "no examples"
        elif few[at]:
            reason = f"fewer than {EVENTS_NEEDED} positives, or negatives"
        elif np.isnan(question.value[at]) and measure.needs == "delays":
            reason = "no record has both req_time and train_time"
        elif np.isnan(question.value[at]):
            reason = "it is not defined for these labels or predictions"
        elif parts[at] < _PARTS_NEEDED:
            reason = f"fewer than {_PARTS_NEEDED} of {layers.there.shape[1]} parts of the users"
        elif not known[at]:
            reason = "its error is not known yet"
        else:
            reason = ""
        reasons.append(reason)
    return reasons
