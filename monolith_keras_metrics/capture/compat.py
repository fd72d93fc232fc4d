"""Which Keras this is: Keras 3, or the legacy `tf_keras` where `TF_USE_LEGACY_KERAS=1` says so."""

from __future__ import annotations

import os
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


def check_keras(model: Any) -> None:
    """Raises for a model of the other Keras than `tf.keras` is.

    Args:
        model: The model. One of neither Keras passes.

    Raises:
        TypeError: With the environment variable that decides, and what to write.
    """
    made_with = {cls.__module__.partition(".")[0] for cls in type(model).__mro__}
    name = type(model).__name__
    if isinstance(model, keras.Model) or not made_with & {"keras", "tf_keras"}:
        return
    if "tf_keras" in made_with:
        raise TypeError(
            f"DeepInsightCallback must get a model of the Keras that `tf.keras` is, Keras "
            f"{keras.__version__}. Received: {name}, a model of legacy Keras (tf_keras); "
            f"TF_USE_LEGACY_KERAS is {_variable()}.\n"
            "Set the environment variable TF_USE_LEGACY_KERAS=1 before TensorFlow is imported, as "
            "in os.environ['TF_USE_LEGACY_KERAS'] = '1' above all imports; or make the model with "
            "`import keras`"
        )
    raise TypeError(
        "DeepInsightCallback must get a model of the Keras that `tf.keras` is, legacy Keras "
        f"(tf_keras). Received: {name}, a model of Keras 3; TF_USE_LEGACY_KERAS is "
        f"{_variable()}.\n"
        "Unset the environment variable TF_USE_LEGACY_KERAS before TensorFlow is imported, as in "
        "os.environ.pop('TF_USE_LEGACY_KERAS', None) above all imports; or make the model with "
        "`import tf_keras`"
    )


def _variable() -> str:
    value = os.environ.get("TF_USE_LEGACY_KERAS")
    return "not set" if value is None else f"{value!r}"


def steps_per_execution(model: Any) -> Any:
    """Steps that one call of the model's train function runs: an `int`.

    In legacy Keras a `tf.Variable` where it is not 1: Keras sets it lower for the last call.
    """
    steps = getattr(model, "_steps_per_execution", None)  # legacy Keras
    if isinstance(steps, tf.Variable):
        return steps if int(steps) > 1 else 1
    return int(getattr(model, "steps_per_execution", None) or 1)
