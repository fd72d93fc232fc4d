"""The first screen: is it well, what is wrong, and can this page be trusted?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight.page import words
from monolith_keras_metrics.insight.page.contents import Contents
from monolith_keras_metrics.insight.texts import text_of, with_interval
from monolith_keras_metrics.records.coverage import COUNTS

_MOST = 5  # slices of a target that the first screen names
# The worst comes first. Each has a sign and a word, since not everybody sees colours.
STATUSES = {
    "bad": ("✗", "broken"),
    "look": ("!", "look here"),
    "unsure": ("?", "too early to tell"),
    "good": ("✓", "no fault found"),
}


class Card(NamedTuple):
    """How a target is.

    Attributes:
        target: Its name.
        status: One of `STATUSES`.
        reasons: Why it has this status, as sentences; none if no fault was found.
        facts: What is known about it, as sentences.
        slices: The slices for which it is most wrong, each with what is wrong there.
    """

    target: str
    status: str
    reasons: list[str]
    facts: list[str]
    slices: list[tuple[str, str]]

    @property
    def sign(self) -> str:
        """Return the sign of the status."""
        return STATUSES[self.status][0]

    @property
    def word(self) -> str:
        """Return the status in words."""
        return STATUSES[self.status][1]


def cards(contents: Contents) -> list[Card]:
    """Return a card per target, in the order of the records."""
    return [_card(row, contents) for row in contents.tables["summary"].iter_rows(named=True)]


def headline(found: list[Card]) -> str:
    """Return the answer to "is it well?", in one sentence."""
    of = {status: [card.target for card in found if card.status == status] for status in STATUSES}
    if not found:
        return "There is nothing to measure yet."
    if of["bad"]:
        return f"{_names(of['bad'])} {_verb(of['bad'], 'breaks', 'break')} a rule."
    if of["look"]:
        return f"Nothing is broken; look at {_names(of['look'])}."
    if of["unsure"]:
        verb = _verb(of["unsure"], "is", "are")
        return f"It is too early to tell how {_names(of['unsure'])} {verb}."
    return "No fault was found."


def _card(row: dict[str, Any], contents: Contents) -> Card:
    target = row["target"]
    broken, undecided = [], []
    for verdict in _rows(contents, "verdicts", target):
        if verdict["verdict"] == "broken":
            value = with_interval(verdict["value"], verdict["low"], verdict["high"])
            broken.append(f"the rule {verdict['rule']} is broken: {value}")
        elif verdict["verdict"] == "undecided" and verdict["value"] is not None:
            undecided.append(f"the rule {verdict['rule']} is undecided: {verdict['reason']}")
    changed = [one for one in _rows(contents, "changes", target) if one["clear"]]
    worse = [words.change(one) for one in changed if words.is_worse(one)]
    better = [words.change(one) for one in changed if not words.is_worse(one)]
    slices = list(_rows(contents, "slices", target))
    looks = [f"lately worse: {text}" for text in worse]
    if slices:
        looks.append(f"wrong for {len(slices)} slice{'s' * (len(slices) > 1)} of examples")
    if not row["examples"]:
        undecided.append("no example has a label")
    status = "bad" if broken else "look" if looks else "unsure" if undecided else "good"
    facts = [
        *filter(None, (words.calibration(row), _ranking(row), words.entropy(row), _errors(row))),
        *(f"lately better: {text}" for text in better),
    ]
    named = [(one["slice"], words.wrong(one)) for one in slices[:_MOST]]
    return Card(target, status, [*broken, *looks, *undecided], facts, named)


def _ranking(row: dict[str, Any]) -> str:
    if row.get("auc") is None:
        return ""
    value = with_interval(row["auc"], row.get("auc_low"), row.get("auc_high"))
    return f"ranks a positive above a negative in {words.share(row['auc'])} of pairs: AUC {value}"


def _errors(row: dict[str, Any]) -> str:
    if row.get("mae") is None:
        return ""
    texts = []
    for name in ("mae", "rmse", "bias"):
        value = with_interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high")))
        texts.append(f"{words.title_of(name)} {value}")
    return ", ".join(texts)


def trust(contents: Contents) -> Iterator[str]:
    """Yield how old and how complete the data is, as sentences."""
    about, summary = contents.about, contents.tables["summary"]
    if about["newest"] is None:
        yield "There is no record yet."
        return
    for row in summary.iter_rows(named=True):
        left_out = [
            f"{text_of(row[name])} {text}"
            for name, text in (
                ("unlabelled", "without a label"),
                ("invalid", "invalid"),
                ("revisits", "seen before"),
            )
            if row[name]
        ]
        rest = f"; left out: {', '.join(left_out)}" if left_out else "; none was left out"
        yield (
            f"{row['target']}: {text_of(row['examples'])} examples of "
            f"{text_of(row['users'])} users{rest}."
        )
    yield from _complete(contents.tables.get("coverage"))
    if about["fields_left_out"]:
        names = ", ".join(about["fields_left_out"])
        yield f"Not shown by value, since they have too many: {names}."


def _complete(coverage: pl.DataFrame | None) -> Iterator[str]:
    """Yield what became of all examples that training accepted."""
    counted = None if coverage is None else coverage.drop_nulls("accepted")
    if counted is None or counted.is_empty():
        yield "How complete the records are is not known: no process has left its counts here."
        return
    total = counted.select(pl.col(COUNTS).sum()).row(0, named=True)
    sampled = total["accepted"] - total["unsampled"]
    lost = total["dropped"] + total["failed"]
    text = (
        f"Training accepted {text_of(total['accepted'])} examples, of which "
        f"{text_of(sampled)} were to be recorded: {text_of(total['written'])} are written"
    )
    if lost:
        text += f", {text_of(lost)} ({words.share(lost / max(1, sampled))}) are lost"
    if total["waiting"]:
        text += f", {text_of(total['waiting'])} were not written yet"
    processes = counted.height
    yield f"{text}, as counted by {processes} process{'es' * (processes > 1)}."
    running = counted.filter(~pl.col("ended"))
    if running.height:
        yield (
            f"{running.height} of them had not ended when it last counted: it still runs, or was "
            "killed."
        )


def _rows(contents: Contents, name: str, target: str) -> Iterator[dict[str, Any]]:
    table = contents.tables.get(name)
    if table is not None and table.width:
        yield from table.filter(pl.col("target") == target).iter_rows(named=True)


def _names(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])


def _verb(names: list[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
