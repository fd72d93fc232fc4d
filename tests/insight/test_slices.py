"""`slices` finds the slice that is wrong, it alone, and nothing where nothing is wrong."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from places import benchmark

from monolith_keras_metrics.insight import long_form, slices, summary
from monolith_keras_metrics.insight.evidence import log_two_sided_mixture
from monolith_keras_metrics.insight.slice_fields import field_of
from monolith_keras_metrics.insight.slice_sums import Errors, Sums

CULPRITS = benchmark("culprits")


def made(*planted: tuple[pl.Expr, float], seed: int = 0, users: int = 6_000) -> pl.DataFrame:
    """Rows of one target, of users of one to three rows each, with predictions that are off."""
    random = np.random.default_rng(seed)
    uid = np.arange(users).repeat(random.integers(1, 4, users))
    frame = pl.DataFrame(
        {
            "uid": uid,
            "country": random.choice(["DE", "FR", "JP", None], users)[uid].tolist(),
            "device": random.choice(["ios", "android", "web"], uid.size),
            "price": random.lognormal(3, 1, uid.size),
            "target": "ctr",
        },
        schema_overrides={"country": pl.String},
    )
    p = random.uniform(0.1, 0.3, uid.size)
    factor = pl.lit(1.0)
    for where, times in planted:
        factor = pl.when(where).then(factor * times).otherwise(factor)
    return frame.with_columns(
        label=pl.Series((random.random(uid.size) < p).astype(np.float64)),
        predict=pl.Series(p) * factor,
    )


def names(found: pl.DataFrame) -> list[str]:
    return found.get_column("slice").to_list()


DE = pl.col("country") == "DE"
IOS = pl.col("device") == "ios"


class TestWhatIsFound:
    @pytest.mark.slow
    @pytest.mark.parametrize("case", range(len(CULPRITS.CASES)))
    def test_users_of_unequal_size_with_lasting_tastes(self, case: int) -> None:
        """The short form of `benchmarks/culprits.py`."""
        planted = CULPRITS.CASES[case]
        draw = functools.partial(CULPRITS.sample, 60_000, 0.5, 300)
        result = CULPRITS.tried(planted, draw, [*CULPRITS.FIELDS], 2)
        assert result["anything"] == result["alone"]
        if planted.slice is None:
            assert result["anything"] == 0
        else:
            assert result["first"] == 1

    def test_pairs_that_share_records_are_found_once_each(self) -> None:
        """What is off is a value of three fields, which no pair explains."""
        random = np.random.default_rng(1)
        a, b, c = (random.integers(0, size, 40_000) for size in (4, 2, 2))
        predict = 0.4 + 0.1 * (a == 1) + 0.3 * ((a == 1) & (b == 1) & (c == 0))
        label = (random.random(a.size) < 0.4).astype(np.float64)
        columns = {"a": a, "b": b, "c": c, "label": label, "predict": predict}
        rows = pl.DataFrame({"uid": range(a.size), "target": ["ctr"] * a.size, **columns})
        found = slices(rows, ["a", "b", "c"])
        assert sorted(names(found)) == ["a=1", "a=1, b=1", "a=1, c=0"]
        assert len(slices(rows, ["a", "b", "c"], most=2)) == 2

    def test_nothing_is_wrong(self) -> None:
        found = slices(made())
        assert found.is_empty()
        assert found.columns == slices(made((DE, 1.5))).columns

    @pytest.mark.parametrize(
        ("planted", "expected"),
        [
            ([(DE, 1.4)], ["country=DE"]),
            ([(pl.col("country").is_null(), 0.6)], ["country=null"]),
            ([(DE & IOS, 1.7)], ["country=DE, device=ios"]),
            ([(pl.lit(True), 1.2)], ["everything"]),
            # A country that is wrong, and most so on one device.
            ([(DE, 1.4), (DE & IOS, 1.6)], ["country=DE", "country=DE, device=ios"]),
            # Two that are wrong, and more so together.
            (
                [(DE, 1.3), (IOS, 1.3), (DE & IOS, 1.7)],
                ["country=DE", "country=DE, device=ios", "device=ios"],
            ),
            # Two that are wrong in opposite ways, and cross each other.
            ([(DE, 1.7), (IOS, 0.5)], ["country=DE", "device=ios"]),
        ],
    )
    def test_the_smallest_slices_that_explain_it(
        self, planted: list[Any], expected: list[str]
    ) -> None:
        assert sorted(names(slices(made(*planted)))) == expected

    @pytest.mark.parametrize("seed", [1, 13])
    def test_not_a_pair_that_is_nearly_all_of_a_value(self, seed: int) -> None:
        """It may be off by more standard errors, by chance; the value alone explains it, too."""
        plans = np.random.default_rng(seed).choice(["free", "paid"], 20_000, p=[0.93, 0.07])
        frame = made((DE, 1.4), seed=seed)
        frame = frame.with_columns(plan=pl.Series(plans[: frame.height].tolist()))
        assert names(slices(frame)) == ["country=DE"]

    def test_what_differs_from_the_whole(self) -> None:
        """The whole comes first, then the slice that is not as wrong as all others."""
        found = slices(made((pl.lit(True), 1.8), (IOS, 1 / 1.8)))
        assert names(found) in (["everything", "device=ios"], ["device=android", "device=web"])
        found = slices(made((pl.lit(True), 1.5), (DE & IOS, 2.0)))
        assert names(found) == ["everything", "country=DE, device=ios"]
        assert found.get_column("share").sum() == pytest.approx(1)

    def test_numbers_by_deciles(self) -> None:
        frame = made()
        low, high = (frame["price"].quantile(share, "lower") for share in (0.4, 0.5))
        inside = (pl.col("price") > low) & (pl.col("price") <= high)
        (row,) = slices(made((inside, 1.6))).rows(named=True)
        assert frame.filter(inside).height == row["examples"]
        assert row["slice"].startswith("price=")

    def test_a_slice_that_others_make_up_for_is_found_alone(self) -> None:
        """A model learns to be right on average; not everything else is wrong then."""
        frame = made((DE, 1.6), users=30_000)
        excess = frame.select(pl.col("predict").sum() / pl.col("label").sum()).item()
        found = slices(frame.with_columns(pl.col("predict") / excess))
        assert names(found) == ["country=DE"]


class TestEvidence:
    def test_one_user_is_no_evidence(self) -> None:
        """A thousand labels less than predicted, all of one user."""
        one = made().head(1).select(pl.all().repeat_by(1000).explode())
        one = one.with_columns(
            uid=pl.lit(-1, pl.Int64), country=pl.lit("XX"), predict=0.5, label=0.0
        )
        scattered = pl.concat([made(), one]).sample(fraction=1, shuffle=True, seed=0)
        assert slices(scattered).is_empty()
        many = one.with_columns(uid=-1 - pl.int_range(pl.len()))
        assert names(slices(pl.concat([made(), many]))) == ["country=XX"]

    def test_hardly_any_label_is_no_evidence(self) -> None:
        """Three are expected, and none came: errors that hardly vary are not certain ones."""
        few = made().head(300).with_columns(country=pl.lit("XX"), predict=0.01, label=0.0)
        few = few.with_columns(uid=-1 - pl.int_range(pl.len()))
        assert slices(pl.concat([made(), few])).is_empty()

    def test_a_model_that_is_dead_in_a_slice(self) -> None:
        assert names(slices(made((DE & IOS, 0.0)))) == ["country=DE, device=ios"]

    def test_the_mean_of_an_e_value_is_1_or_less(self) -> None:
        """For errors as skewed as those of rare labels, and of users who like everything."""
        random = np.random.default_rng(0)
        slices_of, users, rows = 1_000, 20, 50
        p = np.full(slices_of * users * rows, 0.02)
        loves = np.where(random.random(slices_of * users) < 0.05, 20.0, 0.0).repeat(rows)
        y = (random.random(p.size) < p * loves).astype(np.float64)
        frame = pl.DataFrame({"w": 1.0, "p": p, "y": y, "user": np.arange(p.size) // rows})
        errors = Errors.of_rows(frame)
        assert errors is not None
        at = np.arange(p.size) // (users * rows)
        everyone = Sums.of(errors, at * 0, 1)
        assert everyone.taste() == pytest.approx(19, rel=0.1)  # the variance of `loves`
        sums = Sums.of(errors, at, slices_of)
        e = np.exp(sums.evidence(everyone.taste())[1])
        assert e.mean() < 1
        assert (e > 20).mean() < 1 / 20
        # What is there to be mistaken about: slices without anyone who likes everything, whose
        # users hardly vary; and each record as if it were of another user.
        assert np.exp(sums.evidence(0.0)[1]).mean() > 100
        of_records = Errors.of_rows(frame.with_columns(user=pl.int_range(pl.len())))
        assert of_records is not None
        mistaken = np.exp(Sums.of(of_records, at, slices_of).evidence(0.0)[1])
        assert mistaken.mean() > 1e6

    def test_sums_are_those_of_a_group_by(self) -> None:
        random = np.random.default_rng(1)
        frame = pl.DataFrame(
            {
                "w": random.uniform(1, 3, 5_000),
                "p": random.random(5_000),
                "y": random.integers(0, 2, 5_000).astype(np.float64),
                "user": np.sort(random.integers(0, 300, 5_000)),
                "slice": random.integers(-1, 7, 5_000),
            }
        )
        errors = Errors.of_rows(frame)
        assert errors is not None
        sums = Sums.of(errors, frame["slice"].to_numpy(), 7)
        of_users = (
            frame.filter(pl.col("slice") >= 0)
            .group_by("slice", "user")
            .agg(
                n=pl.len(),
                e=(pl.col("w") * (pl.col("p") - pl.col("y"))).sum(),
                p=(pl.col("w") * pl.col("p")).sum() ** 2 - ((pl.col("w") * pl.col("p")) ** 2).sum(),
            )
        )
        expected = (
            of_users.group_by("slice")
            .agg(pl.col("n", "e", "p").sum(), ee=(pl.col("e") ** 2).sum())
            .sort("slice")
        )
        for found, name in (
            (sums.examples, "n"),
            (sums.errors, "e"),
            (sums.squares, "ee"),
            (sums.expected_pairs, "p"),
        ):
            np.testing.assert_allclose(found, expected[name], rtol=1e-5)

    def test_two_thirds_of_the_variance_are_what_a_right_model_expects(self) -> None:
        """Two users, of two and one records, with predictions far too low: worked out by hand."""
        frame = pl.DataFrame(
            {"w": 1.0, "p": [0.1, 0.2, 0.5], "y": [1.0, 1.0, 0.0], "user": [0, 0, 1]}
        )
        errors = Errors.of_rows(frame)
        assert errors is not None
        sums = Sums.of(errors, np.zeros(3, np.int64), 1)
        squares, expected = 1.7**2 + 0.5**2, 0.09 + 0.16 + 0.25 + 0.5 * 2 * 0.1 * 0.2
        assert sums.variances_of_errors(0.5) == pytest.approx((squares + 2 * expected) / 3)

    def test_the_mixture_is_an_integral(self) -> None:
        z, information, r = 3.0, 7.0, 2.0
        slopes = np.linspace(-20, 20, 400_001)
        density = np.sqrt(r / 2 / np.pi) * np.exp(-r * slopes**2 / 2)
        ratio = np.exp(slopes * z * np.sqrt(information) - slopes**2 * information / 2)
        integral = (density * ratio).sum() * (slopes[1] - slopes[0])
        assert np.exp(log_two_sided_mixture(z, information, r)) == pytest.approx(integral)
        assert 700 < log_two_sided_mixture(1e4, information, r) < np.inf


class TestRows:
    def test_rows_are_those_of_a_summary(self) -> None:
        """And `where` selects the records; w, visits and invalid records as in `summary`."""
        random = np.random.default_rng(3)
        frame = made((DE & IOS, 1.8), (pl.col("country") == "FR", 0.6))
        frame = frame.with_columns(
            sample_rate=pl.Series(random.choice([0.5, 1.0], frame.height)),
            epoch=pl.Series(random.choice([0, 1], frame.height, p=[0.9, 0.1])),
            label=pl.when(pl.int_range(pl.len()) % 50 > 0).then("label"),
        )
        found = slices(frame)
        assert names(found) == ["country=FR", "country=DE, device=ios"]
        first = frame.filter(pl.col("epoch") == 0, pl.col("label").is_not_null())
        for row in found.rows(named=True):
            inside = first.filter(pl.sql_expr(row["where"]))
            expected = summary(inside, interval=0.95).row(0, named=True)
            for name in ("examples", "users", "mean_prediction", "calibration"):
                assert row[name] == pytest.approx(expected[name])
            assert row["calibration_low"] == pytest.approx(expected["calibration_low"])
            assert row["mean_label"] == pytest.approx(expected["positive_rate"])
            error = (pl.col("predict") - pl.col("label")) / pl.col("sample_rate")
            assert row["impact"] == pytest.approx(abs(inside.select(error.sum()).item()))
            assert row["e_value"] > 1000
        excesses = found["impact"].to_list()
        total = first.select(error.sum()).item()
        rest = abs(total - (excesses[1] - excesses[0]))
        assert found["share"].to_list() == pytest.approx(
            [one / (sum(excesses) + rest) for one in excesses]
        )

    def test_records_and_their_long_form(self) -> None:
        rows = made((DE, 1.4))
        records = rows.select(
            "uid",
            extra_str=pl.struct("country", "device"),
            extra_float=pl.struct("price"),
            label=pl.struct(ctr="label", cvr=1 - pl.col("label")),
            predict=pl.struct(ctr="predict", cvr=1 - pl.col("predict") * 1.2),
        )
        found = slices(records)
        assert found.filter(pl.col("target") == "ctr")["slice"].to_list() == ["country=DE"]
        assert found["target"].unique(maintain_order=True).to_list() == ["ctr", "cvr"]
        long = long_form(records).collect()
        assert slices(long).drop("e_value").equals(found.drop("e_value"))

    def test_labels_that_are_no_classes(self) -> None:
        """Seconds of a visit; users who stay long, always."""
        random = np.random.default_rng(4)
        frame = made()
        own = random.gamma(2, 0.5, 6_000)[frame["uid"].to_numpy()]
        seconds = random.gamma(2, 15, frame.height)
        frame = frame.with_columns(
            label=pl.Series(seconds * own), predict=pl.lit(30.0), target=pl.lit("stay")
        )
        assert slices(frame).is_empty()
        off = pl.when(DE & IOS).then(1.4).otherwise(1.0)
        found = slices(frame.with_columns(predict=pl.lit(30.0) * off))
        assert names(found) == ["country=DE, device=ios"]
        assert found["mean_prediction"].item() == pytest.approx(42)

    def test_logits_are_not_tried(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("WARNING", logger="absl"):
            found = slices(made().with_columns(predict=pl.lit(-2.0)))
        assert found.is_empty()
        assert "the predictions of 'ctr' are logits" in caplog.text

    def test_no_valid_record(self) -> None:
        assert slices(made().with_columns(label=pl.lit(None, pl.Float64))).is_empty()
        assert slices(made().clear()).is_empty()


class TestArguments:
    def test_fields_and_depth(self) -> None:
        frame = made((DE & IOS, 1.8))
        assert names(slices(frame, depth=1)) == ["country=DE"]
        assert names(slices(frame, "device")) == ["device=ios"]
        assert names(slices(frame, ["price", "device", "device"])) == ["device=ios"]
        assert names(slices(frame.rename({"device": "mode"}))) == ["country=DE"]
        both = slices(frame.rename({"device": "mode"}), ["country", "mode"])
        assert names(both) == ["country=DE, mode=ios"]

    def test_slices_of_few_examples_are_not_tried(self) -> None:
        frame = made((DE & IOS, 2.0))
        size = frame.filter(DE & IOS).height
        assert names(slices(frame, minimum_examples=size)) == ["country=DE, device=ios"]
        assert "country=DE, device=ios" not in names(slices(frame, minimum_examples=size + 1))

    def test_fields_of_very_many_values(self) -> None:
        """A value a row, and as many pairs of values as rows; memory is bounded by rows."""
        frame = made((DE, 1.4)).with_columns(
            id=pl.int_range(pl.len()).cast(pl.String),
            page=(pl.int_range(pl.len()) // 3).cast(pl.String),
            part=(pl.int_range(pl.len()) % 4000).cast(pl.String),
        )
        found = slices(frame, ["id", "page", "part", "country"], minimum_examples=3)
        assert names(found) == ["country=DE"]

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"fields": "age"}, r"`fields` must be among \['uid', 'country'.*fields='age'"),
            ({"fields": []}, "`fields` must name at least one field"),
            ({"fields": "tags"}, "`fields` must have texts, numbers or booleans.*'tags'"),
            ({"depth": 3}, "`depth` must be 1 .* or 2 .*depth=3"),
            ({"minimum_examples": 0}, "`minimum_examples` must be at least 1"),
            ({"false_discovery_rate": 5}, "`false_discovery_rate` must be between 0 and 1"),
        ],
    )
    def test_bad_arguments(self, options: dict[str, Any], error: str) -> None:
        frame = made(users=10).with_columns(tags=pl.lit(["a"]))
        with pytest.raises(ValueError, match=error):
            slices(frame, **options)

    def test_records_without_extra_fields(self) -> None:
        with pytest.raises(ValueError, match="must have an extra field"):
            slices(made(users=10).select("uid", "target", "label", "predict"))


@settings(deadline=None, max_examples=60)
@given(
    st.one_of(
        st.lists(st.none() | st.text("'\"\\%_ é", max_size=2), min_size=1, max_size=60),
        st.lists(st.none() | st.booleans(), min_size=1, max_size=60),
        st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=60),
        st.lists(st.none() | st.floats(width=32), min_size=1, max_size=60),
    ),
    st.sampled_from(["price", 'a "b" c']),
    st.integers(1, 2),
)
@example(["O'Hara", "''", '"', None], "price", 1)
@example([float("nan"), float("inf"), None, *map(float, range(30))], 'a "b" c', 1)
def test_a_condition_selects_the_rows_of_its_value(
    values: list[Any], name: str, minimum: int
) -> None:
    """Whatever the values are; rows without a value are those of rare ones."""
    column = pl.Series(name, values)
    field = field_of(name, column, minimum)
    frame = column.to_frame()
    assert len(field.texts) == len(field.conditions) == field.numbers.max() + 1
    for number, condition in enumerate(field.conditions):
        selected = frame.select(pl.sql_expr(condition).fill_null(False)).to_series().to_numpy()
        assert selected.tolist() == (field.numbers == number).tolist(), condition
        assert selected.sum() >= minimum
