"""Reads what training wrote, and measures it; works without TensorFlow."""

from monolith_keras_metrics.insight.dataset import long_form, open_run
from monolith_keras_metrics.insight.measures import auc, summary

__all__ = ["auc", "long_form", "open_run", "summary"]
