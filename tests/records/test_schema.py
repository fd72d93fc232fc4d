"""The schema is one table: what its docstring shows, what is written, what is accepted."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from monolith_keras_metrics.records import schema
from monolith_keras_metrics.records.batch import Batch, Layout, Origin
from monolith_keras_metrics.records.frame import to_frame
from monolith_keras_metrics.records.schema import SCHEMA, check_frame


def every_column() -> pl.DataFrame:
    """Records that have each column of the schema."""
    layout = Layout(
        "m", ("a", "b"), ("s", "i", "f"), 1.0, mode="train", epochs=True, from_logits=("b",)
    )
    numbers, block = np.arange(3), np.zeros((3, 2), np.float32)
    extras = [np.array([b"x"] * 3, object), numbers, np.zeros(3, np.float32)]
    batch = Batch(layout, 3, numbers, numbers, 0, [block], [block], [], extras, 0, numbers)
    return to_frame([batch], Origin("r", 1, 0))


def test_a_frame_has_the_columns_in_the_order_of_the_schema() -> None:
    frame = every_column()
    assert frame.columns == list(SCHEMA)
    for name, dtype in frame.schema.items():
        column = SCHEMA[name]
        of_fields = {f.dtype for f in dtype.fields} if isinstance(dtype, pl.Struct) else {dtype}
        assert of_fields == {column.dtype()}, name
        assert isinstance(dtype, pl.Struct) == bool(column.fields)
    check_frame(frame)


def test_the_table_in_the_docstring_is_the_schema() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|$", schema.__doc__ or "", re.MULTILINE)
    names = [(name, *row[1:]) for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert [name for name, *_ in names] == list(SCHEMA)
    for name, type_text, presence in names:
        column = SCHEMA[name]
        assert column.dtype.__name__ in type_text, name
        assert ("Struct" in type_text) == bool(column.fields), name
        assert presence.startswith("always") == column.required, name


@pytest.mark.parametrize("name", [name for name, column in SCHEMA.items() if column.required])
def test_records_without_a_required_column_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no column \\['{name}'\\]"):
        check_frame(every_column().drop(name))


def test_columns_of_other_types_are_refused() -> None:
    for name in SCHEMA:
        with pytest.raises(ValueError, match=f"column '{name}' is of type Binary"):
            check_frame(every_column().with_columns(pl.lit(b"").alias(name)))
    with pytest.raises(ValueError, match="column 'other' is of type"):
        check_frame(every_column().with_columns(other=1))


def test_what_is_derived_from_the_table() -> None:
    assert schema.VALUES == ("label", "predict", "sample_rate")
    assert schema.EXTRAS == ("extra_float", "extra_int", "extra_str")
