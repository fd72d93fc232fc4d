"""States: merged in any order and split, kept in a file, and finished to what `summary` says."""

from __future__ import annotations

import datetime as dt
import pathlib
import tempfile
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from same_frames import assert_same

from monolith_keras_metrics.insight import MEASURES, State, long_form, state_of, summary
from monolith_keras_metrics.insight.cells import CODES, codes_of, ranks_of, values_of

EVERYTHING = [*MEASURES]


def records(rows: int = 60, seed: int = 0) -> pl.DataFrame:
    """Records of two targets with weights, ties, and what is not valid."""
    random = np.random.default_rng(seed)
    p = random.random((2, rows)).round(2).astype(np.float32)
    y = (random.random((2, rows)) < p).astype(np.float32)
    y[1, ::7] = np.nan
    p[1, ::11] = np.nan

    def struct(a: Any, b: Any) -> pl.Series:
        return pl.DataFrame({"a": a, "b": b}).to_struct()

    req_time = 1_700_000_000 + np.arange(rows) * 100
    return pl.DataFrame(
        {
            "uid": random.integers(0, 15, rows),
            "req_time": req_time,
            "train_time": req_time + random.integers(0, 1_000, rows),
            "label": struct(*y),
            "predict": struct(*p),
            "sample_rate": struct(*random.choice([0.25, 0.5, 1.0], (2, rows))),
            "country": random.choice(["DE", "FR", "JP"], rows),
            "epoch": [0] * (rows - 5) + [1] * 5,
        }
    )


def assert_same_rows(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    order = found.columns[: found.columns.index("examples")]
    assert_same(found.sort(order), expected.sort(order))


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(0, 3), min_size=60, max_size=60),
    st.permutations(range(4)),
    st.booleans(),
    st.booleans(),
)
def test_any_split_merges_in_any_order_and_through_files(
    split: list[int], order: list[int], exact: bool, intervals: bool
) -> None:
    frame = records()
    options: Any = {
        "by": "country",
        "window": "1h",
        "measures": EVERYTHING,
        "exact": exact,
        "intervals": intervals,
    }
    interval = 0.9 if intervals else None
    expected = state_of(frame, **options).finish(interval=interval)
    portions = [frame.filter(pl.Series(split) == number) for number in order]
    with tempfile.TemporaryDirectory() as folder:
        states = []
        for number, portion in enumerate(portions):
            path = pathlib.Path(folder, f"{number}.parquet")
            state_of(portion, **options).write_parquet(path)
            states.append(State.read_parquet(path))
        first = State.merge(states[:2])
        assert_same_rows(State.merge([first, *states[2:]]).finish(interval=interval), expected)
        assert_same_rows(State.merge(states).finish(interval=interval), expected)
        assert [path.suffix for path in pathlib.Path(folder).iterdir()] == [".parquet"] * 4


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("interval", [None, 0.9])
def test_a_summary_is_a_finished_state(exact: bool, interval: float | None) -> None:
    frame = records()
    state = state_of(frame, "country", intervals=interval is not None, exact=exact)
    whole = summary(frame, "country", interval=interval, exact=exact, minimum_users=3)
    assert_same_rows(state.finish(interval=interval, minimum_users=3), whole)
    assert whole["auc_error"].max() > 0 or exact  # type: ignore[operator]


def test_the_values_with_intervals_are_exact_if_they_are_to_be() -> None:
    frame = records(2_000).with_columns(
        predict=pl.struct(
            pl.col("predict").struct.field("a") + pl.int_range(pl.len()) / 1e6,
            pl.col("predict").struct.field("b"),
        )
    )
    measures = ["auc", "gauc", "delay_p50"]
    exact = summary(frame, measures=measures, exact=True)
    both = summary(frame, measures=measures, exact=True, interval=0.9)
    assert_same_rows(both.select(exact.columns), exact)
    assert (both["auc_low"] < both["auc"]).all()
    assert summary(frame, measures="auc")["auc"][0] != exact["auc"][0]


@pytest.mark.parametrize(
    "values",
    [
        ["a", None, "ü\n"],
        [1, -(2**62), None],
        [0.5, float("nan"), None],
        [True, False, None],
        [dt.datetime(2026, 1, day, tzinfo=dt.timezone.utc) for day in (1, 2, 3)],
        [dt.date(2026, 1, 1), dt.date(1960, 1, 2), None],
        [dt.timedelta(seconds=1), dt.timedelta(days=-1), None],
        [b"a", b"\x00", None],
        [{"x": 1}, {"x": None}, None],
    ],
)
def test_groups_of_any_type_survive_a_file(values: list[Any], tmp_path: pathlib.Path) -> None:
    frame = records().with_columns(country=pl.Series(values * 20, strict=False))
    state = state_of(frame, "country", measures="auc")
    state.write_parquet(tmp_path / "state.parquet")
    found = State.read_parquet(tmp_path / "state.parquet")
    assert_same_rows(found.finish("auc"), summary(frame, "country", measures="auc"))
    twice = State.merge([found, state]).finish()
    assert twice["examples"].to_list() == [2 * n for n in state.finish()["examples"]]
    assert twice["users"].to_list() == state.finish()["users"].to_list()


def test_a_text_is_no_user_but_is_one_for_who_has_texts() -> None:
    """Uids of a frame of one's own may be text, or null, which is one user."""
    frame = records().with_columns(uid=pl.lit("x")).with_columns(
        uid=pl.when(pl.int_range(pl.len()) % 2 == 0).then("uid")
    )  # fmt: skip
    assert summary(frame, measures="auc")["users"].to_list() == [2, 2]


def test_records_in_portions_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = records(997)
    expected = summary(frame, "country", window="1h", interval=0.9)
    monkeypatch.setattr("monolith_keras_metrics.insight.portions._MOST", 50)
    monkeypatch.setattr("monolith_keras_metrics.insight.portions._LEAST", 50)
    monkeypatch.setattr("monolith_keras_metrics.insight.state._TABLE_ROWS", 1_000)
    for each in (frame, frame.lazy(), long_form(frame)):
        assert_same_rows(summary(each, "country", window="1h", interval=0.9), expected)


def test_what_depends_on_other_records_is_not_read_in_portions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("monolith_keras_metrics.insight.portions._MOST", 10)
    monkeypatch.setattr("monolith_keras_metrics.insight.portions._LEAST", 10)
    frame = records()
    upper = (pl.col("req_time").rank() > pl.len() / 2).alias("upper")
    assert summary(frame, upper).filter(target="a")["examples"].sum() == 55
    assert summary(frame, upper, visits="all")["revisits"].sum() == 0
    again = pl.concat([frame, frame]).with_columns(
        epoch=pl.lit(0),
        example_id=pl.Series([*range(60)] * 2),
        attempt=pl.Series([1, 2]).repeat_by(60).explode(),
    )
    row = summary(again).row(0, named=True)
    assert (row["examples"], row["revisits"]) == (60, 60)
    epochs = again.with_columns(attempt=pl.lit(1), epoch=pl.col("attempt") - 1)
    row = summary(epochs).row(0, named=True)
    assert (row["examples"], row["revisits"]) == (60, 60)
    later = epochs.filter(pl.col("epoch") == 1)
    assert summary(later)["examples"][0] == 60


@pytest.mark.parametrize(
    "group",
    [
        pl.col("req_time").rank(),
        pl.col("req_time") - pl.col("req_time").min(),
        pl.col("req_time").max().over("country"),
        pl.col("req_time").shift(),
        pl.when(pl.col("req_time") > pl.col("req_time").mean()).then(1),
        pl.col("req_time").map_batches(lambda values: values - values.min()),
    ],
)
def test_groups_by_what_depends_on_other_records(
    group: pl.Expr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monolith_keras_metrics.insight.portions._MOST", 10)
    monkeypatch.setattr("monolith_keras_metrics.insight.portions._LEAST", 10)
    frame = records().with_columns(own=group)
    by_column = summary(frame, "own", measures="auc")
    by_expression = summary(frame.drop("own"), group.alias("own"), measures="auc")
    assert_same_rows(by_expression, by_column)


def test_no_records_have_no_rows() -> None:
    assert summary(records().head(0), "country", interval=0.9).height == 0
    assert state_of(long_form(records().head(0))).finish().height == 0


def test_a_state_has_what_it_was_made_for() -> None:
    state = state_of(records(), measures="auc")
    assert state.finish().columns[6:8] == ["effective_examples", "positive_rate"]
    assert state.finish("auc").columns[6:] == ["auc"]
    with pytest.raises(ValueError, match=r"`measures` must be among.*Received: 'gauc'.*state_of"):
        state.finish("gauc")
    with pytest.raises(ValueError, match="made with intervals=True. Received: interval=0.9"):
        state.finish(interval=0.9)
    with pytest.raises(ValueError, match="`interval` must be between 0 and 1"):
        state.finish(interval=95)
    with pytest.raises(ValueError, match="made with the same arguments"):
        State.merge([state, state_of(records(), "country", measures="auc")])


class TestFiles:
    def test_another_file_is_told(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "state.parquet"
        with pytest.raises(FileNotFoundError, match="must be a file with a state"):
            State.read_parquet(path)
        records().write_parquet(path)
        with pytest.raises(ValueError, match=r"State.write_parquet of this version.*state.parquet"):
            State.read_parquet(path)
        path.write_bytes(b"no Parquet")
        with pytest.raises(ValueError, match="Make the state again from its records"):
            State.read_parquet(path)

    @pytest.mark.parametrize("share", [0, 0.5, 0.99])
    def test_a_torn_file_is_told(self, share: float, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "state.parquet"
        state_of(records()).write_parquet(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ValueError, match="must be a file that State.write_parquet"):
            State.read_parquet(path)

    def test_another_version_is_told(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "state.parquet"
        monkeypatch.setattr("monolith_keras_metrics.insight.stored.VERSION", 99)
        state_of(records()).write_parquet(path)
        monkeypatch.undo()
        with pytest.raises(ValueError, match="a state of version 99"):
            State.read_parquet(path)


@given(st.lists(st.floats(-1e30, 1e30) | st.floats(0, 1), min_size=1))
def test_the_name_of_a_cell_is_within_it(values: list[float]) -> None:
    codes = codes_of(np.array(values))
    assert (codes_of(values_of(codes)) == codes).all()
    near = np.where(np.array(values) < 0.5, np.array(values), 1 - np.array(values))
    names = values_of(codes)
    distance = np.where(names < 0.5, names, 1 - names)
    assert np.allclose(distance, near, rtol=1 / 256, atol=1e-30)


@given(st.lists(st.floats(-1e30, 1e30) | st.floats(0, 1), min_size=1))
def test_the_ranks_of_cells_are_in_the_order_of_their_names(values: list[float]) -> None:
    ordered = np.sort(np.array(values))
    ranks = ranks_of(codes_of(ordered))
    assert (np.diff(ranks) >= 0).all()
    assert 0 <= ranks[0] <= ranks[-1] < CODES
    assert (np.diff(values_of(codes_of(ordered)))[np.diff(ranks) > 0] > 0).all()


def test_zeros_of_either_sign_are_one_cell() -> None:
    codes = codes_of(np.array([0.0, -0.0]))
    assert codes[0] == codes[1]
    struct = pl.DataFrame({"a": [0.0, -0.0]}, schema={"a": pl.Float32}).to_struct()
    labels = pl.DataFrame({"a": [1.0, 0.0]}).to_struct()
    frame = pl.DataFrame({"uid": [1, 2], "label": labels, "predict": struct})
    for exact in (False, True):
        assert summary(frame, exact=exact)["auc"].item() == 0.5
