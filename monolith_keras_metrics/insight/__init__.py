"""Reading and measuring the records of a training, without TensorFlow."""

from monolith_keras_metrics.insight.dataset import open_run
from monolith_keras_metrics.insight.long import long_form
from monolith_keras_metrics.insight.measures import summary
from monolith_keras_metrics.insight.ranking import auc

__all__ = ["auc", "long_form", "open_run", "summary"]
