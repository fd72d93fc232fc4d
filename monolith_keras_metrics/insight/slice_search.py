"""The search of `slices` in the records of one target.

1. Each slice is tried: its sum of errors gives a z-value (`Sums.scores`), and that an e-value. A
   slice can be found if its e-value reaches its *hurdle*: the number of slices that were tried,
   divided by the false discovery rate and by the number of slices found. This is e-BH (Wang and
   Ramdas 2022, "False discovery rate control with e-values"): however slices depend on each other,
   and *whichever of those that reach the hurdle are reported*, at most the given rate of the
   reported ones is right, on average. So the second step may choose freely.
2. The smallest explanation is chosen: the slice with the largest z-value, or a larger slice with
   fewer fields that is off just as much. Its records now *belong* to it, and the others are tried
   again without them. A slice whose error was that of others has none left. A pair with a value
   that was found is tried for how it differs from that.

Single values get half of the false discovery rate, and pairs, of which there are many more, the
other half (weights as in Genovese, Roeder and Wasserman 2006). The target as a whole is one of the
single values. If it is off, slices are then tried for what differs from the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from monolith_keras_metrics.insight import steps
from monolith_keras_metrics.insight.curves import Array
from monolith_keras_metrics.insight.slice_division import Division, Slice, contains
from monolith_keras_metrics.insight.slice_fields import NONE, Field
from monolith_keras_metrics.insight.slice_sums import Errors, Mask, Numbers, Sums, concatenated

_CLEARLY = 4.0  # two standard errors, squared


class Found(NamedTuple):
    """A slice that is off.

    Attributes:
        slice: The slice.
        log_e: The logarithm of its e-value.
        records: True for its records.
        excess: The sum of the errors of the records that it owns: a record belongs to the pair
            that was found first, else to the single value, else to the whole.
    """

    slice: Slice
    log_e: float
    records: Mask
    excess: float


class _Pool(NamedTuple):
    """The slices that may be found, the target as a whole first, then single values.

    Attributes:
        slices: The slices.
        sums: Their sums.
        tastes: The variance of tastes among the slices by the same fields.
        hurdles: The logarithm of what each one's e-value must reach if it is the only one found.
        signs: 1 if a slice is over-predicted, else -1; relative to the whole if that was found.
        log_e: The logarithms of their e-values.
    """

    slices: Sequence[Slice]
    sums: Sums
    tastes: Array
    hurdles: Array
    signs: Array
    log_e: Array


class Search:
    """A search in the records of one target.

    Args:
        errors: The errors of its valid records.
        fields: The fields, with values of the same records.
        depth: The largest number of fields of a slice: 1 or 2.
        minimum: The smallest number of examples of a slice.
        rate: The false discovery rate.
        most: The largest number of slices to find, besides the whole.
    """

    def __init__(
        self,
        errors: Errors,
        fields: Sequence[Field],
        depth: int,
        minimum: int,
        rate: float,
        most: int,
    ) -> None:
        self._errors = errors
        self._division = Division(fields, depth, minimum, len(errors.errors))
        self._minimum = minimum
        self._rate = rate
        self._most = most

    def run(self) -> list[Found]:
        """Return the slices that are off, the whole first, then as they were found."""
        found: list[tuple[Slice, float]] = []
        whole: float | None = None
        owners = np.full(len(self._errors.errors), NONE)
        pool = self._tried(0.0)
        while len(found) < self._most:
            steps.begin("choosing slices", self._most, "at most").done = len(found)
            at = self._next(pool, [one for one, _ in found], owners, whole is not None)
            if at is None:
                break
            one = pool.slices[at]
            if one.fields:
                fewer = [len(other.fields) < len(one.fields) for other, _ in found]
                free = np.array([*fewer, True])[owners]  # the last is that of records without owner
                owners[self._division.records(one) & free] = len(found)
                found.append((one, float(pool.log_e[at])))
            else:
                # Slices that were found before start again: do they differ from the whole?
                whole, found = float(pool.log_e[at]), []
                pool = self._tried(_mean_error(self._errors, owners < 0))
                owners[:] = NONE
        return self._results(found, whole, owners)

    def _results(
        self, found: Sequence[tuple[Slice, float]], whole: float | None, owners: Numbers
    ) -> list[Found]:
        """Return what was found, with the errors that each slice owns."""
        owned = np.bincount(owners + 1, self._errors.errors, len(found) + 1).tolist()
        first = [] if whole is None else [(Slice((), ()), whole)]
        excesses = [*owned[: len(first)], *owned[1:]]
        return [
            Found(one, log_e, self._division.records(one), excess)
            for (one, log_e), excess in zip([*first, *found], excesses, strict=True)
        ]

    def _tried(self, error: float) -> _Pool:
        """Try all slices.

        Args:
            error: The error for each size that is that of the whole, and not of the slice.
        """
        errors = self._errors.beyond(error) if error else self._errors
        slices: list[Slice] = []
        sums: list[Sums] = []
        tastes: list[float] = []
        numbers = [0, 0, 0]
        combinations = self._division.combinations()
        trying = steps.begin("trying slices", len(combinations), "combinations of fields")
        for fields in combinations:
            kept, at = self._division.numbered(fields)
            numbers[len(fields)] += len(kept)
            these = Sums.of(errors, at, len(kept))
            taste = max([these.taste(), *tastes[:1]])  # the first is that of the whole
            # No slice with less can be found, whatever else is.
            hopeful = these.evidence(taste)[1] >= -np.log(self._rate)
            if not fields:
                hopeful[:] = True
            new = [kept[one] for one in np.flatnonzero(hopeful)]
            slices += new
            tastes += [taste] * len(new)
            sums.append(these.take(hopeful))
            trying.done += 1
        together = concatenated(sums)
        families = [numbers[0] + numbers[1], numbers[2]]
        divided = sum(number > 0 for number in families) / self._rate
        hurdles = np.log([families[len(one.fields) > 1] * divided for one in slices])
        z, log_e = together.evidence(tastes)
        return _Pool(slices, together, np.array(tastes), hurdles, np.sign(z), log_e)

    def _next(
        self, pool: _Pool, found: Sequence[Slice], owners: Numbers, relative: bool
    ) -> int | None:
        """Return the place of the slice that is found next; None if no other can be.

        Args:
            pool: The slices.
            found: The slices that were found.
            owners: The place among them of the one that owns each record; `NONE` if none does.
            relative: Whether the whole was found.
        """
        hurdles = pool.hurdles - np.log(len(found) + 1)
        rest = owners < 0
        levels = [_mean_error(self._errors, owners == one) for one in range(len(found))]
        z, log_e = self._division.sums(pool.slices[:1], self._errors, rest).evidence(pool.tastes[0])
        # If the rest is off, but not in the way that the whole is, it makes up for the slices that
        # were found: a model learns to be right on average.
        made_up = log_e[0] >= hurdles[0] and not (
            pool.log_e[0] >= hurdles[0] and z[0] * pool.signs[0] > 0
        )
        levels.append(_mean_error(self._errors, rest) if relative or made_up else 0.0)
        errors = self._errors.beyond(np.array(levels)[owners])
        # What is left of a slice is tried; of one within a slice that was found, how it differs.
        again = relative or bool(found)
        sums = self._division.sums(pool.slices, errors, rest) if again else pool.sums
        within = np.array([any(contains(big, one) for big in found) for one in pool.slices])
        if within.any():
            all_records = self._division.sums(pool.slices, errors)
            sums = Sums(*(np.where(within, *both) for both in zip(all_records, sums, strict=True)))
        z, log_e = sums.evidence(pool.tastes)
        can = (pool.log_e >= hurdles) & (log_e >= hurdles) & (z * pool.signs > 0)
        can &= sums.examples >= self._minimum
        # A pair that shares its records with pairs found before may still be off with them.
        can &= np.array([one not in found for one in pool.slices])
        if not can.any():
            return None
        best = int(np.argmax(np.where(can, np.abs(z), -1.0)))
        larger: list[int] = [
            at
            for at in np.flatnonzero(can).tolist()
            if contains(pool.slices[at], pool.slices[best])
        ]
        larger.sort(key=lambda at: (len(pool.slices[at].fields), -abs(float(z[at]))))
        inside = self._division.records(pool.slices[best])
        inner = errors.where(inside if within[best] else inside & rest)
        for at in larger:
            outer = errors.where(self._division.records(pool.slices[at]) & rest & ~inside)
            if _are_off_alike(inner, outer, float(pool.tastes[at])):
                return at
        return best


def _mean_error(errors: Errors, records: Mask) -> float:
    """Return the error for each size of some records."""
    size = errors.sizes[records].sum()
    return float(errors.errors[records].sum() / size) if size > 0 else 0.0


def _are_off_alike(inner: Errors, outer: Errors, taste: float) -> bool:
    """Return True unless the rest of a larger slice is clearly nearer to no error.

    The rest of the larger slice may be off like the smaller one, or not at all. The larger slice is
    the simpler explanation, so it is chosen unless the rest speaks against it by more than two
    standard errors, squared.

    Args:
        inner: The errors of the smaller slice.
        outer: The errors of the rest of the larger one.
        taste: The variance of tastes.
    """
    small, rest = (Sums.of(one, np.zeros(len(one.errors), np.int64), 1) for one in (inner, outer))
    variance = rest.variances_of_errors(taste)[0]
    if variance <= 0:
        return False  # all the rest belongs to slices that were found
    scale = rest.sizes[0] / small.sizes[0]
    alike = small.errors[0] * scale
    uncertain = variance + small.variances_of_errors(taste)[0] * scale**2
    against_none = rest.errors[0] ** 2 / variance
    against_alike = (rest.errors[0] - alike) ** 2 / uncertain
    return bool(against_alike <= against_none + _CLEARLY)
