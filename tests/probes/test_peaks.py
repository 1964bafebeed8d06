"""Peak rules against numpy's and scipy's definitions, statistics against hand-computed trajectories."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes import InputError, peak_statistics, top_k_peaks, tukey_peaks

trajectories = st.lists(st.floats(-50, 50) | st.sampled_from([0.0, 1.0, 1.0, 200.0]), min_size=1, max_size=60)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(trajectories, st.sampled_from([0.0, 0.5, 1.5, 3.0]))
def test_tukey_is_the_upper_fence_of_numpy_and_scipy(values, tau):
    mi = np.array(values)
    low, high = np.percentile(mi, [25, 75])
    peaks = tukey_peaks(torch.tensor(mi), tau).numpy()
    # A value on the fence to the last bit may fall either way.
    decided = np.abs(mi - (high + tau * (high - low))) > 1e-9
    np.testing.assert_array_equal(peaks[decided], (mi > high + tau * (high - low))[decided])
    np.testing.assert_array_equal(peaks[decided], (mi > high + tau * scipy.stats.iqr(mi))[decided])


def test_tukey_by_hand_over_the_last_axis():
    # First row: Q1 = 2, Q3 = 4, IQR = 2, fence at 7, reached but not passed by 7. Second row: no spread, no peak.
    mi = torch.tensor([[1.0, 2.0, 3.0, 4.0, 7.0], [5.0, 5.0, 5.0, 5.0, 5.0], [1.0, 2.0, 3.0, 4.0, 7.01]])
    assert tukey_peaks(mi).tolist() == [[False] * 5, [False] * 5, [False] * 4 + [True]]
    assert tukey_peaks(mi, tau=1).tolist() == [[False] * 4 + [True], [False] * 5, [False] * 4 + [True]]
    assert tukey_peaks(mi.reshape(3, 1, 5).bfloat16()).shape == (3, 1, 5)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(trajectories, st.integers(1, 25))
def test_top_k_is_the_stable_order(values, k):
    peaks = top_k_peaks(torch.tensor(values, dtype=torch.float64), k)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert peaks.nonzero()[:, 0].tolist() == sorted(expected)
    assert int(peaks.sum()) == min(k, len(values))


def test_top_k_counts_per_trajectory():
    mi = torch.rand(2, 3, 50, generator=torch.Generator().manual_seed(0))
    assert (top_k_peaks(mi).sum(dim=-1) == 20).all()
    assert (top_k_peaks(mi[..., :7]).sum(dim=-1) == 7).all()
    assert torch.equal(top_k_peaks(mi)[1, 2], top_k_peaks(mi[1, 2]))
    assert top_k_peaks(torch.zeros(5), k=2).tolist() == [True, True, False, False, False]


def test_statistics_by_hand():
    mi = torch.tensor([9.0, 1.0, 2.0, 8.0, 3.0, 4.0, 5.0, 10.0])
    peaks = torch.tensor([True, False, False, True, False, False, False, True])
    stats = peak_statistics(mi, peaks)
    # Sorted 1 2 3 4 5 8 9 10: Q1 = 2.75, median = 4.5, Q3 = 8.25, IQR = 5.5; gaps 3 and 4.
    assert stats.to_dict() == {
        "n_steps": [8],
        "n_peaks": [3],
        "ratio": [3 / 8],
        "interval_max": [4.0],
        "interval_min": [3.0],
        "interval_mean": [3.5],
        "mean_mi": [5.25],
        "median_mi": [4.5],
        "aom": [pytest.approx((4.5 + 3.5 + 5.5) / 3 / 5.5)],
    }
    assert stats.aom.shape == ()


def test_undefined_is_nan_and_never_zero():
    mi = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0]])
    peaks = torch.tensor([[False] * 4, [False, True, False, False], [True, True, False, True]])
    stats = peak_statistics(mi, peaks)
    for name in ("interval_max", "interval_min", "interval_mean"):
        assert getattr(stats, name).isnan().tolist() == [True, True, False]
    assert stats.interval_max[2] == 2
    assert stats.interval_min[2] == 1
    assert stats.interval_mean[2] == 1.5
    # No peak: NaN. One peak: |2 - 2.5| / 1.5. No spread: NaN.
    assert stats.aom.isnan().tolist() == [True, False, True]
    assert float(stats.aom[1]) == pytest.approx(1 / 3)
    assert stats.ratio.tolist() == [0, 0.25, 0.75]
    # A peak far out of a trajectory without spread is no infinity either.
    flat = torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, 9.0])
    assert peak_statistics(flat, flat > 5).aom.isnan()


@settings(derandomize=True, max_examples=80, deadline=None)
@given(trajectories, st.integers(0, 2**20))
def test_statistics_are_their_literal_definitions(values, seed):
    mi = np.array(values)
    peaks = np.random.default_rng(seed).random(len(mi)) < 0.3
    stats = {
        name: column[0] for name, column in peak_statistics(torch.tensor(mi), torch.tensor(peaks)).to_dict().items()
    }
    gaps, spread = np.diff(np.flatnonzero(peaks)), scipy.stats.iqr(mi)
    undefined = len(gaps) == 0
    expected = {
        "n_steps": len(mi),
        "n_peaks": peaks.sum(),
        "ratio": peaks.mean(),
        "interval_max": math.nan if undefined else gaps.max(),
        "interval_min": math.nan if undefined else gaps.min(),
        "interval_mean": math.nan if undefined else gaps.mean(),
        "mean_mi": mi.mean(),
        "median_mi": np.median(mi),
    }
    for name, value in expected.items():
        assert stats[name] == pytest.approx(float(value), nan_ok=True, abs=1e-9)
    if peaks.any() and spread > 1e-6:
        assert stats["aom"] == pytest.approx(np.abs(mi[peaks] - np.median(mi)).mean() / spread, rel=1e-6, abs=1e-9)
    elif not peaks.any():
        assert math.isnan(stats["aom"])


def test_leading_axes_and_tables():
    mi = torch.rand(2, 3, 40, generator=torch.Generator().manual_seed(1))
    stats = peak_statistics(mi, top_k_peaks(mi, 5))
    assert stats.aom.shape == stats.n_peaks.shape == (2, 3)
    table = pd.DataFrame(stats.to_dict())
    assert len(table) == 6
    one = peak_statistics(mi[1, 2], top_k_peaks(mi[1, 2], 5))
    assert table.iloc[5].to_dict() == pytest.approx({name: column[0] for name, column in one.to_dict().items()})


@pytest.mark.parametrize(
    "call", [tukey_peaks, top_k_peaks, lambda mi: peak_statistics(mi, torch.zeros(mi.shape, dtype=torch.bool))]
)
def test_bad_mi_is_refused(call):
    mi = torch.ones(2, 4)
    mi[1, 2] = math.nan
    with pytest.raises(InputError, match=r"expected finite mi, received 1 NaN and 0 inf, first at \[1, 2\]"):
        call(mi)
    mi[1, 2] = math.inf
    with pytest.raises(InputError, match="0 NaN and 1 inf"):
        call(mi)
    with pytest.raises(InputError, match=r"at least one step, received torch.float32 of shape \(2, 0\)"):
        call(torch.ones(2, 0))
    with pytest.raises(InputError, match=r"floating tensor .* received torch.int64"):
        call(torch.ones(2, 4).long())


def test_bad_options_are_refused():
    mi = torch.ones(4)
    with pytest.raises(InputError, match="tau >= 0 and finite, received -1"):
        tukey_peaks(mi, tau=-1.0)
    with pytest.raises(InputError, match="k >= 1, a whole number, received 0"):
        top_k_peaks(mi, k=0)
    with pytest.raises(InputError, match=r"boolean peaks of shape \(4,\), received torch.bool of shape \(3,\)"):
        peak_statistics(mi, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(InputError, match=r"received torch.float32 of shape \(4,\)"):
        peak_statistics(mi, mi)
