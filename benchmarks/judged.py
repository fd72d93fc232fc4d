"""Rules about trainings that are given as sums, judged at every look as `check` judges them.

Looks are its groups. So thousands of trainings can be judged, by the functions that `check` uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import redrawn
from redrawn import Random

from monolith_keras_metrics.insight import measures
from monolith_keras_metrics.insight.curves import Cells
from monolith_keras_metrics.insight.finish import SCALES
from monolith_keras_metrics.insight.layers import Layers
from monolith_keras_metrics.insight.questions import about_measure
from monolith_keras_metrics.insight.rules import Rule
from monolith_keras_metrics.insight.tables import PARTS
from monolith_keras_metrics.insight.verdicts import EVENTS_NEEDED, weighed

Array = npt.NDArray[np.float64]


class Sums(NamedTuple):
    """The examples by look, part of the users, and prediction, shape `(looks, parts, predictions)`.

    Attributes:
        positives: The number of positives, or clicks.
        negatives: The number of negatives.
    """

    positives: Array
    negatives: Array


def layers_of(
    looks: Sums, predictions: Array, names: Sequence[str], expected: Sums | None = None
) -> Layers:
    """Return measures at each look, as `check` has them of each group.

    Args:
        looks: The sums that each look sees.
        predictions: The different predictions.
        names: The measures.
        expected: The sums that are expected. If the true value changes with the records that there
            are so far, estimates are moved so that it is, at every look, what it is at the last.
    """
    positives, negatives = (
        np.concatenate([total, total - one], axis=1)
        for one in looks
        for total in [one.sum(axis=1, keepdims=True)]
    )
    labels, weights = positives.sum(axis=-1), (positives + negatives).sum(axis=-1)
    losses = positives @ np.log(predictions) + negatives @ np.log1p(-predictions)
    predicted = (positives + negatives) * predictions
    of = {"examples": weights, "weights": weights, "labels": labels, "losses": -losses}
    yes, nothing = np.ones(weights.shape, np.bool_), np.zeros((1, 1, 1))
    sums = measures.Sums(
        {**of, "predictions": predicted.sum(axis=-1)},
        *(yes, yes, True, Cells(positives, negatives, predicted, predicted), nothing, nothing),
    )
    total = weights[:, :1]
    shares = (total - weights[:, 1:]) / np.maximum(total, 1)
    of_each = {name: measures.MEASURES[name](sums) for name in names}
    if expected is not None:
        for name, truth in layers_of(expected, predictions, names).of.items():
            to, back = SCALES[measures.MEASURES[name].scale or "plain"]
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                moved = to(truth[-1:, :1]) - to(truth[:, :1])
                of_each[name] = back(to(of_each[name]) + moved)
    there = weights[:, 1:] < total
    return Layers(pl.DataFrame({"examples": total[:, 0]}), of_each, there, shares)


def at_truth(expected: Sums, predictions: Array) -> list[str]:
    """Return rules about the AUC and the entropy, with the true value at the last look as bound."""
    of = layers_of(expected, predictions, ["auc", "normalised_entropy"]).of
    auc, entropy = (float(value[-1, 0]) for value in of.values())
    return [f"auc >= {auc!r}", f"normalised_entropy <= {entropy!r}"]


def evidence_at(
    looks: Sums,
    predictions: Array,
    rules: Sequence[Rule],
    moves: Array | None = None,
    expected: Sums | None = None,
) -> Array:
    """Return the logarithms of the evidence against each rule at each look; -inf for none.

    Args:
        looks: The sums that each look sees.
        predictions: The different predictions.
        rules: The rules.
        moves: How often a window has moved on by its own length at each look.
        expected: As for `layers_of`.
    """
    names = list(dict.fromkeys(rule.name for rule in rules))
    layers = layers_of(looks, predictions, names, expected)
    examples = layers.groups.get_column("examples").to_numpy()
    evidence = np.full((len(rules), examples.size), -np.inf)
    for one in [None] if moves is None else np.unique(moves).tolist():
        at = np.flatnonzero(np.full(examples.size, True) if one is None else moves == one)
        these = layers.at(at, layers.groups[at])
        for number, rule in enumerate(rules):
            bounds = about_measure(rule, these).bounds
            evidence[number, at] = np.nan_to_num(weighed(bounds, examples[at], one)[0], nan=-np.inf)
    events = np.minimum(*(one.sum(axis=(1, 2)) for one in looks))
    return np.where(events >= EVENTS_NEEDED, evidence, -np.inf)


def drawn_from(rows: pl.DataFrame, factor: float, taste: float, random: Random) -> Sums:
    """Draw what each look at a run sees: all records so far.

    Args:
        rows: Rows of `recalibrated`, with the number of their `look`.
        factor: The true calibration.
        taste: The standard deviation of tastes, as for `redrawn.labels`.
        random: Draws users and labels.
    """
    sample = redrawn.drawn(rows, random)
    users = sample.get_column("uid").to_numpy()
    y = redrawn.labels(sample.get_column("p").to_numpy() / factor, users, taste, random)
    part = random.integers(0, PARTS, users.max() + 1)[users]
    return _so_far(rows, sample, part, PARTS, y)


def expected_of(rows: pl.DataFrame) -> Sums:
    """Return what each look at a run would see, if users and labels were as is expected."""
    return _so_far(rows, rows, np.zeros(rows.height, np.int64), 1, rows.get_column("p").to_numpy())


def _so_far(
    rows: pl.DataFrame, sample: pl.DataFrame, part: npt.NDArray[np.int64], parts: int, y: Array
) -> Sums:
    looks, levels = (rows.get_column(name).n_unique() for name in ("look", "level"))
    shape = (looks, parts, levels)
    look, level = (sample.get_column(name).to_numpy() for name in ("look", "level"))
    at = np.ravel_multi_index((look, part, level), shape)
    positives, negatives = (
        np.bincount(at, one, math.prod(shape)).reshape(shape).cumsum(axis=0, dtype=np.float64)
        for one in (y, 1 - y)
    )
    return Sums(positives, negatives)
