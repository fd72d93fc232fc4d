"""Write the table of `measures.md` from the code: run it when a measure changes."""

from __future__ import annotations

import pathlib

from monolith_keras_metrics.insight import MEASURES

PAGE = pathlib.Path(__file__).parents[1] / "measures.md"
_BEGIN, _END = "<!-- measures:begin -->", "<!-- measures:end -->"
_KINDS = {
    "any": "any",
    "no logits": "any, with probabilities if labels are 0 and 1",
    "binary": "0 and 1",
    "probability": "0 and 1, with probabilities",
    "regression": "others",
}


def table() -> str:
    """Return what stands between the marks of the page."""
    rows = ["| measure | definition | labels | best |", "| --- | --- | --- | --- |"]
    for measure in MEASURES.values():
        best = measure.better
        best = f"{best:g}" if isinstance(best, float) else best or "-"
        text = measure.text.replace("|", "\\|") + (" (on demand)" if measure.on_demand else "")
        rows.append(f"| `{measure.name}` | {text} | {_KINDS[measure.kind]} | {best} |")
    return "\n".join([_BEGIN, "", *rows, "", _END])


def page() -> str:
    """Return the page with the table as the code has it."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    return before + table() + rest.split(_END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
