"""What fires, since when, and because of which slice; what is resolved; kills change nothing."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Iterator, MutableMapping

import polars as pl
import pytest
import watched
from hypothesis import given, settings
from hypothesis import strategies as st
from places import benchmark
from watched import HOUR, START

from monolith_keras_metrics.insight import summary
from monolith_keras_metrics.insight.alerts.alarms import Alarms
from monolith_keras_metrics.insight.alerts.evidence_blocks import Span
from monolith_keras_metrics.insight.alerts.judging import Look
from monolith_keras_metrics.insight.alerts.rule_file import NoData, RuleFile
from monolith_keras_metrics.insight.asks import of_records
from monolith_keras_metrics.insight.check import RULED, check
from monolith_keras_metrics.insight.items import Alert, from_json, to_json
from monolith_keras_metrics.insight.rules import rules_of
from monolith_keras_metrics.insight.state import Kept, Memory

_RULE = "0.9 <= calibration <= 1.1"


def rules(text: str = _RULE, **changes: object) -> RuleFile:
    (rule,) = RuleFile.of(text).rules
    return RuleFile((rule._replace(**{"last": (6 * HOUR, 24 * HOUR), **changes}),))


_SHORT = rules(last=(6 * HOUR,))


@functools.cache
def faulty() -> pl.DataFrame:
    """Predictions for the US are twice as high from hour 30 to hour 50, and from 60 on."""
    return watched.records(
        range(72),
        lambda hour, country: 2.0 if country == "US" and (30 <= hour < 50 or hour >= 60) else 1.0,
    )


@functools.cache
def alerts_of_faulty() -> list[tuple[int, Alert]]:
    return watched.watch(rules(), faulty(), range(72))


@functools.cache
def uninterrupted() -> list[tuple[int, Alert]]:
    alarms = Alarms(_SHORT, HOUR, {})
    return [
        (hour, alert)
        for hour in range(26, 58)
        for alert in watched.close(alarms, faulty(), hour, has_records=False)
    ]


def alerts(found: list[tuple[int, Alert]]) -> list[tuple[int, str]]:
    return [(hour, alert.state) for hour, alert in found]


class TestFault:
    @pytest.mark.slow
    def test_a_fault_fires_with_its_slice_and_its_beginning(self) -> None:
        hour, alert = alerts_of_faulty()[0]
        assert alert.state == "firing"
        assert 30 < hour < 36
        assert alert.at == START + (hour + 1) * HOUR
        assert alert.since is not None
        assert abs(alert.since - (START + 30 * HOUR)) <= HOUR
        (culprit,) = alert.culprits
        assert culprit.where == "country=US"
        assert culprit.share > 0.8
        assert culprit.calibration == pytest.approx(2.0, abs=0.2)
        assert (alert.name, alert.rule, alert.target, alert.group) == (_RULE, _RULE, "ctr", {})
        assert alert.low is not None
        assert alert.value is not None
        assert alert.high is not None
        assert 1.1 < alert.low < alert.value < alert.high
        assert alert.evidence is not None
        assert alert.asked == 200  # two spans of one target
        assert alert.evidence >= alert.asked
        assert f"of ctr is {alert.value:.2f} [" in alert.text
        assert f"over the last {alert.span}; the rule is {_RULE}. It began about 2026-11-24" in (
            alert.text
        )
        assert alert.text.endswith(
            f" country=US carries {culprit.share:.0%} of it.".replace("%", " %")
        )
        assert from_json(to_json(alert)) == alert

    @pytest.mark.slow
    def test_it_is_resolved_once_and_fires_again_when_it_is_broken_again(self) -> None:
        (_, first), (well, resolved), (again, second) = alerts_of_faulty()
        assert resolved.state == "resolved"
        assert 50 < well < 60
        assert resolved.value == pytest.approx(1.0, abs=0.1)
        assert resolved.span == "3h"
        assert resolved.text.startswith("Resolved: calibration of ctr is ")
        assert (second.state, second.name) == ("firing", first.name)
        assert 60 < again < 66
        assert second.since is not None
        assert abs(second.since - (START + 60 * HOUR)) <= HOUR

    @pytest.mark.slow
    def test_the_value_is_that_of_the_records_of_its_span(self) -> None:
        _, alert = alerts_of_faulty()[0]
        assert alert.span in ("6h", "1d")
        length = {"6h": 6, "1d": 24}[alert.span] * HOUR
        span = faulty().filter(
            pl.col("req_time").is_between(alert.at - length, alert.at, closed="left")
        )
        assert summary(span, measures="calibration")["calibration"].item() == alert.value

    def test_evidence_is_that_of_check(self) -> None:
        """In the first six hours, both see all records; the file shares two ways what check has."""
        records = watched.records(range(4), lambda hour, _: 1.3)
        found = watched.watch(rules(last=(6 * HOUR,)), records, range(4))
        hour, alert = found[0]
        until = pl.concat([watched.hour_of(records, one) for one in range(hour + 1)])
        # A long enough span has not moved yet.
        row = check(until, _RULE, last="6h").row(0, named=True)
        assert (alert.evidence, alert.low, alert.high) == pytest.approx(
            (row["evidence"], row["low"], row["high"])
        )

    @pytest.mark.slow
    def test_a_small_fault_is_found_in_a_longer_span(self) -> None:
        records = watched.records(range(72), lambda hour, _: 1.15 if hour >= 30 else 1.0)
        assert watched.watch(rules(last=(6 * HOUR,)), records, range(72)) == []
        (hour, alert), *_ = watched.watch(rules(), records, range(72))
        assert hour > 36
        assert alert.span == "1d"
        assert alert.since is not None
        assert abs(alert.since - (START + 30 * HOUR)) <= 8 * HOUR

    @pytest.mark.slow
    def test_a_healthy_run_is_silent(self) -> None:
        records = watched.records(range(48), lambda *_: 1.0)
        assert watched.watch(rules("0.99 <= calibration <= 1.01"), records, range(48)) == []

    def test_a_fault_in_all_records_is_no_slice_of_them(self) -> None:
        records = watched.records(range(8), lambda *_: 1.4)
        (_, alert), *_ = watched.watch(rules(), records, range(8))
        assert [one.where for one in alert.culprits] == ["everything"]
        assert alert.text.endswith("It is so in all records, not in one slice of them.")
        assert alert.since == START
        assert "or before" not in alert.text

    def test_a_ranking_has_no_slices(self) -> None:
        records = watched.records(range(8), lambda *_: 1.0)
        (_, alert), *_ = watched.watch(rules("auc >= 0.9"), records, range(8))
        assert alert.culprits == ()
        assert alert.text.startswith("auc of ctr is 0.6")
        assert "slice" not in alert.text

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("text", "factor"),
        [("odds_factor >= 0.95", 2.0), ("odds_factor <= 1.05", 0.2), ("calibration >= 0.95", 0.2)],
    )
    def test_slices_are_wrong_in_the_direction_of_the_rule(self, text: str, factor: float) -> None:
        def fault(_: int, country: str) -> float:
            return {"US": factor, "DE": 1.3 if factor < 1 else 0.7}.get(country, 1.0)

        (_, alert), *_ = watched.watch(rules(text), watched.records(range(16), fault), range(16))
        found = {one.where for one in alert.culprits}
        assert "country=US" in found
        assert "country=DE" not in found

    def test_a_search_that_fails_is_logged_and_the_alert_fires(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        records = watched.records(range(8), lambda *_: 1.4)
        alarms = Alarms(rules(), HOUR, {})
        found: list[Alert] = []
        for hour in range(8):
            mine = watched.hour_of(records, hour)
            states = [of_records(mine.lazy(), ask) for ask in alarms.asks]
            broken = mine.drop("req_time").lazy()
            with caplog.at_level(logging.WARNING, "absl"):
                found += alarms.close(
                    START + hour * HOUR, START + (hour + 1) * HOUR, states, lambda _, b=broken: b
                )  # fmt: skip
        assert found[0].culprits == ()
        assert "no slices for an alert" in caplog.text


class TestCooldown:
    @pytest.mark.slow
    def test_it_does_not_fire_again_within_its_cooldown(self) -> None:
        found = watched.watch(rules(cooldown=33 * HOUR), faulty(), range(72))
        first = found[0][0]
        assert alerts(found)[:2] == alerts(alerts_of_faulty())[:2]
        assert alerts(found)[2:] == [(first + 33, "firing")]
        assert first + 33 > alerts_of_faulty()[2][0]


class TestResolve:
    @pytest.mark.slow
    def test_only_records_after_it_fired_resolve_it(self) -> None:
        """A span of a day before the fault would be well, were it asked."""
        first = alerts_of_faulty()[0][0]
        found = watched.watch(rules(resolve=24 * HOUR), faulty(), range(first + 20))
        assert alerts(found) == [(first, "firing")]

    def test_a_value_is_well_if_it_is_clearly_within_its_bounds(self) -> None:
        """Its standard error is about 3 %, so a bound that is 1 % away may be kept by chance."""
        records = watched.records(range(3), lambda *_: 1.0)
        (ask,) = Alarms(rules(), HOUR, {}).asks
        state = of_records(records.lazy(), ask)
        value = state.finish("calibration")["calibration"].item()
        for low, high, is_well in (
            (0.0, 1.01, False), (0.0, 1.2, True), (0.99, 1.5, False), (0.9, 1.5, True),
            (0.99, 1.01, True), (1.0, 1.0, True), (1.05, 1.06, False),
        ):  # fmt: skip
            (rule,) = rules_of(f"{value * low} <= calibration <= {value * high}", RULED)
            well = Look(state, [rule]).recoveries(rule, 100.0, {("ctr", ()): 2.0})
            assert (low, high, [*well]) == (low, high, [("ctr", ())] * is_well)

    def test_a_value_is_well_if_it_is_clearly_not_that_which_fired(self) -> None:
        """Its standard error is about 3 %."""
        records = watched.records(range(3), lambda *_: 1.0)
        (ask,) = Alarms(rules(), HOUR, {}).asks
        state = of_records(records.lazy(), ask)
        value = state.finish("calibration")["calibration"].item()
        (rule,) = rules_of(f"calibration <= {value * 1.05}", RULED)
        for fired, is_well in ((1.06, False), (1.2, True)):
            well = Look(state, [rule]).recoveries(rule, 100.0, {("ctr", ()): value * fired})
            assert len(well) == is_well

    @pytest.mark.slow
    def test_with_few_examples_longer_spans_tell(self) -> None:
        """20 records an hour: three hours have too few positives to tell anything."""
        few = faulty().gather_every(50)
        found = watched.watch(
            rules("0.5 <= calibration <= 1.15", last=(12 * HOUR, 24 * HOUR), resolve=HOUR),
            few.with_columns(
                predict=pl.when(pl.col("req_time") < START + 30 * HOUR)
                .then(pl.struct(ctr=pl.col("predict").struct.field("ctr") * 2))
                .otherwise(pl.struct(ctr=pl.col("label").struct.field("ctr") * 0.5 + 0.15))
            ),
            range(72),
        )
        states = [alert.state for _, alert in found]
        assert states[:2] == ["firing", "resolved"]
        assert found[1][1].span == "12h"

    @pytest.mark.slow
    def test_a_group_without_records_is_resolved(self) -> None:
        records = watched.records(range(8), lambda _, country: 2.0 if country == "US" else 1.0)
        later = watched.records(range(8, 40), lambda *_: 1.0)
        without = later.filter(pl.col("extra_str").struct.field("country") != "US")
        file = rules(by=("country",))
        found = watched.watch(file, pl.concat([records, without]), range(40))
        assert [(one.state, one.group) for _, one in found] == [
            ("firing", {"country": "US"}), ("resolved", {"country": "US"}),
        ]  # fmt: skip
        assert found[1][1].text.endswith("; it has had no records for 1d.")

    def test_another_rule_leaves_an_alert_as_it_is(self) -> None:
        """What is kept begins anew, since the question about the records is another one."""
        memory: Memory = {}
        records = watched.records(range(9), lambda *_: 1.4)
        assert alerts(watched.watch(rules(), records, range(8), memory))[0][1] == "firing"
        more = RuleFile((*rules().rules, *rules("auc >= 0.1").rules))
        assert watched.watch(more, records, range(8, 9), memory) == []
        alarms = Alarms(more, HOUR, memory)
        assert [one.name for one in alarms.firing] == [_RULE]
        start = START + 9 * HOUR
        only_other = watched.hour_of(records, 8).select(
            pl.exclude("label", "predict"),
            label=pl.struct(cvr=pl.lit(1.0)),
            predict=pl.struct(cvr=pl.lit(0.5)),
        )
        found = watched.watch(
            RuleFile((*more.rules, *rules("log_loss <= 9").rules)),
            only_other.with_columns(pl.col("req_time") + HOUR), range(9, 10), memory,
        )  # fmt: skip
        assert found == []
        assert [one.at for one in Alarms(more, HOUR, memory).firing] < [start]

    def test_a_rule_that_is_gone_is_resolved_and_what_it_kept_is_deleted(self) -> None:
        memory: Memory = {}
        records = watched.records(range(9), lambda *_: 1.4)
        assert watched.watch(rules(by=("country",)), records, range(8), memory)
        assert len(Alarms(rules(), HOUR, memory).firing) == 4
        alarms = Alarms(rules(), HOUR, memory)
        found = watched.close(alarms, records, 8)
        assert [one.state for one in found] == ["resolved"] * 4
        assert found[0].text.endswith("its rule is not in the file any more.")
        assert len({key.split("/")[1] for key in memory}) == 2  # the new rule's, and the book


class TestGroups:
    def test_each_group_has_its_own_alert(self) -> None:
        records = watched.records(
            range(12), lambda _, country: {"US": 2.0, "DE": 0.5}.get(country, 1)
        )
        found = watched.watch(rules(by=("country", "slot")), records, range(12))
        groups = {(one.group["country"], one.value > 1) for _, one in found if one.value}
        assert groups == {("US", True), ("DE", False)}
        assert len(found) == 8  # four slots of each
        assert found[0][1].text.startswith("calibration of ctr, country=")
        assert found[0][1].asked == 16 * 2 / 0.01

    def test_only_named_targets_are_judged(self, caplog: pytest.LogCaptureFixture) -> None:
        records = watched.records(range(8), lambda *_: 1.4)
        with caplog.at_level(logging.WARNING, "absl"):
            assert watched.watch(rules(targets=("cvr",)), records, range(8)) == []
        assert (
            caplog.text.count("is about ('cvr',), but the targets of the records are ['ctr']") == 1
        )
        assert watched.watch(rules(targets=("ctr", "cvr")), records, range(8)) != []

    def test_null_is_a_group(self) -> None:
        records = watched.records(range(8), lambda *_: 1.4).with_columns(
            extra_str=pl.struct(country=pl.lit(None, pl.String))
        )
        found = watched.watch(rules(by=("country",)), records, range(8))
        assert found[0][1].group == {"country": None}
        assert "country=null" in found[0][1].text
        assert found[0][1].culprits != ()


class TestCounts:
    def test_a_count_is_judged_when_its_span_is_full(self) -> None:
        records = watched.records(range(24), lambda *_: 1.0)
        thin = pl.concat([
            watched.hour_of(records, hour) if hour < 12 else watched.hour_of(records, hour)[:100]
            for hour in range(20)
        ] + [watched.hour_of(records, hour) for hour in range(20, 24)])  # fmt: skip
        file = rules("examples >= 5000", last=(6 * HOUR,), cooldown=1)
        found = watched.watch(file, thin, range(24))
        assert alerts(found) == [(13, "firing")]
        (_, alert) = found[0]
        assert (alert.value, alert.low, alert.evidence, alert.asked) == (4_200, None, None, None)
        assert alert.since == START + 12 * HOUR
        assert alert.text == (
            "examples of ctr is 4,200 over the last 6h; the rule is examples >= 5000. "
            "It began about 2026-11-23 12:00 UTC."
        )

    def test_a_count_that_is_well_again_is_resolved(self) -> None:
        records = watched.records(range(16), lambda *_: 1.0)
        file = rules("examples <= 6100", last=(6 * HOUR,))
        more = pl.concat([records, watched.hour_of(records, 7)])
        assert alerts(watched.watch(file, more, range(16))) == [(7, "firing"), (13, "resolved")]

    def test_a_target_that_ends_has_no_examples(self) -> None:
        """Other records come still: it is not that there are no data."""
        records = watched.records(range(14), lambda *_: 1.0)
        two = records.with_columns(
            label=pl.struct(
                pl.col("label").struct.field("ctr"),
                cvr=pl.when(pl.col("req_time") < START + 7 * HOUR).then(1.0),
            ),
            predict=pl.struct(
                pl.col("predict").struct.field("ctr"),
                cvr=pl.when(pl.col("req_time") < START + 7 * HOUR).then(0.5),
            ),
        )
        found = watched.watch(rules("users >= 500", last=(HOUR,)), two, range(14))
        assert [(hour, one.target, one.value) for hour, one in found] == [(7, "cvr", 0.0)]


class TestNoData:
    def test_it_fires_once_and_is_resolved(self) -> None:
        file = rules()._replace(no_data=NoData(1_800, "mail"))
        memory: Memory = {}
        alarms = Alarms(file, HOUR, memory)
        assert alarms.look(START, START - 1_799) == []
        (alert,) = alarms.look(START + 60, START - 1_799)
        assert (alert.name, alert.state, alert.since) == ("no data", "firing", START - 1_799)
        assert (alert.at, alert.severity, alert.target) == (START + 60, "mail", "")
        assert alert.text == "No records for 30m: the newest came at 2026-11-22 23:30 UTC."
        assert Alarms(file, HOUR, memory).firing == [alert]
        assert Alarms(file, HOUR, memory).look(START + 120, START - 1_799) == []
        (resolved,) = Alarms(file, HOUR, memory).look(START + 180, START + 170)
        assert (resolved.state, resolved.at) == ("resolved", START + 180)
        assert alarms.firing == []
        assert from_json(to_json(resolved)) == resolved

    def test_a_run_in_which_nothing_ever_came(self) -> None:
        alarms = Alarms(rules()._replace(no_data=NoData(600, "page")), HOUR, {})
        assert alarms.look(START, None) == []
        assert alarms.look(START + 599, None) == []
        (alert,) = alarms.look(START + 600, None)
        assert (alert.since, alert.at) == (START, START + 600)
        assert "No record has come since 2026-11-23 00:00 UTC" in alert.text

    def test_it_can_be_the_only_rule(self) -> None:
        alarms = Alarms(RuleFile((), NoData(600, "page")), HOUR, {})
        assert alarms.asks == []
        assert watched.close(alarms, watched.records(range(1), lambda *_: 1.0), 0) == []
        assert [one.name for one in alarms.look(START + 700, START)] == ["no data"]

    def test_it_is_no_alert_unless_the_file_says_so(self) -> None:
        memory: Memory = {}
        assert Alarms(rules(), HOUR, memory).look(START, None) == []
        file = rules()._replace(no_data=NoData(600, "page"))
        Alarms(file, HOUR, memory).look(START, START - 600)
        records = watched.records(range(1), lambda *_: 1.0)
        (gone,) = watched.close(Alarms(rules(), HOUR, memory), records, 0)
        assert (gone.name, gone.state) == ("no data", "resolved")


class Recorded(MutableMapping[str, Kept]):
    """A memory whose changes are kept only when they are committed."""

    def __init__(self) -> None:
        self.committed: dict[str, bytes] = {}
        self.now: dict[str, bytes] = {}

    def commit(self) -> None:
        self.committed = dict(self.now)

    def lose(self) -> None:
        self.now = dict(self.committed)

    def __getitem__(self, key: str) -> bytes:
        return self.now[key]

    def __setitem__(self, key: str, value: Kept) -> None:
        self.now[key] = value if isinstance(value, bytes) else value.to_bytes()

    def __delitem__(self, key: str) -> None:
        del self.now[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.now)

    def __len__(self) -> int:
        return len(self.now)


class TestMemory:
    @pytest.mark.slow
    @settings(max_examples=6, deadline=None)
    @given(kills=st.lists(st.tuples(st.integers(26, 57), st.booleans()), min_size=1, max_size=6))
    def test_kills_change_nothing(self, kills: list[tuple[int, bool]]) -> None:
        """Processes that end before, or after, what they did is committed."""
        memory = Recorded()
        alarms = Alarms(_SHORT, HOUR, memory)
        found: list[tuple[int, Alert]] = []
        for hour in range(26, 58):
            for at, is_lost in kills:
                if at == hour:
                    if is_lost:  # killed in the middle: it is done again
                        watched.close(alarms, faulty(), hour, has_records=False)
                        memory.lose()
                    alarms = Alarms(_SHORT, HOUR, memory)
            new = watched.close(alarms, faulty(), hour, has_records=False)
            found += [(hour, alert) for alert in new]
            memory.commit()
        assert found == uninterrupted()
        assert alerts(found)[0][1] == "firing"
        assert alerts(found)[1][1] == "resolved"

    @pytest.mark.slow
    def test_it_is_bounded(self) -> None:
        """A run of 14 days has no more states than one of 8."""
        memory = Recorded()
        window = 3 * HOUR
        alarms = Alarms(rules(last=(24 * HOUR, 7 * 24 * HOUR)), window, memory)
        (ask,) = alarms.asks
        state = of_records(watched.records(range(1), lambda *_: 1.0).lazy(), ask)
        sizes = []
        for start in range(START, START + 14 * 24 * HOUR, window):
            alarms.close(start, start + window, [state], lambda _: None)
            sizes.append((len(memory), sum(map(len, memory.now.values()))))
        assert sizes[-1][0] == 8 + 28 + 1  # windows, blocks of 6 hours, and the book
        assert sizes[-1][0] == sizes[8 * 8][0]
        assert max(sizes)[0] <= sizes[-1][0] + 1  # a block that has just begun
        assert sizes[-1][1] < 1.1 * sizes[8 * 8][1]

    def test_blocks_of_a_length_that_is_not_asked_about_are_deleted(self) -> None:
        """They would have a gap if they were asked about again."""
        memory: Memory = {}
        records = watched.records(range(4), lambda *_: 1.0)

        def lengths() -> set[str]:
            return {key.split("/")[2] for key in memory if key != "alerts/book"}

        watched.watch(rules(last=(6 * HOUR,)), records, range(3), memory)
        assert lengths() == {str(HOUR)}
        watched.watch(rules(last=(7 * 24 * HOUR,)), records, range(3, 4), memory)
        assert str(HOUR) not in lengths()
        assert lengths()

    def test_blocks_of_another_version_are_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        memory = Recorded()
        records = watched.records(range(4), lambda *_: 1.0)
        watched.watch(rules(), records, range(3), memory)
        for key in memory:
            if key != "alerts/book":
                memory[key] = memory.now[key][:50]
        with caplog.at_level(logging.WARNING, "absl"):
            assert watched.watch(rules(), records, range(3, 4), memory) == []
        assert "is left out" in caplog.text

    def test_the_book_of_another_version_is_begun_anew(self) -> None:
        memory: Memory = {"alerts/book": json.dumps({"version": 99}).encode()}
        records = watched.records(range(8), lambda *_: 1.4)
        assert watched.watch(rules(), records, range(8), memory) != []

    def test_windows_without_records_and_without_a_state(self) -> None:
        """A gap moves the spans on: what was before it does not count for ever."""
        alarms = Alarms(rules(), HOUR, {})
        records = watched.records([*range(3), 40], lambda *_: 1.4)
        found = [alert for hour in range(3) for alert in watched.close(alarms, records, hour)]
        assert [alert.state for alert in found] == ["firing"]
        for hour in range(3, 30):
            start = START + hour * HOUR
            found += alarms.close(start, start + HOUR, [None], lambda _: None)
        assert [alert.state for alert in found] == ["firing", "resolved"]

    @pytest.mark.slow
    def test_no_uid_is_in_an_alert(self) -> None:
        uids = {str(one) for one in faulty()["uid"].unique()}
        for _, alert in alerts_of_faulty():
            words = json.dumps(dataclasses.asdict(alert)).replace('"', " ").split()
            assert uids.isdisjoint(words)


def test_windows_that_are_longer_than_a_span() -> None:
    assert Span.of(6 * HOUR, 24 * HOUR) == Span(24 * HOUR, 24 * HOUR)
    alarms = Alarms(RuleFile.of(_RULE), 24 * HOUR, {})
    records = watched.records(range(24), lambda *_: 1.4)
    states = [of_records(records.lazy(), ask) for ask in alarms.asks]
    (alert,) = alarms.close(START, START + 24 * HOUR, states, lambda _: None)
    assert (alert.span, alert.asked) == ("1d", 300)  # two spans of a day are one


FALSE_ALERTS = benchmark("false_alerts")


@pytest.mark.slow
class TestSimulation:
    """The short form of `benchmarks/false_alerts.py`."""

    def test_it_judges_as_alarms_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FALSE_ALERTS, "HOURS", 36)
        monkeypatch.setattr(FALSE_ALERTS, "BEGIN", 20)
        training = FALSE_ALERTS.Training.ill(FALSE_ALERTS.ILL[2], 0)
        (hours, *others) = FALSE_ALERTS.broken_hours(training)
        fired, *_ = FALSE_ALERTS.through_alarms(training)
        assert not any(one.size for one in others)
        assert fired.target == "target 0"
        assert 20 < hours[0] + 1 == fired.at // HOUR < 36
        assert abs(fired.since // HOUR - 20) <= 1

    def test_false_alerts_are_rare(self) -> None:
        trainings = (FALSE_ALERTS.Training.of(FALSE_ALERTS.HEALTHY[1], seed) for seed in range(8))
        false = [any(one.size for one in FALSE_ALERTS.broken_hours(each)) for each in trainings]
        assert sum(false) <= 1
