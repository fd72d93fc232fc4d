"""The measures: each is one object, which `summary`, the documentation and the command use.

A measure is a function of the sums of a group (`Sums`). To add one, add it to `MEASURES`, and a
sum that it needs to `SUMS`.

An undefined measure is null: AUC and normalised entropy if all labels are equal, calibration if
there is no positive. It is never 0 or 0.5, which are valid results.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from monolith_keras_metrics.insight import curves
from monolith_keras_metrics.insight.curves import EPSILON, Array, Cells

_Sum = Callable[[Array, Array, Array], npt.NDArray[Any]]


def _losses(y: Array, p: Array, w: Array) -> Array:
    near = np.clip(p, EPSILON, 1 - EPSILON)
    losses: Array = -w * (y * np.log(near) + (1 - y) * np.log(1 - near))
    return losses


def _sum(value: Callable[..., npt.NDArray[Any]], *names: str) -> _Sum:
    """Return a function of y, p and w that passes on those that are named."""
    positions = ["ypw".index(name) for name in names]
    return lambda *values: value(*(values[position] for position in positions))


# Sums over the valid records of a group: functions of their labels y, predictions p and weights w.
SUMS: dict[str, _Sum] = {
    "weights": _sum(lambda w: w, "w"),
    "squared_weights": _sum(lambda w: w * w, "w"),
    "labels": _sum(lambda y, w: w * y, "y", "w"),
    "predictions": _sum(lambda p, w: w * p, "p", "w"),
    "losses": _losses,
    "errors": lambda y, p, w: w * (p - y),
    "distances": lambda y, p, w: w * np.abs(p - y),
    "squares": lambda y, p, w: w * (p - y) ** 2,
    "variances": _sum(lambda p, w: w * w * p * (1 - p), "p", "w"),
}
# Numbers of records, which are never weighted; of valid records by a function of these, too.
COUNTS: dict[str, _Sum | None] = {
    "examples": None,
    "unlabelled": None,
    "invalid": None,
    "revisits": None,
    "other_labels": _sum(lambda y: (y != 0) & (y != 1), "y"),
    "outside": _sum(lambda p: (p < 0) | (p > 1), "p"),
}


@dataclasses.dataclass(frozen=True)
class Sums:
    """The sums of many groups at once, as arrays of equal shapes.

    Attributes:
        of: Each of `SUMS` and `COUNTS`, and, where they are needed, `user_aucs` and
            `user_auc_weights`.
        binary: True where all labels of the target are 0 or 1.
        probabilities: True where no prediction of the target is outside [0, 1].
        exact: True if a cell holds equal predictions only.
        cells: The cells of the predictions, with one more axis.
        delays: The weights by delay, with one more axis.
        seconds: The delays, ascending; of a shape that fits `delays`.
    """

    of: dict[str, Array]
    binary: npt.NDArray[np.bool_]
    probabilities: npt.NDArray[np.bool_]
    exact: bool
    cells: Cells
    delays: Array
    seconds: Array

    @functools.cached_property
    def odds_factor(self) -> Array:
        """Return the factor on all odds after which the predictions are right on average."""
        return curves.odds_factor(self.cells)

    @functools.cached_property
    def seen_delays(self) -> Array:
        """Return the weights of delays that are not longer than each."""
        return np.cumsum(self.delays, axis=-1)

    def __getattr__(self, name: str) -> Array:
        try:
            return self.of[name]
        except KeyError:
            raise AttributeError(name) from None


Scale = Literal["plain", "log", "logit", "inverse square"]
Kind = Literal["any", "no logits", "binary", "probability", "regression"]
# Whether a measure is for a target, by whether its labels are 0 and 1, and its predictions from 0
# to 1. Predictions of labels 0 and 1 that are not, are logits.
KINDS: dict[Kind, Callable[[Any, Any], Any]] = {
    "any": lambda binary, _: binary | ~binary,
    "no logits": lambda binary, probabilities: probabilities | ~binary,
    "binary": lambda binary, _: binary,
    "probability": lambda binary, probabilities: binary & probabilities,
    "regression": lambda binary, _: ~binary,
}


@dataclasses.dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: Its column.
        text: Its definition, in one sentence.
        value: The two sums of which it is the quotient, or a function of all sums.
        kind: The targets that it is for, as in `KINDS`. It is null for others.
        better: `"higher"` or `"lower"` values are better; or the value that is best; None for a
            property of the data.
        scale: Where its errors are symmetric, for intervals: `"log"` for ratios, `"logit"` for
            shares, `"inverse square"` for sizes of errors; None if it has no interval. (CORP's
            parts are biased in small samples, since the recalibration fits them too well, and an
            interval does not see that.)
        needs: The tables of a `State` that it needs, besides the sums.
        on_demand: True if it is computed only if it is named, since it costs more than all others.
        raised: If it is the largest of many values, which chance raises: which interval has to
            allow for that, its own or that of a difference.
    """

    name: str
    text: str
    value: tuple[str, str] | Callable[[Sums], Array]
    kind: Kind = "any"
    better: Literal["higher", "lower"] | float | None = None
    scale: Scale | None = "plain"
    needs: Literal["cells", "delays", "users", "user_cells"] | None = None
    on_demand: bool = False
    raised: Literal["own", "difference"] | None = None

    def __call__(self, sums: Sums) -> Array:
        """Return its value for each group; NaN where it is undefined."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if isinstance(self.value, tuple):
                upper, lower = (sums.of[name] for name in self.value)
                value = np.where(lower > 0, upper / lower, np.nan)
            else:
                value = np.where(sums.weights > 0, self.value(sums), np.nan)
        applies = KINDS[self.kind](sums.binary, sums.probabilities)
        return np.where(applies & np.isfinite(value), value, np.nan)


def _rate(s: Sums) -> Array:
    return s.labels / s.weights


def _normalised(log_loss: Array, s: Sums) -> Array:
    rate = _rate(s)
    between = (rate > 0) & (rate < 1)
    return np.where(between, log_loss / curves.entropy(np.clip(rate, 0, 1)), np.nan)


def _calibration_free_ne(s: Sums) -> Array:
    return _normalised(curves.shifted_log_loss(s.cells, s.odds_factor), s)


def _ecce_p(s: Sums) -> Array:
    return curves.range_p_value(curves.ecce(s.cells) * s.weights / np.sqrt(s.variances))


def _miscalibration(s: Sums) -> Array:
    return s.losses / s.weights - curves.recalibrated_log_loss(s.cells)


def _discrimination(s: Sums) -> Array:
    return curves.entropy(np.clip(_rate(s), 0, 1)) - curves.recalibrated_log_loss(s.cells)


def percentage(name: str) -> float:
    """Return the share of a percentile: 0.95 for `delay_p95`."""
    return int(name.rpartition("p")[2]) / 100


def share_of_delays(counted: npt.NDArray[Any], s: Sums) -> Array:
    """Return the share of the delays that are counted, each as 1, as 0 or in part."""
    share: Array = (s.delays * counted).sum(axis=-1) / s.delays.sum(axis=-1)
    return share


def share_within(share: float, s: Sums) -> Array:
    """Return the share of the delays up to a percentile of the first layer.

    Delays equal to the percentile are counted in part: as much as makes it `share` of all.
    """
    of_all = s.delays[:, :1]
    seen = np.cumsum(of_all, axis=-1)
    up_to = np.clip(share * seen[..., -1:] - (seen - of_all), 0, of_all)
    counted = np.divide(up_to, of_all, out=np.zeros(of_all.shape), where=of_all > 0)
    return share_of_delays(counted, s)


def delay_within(share: Array | float, s: Sums) -> Array:
    """Return the smallest delay at which the weights reach a share of all."""
    total = s.seen_delays[..., -1:]
    reached = np.asarray(share)[..., None] * total * (1 - 1e-12)
    at = np.count_nonzero(s.seen_delays < reached, axis=-1)
    found = np.take_along_axis(s.seconds, np.minimum(at, s.seconds.shape[-1] - 1)[..., None], -1)
    return np.where(total[..., 0] > 0, found[..., 0], np.nan)


MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            "effective_examples",
            "(Σw)² / Σw²: the number of examples of equal weight that would tell as much (Kish)",
            lambda s: s.weights**2 / s.squared_weights,
            scale=None,
        ),
        Measure("positive_rate", "Σwy / Σw", ("labels", "weights"), "binary", scale="logit"),
        Measure("mean_prediction", "Σwp / Σw", ("predictions", "weights")),
        Measure(
            "calibration",
            "Σwp / Σwy: above 1 the model over-predicts",
            ("predictions", "labels"),
            "no logits",
            better=1.0,
            scale="log",
        ),
        Measure(
            "auc",
            "area under the ROC curve: the share of pairs of a positive and a negative that are in "
            "order, with ties counting half (Mann-Whitney)",
            lambda s: curves.auc(s.cells),
            "binary",
            "higher",
            "logit",
            needs="cells",
        ),
        Measure(
            "auc_error",
            "largest error of auc: half the pairs within a cell of equal or near predictions; 0 if "
            "the cells are exact",
            lambda s: curves.auc_error(s.cells) if not s.exact else np.zeros(s.weights.shape),
            "binary",
            scale=None,
            needs="cells",
        ),
        Measure(
            "gauc",
            "mean AUC of the users with both labels, each weighted by its Σw (Zhu et al. 2017)",
            lambda s: s.user_aucs / s.user_auc_weights,
            "binary",
            "higher",
            "logit",
            needs="user_cells",
            on_demand=True,
        ),
        Measure(
            "pr_auc",
            "average precision, equal predictions being one threshold (scikit-learn's)",
            lambda s: curves.pr_auc(s.cells),
            "binary",
            "higher",
            "logit",
            needs="cells",
        ),
        Measure(
            "ks",
            "largest distance of the distributions of positives and negatives (Kolmogorov-Smirnov)",
            lambda s: curves.ks(s.cells),
            "binary",
            "higher",
            "logit",
            needs="cells",
            raised="own",
        ),
        Measure(
            "log_loss",
            "-Σw(y ln p + (1 - y) ln(1 - p)) / Σw, with p clipped to [2^-23, 1 - 2^-23]",
            ("losses", "weights"),
            "probability",
            "lower",
            "log",
        ),
        Measure(
            "normalised_entropy",
            "log_loss divided by that of always predicting the positive rate; below 1, the model "
            "is better than that constant (He et al. 2014, section 3)",
            lambda s: _normalised(s.losses / s.weights, s),
            "probability",
            "lower",
            "log",
        ),
        Measure(
            "calibration_free_ne",
            "normalised_entropy after all odds were multiplied by odds_factor",
            _calibration_free_ne,
            "probability",
            "lower",
            "log",
            needs="cells",
        ),
        Measure(
            "odds_factor",
            "the factor on all odds p / (1 - p) after which Σwp = Σwy; below 1 the model "
            "over-predicts",
            lambda s: s.odds_factor,
            "probability",
            1.0,
            "log",
            needs="cells",
        ),
        Measure(
            "brier",
            "Σw(p - y)² / Σw",
            ("squares", "weights"),
            "probability",
            "lower",
            "log",
        ),
        Measure(
            "ecce",
            "range of the sums of w(y - p) in the order of p, divided by Σw (Kuiper; "
            "Arrieta-Ibarra et al. 2022)",
            lambda s: curves.ecce(s.cells),
            "probability",
            "lower",
            needs="cells",
            raised="difference",
        ),
        Measure(
            "ecce_p",
            "the probability that a calibrated model has at least this ecce",
            _ecce_p,
            "probability",
            scale=None,
            needs="cells",
        ),
        Measure(
            "miscalibration",
            "what the best increasing recalibration takes off the log loss (CORP; Dimitriadis et "
            "al. 2021)",
            _miscalibration,
            "probability",
            "lower",
            scale=None,
            needs="cells",
            on_demand=True,
        ),
        Measure(
            "discrimination",
            "what the recalibrated predictions take off the log loss of the positive rate (CORP)",
            _discrimination,
            "probability",
            "higher",
            scale=None,
            needs="cells",
            on_demand=True,
        ),
        Measure(
            "uncertainty",
            "the log loss of always predicting the positive rate (CORP)",
            lambda s: curves.entropy(np.clip(_rate(s), 0, 1)),
            "probability",
        ),
        Measure(
            "mae",
            "Σw|p - y| / Σw",
            ("distances", "weights"),
            "regression",
            "lower",
            "inverse square",
        ),
        Measure(
            "rmse",
            "√(Σw(p - y)² / Σw)",
            lambda s: np.sqrt(s.squares / s.weights),
            "regression",
            "lower",
            "inverse square",
        ),
        Measure(
            "bias",
            "Σw(p - y) / Σw: above 0 the model over-predicts",
            ("errors", "weights"),
            "regression",
            0.0,
        ),
        *(
            Measure(
                f"delay_p{percent}",
                f"seconds from request to training within which {percent} % of Σw were",
                functools.partial(delay_within, percent / 100),
                "any",
                "lower",
                needs="delays",
            )
            for percent in (50, 95, 99)
        ),
    )
}
