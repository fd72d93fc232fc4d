"""What a state says about rules: a finding per target and group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight.check import COUNTED, measured
from monolith_keras_metrics.insight.curves import Array
from monolith_keras_metrics.insight.evidence import Estimates
from monolith_keras_metrics.insight.finish import SCALES
from monolith_keras_metrics.insight.layers import layers_of
from monolith_keras_metrics.insight.questions import about_count, about_measure
from monolith_keras_metrics.insight.rules import Rule
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.verdicts import Question, answer

# A target, and the values of a rule's fields, as text.
Row: TypeAlias = "tuple[str, tuple[str | None, ...]]"
_LARGEST = 1e300  # of what JSON can say of evidence
# By how many standard errors a value must be within a bound to be well, and away from that which
# fired. A fault that lasts is now and then within the bounds by chance.
_CLEARLY, _AWAY = 1.0, 3.0


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
        is_well: True if it is well again: within the bounds, and not just by chance.
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
        self._positions = {row: position for position, row in enumerate(self.rows)}

    def findings(self, rule: Rule, asked: float, moves: Mapping[Row, int]) -> dict[Row, Finding]:
        """Return what the state says about a rule.

        Args:
            rule: The rule.
            asked: The evidence from which it is broken.
            moves: The rows that are asked about, and how often the span of each has moved on by its
                own length: see `log_evidence`.
        """
        found: dict[Row, Finding] = {}
        for moved in {*moves.values()}:
            rows = [row for row in self.rows if moves.get(row) == moved]
            found |= self._of(rule, asked, rows, moved, False)
            # Few are ever shown with their intervals, which cost more than all else.
            broken = [row for row in rows if found[row].verdict == "broken"]
            found |= self._of(rule, asked, broken, moved, True)
        return found

    def recoveries(
        self, rule: Rule, asked: float, fired: Mapping[Row, float]
    ) -> dict[Row, Finding]:
        """Return the rows that are well again.

        Args:
            rule: The rule.
            asked: The evidence from which it is broken.
            fired: The rows that are asked about, and the value with which each of them fired.
        """
        rows = [row for row in self.rows if row in fired]
        found = self._of(rule, asked, rows, None, True, [fired[row] for row in rows])
        return {row: one for row, one in found.items() if one.is_well and not one.lacks}

    def _of(
        self,
        rule: Rule,
        asked: float,
        rows: Sequence[Row],
        moved: int | None,
        with_ends: bool,
        fired: Sequence[float] | None = None,
    ) -> dict[Row, Finding]:
        """Return what the state says about a rule, of some rows."""
        if not rows:
            return {}
        positions = np.array([self._positions[row] for row in rows], np.int64)
        layers = self._layers.at(positions, self._layers.groups[positions])
        about = about_count if rule.name in COUNTED else about_measure
        question = about(rule, layers)
        told = answer(question, layers, asked, moved, with_ends)
        examples = layers.groups.get_column("examples").to_list()
        well = [False] * len(rows) if fired is None else _are_well(question, np.array(fired))
        found = {}
        for number, row in enumerate(rows):
            evidence, verdict = float(told.evidence[number]), told.verdict[number]
            lacks = math.isnan(evidence)
            found[row] = Finding(
                examples[number],
                _number(told.value[number]),
                _number(told.low[number]),
                _number(told.high[number]),
                None if lacks else min(evidence, _LARGEST),
                verdict,
                lacks and bool(question.bounds),
                bool(well[number]) if question.bounds else verdict == "holds",
            )
        return found


def rows_of(groups: pl.DataFrame, keys: Sequence[str]) -> list[Row]:
    """Return targets and groups, whose values are in the columns `keys`."""
    texts = groups.select("target", *(pl.col(key).cast(pl.String, strict=False) for key in keys))
    return [(target, tuple(values)) for target, *values in texts.rows()]


def _are_well(question: Question, fired: Array) -> npt.NDArray[np.bool_]:
    """Return for each group whether the value is clearly within the bounds, and not what it was."""
    bounds = question.bounds
    inside = np.stack([one.side * one.estimates.distance(one.at) for one in bounds])
    margin = np.full(fired.shape, _CLEARLY)
    if len(bounds) == 2:  # they may be so close that no value is clearly within both
        margin = np.minimum(margin, inside.sum(axis=0) / 2 - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        well: npt.NDArray[np.bool_] = inside.min(axis=0) >= margin
        if question.scale is not None:
            to, _ = SCALES[question.scale]
            estimates = bounds[0].estimates
            away = [
                Estimates(*(one[at : at + 1] for one in estimates)).distance(float(to(value)))[0]
                for at, value in enumerate(fired)
            ]
            well &= np.abs(away) >= _AWAY
    return well


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
