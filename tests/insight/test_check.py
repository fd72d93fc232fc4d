"""Rules: their text, their verdicts, and how seldom they are wrong."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import polars as pl
import pytest
from places import benchmark

from monolith_keras_metrics.insight import check, check_pairs, compare, summary
from monolith_keras_metrics.insight.check import RULED
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.rules import Rule, rules_of
from monolith_keras_metrics.insight.tables import PARTS, parts_of


def made(users: int, factor: float = 1.0, seed: int = 0) -> pl.DataFrame:
    """Records of ten examples a user; predictions are `factor` times the probability."""
    random = np.random.default_rng(seed)
    rows = users * 10
    p = random.uniform(0.1, 0.5, rows)
    y = random.random(rows) < p
    return pl.DataFrame(
        {
            "uid": np.arange(rows) % users * 7919,
            "req_time": np.arange(rows) * 10,
            "train_time": np.arange(rows) * 10 + np.arange(rows) % 100,
            "example_id": np.arange(rows),
            "country": pl.Series(["A", "B", None, "A"] * (rows // 4)),
            "label": pl.DataFrame({"ctr": y.astype(np.float64)}).to_struct(),
            "predict": pl.DataFrame({"ctr": p * factor}).to_struct(),
        }
    )


def verdict(records: pl.DataFrame, rule: str, **options: Any) -> str:
    return str(check(records, rule, **options)["verdict"].item())


class TestRules:
    @pytest.mark.parametrize(
        ("text", "low", "high", "open_low", "open_high"),
        [
            ("auc >= 0.7", 0.7, None, False, False),
            ("auc>.7", 0.7, None, True, False),
            ("0.7 <= auc", 0.7, None, False, False),
            ("70% < auc", 0.7, None, True, False),
            (" 1e-1<=auc<+5E-1 ", 0.1, 0.5, False, True),
            ("0.5 > auc >= -0.1", -0.1, 0.5, False, True),
            ("0.5 >= auc", None, 0.5, False, False),
        ],
    )
    def test_a_text_is_read(
        self, text: str, low: float | None, high: float | None, open_low: bool, open_high: bool
    ) -> None:
        assert rules_of(text, ["auc"]) == [Rule(text, "auc", low, high, open_low, open_high)]

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("auc", "A rule must be such as 'auc >= 0.7'.*Received: 'auc'"),
            ("auc = 0.7", "A rule must be such as"),
            ("0.5 <= auc >= 0.7", "must point the same way"),
            ("auc >= high", "bounds of a rule must be numbers.*Received: 'auc >= high'"),
            ("auc >= nan", "must be numbers"),
            ("auc >= 0.7 >= brier", "must be numbers"),
            ("0.7 <= auc <= 0.5", "lower bound of a rule must not be the higher"),
            ("acc >= 0.7", r"A rule must be about \['auc', .*Received: 'acc >= 0.7'"),
            ("ecce_p >= 0.7", "cannot be about ecce_p, whose error is not known"),
            ("ecce <= 0.7", "cannot be about ecce, whose error is not known"),
        ],
    )
    def test_another_text_is_an_error(self, text: str, error: str) -> None:
        with pytest.raises(ValueError, match=error):
            rules_of(text, RULED)

    def test_no_rule_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"at least one rule.*Received: none"):
            check(made(8), [])

    @pytest.mark.parametrize(
        ("rule", "kept"),
        [("examples >= 80", "holds"), ("examples > 80", "broken"), ("invalid < 1", "holds"),
         ("80 <= examples <= 80", "holds"), ("examples < 80", "broken"),
         ("invalid <= 0", "holds"), ("users < 9", "holds")],
    )  # fmt: skip
    def test_counts_are_decided_exactly(self, rule: str, kept: str) -> None:
        row = check(made(8), rule).row(0, named=True)
        assert (row["verdict"], row["evidence"], row["asked"]) == (kept, None, None)


class TestVerdicts:
    @pytest.mark.parametrize("name", ["calibration", "auc", "log_loss", "gauc", "mean_prediction"])
    def test_the_interval_decides(self, name: str) -> None:
        """Bounds just within an end of the interval leave it undecided, others do not."""
        records = made(400)
        row = check(records, f"{name} >= 0").row(0, named=True)
        assert row["value"] == pytest.approx(summary(records, measures=name)[name].item())
        low, high, width = row["low"], row["high"], row["high"] - row["low"]
        assert low < row["value"] < high
        step = width / 1000
        assert verdict(records, f"{name} >= {low - step}") == "holds"
        assert verdict(records, f"{name} >= {low + step}") == "undecided"
        assert verdict(records, f"{name} >= {high - step}") == "undecided"
        assert verdict(records, f"{name} >= {high + step}") == "broken"
        assert verdict(records, f"{name} <= {low - step}") == "broken"
        assert verdict(records, f"{name} <= {high + step}") == "holds"

    def test_the_interval_is_wider_than_that_of_one_look(self) -> None:
        records = made(400)
        row = check(records, "auc > 0").row(0, named=True)
        once = summary(records, measures="auc", interval=0.99).row(0, named=True)
        assert row["low"] < once["auc_low"] < once["auc_high"] < row["high"]

    def test_every_measure_that_has_an_interval_can_be_ruled(self) -> None:
        records = made(400)
        names = [name for name, one in MEASURES.items() if one.scale is not None and name != "ecce"]
        result = check(records, [f"{name} <= 1e9" for name in names])
        numbers = [name for name in names if MEASURES[name].kind == "regression"]
        undecided = result.filter(pl.col("verdict") == "undecided")["rule"].to_list()
        assert sorted(undecided) == sorted(f"{name} <= 1e9" for name in numbers)

    def test_a_new_rule_shares_the_permitted_false_alarms(self) -> None:
        records = made(400)
        assert check(records, "auc >= 0.5")["asked"].to_list() == [100]
        both = check(records, ["0.5 <= auc <= 1", "calibration <= 2", "examples > 5"], "country")
        assert {*both["country"]} == {"A", "B", None}
        asked = dict(both.select("rule", "asked").rows())
        assert asked["examples > 5"] is None
        assert asked["calibration <= 2"] == asked["0.5 <= auc <= 1"] == pytest.approx(600)
        assert check(records, "auc > 0.5", false_alarms=0.1)["asked"].item() == 10

    def test_the_worst_comes_first(self) -> None:
        result = check(made(400, 1.3), ["auc >= 0.5", "0.9 < calibration < 1.1", "auc > 0.66"])
        assert result["rule"].to_list()[0] == "0.9 < calibration < 1.1"
        assert result["verdict"].to_list() == ["broken", "undecided", "holds"]
        assert result["reason"].to_list() == [None, "no evidence either way yet", None]

    def test_a_few_users_cannot_break_a_rule(self) -> None:
        """One user never clicks in 1,000 examples: off by 24 errors by record, not by user."""
        one = made(400)[:1_000].with_columns(
            uid=pl.lit(5, pl.Int64), label=pl.struct(ctr=pl.lit(0.0))
        )
        records = pl.concat([made(400), one])
        row = check(records, "0.9 <= calibration <= 1.1").row(0, named=True)
        assert row["value"] > 1.2
        assert row["verdict"] == "undecided"

    def test_what_is_missing_for_a_verdict(self) -> None:
        records = made(400)
        frames = {
            "fewer than 20 positives, or negatives": records[:40],
            "fewer than 20 of 100 parts of the users": records.with_columns(uid=pl.lit(7)),
            "its error is not known yet": records.with_columns(
                predict=pl.struct(ctr=pl.col("label").struct.field("ctr"))
            ),
            "no examples": records.with_columns(predict=pl.struct(ctr=pl.lit(None, pl.Float64))),
        }
        for reason, frame in frames.items():
            row = check(frame, "auc >= 0.5").row(0, named=True)
            assert (row["verdict"], row["reason"]) == ("undecided", reason)
            assert (row["low"], row["high"], row["evidence"]) == (None, None, None)
        row = check(records, "mae <= 1").row(0, named=True)
        assert row["reason"] == "it is not defined for these labels or predictions"
        assert check(records[:0], "auc >= 0.5").is_empty()

    def test_delays_are_decided_by_the_share_within_the_bound(self) -> None:
        """Delays are 0 to 99 seconds, evenly: the percentile without any part is the same."""
        records = made(400)
        assert verdict(records, "delay_p95 <= 97") == "holds"
        assert verdict(records, "delay_p95 <= 94") == "undecided"
        assert verdict(records, "delay_p95 <= 80") == "broken"
        assert verdict(records, "delay_p95 >= 80") == "holds"
        assert verdict(records, "delay_p50 >= 70") == "broken"
        assert verdict(records, "10 <= delay_p50 <= 90") == "holds"
        row = check(records, "delay_p95 <= 97").row(0, named=True)
        assert (row["value"], row["low"]) == (94.0, None)
        without = records.drop("train_time")
        assert check(without, "delay_p95 <= 97")["reason"].item().startswith("no record has")

    def test_bounds_that_no_value_can_have(self) -> None:
        records = made(400)
        for rule, expected in (("calibration >= -1", "holds"), ("auc <= 1.5", "holds"),
                               ("auc >= 1", "broken"), ("calibration < 0", "broken")):  # fmt: skip
            assert verdict(records, rule) == expected

    def test_targets_are_chosen(self) -> None:
        records = made(400).with_columns(
            label=pl.struct(pl.col("label").struct.field("ctr"), other=pl.lit(2.5)),
            predict=pl.struct(pl.col("predict").struct.field("ctr"), other=pl.lit(2.5)),
        )
        assert check(records, "auc > 0.5")["target"].to_list() == ["other", "ctr"]
        assert check(records, "auc > 0.5", targets="ctr")["asked"].to_list() == [100]
        with pytest.raises(ValueError, match=r"`targets` must be among \['ctr', 'other'\].*'cvr'"):
            check(records, "auc > 0.5", targets=["ctr", "cvr"])

    def test_scipy_is_not_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "scipy", None)
        monkeypatch.setitem(sys.modules, "scipy.stats", None)
        assert verdict(made(400), "auc > 0.5") == "holds"

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"last": "soon"}, "`last` must be a length of time.*Received: last='soon'"),
            ({"last": "-1h"}, "Received: last='-1h'"),
            ({"last": 6}, "Received: last=6"),
            ({"false_alarms": 0}, "`false_alarms` must be above 0.*Received: false_alarms=0"),
            ({"by": "verdict"}, "`by` must be among"),
        ],
    )
    def test_bad_arguments(self, options: dict[str, Any], error: str) -> None:
        with pytest.raises(ValueError, match=error):
            check(made(8), "auc > 0.5", **options)


class TestLast:
    def test_only_the_newest_records_are_measured(self) -> None:
        records = pl.concat([made(400, 2.0), made(400, seed=1).with_columns(
            pl.col("req_time") + 40_000)])  # fmt: skip
        row = check(records, "0.8 < calibration < 1.2", last="10h").row(0, named=True)
        recent = records.filter(pl.col("req_time") > 79_990 - 36_000)
        assert row["examples"] == recent.height
        assert row["value"] == summary(recent, measures="calibration")["calibration"].item()
        with pytest.raises(ValueError, match="must have a column 'req_time' for `last`"):
            check(records.drop("req_time"), "auc > 0.5", last="10h")

    def test_the_longer_a_run_the_more_a_window_must_tell(self) -> None:
        """The same window, after more and more others."""
        recent = made(400, 1.3)
        evidence = []
        for hours in (13, 24, 48, 240):
            first = recent[:1].with_columns(pl.col("req_time") - hours * 3600)
            found = check(pl.concat([first, recent]), "calibration < 1.1", last="12h")
            evidence.append(found["evidence"].item())
        assert evidence == sorted(evidence, reverse=True)
        assert evidence[0] > 10 * evidence[-1] > 0

    def test_a_run_that_is_shorter_than_the_window_is_measured_whole(self) -> None:
        """By the same evidence as without a window, of which this time has its share."""
        records = made(400, 1.3)
        found = check(records, "calibration < 1.1", last="12h")["evidence"].item()
        always = check(records, "calibration < 1.1")["evidence"].item()
        assert found == pytest.approx((1 - 1 / np.log(1 + np.e)) * always)


class TestPairs:
    def test_values_are_those_of_compare(self) -> None:
        a, b = made(400), made(400, 1.1)
        names = ["auc", "log_loss", "calibration"]
        expected = compare(a, b, measures=names).row(0, named=True)
        rules = [f"{name}{end} < 9" for name in names for end in ("_a", "_b", "_diff")]
        for row in check_pairs(a, b, rules).iter_rows(named=True):
            name = row["rule"].split()[0]
            assert row["value"] == expected[name]
            assert row["verdict"] == "holds"
            if name.endswith("_diff"):
                assert row["low"] <= expected[f"{name}_low"] <= expected[f"{name}_high"]
                assert expected[f"{name}_high"] <= row["high"]

    def test_a_candidate_that_is_worse_is_stopped(self) -> None:
        """A difference far smaller than what either interval could tell."""
        a, b = made(400), made(400, 1.05)
        result = check_pairs(a, b, ["calibration_diff < 0.01", "auc_diff >= -0.01"])
        assert result["verdict"].to_list() == ["broken", "holds"]
        assert result["high"][0] - result["low"][0] < 0.02
        alone = check(b, "calibration < 1.01").row(0, named=True)
        assert alone["high"] - alone["low"] > 0.1

    def test_groups_of_one_training_only_are_undecided(self) -> None:
        a, b = made(400), made(400)
        result = check_pairs(a, b.filter(pl.col("country") == "A"),
                             ["auc_diff >= -0.1", "only_a <= 10"], by="country")  # fmt: skip
        found = {(row["rule"], row["country"]): (row["verdict"], row["reason"])
                 for row in result.iter_rows(named=True)}  # fmt: skip
        assert found["auc_diff >= -0.1", "A"] == ("holds", None)
        assert found["auc_diff >= -0.1", "B"] == ("undecided", "no examples")
        assert found["only_a <= 10", None] == ("broken", None)

    def test_no_pairs_at_all(self) -> None:
        a = made(400)
        result = check_pairs(a, a.with_columns(pl.col("example_id") + 10_000), "auc_diff >= 0")
        assert result["reason"].to_list() == ["no examples"]

    def test_both_windows_end_where_the_training_ends_that_is_behind(self) -> None:
        a, b = made(400), made(400)[:3_000]
        row = check_pairs(a, b, "examples > 0", last="1h").row(0, named=True)
        assert row["value"] == 360

    def test_a_measure_must_say_of_what(self) -> None:
        with pytest.raises(ValueError, match=re.escape("A rule must be about ['ambiguous',")):
            check_pairs(made(8), made(8), "auc >= 0.5")


ALARMS = benchmark("alarms")
AMOUNTS = benchmark("amounts")


def sums_of(records: pl.DataFrame) -> Any:
    """The sums of each hour, part of the users and prediction, by a plain loop."""
    y, p = (records[column].struct.field("ctr").to_numpy() for column in ("label", "predict"))
    hour = records["req_time"].to_numpy() // 3600
    part = parts_of(records.get_column("uid"), PARTS)
    sums = []
    for values in (y, 1 - y):
        table = np.zeros((hour.max() + 1, PARTS, 2))
        np.add.at(table, (hour, part, (p > p.mean()).astype(int)), values)
        sums.append(table)
    return ALARMS.Sums(*sums)


def test_labels_that_are_drawn_again_have_their_probabilities_and_lasting_tastes() -> None:
    """Of 2,000 users with 50 records each: the users' rates vary more than those of records."""
    users = np.arange(100_000) // 50
    p = np.resize([0.1, 0.5], users.size)
    for taste, least, most in ((0.0, 0.7, 1.3), (0.5, 5, 20)):
        y = benchmark("redrawn").labels(p, users, taste, np.random.default_rng(0))
        assert y[0::2].mean() == pytest.approx(0.1, abs=0.01)
        assert y[1::2].mean() == pytest.approx(0.5, abs=0.02)
        excess = np.bincount(users, y).var() / (50 * (p * (1 - p)).mean())
        assert least < excess < most


@pytest.mark.slow
class TestAlarms:
    """The short form of `benchmarks/alarms.py`: 50 trainings of 30 days, looked at hourly."""

    @pytest.mark.parametrize(
        "name",
        [
            "records independent, on both bounds",
            "persistent users, on both bounds",
            "persistent users, on close bounds",
            "last 6 hours, records independent",
        ],
    )
    def test_false_alarms_are_rare(self, name: str) -> None:
        (scenario,) = (one for one in ALARMS.HEALTHY if one.name == name)
        check_, test = ALARMS.false_alarms(scenario, 50)
        assert check_ <= 2
        assert test >= 5  # what a test of each look would raise

    @pytest.mark.parametrize("scenario", ALARMS.ILL[:4], ids=lambda one: one.name)
    def test_an_error_of_a_tenth_is_found_within_60_hours(self, scenario: Any) -> None:
        """At least in 90 % of trainings; of 50, chance may take two."""
        hours = ALARMS.hours_until_found(scenario, 50)
        assert (hours <= 60).mean() >= 0.86

    def test_rules_about_amounts(self) -> None:
        """The short form of `benchmarks/amounts.py`, with bounds that are right, and 50 % off."""
        right = AMOUNTS.alarms("lognormal", 5_000, 5)
        assert right == {"mae": 0, "rmse": 0, "bias": 0, "all together": 0}
        off = AMOUNTS.alarms("lognormal", 5_000, 5, factor=1.5)
        assert (off["mae"], off["rmse"], off["bias"]) == (1, 1, 0)

    def test_the_simulation_judges_as_check_does(self) -> None:
        """Sums of real records, judged by both, at each of 40 looks."""
        scenario = ALARMS.ILL[1]._replace(calibration=1.1, bounds=(0.95, 1.05))
        hour = ALARMS.end_to_end(scenario, 40, 4, seed=0)
        records = ALARMS.records(scenario, 40, seed=0)
        looks = ALARMS.looks_of(scenario, sums_of(records))
        assert hour is not None
        broken = ALARMS.broken_at(scenario, looks)
        assert broken[hour - 1]
        assert not broken[3 : hour - 4 : 4].any()
