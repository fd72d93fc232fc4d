"""Mix and model add up to the change; labels that came later replace earlier ones."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith_keras_metrics.insight import explain, relabel, summary
from monolith_keras_metrics.insight.explain import EXPLAINED


def records(rows: list[tuple[str, float, float]]) -> pl.DataFrame:
    """Records of (country, label, prediction)."""
    return pl.DataFrame(
        {
            "uid": range(len(rows)),
            "country": pl.Series([row[0] for row in rows], dtype=pl.String),
            "label": [{"ctr": row[1]} for row in rows],
            "predict": [{"ctr": row[2]} for row in rows],
        },
        schema_overrides={name: pl.Struct({"ctr": pl.Float64}) for name in ("label", "predict")},
    )


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from([0.0, 1.0]),
        st.sampled_from([0.125, 0.5, 0.75]),
    ),
    min_size=1,
    max_size=30,
)


class TestExplain:
    @pytest.mark.slow
    @settings(deadline=None, max_examples=25)
    @given(ROWS, ROWS, st.sampled_from(EXPLAINED))
    def test_mix_and_model_add_up_to_the_change(self, one: Any, other: Any, measure: str) -> None:
        before, after = records(one), records(other)
        values = [summary(each, measures=measure)[measure].item() for each in (before, after)]
        result = explain(before, after, "country", measure)
        if None in values:
            assert result.is_empty()
            return
        total = result["mix"].sum() + result["model"].sum()
        assert total == pytest.approx(values[1] - values[0], abs=1e-12)
        assert result["share_before"].sum() == pytest.approx(1)
        assert result["share_after"].sum() == pytest.approx(1)

    def test_a_model_that_got_worse_in_one_group(self) -> None:
        """By 0.25 for half of the traffic."""
        before = records([("a", 1, 0.5)] * 4 + [("b", 1, 0.5)] * 4)
        after = records([("a", 1, 0.5)] * 4 + [("b", 1, 0.75)] * 4)
        result = explain(before, after, "country", "mean_prediction")
        assert result.select("country", "mix", "model").rows() == [("b", 0, 0.125), ("a", 0, 0)]

    def test_a_group_that_is_new_is_mix(self) -> None:
        before = records([("a", 1, 0.5)] * 4)
        after = records([("a", 1, 0.5)] * 2 + [(None, 1, 0.75)] * 2)  # type: ignore[list-item]
        result = explain(before, after, "country", "mean_prediction")
        assert result["model"].to_list() == [0, 0]
        # The mean of the overall values is 0.5625: 0.5 · (0.75 - it) and -0.5 · (0.5 - it).
        assert result["mix"].to_list() == [0.09375, 0.03125]
        assert result.filter(pl.col("country").is_null())["before"].to_list() == [None]

    @pytest.mark.parametrize(
        ("by", "measure", "error"),
        [
            ("country", "auc", r"`measure` must be among \['positive_rate'.*'auc'"),
            ((), "calibration", "`by` must name at least one group"),
            ("age", "calibration", "`by` must be among.*'age'"),
        ],
    )
    def test_bad_arguments(self, by: Any, measure: str, error: str) -> None:
        frame = records([("a", 1, 0.5)])
        with pytest.raises(ValueError, match=error):
            explain(frame, frame, by, measure)


class TestRelabel:
    def test_labels_that_came_later(self) -> None:
        """One of three; the others keep theirs, whatever the order of the labels."""
        run = pl.DataFrame(
            {
                "uid": [1, 1, 2],
                "req_time": [10, 20, 10],
                "label": [
                    {"ctr": 1.0, "cvr": 0.0},
                    {"ctr": 1.0, "cvr": 0.0},
                    {"ctr": 0.0, "cvr": None},
                ],
                "predict": [{"ctr": 0.5, "cvr": 0.25}] * 3,
            }
        )
        late = pl.DataFrame({"uid": [2, 1, 9], "req_time": [10, 20, 9], "cvr": [None, 1, 1]})
        result = relabel(run, late, ["uid", "req_time"]).collect()
        assert result.drop("label").equals(run.drop("label"))
        assert result["label"].struct.field("cvr").to_list() == [0.0, 1.0, None]
        assert result["label"].struct.field("ctr").to_list() == [1.0, 1.0, 0.0]
        assert summary(result)["positive_rate"].to_list() == pytest.approx([2 / 3, 0.5])

    @pytest.mark.parametrize(
        ("late", "error"),
        [
            ({"uid": [0, 0], "ctr": [1, 1]}, "each example once"),
            ({"uid": [0], "click": [1]}, r"at least one target of \['ctr'\]"),
            ({"user": [0], "ctr": [1]}, r"`labels` must have the columns of `on`.*without 'uid'"),
        ],
    )
    def test_bad_labels(self, late: Any, error: str) -> None:
        with pytest.raises(ValueError, match=error):
            relabel(records([("a", 1, 0.5)]), pl.DataFrame(late), "uid")

    def test_bad_records(self) -> None:
        late = pl.DataFrame({"example_id": [1], "ctr": [1.0]})
        with pytest.raises(ValueError, match="`records` must have the columns of `on`"):
            relabel(records([("a", 1, 0.5)]), late)
        with pytest.raises(ValueError, match="`records` must come from open_run"):
            relabel(late, late)
