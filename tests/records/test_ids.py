"""Ids that are text: the published hash, the same as everybody's."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from monolith_keras_metrics.records import ids
from monolith_keras_metrics.records.ids import hashed_ids

VECTORS = {
    "": -1205034819632174695,
    "a": -3292477735350538661,
    "user-1234567": -3126600472473850790,
    "123e4567-e89b-12d3-a456-426614174000": -8372326485770592481,
}


def published(text: bytes) -> int:
    return int(np.uint64(xxhash.xxh64_intdigest(text)).astype(np.int64))


def test_the_vectors_are_the_documented_ones() -> None:
    assert hashed_ids(list(VECTORS)).tolist() == list(VECTORS.values())
    assert [published(text.encode()) for text in VECTORS] == list(VECTORS.values())
    told = re.findall(r'^\| `"(.*)"` \| (-?\d+) \|$', ids.__doc__ or "", re.MULTILINE)
    assert {text: int(number) for text, number in told} == VECTORS


@given(st.lists(st.binary(max_size=100) | st.binary(min_size=8, max_size=8)))
@example([bytes(range(length)) for length in range(200)])
def test_it_is_xxh64(texts: list[bytes]) -> None:
    """Of every length, alone and among others."""
    column = np.empty(len(texts), object)
    column[:] = texts
    assert hashed_ids(column).tolist() == [published(text) for text in texts]
    for text in texts[:3]:
        assert hashed_ids([text]).tolist() == [published(text)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1))
def test_text_is_hashed_as_utf8(texts: list[str]) -> None:
    column = np.empty(len(texts), object)
    column[:] = texts
    expected = [published(text.encode()) for text in texts]
    assert hashed_ids(column).tolist() == expected
    assert hashed_ids([text.encode() for text in texts[:-1]] + texts[-1:]).tolist() == expected


def test_more_than_are_hashed_at_once() -> None:
    for texts in (
        [b"%07d" % number for number in range(40_000)],
        [b"user-%d" % number for number in range(40_000)],
    ):
        assert hashed_ids(np.array(texts, object)).tolist() == [published(one) for one in texts]


@pytest.mark.parametrize("dtype", ["S", "U", object])
def test_arrays_keep_their_shape(dtype: str) -> None:
    found = hashed_ids(np.array([["a", ""], ["user-1234567", "a"]], dtype))
    assert found.dtype == np.int64
    assert found.tolist() == [
        [VECTORS["a"], VECTORS[""]],
        [VECTORS["user-1234567"], VECTORS["a"]],
    ]
    assert hashed_ids(np.empty((0, 3), dtype)).shape == (0, 3)


@pytest.mark.parametrize("values", [[1, 2], [1.5], [b"a", None], np.array(["a", 3], object), [{}]])
def test_what_is_no_text_is_an_error(values: object) -> None:
    with pytest.raises(TypeError, match=r"`values` must be text, as str or bytes\. Received: "):
        hashed_ids(values)


def test_a_lone_surrogate_is_an_error() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        hashed_ids(["a\ud800"])


def test_it_needs_neither_tensorflow_nor_polars() -> None:
    code = (
        "import sys; import monolith_keras_metrics.records.ids; "
        "print([name for name in ('tensorflow', 'keras', 'polars') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
