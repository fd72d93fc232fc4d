"""The first screen: is it well, what is wrong, and can this page be trusted?"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight.page import words, wrong
from monolith_keras_metrics.insight.page.contents import Contents
from monolith_keras_metrics.insight.texts import text_of, with_interval
from monolith_keras_metrics.records.coverage import COUNTS

_REPLAYED = 90 * 86_400  # seconds; no training that follows its requests is so far behind
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
        return f"No rule is broken, but look at {_names(of['look'])}."
    if of["unsure"]:
        verb = _verb(of["unsure"], "is", "are")
        return f"It is too early to tell how {_names(of['unsure'])} {verb}."
    return "No fault was found."


def _card(row: dict[str, Any], contents: Contents) -> Card:
    target = row["target"]
    broken, undecided, kept = [], [], []
    for verdict in _rows(contents, "verdicts", target):
        if verdict["verdict"] == "broken":
            value = with_interval(verdict["value"], verdict["low"], verdict["high"])
            broken.append(f"Breaks the rule {verdict['rule']}: it is {value}")
        elif verdict["verdict"] == "holds":
            kept.append(verdict["rule"])
        elif verdict["value"] is not None:
            undecided.append(f"Whether {verdict['rule']} is not decided: {verdict['reason']}")
    if not row["examples"]:
        undecided.append("No example has a label")
    slices = list(_rows(contents, "slices", target))
    looks, better = _changed(contents, target)
    if slices:
        number = f"{len(slices)} or more" if len(slices) >= wrong.MOST else f"{len(slices)}"
        slice_s = _verb(slices, "slice", "slices")
        such_as = ", such as" if len(slices) > _MOST else ""
        looks.append(f"Wrong by more than chance for {number} {slice_s}{such_as}:")
    status = "bad" if broken else "look" if looks else "unsure" if undecided else "good"
    told = (words.calibration(row), words.ranking(row), words.entropy(row), words.errors(row))
    facts = [*filter(None, told), *better, *_compared(contents, target)]
    if kept:
        kept.sort(key=contents.about["rules"].index)
        facts.append(f"Keeps the {_verb(kept, 'rule', 'rules')} {', '.join(kept)}")
    is_rate = row.get("auc") is not None
    named = [(one["slice"], words.wrong(one, is_rate)) for one in slices[:_MOST]]
    return Card(target, status, [*broken, *undecided, *looks], facts, named)


def _changed(contents: Contents, target: str) -> tuple[list[str], list[str]]:
    """Return what has become worse, and what better, as a sentence each; none if nothing has."""
    clear = [one for one in _rows(contents, "changes", target) if one["clear"]]
    found = []
    for word, is_worse in (("Worse", True), ("Better", False)):
        texts = [words.change(one) for one in clear if words.is_worse(one) is is_worse]
        since = words.since(contents.about["recent_since"]) if texts else ""
        found.append([f"{word} since {since}: {', '.join(texts)}"] if texts else [])
    return found[0], found[1]


def _compared(contents: Contents, target: str) -> Iterator[str]:
    """Yield how the target does compared with the other training."""
    for row in _rows(contents, "comparison", target):
        texts = [text for name in ("auc", "mae") if (text := words.difference(row, name))]
        yield from (f"Compared with {contents.about['against']}: {text}" for text in texts[:1])


def trust(contents: Contents) -> Iterator[str]:
    """Yield how complete the data is, as sentences; the first is the answer."""
    about, summary = contents.about, contents.tables["summary"]
    if summary.is_empty():
        least = about["minimum_users"]
        yield f"No target has {least:,} users." if least else "There is no record yet."
        return
    yield from _complete(contents.tables.get("coverage"))
    texts = {row["target"]: _counted(row) for row in summary.iter_rows(named=True)}
    if len({*texts.values()}) == 1 < len(texts):
        yield f"Each target: {next(iter(texts.values()))}."
    else:
        yield from (f"{target}: {text}." for target, text in texts.items())
    ages = [
        one
        for _, of in contents.tables["by_time"].group_by("target")
        if (one := replayed_after(of))
    ]
    if ages:
        yield (
            f"The records are of the past: requests were {words.duration(max(ages))} old when "
            "training saw them, as in a replay. So delays are not shown."
        )
    if about["minimum_users"]:
        yield (
            f"Groups of fewer than {about['minimum_users']:,} users are not shown, nor are others "
            "by which these could be found; slices that are wrong are not searched for."
        )
    if about["fields_left_out"]:
        names = ", ".join(about["fields_left_out"])
        yield f"Not shown by value, since they have too many, or the name of a measure: {names}."


def replayed_after(by_time: pl.DataFrame) -> float | None:
    """Return after how many seconds requests were replayed; None if training followed them.

    Args:
        by_time: A target's measures by window.
    """
    if "delay_p50" not in by_time.columns:
        return None
    delays = sorted(by_time["delay_p50"].drop_nulls().to_list())
    return delays[len(delays) // 2] if delays and delays[0] >= _REPLAYED else None


def _counted(row: dict[str, Any]) -> str:
    """Return how many examples of a target are measured, and how many not."""
    reasons = {"unlabelled": "without a label", "invalid": "invalid", "revisits": "seen before"}
    left_out = [f"{text_of(row[name])} {text}" for name, text in reasons.items() if row[name]]
    measured = f"{text_of(row['examples'])} examples of {text_of(row['users'])} users are measured"
    return (
        f"{measured}; {', '.join(left_out)} left out" if left_out else f"{measured}, none left out"
    )


def _complete(coverage: pl.DataFrame | None) -> Iterator[str]:
    """Yield what became of all examples that training accepted."""
    counted = None if coverage is None else coverage.drop_nulls("accepted")
    if coverage is None or counted is None or counted.is_empty():
        yield "Not known if records are missing: training has left no counts here."
        return
    total = counted.select(pl.col(COUNTS).sum()).row(0, named=True)
    sampled = total["accepted"] - total["unsampled"]
    lost = total["dropped"] + total["failed"]
    closed = counted.filter("ended")  # of others, a file may just be on its way
    missing = closed.select((pl.col("written") - pl.col("records")).clip(0).sum()).item()
    running = counted.height - closed.height
    processes = f"{counted.height} {_verb(counted['worker'], 'process', 'processes')}"
    if lost or missing:
        texts = {
            f"{text_of(lost)} examples ({words.share(lost / max(1, sampled))}) are lost": lost,
            f"{text_of(missing)} of the written records cannot be found": missing,
        }
        yield f"Not entirely: {', and '.join(filter(texts.get, texts))}."
    elif counted.height < coverage.height:
        yield f"As far as known: {processes} of {coverage.height} left counts, and lost nothing."
    elif running or total["waiting"]:
        yield "So far: nothing was lost when training last counted."
    else:
        yield "Yes: nothing is lost."
    chosen = f", {text_of(sampled)} of them of sampled users" if total["unsampled"] else ""
    waiting = f", {text_of(total['waiting'])} were not yet" if total["waiting"] else ""
    yield (
        f"Training accepted {text_of(total['accepted'])} examples{chosen}; "
        f"{text_of(total['written'])} are written{waiting}, as counted by {processes}."
    )
    if running:
        yield f"Of these, {running} had not ended when it last counted: still running, or killed."


def _rows(contents: Contents, name: str, target: str) -> Iterator[dict[str, Any]]:
    table = contents.tables.get(name)
    if table is not None and table.width:
        yield from table.filter(pl.col("target") == target).iter_rows(named=True)


def _names(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])


def _verb(names: Sized, one: str, several: str) -> str:
    return one if len(names) == 1 else several
