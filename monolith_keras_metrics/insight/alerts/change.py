"""Since when a rule is broken: the change point of a cumulative sum.

The excess of a block is how far its value is beyond the bound, times its examples. From the block
at which the fault began, the excesses add up; before it, they mostly are below zero. So it began
where the sum of all later excesses is largest (Page 1954, "Continuous inspection schemes").

The value is measured over all blocks from each one to the end, and not block by block: of a few
examples, many measures are biased, or undefined.
"""

from __future__ import annotations

from collections.abc import Sequence

from monolith_keras_metrics.insight.alerts.evidence_blocks import Blocks, Span
from monolith_keras_metrics.insight.alerts.judging import Row, rows_of
from monolith_keras_metrics.insight.check import COUNTED
from monolith_keras_metrics.insight.finish import finish
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.rules import Rule

# They grow with time, and so does what a span may have of them.
_GROWING = (*COUNTED, "effective_examples")


class Changes:
    """When values began to break rules.

    Args:
        blocks: The blocks of a question.
        rules: The rules about them.
        end: The end of the window that was closed last.
    """

    def __init__(self, blocks: Blocks, rules: Sequence[Rule], end: int) -> None:
        self._blocks = blocks
        self._end = end
        self._names = [*dict.fromkeys(rule.name for rule in rules)]
        self._found: dict[tuple[int, int], dict[int, dict[Row, dict[str, float | None]]]] = {}

    def since(
        self, rule: Rule, row: Row, value: float, spans: Sequence[Span], begin: int
    ) -> tuple[int, bool] | None:
        """Return when a fault began, and True if it may have been earlier; None if unknown.

        Args:
            rule: The rule that is broken.
            row: The target and group.
            value: The value that breaks it.
            spans: The span in which it does, and longer ones: a fault that is as long as a span is
                looked for in the next.
            begin: The time before which records are not judged.
        """
        side, bound = 1, rule.high
        if bound is None or value < bound:
            side, bound = (-1, rule.low) if rule.low is not None else (1, rule.high)
        assert bound is not None  # a rule has one
        found: int | None = None
        for span in spans:
            cut = max(self._end - span.seconds, begin)
            of_starts = self._measured(span.size, cut)
            excess: dict[int, float] = {}
            for start, of_rows in of_starts.items():
                values = of_rows.get(row, {})
                one, examples = values.get(rule.name), values.get("examples")
                if rule.name in _GROWING:
                    share = (self._end - start) / span.seconds
                    excess[start] = side * ((one or 0.0) - bound * share)
                elif one is not None and examples:
                    excess[start] = side * examples * (one - bound)
            if not excess:
                continue
            start = max(excess, key=lambda at: (excess[at], -at))
            found = start if found is None else min(found, start)
            if found > min(of_starts):
                return found, False
        return None if found is None else (found, True)

    def _measured(self, size: int, cut: int) -> dict[int, dict[Row, dict[str, float | None]]]:
        """Return the values of each target and group from each block to the end."""
        if (size, cut) not in self._found:
            measures = [MEASURES[name] for name in self._names if name in MEASURES]
            starts = [start for start in self._blocks.starts(size) if start >= cut]
            found = {}
            for start, state in self._blocks.since(size, starts):
                if state is not None:
                    frame = finish(state, measures)
                    names = [*dict.fromkeys(["examples", *self._names])]
                    values = frame.select(names).rows(named=True)
                    found[start] = dict(zip(rows_of(frame, state.keys), values, strict=True))
            self._found[size, cut] = found
        return self._found[size, cut]
