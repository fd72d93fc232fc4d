"""E-values: evidence that may be collected from many tests, however they depend on each other.

An e-value is a number that is 1 or less on average if there is nothing to find. By Markov's
inequality it reaches 100 in at most one of 100 such cases. Unlike p-values, e-values keep their
guarantees when tests overlap, and when what is reported was chosen after looking at the data
(Vovk and Wang 2021; Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid
inference").
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monolith_keras_metrics.insight.curves import Array


def log_mixture_e_value(z: npt.ArrayLike, information: npt.ArrayLike, r: npt.ArrayLike) -> Array:
    """Return the logarithm of `mixture_e_value`, which never overflows."""
    z, information = np.asarray(z, np.float64), np.asarray(information, np.float64)
    share = information / (information + r)
    log_e: Array = 0.5 * (np.log1p(-share) + share * z**2)
    return log_e


def mixture_e_value(z: npt.ArrayLike, information: npt.ArrayLike, r: npt.ArrayLike) -> Array:
    """Return the e-value of an estimate, by a normal mixture.

    The likelihood ratio of "the true value is v" against "it is 0", averaged over v from a normal
    distribution with mean 0 and variance 1 / r (Robbins 1970; Howard et al. 2021, "Time-uniform,
    nonparametric, nonasymptotic confidence sequences"). With information I it is
    sqrt(r / (r + I)) · exp(z² I / (2 (r + I))).

    Args:
        z: The estimate, divided by its standard error.
        information: 1 / (standard error)².
        r: 1 / (standard deviation of the values that are expected if there is something)².

    Example:
    >>> mixture_e_value([0.0, 2.0, 5.0], information=24.0, r=1.0).round(2).tolist()
    [0.2, 1.36, 32550.96]
    """
    e: Array = np.exp(np.minimum(log_mixture_e_value(z, information, r), 700.0))
    return e
