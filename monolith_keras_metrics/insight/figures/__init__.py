"""Figures of measures, as plain dictionaries in Plotly's form, and as static drawings.

Each function takes a table of one target, as `summary`, `reliability`, `distribution`, `slices` or
`compare` returns it. A notebook shows the result; `Figure.svg` is a drawing for print and mail.
"""

from monolith_keras_metrics.insight.figures.comparison import comparison
from monolith_keras_metrics.insight.figures.figure import Figure
from monolith_keras_metrics.insight.figures.grid import Grid, slices_over_time
from monolith_keras_metrics.insight.figures.over_time import (
    comparison_over_time,
    delay,
    over_time,
)
from monolith_keras_metrics.insight.figures.predictions import predictions
from monolith_keras_metrics.insight.figures.reliability import reliability
from monolith_keras_metrics.insight.figures.slices import slices

__all__ = [
    "Figure",
    "Grid",
    "comparison",
    "comparison_over_time",
    "delay",
    "over_time",
    "predictions",
    "reliability",
    "slices",
    "slices_over_time",
]
