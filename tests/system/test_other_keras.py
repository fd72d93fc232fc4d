"""A model of the other Keras than `tf.keras` is: an error at once, and nothing is left behind."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest
from places import HELPERS

pytestmark = pytest.mark.slow

_SCRIPT = HELPERS / "other_keras.py"


def start(package: str, folder: pathlib.Path, legacy: str | None) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    if legacy is not None:
        environment["TF_USE_LEGACY_KERAS"] = legacy
    return subprocess.Popen(
        [sys.executable, str(_SCRIPT), package, str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_model_of_the_other_keras(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("tf_keras", reason="legacy Keras is not installed")
    cases = {
        ("tf_keras", None): (
            r"built with `tf.keras`, which is Keras 3\S*\. Received: Functional, a model of legacy "
            r"Keras \(tf_keras\); TF_USE_LEGACY_KERAS is not set\.\n"
            r"Set the environment variable TF_USE_LEGACY_KERAS=1 before TensorFlow is imported"
        ),
        ("keras", "1"): (
            r"`tf.keras`, which is legacy Keras \(tf_keras\)\. Received: Functional, a "
            r"model of Keras 3; TF_USE_LEGACY_KERAS is '1'\.\n"
            r"Unset the environment variable TF_USE_LEGACY_KERAS before TensorFlow is imported"
        ),
    }
    processes = {
        case: start(case[0], tmp_path / case[0], case[1]) for case in cases
    }  # at the same time
    for case, process in processes.items():
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output[-4000:]
        assert re.search(cases[case], output), output[-4000:]
