"""First visits: what a model predicts of examples that it has not learned from yet."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from monolith_keras_metrics.insight import State, long_form, portions, summary


def records(uid: list[int], **columns: Any) -> pl.DataFrame:
    """Records with labels that the uid tells, all predictions being 0.5."""
    values = {
        name: pl.DataFrame({"ctr": column}, schema={"ctr": pl.Float32}).to_struct()
        for name, column in (("label", [float(u % 2) for u in uid]), ("predict", [0.5] * len(uid)))
    }
    return pl.DataFrame({"uid": uid, "req_time": [0] * len(uid), **values, **columns})


def counts(frame: pl.DataFrame, **options: Any) -> tuple[int, int, int]:
    """Examples, revisits and users, which both forms tell alike."""
    rows = summary(frame, **options).select("examples", "revisits", "users").rows()
    assert (
        rows == summary(long_form(frame), **options).select("examples", "revisits", "users").rows()
    )
    (row,) = rows
    return row


class TestEpochs:
    def test_only_epoch_0_is_measured(self) -> None:
        frame = records([1, 2, 3, 1, 2, 3], epoch=[0, 0, 0, 1, 1, 1])
        assert counts(frame) == (3, 3, 3)
        assert counts(frame, visits="all") == (6, 0, 3)

    def test_records_that_do_not_tell_are_measured(self) -> None:
        frame = records([1, 2, 3], epoch=pl.Series([None, 0, 1], dtype=pl.Int64))
        assert counts(frame) == (2, 1, 2)

    def test_an_example_id_tells_which_epoch_is_its_first(self) -> None:
        """Epochs that are parts of a stream: example 8 is seen in epochs 1 and 2."""
        ids = pl.Series([7, 8, 7, 8, 9, None], dtype=pl.Int64)
        frame = records([1, 2, 1, 2, 3, 4], epoch=[0, 1, 1, 2, 2, 2], example_id=ids)
        assert counts(frame) == (3, 3, 3)

    def test_by_epoch_with_all_visits(self) -> None:
        frame = records([1, 2, 1, 2], epoch=[0, 0, 1, 1])
        seen = summary(frame, "epoch", visits="all").select("epoch", "examples", "revisits").rows()
        assert seen == [(0, 2, 0), (1, 2, 0)]
        left_out = summary(frame, "epoch").select("epoch", "examples", "revisits").rows()
        assert left_out == [(0, 2, 0), (1, 0, 2)]

    def test_an_extra_field_of_that_name_is_none(self) -> None:
        epochs = pl.DataFrame({"epoch": [0, 1, 2]}).to_struct()
        frame = records([1, 2, 3], extra_int=epochs)
        assert summary(frame)["examples"].item() == 3

    def test_what_is_left_out_is_counted_once(self) -> None:
        frame = records([1, 2], epoch=[0, 1]).with_columns(
            label=pl.struct(ctr=pl.lit(None, pl.Float32))
        )
        row = summary(frame).row(0, named=True)
        assert (row["unlabelled"], row["revisits"]) == (1, 1)


class TestReplays:
    def test_the_last_attempt_that_has_an_example_is_measured(self) -> None:
        """Attempt 5 was restored before uid 3; a stream's next day is no replay."""
        origin = records([1, 2, 3, 4, 3, 4, 5], attempt=[4, 4, 4, 4, 5, 5, 5]).with_columns(
            run=pl.lit("r"), worker=pl.lit(0)
        )
        assert counts(origin) == (5, 2, 5)
        assert counts(origin, visits="all") == (7, 0, 5)

    def test_which_record_it_is(self) -> None:
        frame = records([1, 1], attempt=[9, 8], run=["r", "r"], worker=[0, 0]).with_columns(
            predict=pl.struct(ctr=pl.Series([0.25, 0.75], dtype=pl.Float32))
        )
        assert summary(frame)["mean_prediction"].item() == 0.25

    def test_examples_of_one_request_differ_in_their_extra_fields(self) -> None:
        """Three items were shown at once; training was restored after the first."""
        items = pl.DataFrame({"item": ["a", "b", "b", "c"]}).to_struct()
        frame = records([1] * 4, attempt=[1, 1, 2, 2], extra_str=items)
        assert counts(frame) == (3, 1, 1)

    def test_an_example_id_is_enough(self) -> None:
        """Whatever worker and extra fields say."""
        hours = pl.DataFrame({"hour": [1, 2, 3]}).to_struct()
        frame = records(
            [1, 1, 1], attempt=[1, 2, 3], worker=[0, 1, 1], example_id=[7, 7, 8], extra_int=hours
        )
        assert counts(frame) == (2, 1, 1)

    @pytest.mark.parametrize("column", ["run", "model_name", "mode"])
    def test_other_trainings_are_no_replays(self, column: str) -> None:
        frame = records([1, 1, 2], attempt=[1, 2, 3], **{column: ["a", "b", "b"]})
        assert counts(frame) == (3, 0, 2)

    def test_workers_have_attempts_of_their_own(self) -> None:
        frame = records([1, 1, 1, 1], attempt=[1, 2, 1, 2], worker=[0, 1, 0, 1])
        assert counts(frame) == (4, 0, 1)

    def test_a_later_epoch_of_a_later_attempt_is_no_replay(self) -> None:
        frame = records([1, 2, 1, 2], attempt=[1, 1, 2, 2], epoch=[0, 0, 1, 1])
        assert counts(frame) == (2, 2, 2)
        assert summary(frame, "attempt")["examples"].to_list() == [2, 0]

    def test_attempts_of_several_epochs_with_ids(self) -> None:
        """Attempt 2 was restored before example 8; attempt 1 had begun a second epoch."""
        frame = records(
            [1, 2, 1, 2, 3, 1],
            example_id=[7, 8, 7, 8, 9, 7],
            epoch=[0, 0, 1, 0, 0, 1],
            attempt=[1, 1, 1, 2, 2, 2],
        )
        assert counts(frame) == (3, 3, 3)
        assert summary(frame, "attempt")["examples"].to_list() == [1, 2]


def brute_force(frame: pl.DataFrame) -> int:
    """Count first visits, one record after the other."""
    several = frame.group_by("run", "worker").agg(pl.col("attempt").n_unique())
    has_attempts = several["attempt"].max() > 1  # type: ignore[operator]
    last: dict[Any, int] = {}
    lines = frame.to_dicts()
    lowest: dict[Any, int] = {}
    for line in lines:
        example = (line["run"], line["example_id"])
        lowest[example] = min(line["epoch"], lowest.get(example, line["epoch"]))
    first = []
    for line in lines:
        name = (line["run"], line["example_id"])
        least = 0 if name[1] is None else lowest[name]
        if line["epoch"] == least:
            if name[1] is None:
                name += (line["worker"], line["uid"], line["req_time"], line["extra_str"]["item"])
            first.append((name, line["attempt"]))
            last[name] = max(line["attempt"], last.get(name, 0))
    return sum(not has_attempts or attempt == last[name] for name, attempt in first)


class TestPortions:
    """Records that must be compared are read in portions, too."""

    @pytest.mark.parametrize("values", [20, 100_000])
    @pytest.mark.parametrize("epochs", [1, 3])
    @pytest.mark.parametrize("attempts", [1, 3])
    def test_first_visits_are_found_in_each(
        self, epochs: int, attempts: int, values: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        random = np.random.default_rng(epochs * 10 + attempts)
        size = 600
        ids = pl.Series(random.integers(0, 200, size))
        frame = records(
            [*random.integers(0, 20, size)],
            req_time=random.integers(0, 5, size),
            example_id=pl.select(pl.when(ids < 150).then(ids)).to_series(),
            epoch=random.integers(0, epochs, size),
            attempt=random.integers(1, attempts + 1, size),
            worker=random.integers(0, 2, size),
            run=random.choice(["a", "b"], size),
            extra_str=pl.DataFrame({"item": random.choice(["x", "y"], size)}).to_struct(),
        )
        taken = []
        of_rows = State.of_rows

        def watched(frames: Any, *arguments: Any) -> State:
            held = list(frames)
            taken.append(sum(one.height for one in held))
            return of_rows(held, *arguments)

        monkeypatch.setattr(portions, "_LEAST", 1)
        monkeypatch.setattr(portions, "_COMPARED", values)
        monkeypatch.setattr(State, "of_rows", watched)
        expected = brute_force(frame)
        assert summary(frame).select("examples", "revisits").row(0) == (expected, size - expected)
        if epochs * attempts > 1:
            assert len(taken) == -(-size // values)
            assert max(taken) <= 3 * values or values > size
        assert counts(frame)[0] == expected

    def test_targets_of_the_long_form_keep_their_order(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = long_form(records([*range(50)], attempt=[1, 2] * 25)).collect()
        names = pl.Series(["c", "a", *["b", "a", "d"] * 16])
        monkeypatch.setattr(portions, "_LEAST", 1)
        monkeypatch.setattr(portions, "_COMPARED", 4)
        rows = rows.with_columns(target=names)
        assert summary(rows)["target"].to_list() == ["c", "a", "b", "d"]


def test_visits_is_checked() -> None:
    with pytest.raises(ValueError, match="`visits` must be 'first' or 'all'.*visits='last'"):
        summary(records([1]), visits="last")  # type: ignore[arg-type]
