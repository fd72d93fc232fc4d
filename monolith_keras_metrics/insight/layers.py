"""The measures of each group, of all users and without each part of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight.curves import Array
from monolith_keras_metrics.insight.groups import Groups
from monolith_keras_metrics.insight.measures import Measure
from monolith_keras_metrics.insight.state import State


class Layers(NamedTuple):
    """The measures of each group, and without each part.

    Attributes:
        groups: A row per target and group: `target`, the keys, and the counts.
        of: Each measure, shape `(groups, 1 + parts)`. The first layer is of all users, the others
            leave out one part each. If all users are in one part, there is the first layer only.
        there: Whether a part has examples of the group, shape `(groups, parts)`.
        shares: The share of a part in the group's weights, shape `(groups, parts)`.
        raised: By how much chance raises measures whose difference has to allow for that, shape
            `(groups,)` each.
    """

    groups: pl.DataFrame
    of: dict[str, Array]
    there: npt.NDArray[np.bool_]
    shares: Array
    raised: Mapping[str, Array] = MappingProxyType({})

    def at(self, positions: npt.NDArray[np.int64], groups: pl.DataFrame) -> Layers:
        """Return the layers of other groups.

        Args:
            positions: The position of each of them in these layers; -1 if it has no examples.
            groups: A row per group.
        """

        def chosen(layers: npt.NDArray[Any], nothing: float) -> npt.NDArray[Any]:
            last = np.full((1, layers.shape[1]), nothing, layers.dtype)
            return np.concatenate([layers, last])[positions]

        of = {name: chosen(one, np.nan) for name, one in self.of.items()}
        raised = {name: np.append(one, 0.0)[positions] for name, one in self.raised.items()}
        return Layers(groups, of, chosen(self.there, False), chosen(self.shares, 0.0), raised)


def layers_of(state: State, measures: Sequence[Measure]) -> Layers:
    """Return the measures of a state.

    Args:
        state: The state.
        measures: The measures.
    """
    groups = Groups(state, state.form.parts > 1)
    layers = 1 + (state.form.parts if state.form.parts > 1 else 0)
    shape = (groups.frame.height, layers)
    found = Layers(
        groups.frame,
        {measure.name: np.full(shape, np.nan) for measure in measures},
        np.zeros((shape[0], layers - 1), np.bool_),
        np.zeros((shape[0], layers - 1)),
        {one.name: np.zeros(shape[0]) for one in measures if one.raised == "difference"},
    )
    for at in groups.together():
        chunk = groups.chunk(at)
        for measure in measures:
            found.of[measure.name][at] = chunk.layers(measure)
            if measure.name in found.raised:
                found.raised[measure.name][at] = chunk.raised(measure)
        found.there[at], found.shares[at] = chunk.there, chunk.shares
    return found
