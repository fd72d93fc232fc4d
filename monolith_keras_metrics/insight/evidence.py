"""Evidence that may be looked at as often as one likes.

A test at 1 % that is repeated every hour raises false alarms in far more than 1 % of all runs,
since chance gets a new try each time. What is here keeps its promise over all looks together.

**One look.** `Estimates` compare a measure with a bound: how many standard errors is it off? Each
part of the users (see `finish`) contributes to the error. A few users with many examples make the
parts unequal, and then the quotient of an estimate and its standard error has far heavier tails
than a t distribution of 99 degrees of freedom tells. So the error is measured around the bound, and
not around the estimate, as in a score test. If each part is as likely to be above the bound as
below it, the quotient then has no heavier tails than a normal variable, however unequal the parts
are (Efron 1969, "Student's t-test under symmetry conditions"; de la Peña, Klass and Lai 2004,
"Self-normalized processes: exponential inequalities, moment bounds and iterated logarithm laws").

**All looks at all records so far.** The quotient, times the square root of the number of examples,
moves as a Brownian motion whose clock is that number. `log_mixture` is an e-process for it, and so
is an average of two, which the evidence is: the probability that it ever exceeds a is at most 1 / a
if the measure keeps the bound (Robbins 1970, "Statistical methods related to the law of the
iterated logarithm"; Howard et al. 2021, "Time-uniform, nonparametric, nonasymptotic confidence
sequences"; for estimates that are only nearly normal: Waudby-Smith et al. 2024, "Time-uniform
central limit theory and asymptotic confidence sequences"). If the same users come back, later
estimates resemble earlier ones more than those of a Brownian motion do; this makes false alarms
rarer (Slepian 1962, "The one-sided barrier problem for Gaussian noise").

**All looks at a sliding window.** Such a window forgets, so no e-process exists for it. The
probability that the quotient exceeds a level at any time while the window moves on by its own
length is known (Slepian 1961, "First passage time for a particular Gaussian process"). The
permitted false alarms are divided among all such lengths of time, of which there may be any number.

**Both bounds of a rule.** A value cannot be above the upper bound and below the lower one, so the
bounds need not share the permitted false alarms by halves: see `log_either`. That is proven for
estimates that move as the Brownian motion above, or as Slepian's window. It is only nearly so for
rules about delays, where each bound has an estimate of its own.

What is not proven, but simulated (`benchmarks/alarms.py`): that estimates are normal and symmetric
enough, and their errors known well enough, with 20 positives, 20 negatives and 20 parts of users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from monolith_keras_metrics.insight.curves import Array

# The priors of a measure's evidence, and their weights: the numbers of examples at which it is made
# to be sharp. One rule needs 3.4 to 3.9 standard errors with 3,000 to 10 million examples: from the
# first hours of a training to its end. With few examples, where estimates are far from normal, it
# needs more.
_PRIORS = {500: 0.2, 10_000: 0.8}
_FARTHER = 0.1  # the share of the permitted false alarms that is for the bound farther away
_LARGEST = 37.0  # standard errors; beyond, probabilities are less than the smallest float64

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


class Estimates(NamedTuple):
    """Estimates of a measure, on the scale where its errors are symmetric.

    Attributes:
        middle: The estimates, shape `(groups,)`; NaN where no error can be known.
        moved: How far each part of the users moves the estimate, shape `(groups, parts)`. The sum
            of the squares is the square of the standard error.
        shares: The share of each part in all weights, of the same shape.
    """

    middle: Array
    moved: Array
    shares: Array

    def distance(self, bound: float) -> Array:
        """Return how far the estimates are above a bound, in standard errors around the bound."""
        with np.errstate(divide="ignore", invalid="ignore"):
            largest = 1 / np.sqrt((self.shares**2).sum(axis=1))
            above = self.middle - bound
            squares = ((self.moved + above[:, None] * self.shares) ** 2).sum(axis=1)
            errors = np.where(above == 0, 0.0, above / np.sqrt(squares))
        if math.isinf(bound):
            errors = np.where(np.isnan(self.moved).any(axis=1), np.nan, -np.sign(bound) * largest)
        # A bound farther away may not be less certain: no bound is more certain than `largest`.
        distances: Array = np.clip(errors, -largest, largest)
        return distances

    def interval(self, errors: Array) -> tuple[Array, Array]:
        """Return the bounds of which the estimates are `errors` standard errors above and below."""
        own, shares = (self.moved**2).sum(axis=1), (self.shares**2).sum(axis=1)
        common = (self.moved * self.shares).sum(axis=1)
        ends = []
        with np.errstate(divide="ignore", invalid="ignore"):
            rest = 1 - errors**2 * shares
            for sign in (1, -1):
                root = errors * np.sqrt((errors * common) ** 2 + rest * own)
                margin = (sign * errors**2 * common + root) / rest
                # So few users have most of the weight that no bound is excluded.
                margin = np.where(rest > 0, margin, np.inf)
                ends.append(self.middle - sign * margin)
        return ends[0], ends[1]


def log_mixture(score: npt.ArrayLike, information: npt.ArrayLike, prior: npt.ArrayLike) -> Array:
    """Return the logarithm of an e-value against "the effect is zero or less".

    The score of an effect d is nearly normal, with mean d times the information, and the
    information as its variance. The e-value is the likelihood ratio of effects above zero, averaged
    over half a normal distribution of variance 1 / `prior`, to the effect zero. If scores and
    information grow with the records, this is an e-process (Robbins 1970).

    Args:
        score: The score: an estimate times its information.
        information: 1 / (standard error)².
        prior: The information at which the e-value is made to be sharp, in the same units. It must
            not depend on the records. Bounds are tightest where the information is 5 to 100 times
            as large.

    Returns:
        The logarithms, in the shape to which the arguments broadcast.

    Example:
    100 observations of variance 1 with a mean of 0.5 are 5 standard errors above 0: good evidence.

    >>> float(np.exp(log_mixture(50.0, 100.0, prior=10.0)).round(0))
    51940.0
    """
    score, information, prior = (np.asarray(one, np.float64) for one in (score, information, prior))
    total = information + prior
    quotient = score / np.sqrt(total)
    upper = _erfc(-np.minimum(quotient, _LARGEST) / math.sqrt(2))  # twice the normal distribution
    with np.errstate(divide="ignore"):
        result: Array = np.log(prior / total) / 2 + quotient**2 / 2 + np.log(upper)
    return np.where(quotient < -_LARGEST, -np.inf, result)


def log_two_sided_mixture(
    z: npt.ArrayLike, information: npt.ArrayLike, prior: npt.ArrayLike
) -> Array:
    """Return the logarithm of an e-value against "the effect is zero".

    It is that of `log_mixture` for effects of either sign, from a whole normal distribution.

    Args:
        z: The estimate, divided by its standard error.
        information: 1 / (standard error)².
        prior: 1 / (standard deviation of the effects that are expected)², in the same units.

    Example:
    >>> np.exp(log_two_sided_mixture([0.0, 2.0, 5.0], 24.0, prior=1.0)).round(2).tolist()
    [0.2, 1.36, 32550.96]
    """
    z, information = np.asarray(z, np.float64), np.asarray(information, np.float64)
    share = information / (information + prior)
    result: Array = (np.log1p(-share) + share * z**2) / 2
    return result


def log_evidence(distance: Array, examples: Array, moves: int | None = None) -> Array:
    """Return the logarithm of the evidence that a measure is above a bound.

    If it is not, the probability that the evidence at any look exceeds a is at most 1 / a.

    Args:
        distance: How far the estimate is above the bound, in standard errors.
        examples: The number of examples.
        moves: How many times its own length the window has moved on since the first record; None
            if all records are looked at.
    """
    if not moves:  # up to its length, a window holds all records so far
        share = 1.0 if moves is None else _share(0)
        score = distance * np.sqrt(examples)
        each = [
            log_mixture(score, examples, prior) + math.log(weight * share)
            for prior, weight in _PRIORS.items()
        ]
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            return np.logaddexp(*each)
    return math.log(_share(moves)) - np.log(_ever_exceeded(distance))


def log_either(against: Sequence[Array], in_favour: Sequence[Array]) -> Array:
    """Return the logarithm of the evidence that a value breaks either bound of a rule.

    If it breaks neither, the probability that the evidence ever exceeds a is at most 1 / a, for a
    of 2 or more.

    Evidence of a value above the upper bound counts as far as there is nine times as much that it
    is above the lower bound, and the other way round. There is, unless the bounds are closer than
    about a standard error. So one bound has 0.9 of the permitted false alarms, and not half.

    Why they suffice: let f(d) be the probability of an alarm that the value is too high, if it is d
    below the upper bound. This is the mean of exp(-dS - d²V/2) over alarms if the value is on that
    bound, where V is the information, and S the score: at least √V at any alarm. So f is convex. It
    is at most 0.9 / a at the upper bound, and 0.1 / a at the lower one, where the other evidence is
    false, so it is below the line between them. The same holds for alarms that the value is too
    low, with the ends exchanged, and both lines add up to 1 / a. For a window, f(d) is the
    probability that it ever exceeds a level which rises with d. That is convex for high levels.

    Args:
        against: The logarithms of the evidence against each bound, as of `log_evidence`. There are
            one or two.
        in_favour: The same that the value is within each bound.

    Example:
    One bound; two that are far apart; and two that are equal.

    >>> one, none = np.log([500.0]), np.log([0.001])
    >>> [float(np.exp(log_either(*both)).round(1)[0]) for both in (
    ...     ([one], [none]), ([one, none], [none, one * 9]), ([one, none], [none, one]))]
    [500.0, 450.0, 50.0]
    """
    if len(against) == 1:
        return against[0]
    pairs = zip(against, reversed(in_favour), strict=True)
    shared = [
        np.minimum(near + math.log(1 - _FARTHER), far + math.log(_FARTHER)) for near, far in pairs
    ]
    result: Array = np.max(shared, axis=0)
    return result


def errors_needed(evidence: float, examples: Array, moves: int | None = None) -> Array:
    """Return how many standard errors give that much evidence; infinity without examples.

    Args:
        evidence: The evidence, at least 2.
        examples: The number of examples of each group.
        moves: As for `log_evidence`.
    """
    low, high = np.zeros(examples.shape), np.full(examples.shape, _LARGEST)
    asked = math.log(evidence)
    for _ in range(50):
        middle = (low + high) / 2
        enough = log_evidence(middle, examples, moves) >= asked
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(high >= _LARGEST * (1 - 1e-9), np.inf, high)


def _ever_exceeded(level: Array) -> Array:
    """Return the probability that a window's quotient exceeds a level while it moves on once.

    The sum of a sliding window, in standard errors, has the correlation 1 - d at a distance of d
    lengths. The probability that it stays below z is Φ(z)² - zφ(z)Φ(z) - φ(z)² (Slepian 1961).
    """
    z = np.clip(level, -_LARGEST, _LARGEST)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    above, below = _erfc(z / math.sqrt(2)) / 2, _erfc(-z / math.sqrt(2)) / 2
    result: Array = above * (1 + below) + density * (z * below + density)
    return np.minimum(result, 1.0)


def _share(moves: int) -> float:
    """Return the share of all permitted false alarms that one length of time may have.

    The shares add up to 1 over all times, and fall hardly faster than 1 / moves.
    """
    return 1 / math.log(moves + math.e) - 1 / math.log(moves + 1 + math.e)
