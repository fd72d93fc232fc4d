"""Write the tables of `options.md` from the code: run it when an option changes."""

from __future__ import annotations

import inspect
import pathlib
import re
from collections.abc import Mapping

from monolith_keras_metrics import DeepInsightCallback, DeepInsightLayer
from monolith_keras_metrics.pipeline.options import Options

PAGE = pathlib.Path(__file__).parents[1] / "options.md"
_BEGIN, _END = "<!-- options:begin -->", "<!-- options:end -->"


def texts_of(documented: object, section: str) -> dict[str, str]:
    """Return the text of each name in a section of a docstring."""
    doc = inspect.getdoc(documented) or ""
    body = re.split(rf"^{section}:\n", doc, maxsplit=1, flags=re.MULTILINE)[1]
    body = re.split(r"^\S", body, maxsplit=1, flags=re.MULTILINE)[0]
    entries = re.findall(r"^ {4}(\*{0,2}\w+): (.*(?:\n {8}.*)*)", body, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in entries}


def table(texts: Mapping[str, str], defaults: Mapping[str, object]) -> str:
    """Return a Markdown table."""
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    for name, text in texts.items():
        default = defaults[name]
        shown = "required" if default is inspect.Parameter.empty else f"`{_literal(default)}`"
        rows.append(f"| `{name}` | {shown} | {text} |")
    return "\n".join(rows)


def _literal(value: object) -> str:
    """Return a default as one writes it in Python, with double quotes."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def own_arguments(taker: type) -> str:
    """Return the table of the arguments that are not options."""
    texts = {k: v for k, v in texts_of(taker, "Args").items() if not k.startswith("*")}
    parameters = inspect.signature(taker).parameters
    return table(texts, {name: parameters[name].default for name in texts})


def tables() -> str:
    """Return what stands between the marks of the page."""
    options = texts_of(Options, "Attributes")
    defaults = {name: field.default for name, field in Options.__dataclass_fields__.items()}
    return "\n\n".join(
        [
            _BEGIN,
            "### Options of the client, the callback, the layer and the operation",
            table(options, defaults),
            "### Further arguments of DeepInsightCallback",
            own_arguments(DeepInsightCallback),
            "### Further arguments of DeepInsightLayer",
            own_arguments(DeepInsightLayer),
            _END,
        ]
    )


def page() -> str:
    """Return the page with tables as the code has them."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    return before + tables() + rest.split(_END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
