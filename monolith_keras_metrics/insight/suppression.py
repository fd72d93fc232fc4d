"""Hiding groups of few users, and others by which these could be found.

Sums add up. So a group that is hidden alone in a *line*, which is all groups that agree in some of
the columns, is the line's total less the groups that are shown; and the total is a row of a summary
by those columns. In each line, at least two groups are therefore hidden, or none (secondary
suppression, as statistical offices call it; Willenborg and de Waal 2001).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight.grouping import grouped
from monolith_keras_metrics.insight.keys import Numbers

Mask = npt.NDArray[np.bool_]


def suppressed(result: pl.DataFrame, groups: Sequence[str], minimum_users: int) -> pl.DataFrame:
    """Return a result without the values of groups of few users, and of others where it must be.

    Args:
        result: A row per target and group, with the column `users`.
        groups: The columns of the groups.
        minimum_users: The smallest number of users of a group that is shown.
    """
    lines = [
        grouped(result.select("target", *some))[1]
        for size in range(len(groups))
        for some in itertools.combinations(groups, size)
    ]
    hidden = _hidden(result.get_column("users").to_numpy(), lines, minimum_users)
    values = [name for name in result.columns if name not in ("target", *groups)]
    return result.with_columns(pl.when(pl.Series(~hidden)).then(pl.col(values)))


def _hidden(users: Numbers, lines: Sequence[Numbers], minimum: int) -> Mask:
    """Return which groups are hidden.

    Args:
        users: The number of users of each group.
        lines: For each choice of columns, the number of each group's line.
        minimum: The smallest number of users of a group that is shown.
    """
    there: Mask = users > 0  # a group without users adds nothing to any total, and hides nothing
    hidden = there & (users < minimum)
    alone = np.zeros(users.size, np.bool_)  # the total of its line is the group itself
    for line in lines:
        alone |= (np.bincount(line, there) == 1)[line]
    before = -1
    while before != (before := int(hidden.sum())):
        for line in lines:
            lonely = (np.bincount(line, hidden) == 1)[line]
            # A group in a line where none is hidden yet would be lonely there.
            lines_to_come = sum((np.bincount(one, hidden) == 0)[one] for one in lines)
            preferred = np.lexsort((users, lines_to_come, alone))
            chosen = preferred[(there & ~hidden & lonely)[preferred]]
            hidden[chosen[np.unique(line[chosen], return_index=True)[1]]] = True
    return hidden
