"""Every snippet of the README and the documentation runs, in order, as a reader would run them.

The blocks of a page share their names and a folder. A page can say more in comments:

- `<!-- continues: getting-started.md -->`: it has the names and the runs of that page.
- `<!-- needs: broker -->`: its `kafka://` URI is that of a broker of the tests.
- `<!-- needs: spark -->`: a test beside those of Spark runs it.
"""

from __future__ import annotations

import json
import linecache
import pathlib
import re
import shutil
from typing import Any

import pytest
from places import ROOT

_PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
}
_README = _PAGES["README.md"]
_START = "getting-started.md"
_LANGUAGES = {"json", "python", "sh", "text"}


def snippets(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _PAGES[page], re.DOTALL | re.MULTILINE)


_WITH_CODE = sorted(page for page in _PAGES if snippets(page, "python"))


def compiled(page: str) -> list[Any]:
    """Compile the snippets of a page, so that tracebacks and AutoGraph find their source."""
    codes = []
    for number, text in enumerate(snippets(page, "python")):
        name = f"<{page}, snippet {number}>"
        linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
        codes.append(compile(text, name, "exec"))
    return codes


def run(page: str, namespace: dict[str, Any]) -> None:
    for code in compiled(page):
        exec(code, namespace)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any]]:
    """The folder and the names after the page that others continue."""
    folder = tmp_path_factory.mktemp("started")
    namespace: dict[str, Any] = {"__name__": "snippets"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(_START, namespace)
    return folder, namespace


@pytest.mark.parametrize("page", [one for one in _WITH_CODE if "<!-- needs:" not in _PAGES[one]])
def test_python_snippets(
    page: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "snippets"}
    if page == _START:
        request.getfixturevalue("started")
        return
    if f"<!-- continues: {_START} -->" in _PAGES[page]:
        folder, names = request.getfixturevalue("started")
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        namespace |= names
    run(page, namespace)


def test_python_snippets_with_kafka(
    broker: Any, topic: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
    started: tuple[pathlib.Path, dict[str, Any]],
) -> None:  # fmt: skip
    assert "<!-- needs: broker -->" in _PAGES["kafka.md"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    uri = re.compile(r"kafka://[\w:,.-]+/[\w-]+")
    text = uri.sub(f"kafka://{broker.bootstrap}/{topic}", _PAGES["kafka.md"])
    monkeypatch.setitem(_PAGES, "kafka.md", text)
    run("kafka.md", dict(started[1]))
    assert len(broker.consume(topic, 2_055)) == 2_055


@pytest.mark.parametrize("page", _WITH_CODE)
def test_python_snippets_compile(page: str) -> None:
    """Those that need Kafka, too, where there is no broker."""
    assert compiled(page)


def test_the_output_that_is_shown_is_that_of_the_snippets(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names, types and counts are; other numbers differ a little between machines."""

    def words(text: str) -> list[list[str]]:
        lines = [line for line in text.splitlines() if "┆" in line]
        return [re.split(r"\s*[│┆]\s*", line)[1:4] for line in lines]

    def tables(page: str) -> list[str]:
        return [text for text in snippets(page, "text") if "┆" in text]

    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    run("README.md", names)
    output = capsys.readouterr().out
    assert "Deep insight: 2,055 of 20,000 examples written to runs/ctr" in output
    (of_readme,), (of_summary, of_slices) = tables("README.md"), tables("reading.md")
    for shown in (of_readme, of_summary):
        assert words(shown) == words(output)
        assert shown.splitlines()[0] in output
    run("reading.md", names)
    printed = words(capsys.readouterr().out)
    found = [row[:2] for row in printed if row[0].startswith("country=")]
    assert found == [row[:2] for row in words(of_slices)[3:]]


@pytest.mark.parametrize("page", ["README.md", "records.md"])
def test_the_record_that_is_shown_has_the_fields_of_a_real_one(
    page: str, tmp_path: pathlib.Path
) -> None:
    from training import columns, dataset, frozen, labels, model

    from monolith_keras_metrics import DeepInsightCallback

    recorder = DeepInsightCallback(f"jsonl:{tmp_path}", model_name="m", extra_fields=["carrier"],
                                   sample_ratio=1.0)  # fmt: skip
    frozen(model()).fit(dataset(columns(), labels()), callbacks=[recorder], verbose=0)
    (path,) = tmp_path.glob("*.jsonl")
    real = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    (shown,) = snippets(page, "json")
    assert list(json.loads(shown)) == list(real)


@pytest.mark.parametrize("page", sorted(_PAGES))
def test_every_block_names_its_language(page: str) -> None:
    """So that no Python is passed over."""
    fences = re.findall(r"^ *```(.*)$", _PAGES[page], re.MULTILINE)
    assert set(fences[::2]) <= _LANGUAGES
    assert set(fences[1::2]) <= {""}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    """The build of the documentation checks the links within it."""
    for link in re.findall(r"\]\(([^)]+)\)", _PAGES[page]):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        text = (ROOT / path).read_text(encoding="utf-8", errors="replace")  # or a picture
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
        }
        assert not anchor or anchor in anchors


def test_readme_is_short() -> None:
    assert len(_README.splitlines()) <= 150


def test_shell_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in ("quickstart", "test"):
        assert f"make {command}\n" in _README
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
    named = re.findall(r"`make (\w+)`", "".join(_PAGES.values()))
    assert all(re.search(rf"^{command}:", makefile, re.MULTILINE) for command in named)
