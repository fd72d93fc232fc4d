"""From rules to the questions that evidence answers."""

from __future__ import annotations

import numpy as np

from monolith_keras_metrics.insight.cells import cell_of
from monolith_keras_metrics.insight.evidence import Estimates
from monolith_keras_metrics.insight.finish import SCALES, influences
from monolith_keras_metrics.insight.layers import Layers
from monolith_keras_metrics.insight.measures import (
    MEASURES,
    Measure,
    Scale,
    percentage,
    share_of_delays,
)
from monolith_keras_metrics.insight.rules import Rule
from monolith_keras_metrics.insight.verdicts import Bound, Question

# The values that a measure may have, by its scale.
_DOMAINS: dict[Scale, tuple[float, float]] = {
    "plain": (-np.inf, np.inf),
    "log": (0.0, np.inf),
    "logit": (0.0, 1.0),
    "inverse square": (0.0, np.inf),
}


def about_count(rule: Rule, layers: Layers) -> Question:
    """Return the question whether a count keeps a rule."""
    return Question(rule, layers.groups.get_column(rule.name).to_numpy().astype(np.float64))


def about_measure(rule: Rule, layers: Layers) -> Question:
    """Return the question whether a measure keeps a rule.

    Args:
        rule: The rule.
        layers: The layers of `measures_of` the rule.
    """
    measure = MEASURES[rule.name]
    if measure.needs == "delays":
        bounds = tuple(
            Bound(_estimates(layers, share.name, "plain"), percentage(rule.name), side)
            for side, share in _shares(rule)
        )
        return Question(rule, layers.of[rule.name][:, 0], measure, bounds)
    if measure.scale is None:
        return Question(rule, layers.of[rule.name][:, 0], measure)
    return about_estimates(rule, layers, rule.name, measure, measure.scale)


def measures_of(rule: Rule) -> list[Measure]:
    """Return the measures that a rule about a measure needs."""
    measure = MEASURES[rule.name]
    return [measure, *(share for _, share in _shares(rule) if measure.needs == "delays")]


def about_estimates(
    rule: Rule, layers: Layers, name: str, measure: Measure, scale: Scale
) -> Question:
    """Return the question whether a value with errors keeps a rule.

    Args:
        rule: The rule.
        layers: The layers.
        name: The value's name in the layers.
        measure: The measure of which the value is made.
        scale: Where the errors of the value are symmetric.
    """
    estimates = _estimates(layers, name, scale)
    to, _ = SCALES[scale]
    smallest, largest = _DOMAINS[scale]
    bounds = []
    for side, bound in ((1, rule.low), (-1, rule.high)):
        if bound is not None:
            with np.errstate(divide="ignore"):
                at = to(np.clip(np.float64(bound), smallest, largest))
            bounds.append(Bound(estimates, float(at), side))
    return Question(rule, layers.of[name][:, 0], measure, tuple(bounds), scale)


def _estimates(layers: Layers, name: str, scale: Scale) -> Estimates:
    middle, moved = influences(layers.of[name], layers.there, scale)
    return Estimates(middle, moved, layers.shares)


def _shares(rule: Rule) -> list[tuple[int, Measure]]:
    """Return the shares of delays that decide a rule about a percentile, with their sides.

    A percentile is at most t if at least that percentage is within t. The error of a share is known
    even where that of a percentile is not, since the percentile stays the same without any part.
    """
    shares = []
    if rule.high is not None:
        shares.append((1, _share(f"{rule.text}, upper", np.nextafter(_cell(rule.high), np.inf))))
    if rule.low is not None:
        shares.append((-1, _share(f"{rule.text}, lower", _cell(rule.low))))
    return shares


def _share(name: str, seconds: float) -> Measure:
    """Return the share of delays below some seconds, as a measure."""
    return Measure(
        name,
        "the share of delays below a bound",
        lambda s: share_of_delays(s.seconds < seconds, s),
        needs="delays",
    )


def _cell(seconds: float) -> float:
    return float(cell_of(np.array([seconds]))[0])
