"""Examples in docstrings run; public names have docstrings; importing is cheap."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import runpy
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT

import monolith_keras_metrics

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


@pytest.mark.parametrize("name", ["options_table.py", "measures_table.py"])
def test_tables_of_the_documentation(name: str) -> None:
    """The page has what the code says; `python docs/_tools/NAME` writes it."""
    tool = runpy.run_path(str(ROOT / "docs/_tools" / name))
    assert tool["PAGE"].read_text(encoding="utf-8") == tool["page"]()


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
