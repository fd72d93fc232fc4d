"""The uid rule against exact arithmetic."""

from __future__ import annotations

import decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sampling_rule import kept

from monolith_keras_metrics.records.sampling import check_sample_ratio, sampled

INT64 = st.integers(-(2**63), 2**63 - 1)
# Thousandths, millionths, and whatever a float can be.
RATIOS = st.one_of(
    st.integers(0, 1000).map(lambda k: k / 1000),
    st.integers(0, 1_000_000).map(lambda k: k / 1_000_000),
    st.floats(0, 1),
)


@given(st.lists(INT64, max_size=30), RATIOS)
@example([289, 290, 1289, 1290], 0.29)
@example([0, 9, 10, 1009, 1010, -1, -991, -990, -1000], 0.01)
@example([0, 1000, 499_000, 500_000, 999_000, 1], 0.0005)
@example([0, 1, 999], 5e-324)
@example([0, 999_999], 1 - 2**-53)
def test_the_rule_is_exact(uids: list[int], ratio: float) -> None:
    """Every uid, negative ones too, at every ratio."""
    result = sampled(np.array(uids, np.int64), ratio)
    assert result.dtype == bool
    assert result.tolist() == [kept(uid, ratio) for uid in uids]


@pytest.mark.parametrize("dtype", [float, np.float32, np.float64])
def test_each_thousandth_keeps_just_its_buckets(dtype: type) -> None:
    """All 1001 of them: 0.29 * 1000 is less than 290 in floats, and float32's 0.3 more than 0.3."""
    uids = np.arange(-1000, 2000)
    for thousandths in range(1001):
        result = sampled(uids, dtype(thousandths / 1000))
        assert set(uids[result] % 1000) == set(range(thousandths))
        assert result.sum() == 3 * thousandths


@pytest.mark.parametrize("ratio", [0.29, 0.01, 0.57, 0.001, 0.0015])
def test_a_float32_ratio_means_what_it_prints(ratio: float) -> None:
    uids = np.random.default_rng(0).integers(-(2**62), 2**62, 10_000)
    np.testing.assert_array_equal(sampled(uids, np.float32(ratio)), sampled(uids, ratio))
    assert check_sample_ratio(np.float32(ratio)) == ratio


def test_negative_uids_take_the_floor_modulus() -> None:
    """-1 is in bucket 999 and -1000 in bucket 0."""
    uids = np.array([-1, -990, -991, -1000, -1001, -(2**63)])
    # -(2**63) ends in …808: its bucket is 192.
    assert sampled(uids, 0.01).tolist() == [False, False, True, True, False, False]
    assert sampled(uids, 0.193).tolist() == [False, True, True, True, False, True]


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
@pytest.mark.parametrize("ratio", [0.01, 0.29, 0.000_5, 0.012_345])
def test_the_dtype_of_uids_does_not_matter(dtype: str, ratio: float) -> None:
    info = np.iinfo(dtype)
    inside = range(max(info.min, -(2**62)), min(info.max, 2**62) + 1)
    picked = np.random.default_rng(1).integers(inside[0], inside[-1], 3000, endpoint=True)
    uids = np.append(picked, [inside[0], inside[-1], 0, 3, 9, 10])
    np.testing.assert_array_equal(sampled(uids.astype(dtype), ratio), sampled(uids, ratio))


@given(st.lists(INT64, min_size=1, max_size=50), RATIOS, RATIOS)
def test_a_larger_ratio_keeps_the_same_users_and_more(
    uids: list[int], one: float, other: float
) -> None:
    column = np.array(uids)
    fewer, more = sampled(column, min(one, other)), sampled(column, max(one, other))
    assert not (fewer & ~more).any()


def test_ratios_finer_than_a_thousandth_nest_within_it() -> None:
    """Of a million uids 0.0125 keeps 12,500: buckets 0 to 11 and half of bucket 12."""
    uids = np.arange(1_000_000)
    coarse, fine, wide = (sampled(uids, ratio) for ratio in (0.012, 0.0125, 0.013))
    assert (coarse.sum(), fine.sum(), wide.sum()) == (12_000, 12_500, 13_000)
    assert not (coarse & ~fine).any()
    assert not (fine & ~wide).any()
    assert set(uids[fine & ~coarse] % 1000) == {12}
    assert sampled(uids, 0.000_001).nonzero()[0].tolist() == [0]


def test_zero_keeps_none_and_one_keeps_all() -> None:
    uids = np.array([0, 1, -1, 999, 2**63 - 1, -(2**63)])
    for none, every in ((0, 1), (0.0, 1.0), (-0.0, np.float32(1)), (np.int64(0), np.int64(1))):
        assert not sampled(uids, none).any()
        assert sampled(uids, every).all()


def test_no_uids() -> None:
    for ratio in (0.0, 0.0001, 0.5, 1.0):
        assert sampled(np.array([], np.int64), ratio).shape == (0,)


@pytest.mark.parametrize(
    "ratio",
    [-0.001, 1.001, 2, -1, float("nan"), float("inf"), -float("inf"), np.float32("nan"), 1e300],
)
def test_a_ratio_out_of_range(ratio: float) -> None:
    """Told with the argument's name and what came, even where there is no uid."""
    with pytest.raises(ValueError, match=r"`sample_ratio` must be from 0") as error:
        sampled(np.array([], np.int64), ratio)
    assert str(error.value).endswith(f"Received: sample_ratio={ratio}")


@pytest.mark.parametrize(
    "ratio", ["0.1", None, True, np.True_, 1j, decimal.Decimal("0.1"), [0.1], np.array([0.1, 0.2])]
)
def test_a_ratio_that_is_no_number(ratio: Any) -> None:
    with pytest.raises(TypeError, match=r"`sample_ratio` must be a number .*Received: sample_rat"):
        check_sample_ratio(ratio)
