"""Every snippet of the README runs, in order, as a reader would run them."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
from places import ROOT

_README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", _README, re.DOTALL)


@pytest.mark.slow
def test_python_snippets(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    parts = snippets("python")
    assert len(parts) >= 8
    for number, code in enumerate(parts):
        exec(compile(code, f"README snippet {number}", "exec"), namespace)
    output = capsys.readouterr().out
    assert re.search(r"Deep insight: [12],\d{3} of 20,000 examples written to runs/ctr", output)
    assert re.search(r"Stats\(accepted=20000, .*dropped=0, failed=0, waiting=0,", output)


def test_the_record_that_is_shown_has_the_fields_of_a_real_one(tmp_path: pathlib.Path) -> None:
    from training import columns, dataset, frozen, labels, model

    from monolith_keras_metrics import DeepInsightCallback

    recorder = DeepInsightCallback(f"jsonl:{tmp_path}", model_name="m", extra_fields=["carrier"],
                                   sample_ratio=1.0)  # fmt: skip
    frozen(model()).fit(dataset(columns(), labels()), callbacks=[recorder], verbose=0)
    (path,) = tmp_path.glob("*.jsonl")
    real = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    (shown,) = snippets("json")
    assert list(json.loads(shown)) == list(real)


def test_shell_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in ("quickstart", "test"):
        assert f"make {command}\n" in _README
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
