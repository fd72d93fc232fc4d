"""Which Keras this is: Keras 3, or the legacy `tf_keras` where `TF_USE_LEGACY_KERAS=1` says so."""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

_OLDEST = {"TensorFlow": (2, 16), "Keras": (3, 3)}


def check_version(package: str, version: str) -> None:
    """Raises for a version that is too old.

    Args:
        package: `"TensorFlow"` or `"Keras"`.
        version: Such as `"2.16.1"`.

    Raises:
        ImportError: With the version that there is and the one that is needed.
    """
    found = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if found < _OLDEST[package]:
        oldest = ".".join(map(str, _OLDEST[package]))
        raise ImportError(
            f"monolith_keras_metrics needs {package} {oldest} or newer. Found: {version}. "
            f"Upgrade it with: pip install --upgrade '{package.lower()}>={oldest}'"
        )


check_version("TensorFlow", tf.__version__)

# What `tf.keras` is: Keras 3 from TensorFlow 2.16 on, else what the environment asks for.
keras: Any = tf.keras
if hasattr(keras, "__version__"):  # legacy Keras goes with its TensorFlow, and tells none here
    check_version("Keras", keras.__version__)


def is_legacy(model: Any) -> bool:
    """Whether this is a model of legacy Keras."""
    return hasattr(model, "_test_counter")


def steps_per_execution(model: Any) -> Any:
    """Steps that one call of the model's train function runs: an `int`.

    In legacy Keras a `tf.Variable` where it is not 1: Keras sets it lower for the last call.
    """
    steps = getattr(model, "_steps_per_execution", None)  # legacy Keras
    if isinstance(steps, tf.Variable):
        return steps if int(steps) > 1 else 1
    return int(getattr(model, "steps_per_execution", None) or 1)
