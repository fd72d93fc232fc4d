"""Slices: some values of some fields, which records they have, and the sums of these."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from monolith_keras_metrics.insight.slice_fields import NONE, Field
from monolith_keras_metrics.insight.slice_sums import Errors, Mask, Numbers, Sums, concatenated

_DENSE = 1 << 22  # pairs of values that are counted in a table; bounds memory


class Slice(NamedTuple):
    """Some values of some fields, by number; none of any for the target as a whole."""

    fields: tuple[int, ...]
    values: tuple[int, ...]


class Division:
    """The slices by fields, and their records.

    Args:
        fields: The fields, with values of the same records.
        depth: The largest number of fields of a slice: 1 or 2.
        minimum: The smallest number of examples of a slice.
        number: The number of records.
    """

    def __init__(self, fields: Sequence[Field], depth: int, minimum: int, number: int) -> None:
        self._fields = fields
        self._depth = depth
        self._minimum = minimum
        self._number = number
        self._sizes = [
            np.bincount(field.numbers[field.numbers >= 0], minlength=len(field.texts))
            for field in fields
        ]

    def combinations(self) -> list[tuple[int, ...]]:
        """Return the fields of each kind of slice: none first, then single ones, then pairs."""
        numbers = range(len(self._fields))
        return [
            one for size in range(self._depth + 1) for one in itertools.combinations(numbers, size)
        ]

    def numbered(self, fields: tuple[int, ...]) -> tuple[list[Slice], Numbers]:
        """Return the slices by some fields that have enough examples, and each record's slice."""
        keys = self._keys(fields, slice(None))
        if not fields:
            return [Slice((), ())], keys
        if len(fields) == 1:
            sizes = self._sizes[fields[0]]
            values = np.flatnonzero(sizes < len(keys))  # a value that all have is the whole
            return [Slice(fields, (value,)) for value in values.tolist()], _places(
                keys, values, len(sizes)
            )
        of_one, of_other = (self._sizes[field] for field in fields)
        size = len(of_one) * len(of_other)
        inside = keys[keys >= 0]
        if size <= _DENSE:
            counts = np.bincount(inside, minlength=size)
            values = np.flatnonzero(counts >= self._minimum)
            counts = counts[values]
        else:
            values, counts = np.unique(inside, return_counts=True)
            values, counts = (column[counts >= self._minimum] for column in (values, counts))
        one, other = np.divmod(values, max(1, len(of_other)))
        # A pair that holds all records of one of its values is that value.
        new = (counts < of_one[one]) & (counts < of_other[other])
        values = values[new]
        slices = [
            Slice(fields, pair) for pair in zip(one[new].tolist(), other[new].tolist(), strict=True)
        ]
        return slices, _places(keys, values, size)

    def _keys(self, fields: tuple[int, ...], records: slice | Mask) -> Numbers:
        """Return a number for each record's values of some fields; `NONE` if any has none."""
        if not fields:
            return np.zeros(self._number, np.int64)[records]
        first, *others = (self._fields[field] for field in fields)
        keys = first.numbers[records]
        for field in others:
            numbers = field.numbers[records]
            keys = np.where((keys < 0) | (numbers < 0), NONE, keys * len(field.texts) + numbers)
        return keys

    def records(self, one: Slice) -> Mask:
        """Return True for the records of a slice."""
        records = np.ones(self._number, np.bool_)
        for field, value in zip(one.fields, one.values, strict=True):
            records &= self._fields[field].numbers == value
        return records

    def sums(
        self, slices: Sequence[Slice], errors: Errors, records: Mask | slice = slice(None)
    ) -> Sums:
        """Return the sums of slices over some records only."""
        errors = errors.where(records)
        sums: list[Sums] = []
        for fields, group in itertools.groupby(slices, lambda one: one.fields):
            keys = self._keys(fields, records)
            wanted = np.array([self._key(fields, one.values) for one in group], np.int64)
            size = int(wanted[-1]) + 1
            sums.append(Sums.of(errors, _places(keys, wanted, size), len(wanted)))
        return concatenated(sums)

    def _key(self, fields: tuple[int, ...], values: tuple[int, ...]) -> int:
        key = 0
        for field, value in zip(fields, values, strict=True):
            key = key * len(self._fields[field].texts) + value
        return key


def contains(one: Slice, other: Slice) -> bool:
    """Return True if a slice has all records of another, and fewer fields."""
    pairs = set(zip(other.fields, other.values, strict=True))
    return {*zip(one.fields, one.values, strict=True)} < pairs


def _places(keys: Numbers, wanted: Numbers, size: int) -> Numbers:
    """Return the place of each key among the wanted ones, which ascend; `NONE` if it has none.

    Args:
        keys: The keys; negative ones have no place.
        wanted: The wanted keys.
        size: A number that is larger than any wanted key.
    """
    if size <= _DENSE:
        table = np.full(size + 1, NONE)
        table[wanted] = np.arange(len(wanted))
        return table[np.where(keys < size, keys, NONE)]  # the last entry is that of no key
    at = np.searchsorted(wanted, keys)
    at[at == len(wanted)] = 0
    places: Numbers = (
        np.where(wanted[at] == keys, at, NONE) if len(wanted) else np.full(len(keys), NONE)
    )
    return places
