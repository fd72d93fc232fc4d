"""What a state says about rules: a finding per target and group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from monolith_keras_metrics.insight.check import COUNTED, measured
from monolith_keras_metrics.insight.layers import layers_of
from monolith_keras_metrics.insight.questions import about_count, about_measure
from monolith_keras_metrics.insight.rules import Rule
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.verdicts import Question, answer

# A target, and the values of a rule's fields, as text.
Row: TypeAlias = "tuple[str, tuple[str | None, ...]]"
_LARGEST = 1e300  # of what JSON can say of evidence
# How many standard errors a value must be within a bound to be well. The value of a fault that
# lasts is now and then within the bounds by chance.
_CLEARLY = 1.0


class Finding(NamedTuple):
    """What a state says about a rule, for a target and group.

    Attributes:
        examples: Number of examples.
        value: The value; None if undefined.
        low: The lower end of the interval that holds the true value at all looks.
        high: The upper end.
        evidence: The evidence that the rule is broken; None if there is too little to tell, or if
            the value has no error.
        verdict: `"broken"`, `"undecided"` or `"holds"`.
        lacks: True if there is too little to tell.
        is_well: True if the value is within the bounds, and not just by chance.
    """

    examples: int
    value: float | None
    low: float | None = None
    high: float | None = None
    evidence: float | None = None
    verdict: str = "undecided"
    lacks: bool = False
    is_well: bool = False


class Look:
    """A look at a state.

    Args:
        state: The state.
        rules: The rules that are asked about.

    Attributes:
        rows: The target and group of each position.
    """

    def __init__(self, state: State, rules: Iterable[Rule]) -> None:
        asked = [*{rule.text: rule for rule in rules}.values()]
        self._layers = layers_of(state, measured(asked))
        self.rows = rows_of(self._layers.groups, state.keys)

    def findings(
        self, rule: Rule, asked: float, moves: Mapping[Row, int | None]
    ) -> dict[Row, Finding]:
        """Return what the state says about a rule.

        Args:
            rule: The rule.
            asked: The evidence from which it is broken.
            moves: The rows that are asked about, and how often the span of each has moved on by its
                own length: see `log_evidence`.
        """
        found: dict[Row, Finding] = {}
        for moved in {*moves.values()}:
            at = [
                position
                for position, row in enumerate(self.rows)
                if row in moves and moves[row] == moved
            ]
            if not at:
                continue
            of_these = self._of(rule, asked, at, moved, False)
            # Few are ever shown with their intervals, which cost more than all else.
            told = [
                position
                for position, one in zip(at, of_these, strict=True)
                if one.verdict == "broken" or (one.is_well and moved is None)
            ]
            shown = self._of(rule, asked, told, moved, True) if told else []
            for positions, findings in ((at, of_these), (told, shown)):
                rows = [self.rows[position] for position in positions]
                found |= zip(rows, findings, strict=True)
        return found

    def _of(
        self, rule: Rule, asked: float, at: Sequence[int], moved: int | None, ends: bool
    ) -> list[Finding]:
        """Return what the state says about a rule, of the rows at some positions."""
        positions = np.array(at, np.int64)
        layers = self._layers.at(positions, self._layers.groups[positions])
        about = about_count if rule.name in COUNTED else about_measure
        question = about(rule, layers)
        columns = [one.to_list() for one in answer(question, layers, asked, moved, ends)]
        well = _are_well(question)
        findings = []
        for number, of_row in enumerate(zip(*columns, strict=True)):
            value, low, high, evidence, _, verdict, _ = of_row
            findings.append(
                Finding(
                    layers.groups.item(number, "examples"),
                    _number(value),
                    _number(low),
                    _number(high),
                    None if evidence is None else min(evidence, _LARGEST),
                    verdict,
                    evidence is None and bool(question.bounds),
                    bool(well[number]) if question.bounds else verdict == "holds",
                )
            )
        return findings


def rows_of(groups: pl.DataFrame, keys: Sequence[str]) -> list[Row]:
    """Return targets and groups, whose values are in the columns `keys`."""
    texts = groups.select("target", *(pl.col(key).cast(pl.String, strict=False) for key in keys))
    return [(target, tuple(values)) for target, *values in texts.rows()]


def _are_well(question: Question) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for each group whether the value is clearly within the bounds."""
    if not question.bounds:
        return np.zeros(question.value.shape, np.bool_)
    inside = np.stack([one.side * one.estimates.distance(one.at) for one in question.bounds])
    margin = np.full(question.value.shape, _CLEARLY)
    if len(inside) == 2:  # bounds may be so close that no value is clearly within both
        margin = np.minimum(margin, inside.sum(axis=0) / 2 - 1)
    with np.errstate(invalid="ignore"):
        result: np.ndarray[Any, np.dtype[np.bool_]] = inside.min(axis=0) >= margin
    return result


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
