"""Reading and measuring the records of a training, without TensorFlow."""

from monolith_keras_metrics.insight import figures, spark
from monolith_keras_metrics.insight.alerts.replay import Replay, replay_alerts
from monolith_keras_metrics.insight.alerts.rule_file import RuleFile
from monolith_keras_metrics.insight.check import check, check_pairs
from monolith_keras_metrics.insight.compare import compare
from monolith_keras_metrics.insight.coverage import coverage
from monolith_keras_metrics.insight.dataset import open_run
from monolith_keras_metrics.insight.distribution import distribution
from monolith_keras_metrics.insight.explain import explain
from monolith_keras_metrics.insight.long import long_form
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.page.contents import RULES
from monolith_keras_metrics.insight.page.report import open_report, report
from monolith_keras_metrics.insight.ranking import auc
from monolith_keras_metrics.insight.relabel import relabel
from monolith_keras_metrics.insight.reliability import reliability
from monolith_keras_metrics.insight.show import show
from monolith_keras_metrics.insight.slices import slices
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.states import state_of
from monolith_keras_metrics.insight.summary import summary
from monolith_keras_metrics.insight.watch.run import watch, watched

__all__ = [
    "MEASURES",
    "RULES",
    "Replay",
    "RuleFile",
    "State",
    "auc",
    "check",
    "check_pairs",
    "compare",
    "coverage",
    "distribution",
    "explain",
    "figures",
    "long_form",
    "open_report",
    "open_run",
    "relabel",
    "reliability",
    "replay_alerts",
    "report",
    "show",
    "slices",
    "spark",
    "state_of",
    "summary",
    "watch",
    "watched",
]
