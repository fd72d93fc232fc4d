"""Columns become records and records become messages: nothing is lost or changed on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from polars.testing import assert_frame_equal

from monolith_keras_metrics.records import ids
from monolith_keras_metrics.records.batch import Batch, Layout, Origin
from monolith_keras_metrics.records.frame import hashed_uids, json_messages, to_frame
from monolith_keras_metrics.records.schema import check_frame

INT64 = st.integers(-(2**63), 2**63 - 1)
# Surrogates are no characters of a text that UTF-8 can hold.
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5).filter(
    lambda name: name != "*" and not name.startswith("^")  # patterns for Polars: refused
)
STRINGS = st.binary(max_size=6) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def layout(*extra: str, targets: tuple[str, ...] = ("ctr",), ratio: float = 1.0) -> Layout:
    return Layout("m", targets, extra, ratio)


def batch(of: Layout, rows: int, **changes: Any) -> Batch:
    """A batch of `rows` examples of uids 0, 1, …, with what `changes` say."""
    zeros = np.zeros((rows, len(of.targets)), np.float32)
    numbers = np.arange(rows)
    columns = {"uid": numbers, "req_time": numbers, "labels": [zeros], "predictions": [zeros]}
    return Batch(of, rows, **{"train_time": 0, **columns, **changes})


def texts(*batches: Batch, **options: Any) -> list[str]:
    return json_messages(to_frame(batches, **options)).to_list()


def parsed(*batches: Batch, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(text) for text in texts(*batches, **options)]


def test_the_message_is_the_specified_one() -> None:
    """Byte for byte but for blanks: the keys, their order, each value."""
    one = Batch(
        Layout("ctr", ("ctr_head",), ("carrier", "hour", "price"), 0.01),
        rows=2,
        uid=np.array([1003, 123]),
        req_time=np.array([1331481600, 5]),
        train_time=0,
        labels=[np.array([0.0, 1.0], np.float32)],
        predictions=[np.array([0.4, 1.0], np.float32)],
        sample_rates=[np.array([0.7, 1.0], np.float32)],
        extras=[np.array([b"UA", b""], object), np.array([7, 8]), np.float32([0.333, 1])],
    )
    expected = (
        '{"model_name": "ctr", "uid": 1003, "req_time": 1331481600, "train_time": 0, '
        '"sample_ratio": 0.01, "label": {"ctr_head": 0.0}, "predict": {"ctr_head": 0.4}, '
        '"sample_rate": {"ctr_head": 0.7}, "extra_float": {"price": 0.333}, '
        '"extra_int": {"hour": 7}, "extra_str": {"carrier": "UA"}}'
    )
    assert texts(one) == [expected.replace(" ", "")]


def test_mode_and_origin_come_last() -> None:
    """A record's position is its example's, whether or not others are sampled."""
    marked = Layout("m", ("a",), sample_ratio=0.01, mode="test")
    one = batch(marked, 3, uid=np.array([10, 9, 1000]))
    messages = parsed(one, origin=Origin("run", 17, 3), positions=[40])
    assert [m["position"] for m in messages] == [41, 42]
    assert list(messages[0])[-5:] == ["mode", "run", "attempt", "worker", "position"]
    assert list(messages[0].values())[-5:] == ["test", "run", 17, 3, 41]


@given(hnp.arrays(np.uint32, 200))
def test_a_float32_reads_back_and_is_the_shortest_text(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    for text, value in zip(texts(batch(layout(), 200, labels=[values])), values, strict=True):
        written = json.loads(text, parse_float=str)["label"]["ctr"]
        if not math.isfinite(value):
            assert written is None
            continue
        assert np.float32(written).tobytes() == value.tobytes()
        mantissa = written.lower().split("e")[0]
        shortest = np.format_float_scientific(value, unique=True).split("e")[0]
        assert digits(mantissa) == digits(shortest), written


def digits(mantissa: str) -> str:
    return mantissa.lstrip("-").replace(".", "").strip("0")


@given(st.lists(STRINGS, max_size=5))
def test_strings_are_kept_and_broken_ones_readable(strings: list[bytes | str]) -> None:
    """Quotes, line breaks, NUL and all; what is not UTF-8 becomes U+FFFD as Python does it."""
    column = np.empty(len(strings), object)
    column[:] = strings
    messages = parsed(batch(layout("s"), len(strings), extras=[column]))
    assert [m["extra_str"]["s"] for m in messages] == [as_text(one) for one in strings]


def as_text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@pytest.mark.parametrize("dtype", ["U", object])
def test_a_lone_surrogate_is_replaced(dtype: Any) -> None:
    """A Python string can hold one, UTF-8 cannot."""
    column = np.array(["a\ud800b", "ok"], dtype)
    first, second = parsed(batch(layout("s"), 2, extras=[column]))
    assert first["extra_str"]["s"] in ("a?b", "a\ufffdb")
    assert second["extra_str"]["s"] == "ok"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_floats_of_every_width(dtype: Any) -> None:
    """Each becomes the float32 next to it."""
    values = np.array([0.1, -2.5, np.nan, np.inf, -np.inf, 1e-7], dtype)
    one = batch(layout("x"), 6, labels=[values], sample_rates=[values], extras=[values])
    expected = [float(v) if np.isfinite(v) else None for v in values.astype(np.float32)]
    for message, value in zip(parsed(one), expected, strict=True):
        found = [message["label"]["ctr"], message["sample_rate"]["ctr"]]
        found.append(message["extra_float"]["x"])
        assert [f if f is None else float(np.float32(f)) for f in found] == [value] * 3


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_float64_too_large_for_float32_is_null() -> None:
    assert parsed(batch(layout(), 1, labels=[np.array([1e300])]))[0]["label"] == {"ctr": None}


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint32", "bool"])
def test_integers_of_every_width(dtype: str) -> None:
    values = np.array([0, 1, 100]).astype(dtype)
    messages = parsed(batch(layout("n"), 3, extras=[values], labels=[values]))
    assert [m["extra_int"]["n"] for m in messages] == values.astype(int).tolist()
    assert [m["label"]["ctr"] for m in messages] == values.astype(float).tolist()


def test_blocks_of_every_shape_are_columns_of_targets() -> None:
    """`(batch,)`, `(batch, 1)` and `(batch, 2)` together are four targets, in order."""
    blocks = [np.array([1.0, 2.0]), np.array([[3.0], [4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]])]
    of = layout(targets=("d", "c", "b", "a"))
    rates = [np.full((2, 4), [0.1, 0.2, 0.3, 0.4], np.float32)]
    one = batch(of, 2, labels=blocks, predictions=blocks[::-1], sample_rates=rates)
    first, second = parsed(one)
    assert list(first["label"].items()) == [("d", 1), ("c", 3), ("b", 5), ("a", 6)]
    assert second["label"] == {"d": 2, "c": 4, "b": 7, "a": 8}
    assert second["predict"] == {"d": 7, "c": 8, "b": 4, "a": 2}
    assert second["sample_rate"] == {"d": 0.1, "c": 0.2, "b": 0.3, "a": 0.4}


def test_sample_rates_may_be_one_column_for_all_targets_or_none_at_all() -> None:
    of = layout(targets=("a", "b"))
    for rates in ([0.5, 0.25], [[0.5], [0.25]]):
        messages = parsed(batch(of, 2, sample_rates=[np.array(rates)]))
        assert [m["sample_rate"] for m in messages] == [{"a": r, "b": r} for r in (0.5, 0.25)]
    assert parsed(batch(of, 1))[0]["sample_rate"] == {"a": 1.0, "b": 1.0}


def test_columns_may_have_a_second_dimension_of_one() -> None:
    column = np.array([[5], [6]])
    messages = parsed(batch(layout("n"), 2, uid=column, req_time=column, extras=[column]))
    for message, value in zip(messages, (5, 6), strict=True):
        assert (message["uid"], message["req_time"]) == (value, value)
        assert message["extra_int"] == {"n": value}


@pytest.mark.parametrize("options", [{}, {"uid_hash_key": b"k"}, {"origin": Origin("r", 1, 0)}])
def test_no_rows(options: dict[str, Any]) -> None:
    """An empty batch and one of no sampled user give no message, and the same columns as others."""
    of = layout("s", ratio=0.001)
    none = batch(of, 0, extras=[np.array([], object)])
    unsampled = batch(of, 1, uid=np.array([7]), extras=[np.array([b"x"], object)])
    some = batch(of, 1, extras=[np.array([b"x"], object)])
    assert texts(none, **options) == texts(unsampled, **options) == []
    frames = [to_frame([one], **options) for one in (none, unsampled, some)]
    assert frames[0].schema == frames[1].schema == frames[2].schema
    assert_frame_equal(to_frame([none, some, none], **options), frames[2])


Case: TypeAlias = tuple[list[Batch], list[dict[str, Any]]]


@st.composite
def batches(draw: st.DrawFn) -> Case:
    """Batches of one layout, and their messages worked out one by one in plain Python."""
    targets = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    extra = draw(st.dictionaries(NAMES, st.sampled_from(["float", "int", "str"]), max_size=4))
    of = Layout(draw(NAMES), tuple(targets), tuple(extra), draw(st.sampled_from([1.0, 0.4])))
    found, expected = [], []
    for rows in draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)):
        block = hnp.arrays(np.float32, (rows, len(targets)))
        columns = {
            "float": hnp.arrays(np.float32, rows),
            "int": hnp.arrays(np.int64, rows),
            "str": hnp.arrays(object, rows, elements=st.binary(max_size=4)),
        }
        uids = np.array(draw(st.lists(INT64, min_size=rows, max_size=rows)), np.int64)
        times = np.array(draw(st.lists(INT64, min_size=rows, max_size=rows)), np.int64)
        blocks = [draw(block) for _ in range(3)]
        extras = [draw(columns[kind]) for kind in extra.values()]
        found.append(Batch(of, rows, uids, times, rows, *([b] for b in blocks), extras))
        for i in np.flatnonzero(uids % 1000 < of.sample_ratio * 1000):
            message = {"model_name": of.model_name, "uid": uids[i], "req_time": times[i]}
            message |= {"train_time": rows, "sample_ratio": of.sample_ratio}
            for field, values in zip(("label", "predict", "sample_rate"), blocks, strict=True):
                message[field] = dict(zip(targets, values[i], strict=True))
            for (name, kind), values in zip(extra.items(), extras, strict=True):
                value = values[i].decode("utf-8", "replace") if kind == "str" else values[i]
                message.setdefault(f"extra_{kind}", {})[name] = value
            expected.append(message)
    return found, expected


def comparable(value: Any) -> Any:
    """Numbers as the bytes of their type, so that -0.0 is not 0.0; NaN and ±inf as None."""
    if isinstance(value, dict):
        return {name: comparable(one) for name, one in value.items()}
    if isinstance(value, (float, np.floating)):
        return np.float32(value).tobytes() if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


@pytest.mark.slow
@given(batches())
def test_messages_hold_what_the_batches_held(case: Case) -> None:
    found, expected = case
    assert [comparable(m) for m in parsed(*found)] == [comparable(m) for m in expected]


@pytest.mark.slow
@given(batches())
def test_batches_together_are_what_they_are_one_by_one(case: Case) -> None:
    found, _ = case
    positions = [100 * number for number in range(len(found))]
    options = {"origin": Origin("r", 1, 2), "uid_hash_key": b"key"}
    alone = [
        to_frame([one], **options, positions=[at]) for one, at in zip(found, positions, strict=True)
    ]
    assert_frame_equal(to_frame(found, **options, positions=positions), pl.concat(alone))


@pytest.mark.slow
@given(hnp.arrays(np.uint64, 200))
def test_a_float64_field_keeps_its_value_in_the_shortest_text(bits: np.ndarray) -> None:
    """An id that pandas made a float, say: not rounded to a float32."""
    values = bits.view(np.float64)
    one = batch(layout("x"), 200, extras=[values])
    field = to_frame([one])["extra_float"].struct.field("x")
    assert field.dtype == pl.Float64
    assert field.to_numpy().tobytes() == values.tobytes()
    for text, value in zip(texts(one), values, strict=True):
        written = json.loads(text, parse_float=str)["extra_float"]["x"]
        if not math.isfinite(value):
            assert written is None
            continue
        assert np.float64(written).tobytes() == value.tobytes()
        shortest = np.format_float_scientific(value, unique=True).split("e")[0]
        assert digits(written.lower().split("e")[0]) == digits(shortest), written


def test_a_float64_field_stands_beside_others() -> None:
    of = layout("narrow", "wide")
    extras = [np.float32([0.1]), np.array([0.1])]
    (text,) = texts(batch(of, 1, extras=extras))
    assert '"extra_float":{"narrow":0.1,"wide":0.1}' in text
    fields = dict(to_frame([batch(of, 1, extras=extras)])["extra_float"].struct.schema)
    assert fields == {"narrow": pl.Float32, "wide": pl.Float64}


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="no StringDType")
def test_text_of_numpys_own_type_is_text() -> None:
    """Digits, too, which NumPy would convert to numbers."""
    column = np.array(["12", "é"], "T")
    frame = to_frame([batch(layout("text"), 2, uid=column, extras=[column])])
    assert frame["extra_str"].struct.field("text").to_list() == ["12", "é"]
    assert frame["uid"].to_list() == ids.hashed_ids(["12", "é"]).tolist()
    with pytest.raises(TypeError, match="`label` must be real numbers"):
        to_frame([batch(layout(), 2, labels=[column])])


def test_dates_are_unix_seconds() -> None:
    """Those of pandas and NumPy, of whatever unit; before 1970, too."""
    dates = ["1969-12-31T23:59:59.5", "2023-11-14T22:13:20.999", "NaT"]
    for unit in ("ms", "us", "ns"):
        column = np.array(dates, f"M8[{unit}]")
        messages = parsed(batch(layout("d"), 3, extras=[column]))
        assert [m["extra_int"]["d"] for m in messages] == [-1, 1_700_000_000, None]
        messages = parsed(batch(layout(), 2, req_time=column[:2]))
        assert [m["req_time"] for m in messages] == [-1, 1_700_000_000]


SECONDS = st.integers(-(10**11) + 1, 10**11 - 1)


@given(st.lists(st.tuples(SECONDS, st.sampled_from([1, 10**3, 10**6, 10**9]))))
def test_times_of_any_unit_become_seconds(cases: list[tuple[int, int]]) -> None:
    """Each by its own size, so that a record does not depend on those beside it."""
    of = dataclasses.replace(layout(), any_time_unit=True)
    values, expected = [], []
    for seconds, parts in cases:
        value = seconds * parts
        if parts > 1 and (abs(value) < 10**8 * parts or abs(value) >= 2**63):
            value = seconds  # of that unit nobody could tell
        values.append(value)
        expected.append(seconds)
    column = np.array(values, np.int64)
    units: set[str] = set()
    frame = to_frame([batch(of, len(values), req_time=column)], units=units)
    assert frame["req_time"].to_list() == expected
    assert bool(units) == any(abs(value) >= 10**11 for value in values)
    as_is = to_frame([batch(layout(), len(values), req_time=column)])
    assert as_is["req_time"].to_list() == values


def test_text_is_hashed_and_sampling_goes_by_the_hash() -> None:
    names = [b"user-%d" % number for number in range(5_000)]
    hashes = ids.hashed_ids(names)
    of = layout(ratio=0.1)
    for column in (np.array(names, object), np.array(names), np.array(names, "U")):
        frame = to_frame([batch(of, 5_000, uid=column, example_id=column[:, np.newaxis])])
        assert frame["uid"].to_list() == hashes[hashes % 1000 < 100].tolist()
        assert frame["example_id"].to_list() == frame["uid"].to_list()
    keyed = to_frame([batch(of, 5_000, uid=np.array(names, object))], uid_hash_key=b"k")
    assert keyed["uid"].to_list() == hashed_uids(frame["uid"].to_numpy(), b"k").tolist()


def test_epochs_and_example_ids_stand_before_the_origin() -> None:
    found = [
        batch(layout(), 2, epoch=0, example_id=np.array([5, 6])),
        batch(layout(), 1, epoch=1, example_id=np.array([b"x"], object)),
    ]
    messages = parsed(*found, origin=Origin("r", 1, 2))
    assert list(messages[0])[-6:] == [
        "epoch", "example_id", "run", "attempt", "worker", "position"
    ]  # fmt: skip
    hashed = int(ids.hashed_ids([b"x"])[0])
    assert [(m["epoch"], m["example_id"]) for m in messages] == [(0, 5), (0, 6), (1, hashed)]
    check_frame(to_frame(found, Origin("r", 1, 2)))


def test_a_hashed_uid_is_the_keyed_blake2b_and_sampling_goes_by_the_true_one() -> None:
    uids = np.array([9, 10, 1009, -991, 9])
    of = layout(ratio=0.01)
    key = b"a secret key"
    hashed = [m["uid"] for m in parsed(batch(of, 5, uid=uids), uid_hash_key=key)]
    for uid, found in zip((9, 1009, -991, 9), hashed, strict=True):
        digest = hashlib.blake2b(struct.pack("<q", uid), digest_size=8, key=key).digest()
        assert found == struct.unpack("<q", digest)[0]
    other = to_frame([batch(of, 5, uid=uids)], uid_hash_key=b"another")["uid"].to_list()
    assert not set(other) & set(hashed)


def test_a_hashed_record_tells_neither_uid_nor_key() -> None:
    of = layout()
    options = {"uid_hash_key": b"a secret key", "origin": Origin("r", 1, 0)}
    (text,) = texts(batch(of, 1, uid=np.array([1234567890123])), **options)
    assert "1234567890123" not in text
    assert "secret" not in text
    assert texts(batch(of, 1, uid=np.array([1234567890123])), **options) == [text]


WORDS = np.array([b"Meier", b"Huber"], object)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"uid": np.arange(3)}, ValueError, r"`uid` .*\(2,\)\. Received: \(3,\)"),
        ({"uid": np.int64(3)}, (TypeError, ValueError), r"`uid` .*Received: \(\)"),
        ({"uid": np.zeros((2, 2), int)}, ValueError, r"`uid` .*Received: \(2, 2\)"),
        ({"uid": np.zeros(2)}, TypeError, r"`uid` must be .*integer.*float64"),
        ({"uid": np.array([1, 2], object)}, TypeError, r"`uid` must be .*integers or text.*int"),
        ({"uid": np.zeros(2, bool)}, TypeError, r"`uid` must be .*integers or text.*bool"),
        ({"example_id": np.zeros(2)}, TypeError, r"`example_id` must be .*text.*float64.*astype"),
        ({"example_id": np.arange(3)}, ValueError, r"`example_id` .*\(2,\)\. Received: \(3,\)"),
        ({"req_time": WORDS}, TypeError, r"`req_time` must be integers, Unix seconds.*object"),
        ({"req_time": np.array(["2024-01-01", "NaT"], "M8[s]")}, ValueError, r"`req_time` .*NaT"),
        ({"extras": [np.zeros(2, "m8[s]")]}, TypeError, r"'price' must be floats.*timedelta64"),
        ({"uid": np.array([2**63, 1], np.uint64)}, (TypeError, ValueError), r"`uid`"),
        ({"req_time": np.arange(1)}, ValueError, r"`req_time` .*Received: \(1,\)"),
        ({"req_time": np.zeros(2)}, TypeError, r"`req_time` must be .*integer.*float64"),
        ({"labels": [np.zeros(3)]}, ValueError, r"`label` .*batch = 2.*\(3,\)"),
        ({"labels": [np.zeros((2, 1, 1))]}, ValueError, r"`label` .*\(2, 1, 1\)"),
        ({"labels": [np.zeros((2, 3))]}, ValueError, r"`label` must have 1 col.*3"),
        ({"labels": []}, ValueError, r"`label` must have 1 col.*0"),
        ({"labels": [WORDS]}, (TypeError, ValueError), r"`label`.*object"),
        ({"labels": [np.array([1j, 2])]}, (TypeError, ValueError), r"`label`.*complex128"),
        ({"predictions": [np.zeros(1)]}, ValueError, r"`predict` .*\(1,\)"),
        ({"predictions": [WORDS]}, (TypeError, ValueError), r"`predict`.*object"),
        ({"sample_rates": [np.zeros((2, 2))]}, ValueError, r"`sample_rate` must have 1 col"),
        ({"extras": [np.zeros(3)]}, ValueError, r"`price` .*\(2,\)\. Received: \(3,\)"),
        ({"extras": [np.array([1j, 2])]}, TypeError, r"'price' must be floats.*complex128"),
        ({"extras": []}, ValueError, r"price"),
    ],
)  # fmt: skip
def test_what_is_no_column_is_named(changes: Any, error: Any, message: str) -> None:
    """With what it should be and what came: its shape or dtype, and never its values."""
    one = batch(layout("price"), 2, **{"extras": [np.zeros(2)], **changes})
    with pytest.raises(error, match=message) as raised:
        to_frame([one])
    assert "Meier" not in str(raised.value)
