"""Examples in docstrings run; public names have docstrings; importing is cheap."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from places import ROOT

import monolith_keras_metrics
from monolith_keras_metrics import Options

_MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(monolith_keras_metrics.__path__, "monolith_keras_metrics.")
)


@pytest.mark.parametrize("name", _MODULES)
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.failed == 0


@pytest.mark.parametrize("name", monolith_keras_metrics.__all__)
def test_public_names_are_documented(name: str) -> None:
    value = getattr(monolith_keras_metrics, name)
    if name == "__version__":
        assert value.count(".") == 2
        return
    doc = inspect.getdoc(value) or ""
    assert "Args:" in doc or "Attributes:" in doc
    assert "Raises:" in doc or "Returns:" in doc
    assert ">>>" in doc or "```python" in doc


@pytest.mark.parametrize(
    "name", ["DeepInsightCallback", "DeepInsightClient", "DeepInsightLayer", "Options"]
)
def test_table_of_options(name: str) -> None:
    """It has each argument of the class, in the class's order, and its default.

    The fields of `Options` stand there once.
    """
    text = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- options:begin -->(.*)<!-- options:end -->", text, re.DOTALL)
    (section,) = re.findall(rf"^### {name}\n(.*?)(?=^### |\Z)", table, re.DOTALL | re.MULTILINE)
    shown: dict[str, Any] = {
        option: inspect.Parameter.empty
        if default == "required"
        else eval(default.strip("`"), {"time": time})
        for option, default in re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE)
    }
    parameters = inspect.signature(getattr(monolith_keras_metrics, name)).parameters.values()
    elsewhere = () if name == "Options" else inspect.signature(Options).parameters
    known = {
        one.name: one.default
        for one in parameters
        if one.kind is not one.VAR_KEYWORD and one.name not in elsewhere
    }
    assert list(shown.items()) == list(known.items())


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="DeepInsight"):
        _ = monolith_keras_metrics.DeepInsight
    assert "DeepInsightCallback" in dir(monolith_keras_metrics)


@pytest.mark.parametrize(
    "modules",
    [
        "monolith_keras_metrics",
        "monolith_keras_metrics.cli, monolith_keras_metrics.exit_hook",
        "monolith_keras_metrics.pipeline.client, monolith_keras_metrics.sinks.parquet",
        "monolith_keras_metrics.insight",
    ],
)
def test_imports_no_tensorflow(modules: str) -> None:
    """And importing changes no signal handlers."""
    code = (
        "import signal, sys; before = [signal.getsignal(s) for s in (1, 2, 15)]; "
        f"import {modules}; assert not {{'tensorflow', 'keras'}} & set(sys.modules); "
        "assert before == [signal.getsignal(s) for s in (1, 2, 15)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
