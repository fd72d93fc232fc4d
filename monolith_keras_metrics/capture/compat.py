"""The Keras in use: Keras 3, or the legacy `tf_keras` if `TF_USE_LEGACY_KERAS=1`."""

from __future__ import annotations

import os
import re
from typing import Any

import tensorflow as tf

_OLDEST = {"TensorFlow": (2, 16), "Keras": (3, 3)}


def check_version(package: str, version: str) -> None:
    """Raise if a version is too old.

    Args:
        package: `"TensorFlow"` or `"Keras"`.
        version: The version found, such as `"2.16.1"`.

    Raises:
        ImportError: If the version is too old. The message has the required version.
    """
    found = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if found < _OLDEST[package]:
        oldest = ".".join(map(str, _OLDEST[package]))
        raise ImportError(
            f"monolith_keras_metrics needs {package} {oldest} or newer. Found: {version}. "
            f"Upgrade it with: pip install --upgrade '{package.lower()}>={oldest}'"
        )


check_version("TensorFlow", tf.__version__)

# Keras 3, or legacy Keras if the environment asks for it.
keras: Any = tf.keras
if hasattr(keras, "__version__"):  # legacy Keras follows TensorFlow's version, and has none here
    check_version("Keras", keras.__version__)


def check_backend(name: str = "DeepInsightCallback") -> None:
    """Raise a RuntimeError that names a callback if Keras does not use TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"{name} needs Keras's TensorFlow backend (KERAS_BACKEND=tensorflow). "
            f"Received: {keras.backend.backend()!r}"
        )


def is_legacy(model: Any) -> bool:
    """Return True if the model is a legacy Keras model."""
    return hasattr(model, "_test_counter")


def check_keras(model: Any) -> None:
    """Raise if a model was built with a different Keras than `tf.keras`.

    Args:
        model: The model. A model built with neither Keras passes.

    Raises:
        TypeError: If the model was built with the other Keras. The message says how to fix it.
    """
    made_with = {cls.__module__.partition(".")[0] for cls in type(model).__mro__}
    name = type(model).__name__
    if isinstance(model, keras.Model) or not made_with & {"keras", "tf_keras"}:
        return
    if "tf_keras" in made_with:
        raise TypeError(
            f"The model must be built with `tf.keras`, which is Keras {keras.__version__}. "
            f"Received: {name}, a model of legacy Keras (tf_keras); "
            f"TF_USE_LEGACY_KERAS is {_variable()}.\n"
            "Set the environment variable TF_USE_LEGACY_KERAS=1 before TensorFlow is imported, as "
            "in os.environ['TF_USE_LEGACY_KERAS'] = '1' above all imports; or build the model with "
            "`import keras`"
        )
    raise TypeError(
        "The model must be built with `tf.keras`, which is legacy Keras (tf_keras). "
        f"Received: {name}, a model of Keras 3; TF_USE_LEGACY_KERAS is "
        f"{_variable()}.\n"
        "Unset the environment variable TF_USE_LEGACY_KERAS before TensorFlow is imported, as in "
        "os.environ.pop('TF_USE_LEGACY_KERAS', None) above all imports; or build the model with "
        "`import tf_keras`"
    )


def _variable() -> str:
    value = os.environ.get("TF_USE_LEGACY_KERAS")
    return "not set" if value is None else f"{value!r}"


def steps_per_execution(model: Any) -> Any:
    """Return the number of steps that one call of the model's train function runs.

    An `int`, or a `tf.Variable` in legacy Keras if it is not 1: Keras lowers it for the last call.
    """
    steps = getattr(model, "_steps_per_execution", None)  # legacy Keras
    if isinstance(steps, tf.Variable):
        return steps if int(steps) > 1 else 1
    return int(getattr(model, "steps_per_execution", None) or 1)
