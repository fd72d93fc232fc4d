"""Odd batches through the operations, every format and back: what comes out went in, or is refused.

What is refused must be named and disturb nothing: good batches are written before and after it.
"""

from __future__ import annotations

import fractions
import json
import math
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kafka_broker import Broker
from run_files import every_format
from sampling_rule import kept

from monolith_keras_metrics import DeepInsightClient, deep_insight_ops, insight

pytestmark = pytest.mark.slow

# How tensors reach an operation: as arrays, or from a graph with unknown lengths or ranks.
WAYS = st.sampled_from(["eager", "eager", "lengths", "ranks"])
Message = dict[str, Any]
INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1, -1, 999, -1000])
PATTERN = re.compile(r"\*|\^.*\$", re.DOTALL)  # as Polars sees it: these names are refused
ODD_NAMES = ["a\0b", "\0", "\"'", "\n", "😀", "/etc/x", "../x", "label", "a.b", "[0]", "k=v", "\\"]
NAMES = st.sampled_from([*ODD_NAMES, "**", "^", "$", " ", "é", "e\u0301", "model_name"]) | st.text(
    min_size=1, max_size=8
).filter(lambda name: not PATTERN.fullmatch(name))
LONG = [b"x" * 100_000, b"\xff" * 100_000, "é\n".encode() * 33_333]
BYTES = st.binary(max_size=9) | st.text(max_size=5).map(str.encode) | st.sampled_from(LONG)
THOUSANDTHS = st.integers(0, 1000).map(lambda k: k / 1000)
MILLIONTHS = st.integers(0, 10**6).map(lambda k: k / 10**6) | st.floats(1e-300, 1)
RATIOS = st.one_of(THOUSANDTHS, MILLIONTHS, THOUSANDTHS.map(np.float32), st.sampled_from([0, 1]))
FLOAT_BITS = {np.float16: "u2", ml_dtypes.bfloat16: "u2", np.float32: "u4", np.float64: "u8"}
ODD_FLOATS = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, 1e-45, 3.4e38, 0.1, 6e-8, 1e300]
SURROGATES = st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2)
PATTERNS = st.text(max_size=4).map("^{}$".format)
NO_NAMES = st.sampled_from(["", None, b"a", 1, "*", "x\ud800y"]) | SURROGATES | PATTERNS
NO_RATIOS = st.sampled_from([None, "0.1", True, 1j, [0.1], 10**400]) | st.floats().filter(
    lambda ratio: not 0 <= ratio <= 1
)


class Case(NamedTuple):
    """A call of an operation, and the message of each example: None where it is not sampled."""

    operation: Callable[..., tf.Tensor]
    tensors: dict[str, Any]
    rest: dict[str, Any]
    messages: list[Message | None]

    def call(self, handle: tf.Tensor, way: str, return_msgs: bool = True) -> tf.Tensor:
        rest = {**self.rest, "use_zero_train_time": True, "return_msgs": return_msgs}
        if way == "eager":
            return self.operation(handle, **self.tensors, **rest)
        tensors = tf.nest.map_structure(tf.convert_to_tensor, self.tensors)

        def spec(tensor: tf.Tensor) -> tf.TensorSpec:
            return tf.TensorSpec([None] * tensor.ndim if way == "lengths" else None, tensor.dtype)

        @tf.function(input_signature=[tf.nest.map_structure(spec, tensors)], autograph=False)
        def step(tensors: dict[str, Any]) -> tf.Tensor:
            return self.operation(handle, **tensors, **rest)

        return step(tensors)


@st.composite
def floats(draw: st.DrawFn, shape: Any) -> np.ndarray:
    """Any bits of any width."""
    dtype = draw(st.sampled_from(list(FLOAT_BITS)))
    bits = np.dtype(FLOAT_BITS[dtype])
    with np.errstate(all="ignore"):
        odd = st.sampled_from(np.array(ODD_FLOATS).astype(dtype).view(bits).tolist())
    values = draw(hnp.arrays(bits, shape, elements=odd | st.integers(0, 256**bits.itemsize - 1)))
    values = values.view(dtype)
    if dtype is np.float64:  # TensorFlow's own cast makes float32's subnormals zeros
        values[np.abs(values) < 2.0**-125] = 0.0
    return values


@st.composite
def cases(draw: st.DrawFn, min_rows: int = 0) -> Case:
    rows, single = draw(st.integers(min_rows, 5)), draw(st.booleans())
    targets = draw(st.lists(NAMES, min_size=1, max_size=1 if single else 4, unique=True))
    rest = {"model_name": draw(NAMES), "sample_ratio": draw(RATIOS)}
    bucket, rank = divmod(int(fractions.Fraction(str(rest["sample_ratio"])) * 10**6), 1000)
    edge = st.sampled_from([-1000, -1, 0, 1, 1000]).map(lambda d: 1000 * rank + bucket + d)
    int64s = hnp.arrays(np.int64, rows, elements=edge | INT64, fill=st.nothing())
    uids, times = draw(int64s), draw(int64s)
    blocks = [draw(floats(rows if single else (len(targets), rows))) for _ in range(3)]
    tensors = dict(zip(("labels", "preds", "sample_rates"), blocks, strict=True))
    tensors["req_times"] = times
    extras: dict[str, np.ndarray] = {}
    if single:
        tensors["uids"], rest["target"] = uids, targets[0]
    else:
        float32s = hnp.arrays(np.uint32, rows).map(lambda bits: bits.view(np.float32))
        strings = hnp.arrays(object, rows, elements=BYTES, fill=st.nothing())
        keys = NAMES.filter(lambda name: name != "uid")
        extras = draw(st.dictionaries(keys, float32s | int64s | strings, max_size=3))
        columns = draw(st.permutations([("uid", uids), *extras.items()]))
        tensors["extra_fields_values"] = [values for _, values in columns]
        rest |= {"extra_fields_keys": [key for key, _ in columns], "targets": targets}
    messages = messages_of(rest, targets, uids.tolist(), times.tolist(), blocks, extras)
    name = "write_deep_insight" if single else "write_deep_insight_v2"
    return Case(getattr(deep_insight_ops, name), tensors, rest, messages)


def messages_of(
    rest: Message, targets: list[str], uids: Any, times: Any, blocks: list[Any], extras: Message
) -> list[Message | None]:
    """One by one, in plain Python."""
    ratio = rest["sample_ratio"]
    head = {"model_name": rest["model_name"], "train_time": 0, "sample_ratio": float(str(ratio))}
    with np.errstate(all="ignore"):
        blocks = [block.astype(np.float32).reshape(len(targets), len(uids)) for block in blocks]
    messages = [head | {"uid": uid, "req_time": t} for uid, t in zip(uids, times, strict=True)]
    for i, message in enumerate(messages):
        for field, block in zip(("label", "predict", "sample_rate"), blocks, strict=True):
            message[field] = dict(zip(targets, block[:, i], strict=True))
        for key, values in extras.items():
            kind = {"f": "extra_float", "i": "extra_int", "O": "extra_str"}[values.dtype.kind]
            one = values[i].decode("utf-8", "replace") if kind == "extra_str" else values[i]
            message.setdefault(kind, {})[key] = one
    return [m if kept(uid, ratio) else None for uid, m in zip(uids, messages, strict=True)]


def good(uid: int) -> Case:
    """Two examples that nothing is odd about."""
    uids, times, values = np.array([uid, 5]), np.array([7, 8]), np.float32([1.0, 0.25])
    tensors = {"uids": uids, "req_times": times}
    tensors |= {name: values.copy() for name in ("labels", "preds", "sample_rates")}
    rest = {"model_name": "m", "target": "a", "sample_ratio": 1.0}
    messages = messages_of(rest, ["a"], uids.tolist(), times.tolist(), [values] * 3, {})
    return Case(deep_insight_ops.write_deep_insight, tensors, rest, messages)


def comparable(message: Message, as_json: bool) -> Message:
    """Float32s as their bits, so that -0.0 is not 0.0.

    A label that is NaN is null; JSON has null for every NaN, and for infinities.
    """

    def one(value: Any, name: str) -> Any:
        if isinstance(value, np.integer):
            return int(value)
        if name == "label" and value is not None and math.isnan(value):
            return None
        if isinstance(value, (float, np.floating)) and not math.isfinite(value):
            return None if as_json else str(value)
        return np.float32(value).tobytes() if isinstance(value, (float, np.floating)) else value

    return {
        name: {key: one(leaf, name) for key, leaf in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in message.items()
    }


def read(scheme: str, folder: pathlib.Path) -> list[Message]:
    """What is in the files, by other readers than this package's, in the order of positions."""
    files = sorted(file for file in folder.iterdir() if file.suffix != ".ledger")
    assert {file.suffix for file in files} == {f".{scheme}"}
    if scheme == "parquet":
        frames = [pl.read_parquet(file, glob=False, hive_partitioning=False) for file in files]
        found = [record for frame in frames for record in frame.to_dicts()]
    elif scheme == "jsonl":
        found = [json.loads(text) for f in files for text in f.read_bytes().split(b"\n")[:-1]]
    else:
        dataset = tf.data.TFRecordDataset([str(file) for file in files])
        found = [json.loads(message) for message in dataset.as_numpy_iterator()]
    return sorted(found, key=lambda message: message["position"])


class Recording:
    """A client on a folder that knows what must be in it."""

    def __init__(self, scheme: str, folder: str, sink: str = "", **options: Any) -> None:
        self.scheme, self.folder = scheme, pathlib.Path(folder)
        self.client = DeepInsightClient(
            sink or f"{scheme}:{folder}", run="r", worker=3, retry_seconds=0, **options
        )
        self.rows = 0
        self.expected: list[Message] = []

    def write(self, case: Case, way: str = "eager", return_msgs: bool = True) -> None:
        result = case.call(self.client.handle, way, return_msgs).numpy()
        origin = {"run": "r", "worker": 3, "attempt": self.client.origin.attempt}
        for message, text in zip(case.messages, result, strict=True):
            if message is not None:
                self.expected.append({**message, **origin, "position": self.rows})
            wanted = comparable(self.expected[-1], True) if message and return_msgs else None
            assert (comparable(json.loads(text), True) if text else None) == wanted
            self.rows += 1
        for array in tf.nest.flatten(case.tensors):  # it is the caller's, who may write over it
            array[...] = b"" if array.dtype == object else 0

    def check(self) -> None:
        expected = self.check_counts()
        as_json = self.scheme != "parquet"
        assert [comparable(m, as_json) for m in read(self.scheme, self.folder)] == expected
        opened = insight.open_run(f"{self.scheme}:{self.folder}").collect().sort("position")
        for message, record in zip(expected, opened.to_dicts(), strict=True):
            for name, value in comparable(record, as_json).items():
                own = message.get(name)  # what only other messages have is null
                if isinstance(own, dict):
                    value = {key: leaf for key, leaf in value.items() if key in own}
                assert value == own or (own is None and not any((value or {}).values()))

    def check_counts(self) -> list[Message]:
        """Closes the client; returns what must be there."""
        self.client.close()
        written = len(self.expected)
        stats = {"accepted": self.rows, "sampled": written, "unsampled": self.rows - written}
        none = {"dropped": 0, "failed": 0, "waiting": 0}
        told = self.client.stats()._asdict()
        assert {**told, **stats, "written": written, **none} == told
        return [comparable(message, self.scheme != "parquet") for message in self.expected]


CALLS = st.lists(st.tuples(cases(), WAYS, st.booleans()), min_size=1, max_size=3)


@every_format
@settings(max_examples=40)
@given(CALLS, st.sampled_from([1, 262_144]))
def test_what_went_in_comes_out(
    scheme: str, calls: list[tuple[Case, str, bool]], queue_rows: int
) -> None:
    """Bit for bit: in the messages, in the files, and through `open_run`.

    With little memory, what is in the files has been in the journal.
    """
    with tempfile.TemporaryDirectory() as folder:
        recording = Recording(scheme, folder, queue_rows=queue_rows)
        recording.write(good(1))
        for case, way, return_msgs in calls:
            recording.write(case, way, return_msgs)
        recording.write(good(2))
        recording.check()


@pytest.fixture(scope="module")
def odd_topic(broker: Broker) -> str:
    """One for all examples: it takes time to make one."""
    broker.create_topic("odd")
    return "odd"


@settings(max_examples=20)
@given(CALLS)
def test_what_went_in_comes_out_of_kafka(
    broker: Broker, odd_topic: str, calls: list[tuple[Case, str, bool]]
) -> None:
    uri = f"kafka://{broker.bootstrap}/{odd_topic}"
    with tempfile.TemporaryDirectory() as folder:
        recording = Recording("kafka", folder, uri, spool=f"{folder}/spool")
        for case, way, return_msgs in [(good(1), "eager", True), *calls]:
            recording.write(case, way, return_msgs)
        expected = recording.check_counts()
    received = [json.loads(message.value() or b"") for message in broker.consume(odd_topic)]
    own = [m for m in received if m["attempt"] == recording.client.origin.attempt]
    own.sort(key=lambda message: message["position"])
    assert [comparable(message, True) for message in own] == expected


def odd_arrays(shape: tuple[int, ...], dtype: type) -> st.SearchStrategy[Any]:
    """What is no array of that shape and dtype, for one reason or another."""
    others = [bool, np.complex64, np.int32, np.uint64, "M8[s]", "V3", np.longdouble, "S2"]
    others.append(np.int64 if dtype is np.float32 else np.float64)
    *front, rows = shape
    shapes = [(), (*shape, 1), (1, *shape), (*front, rows + 1), (*front, 0), (*shape, 0)]
    return st.one_of(
        st.sampled_from(shapes).map(lambda odd: np.zeros(odd, dtype)),
        st.sampled_from(others).map(lambda odd: np.zeros(shape, odd)),
        st.sampled_from([None, "x", {"a": 1}, [[1], [1, 2]], [10**400], ["\ud800"] * rows]),
        st.sampled_from([tf.ragged.range(rows, dtype=dtype), tf.sparse.eye(rows, dtype=dtype)]),
    )


def is_text(value: Any) -> bool:
    """Return True for an array of texts, which are ids and extra fields, too."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "S"


@st.composite
def refusals(draw: st.DrawFn) -> tuple[Case, str, str]:
    """A case that is spoiled in one argument, the name that the error must have, a way to call."""
    case = draw(cases(min_rows=1))
    tensors, rest = dict(case.tensors), dict(case.rest)
    argument = draw(st.sampled_from([*tensors, *rest]))
    named, way = re.escape(argument), draw(WAYS)
    if argument == "extra_fields_values":
        key, values = rest["extra_fields_keys"][0], list(tensors[argument])
        values[0] = draw(odd_arrays(values[0].shape, np.int64))
        assume(not is_text(values[0]))
        tensors[argument], named = values, re.escape(f"extra_fields_values[{key!r}]")
    elif argument in tensors:
        kind = np.int64 if tensors[argument].dtype == np.int64 else np.float32
        tensors[argument] = draw(odd_arrays(tensors[argument].shape, kind))
        assume(argument != "uids" or not is_text(tensors[argument]))
    elif argument == "sample_ratio":
        rest[argument] = draw(NO_RATIOS)
    elif argument == "model_name":
        rest[argument] = draw(st.sampled_from(["", None, b"m", 3, "\ud800", "a\udfffb"]))
    elif argument == "target":
        rest[argument], named = draw(NO_NAMES), "targets"
    else:
        names = rest[argument]
        odd = [[draw(NO_NAMES), *names[1:]], [*names, names[0]], [], None, 3, "ab", b"ab"]
        rest[argument] = draw(st.sampled_from(odd))
        named = "(targets|labels)" if argument == "targets" else "extra_fields(_keys)?"
    arrays = [one for one in tf.nest.flatten(tensors) if isinstance(one, np.ndarray)]
    if len(arrays) < len(tf.nest.flatten(tensors)) or any(a.dtype.char in "gMVS" for a in arrays):
        way = "eager"  # no graph has an argument of this dtype
    return case._replace(tensors=tensors, rest=rest), named, way


@every_format
@settings(max_examples=60)
@given(refusals(), st.booleans())
def test_what_is_refused_is_named_and_disturbs_nothing(
    scheme: str, refusal: tuple[Case, str, str], return_msgs: bool
) -> None:
    case, named, way = refusal
    errors = (TypeError, ValueError, tf.errors.InvalidArgumentError)
    with tempfile.TemporaryDirectory() as folder:
        recording = Recording(scheme, folder)
        recording.write(good(1))
        with pytest.raises(errors, match=f"`{named}`"):
            case.call(recording.client.handle, way, return_msgs)
        recording.write(good(2))
        recording.check()
