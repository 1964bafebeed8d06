"""Several bandwidths: each as by itself, with the peaks and how far these agree by their literal definition."""

import math

import pytest
import torch
from vectors import literal, vectors

from probes import InputError, bandwidth_sweep, nhsic, tukey_peaks


def test_sweep_is_one_score_and_one_peak_rule_a_bandwidth():
    steps, answer = vectors(2, 40, 23, seed=5), vectors(2, 23, seed=6)
    steps[0, 7] = answer[0] + 0.1 * steps[0, 7]
    sigmas = (50, 400.0, "median", "2*median")
    sweep = bandwidth_sweep(steps, answer, sigmas=sigmas, tau=1.0, eps=1e-4, drop_top=1)
    assert sweep.sigmas == sigmas
    for i, sigma in enumerate(sigmas):
        torch.testing.assert_close(sweep.mi[i], nhsic(steps, answer, sigma=sigma, eps=1e-4, drop_top=1))
        assert torch.equal(sweep.is_peak[i], tukey_peaks(sweep.mi[i], 1.0))
    assert sweep.is_peak[:, 0, 7].any()
    assert sweep.bandwidth[0].tolist() == [50.0, 50.0]
    kept = [a[a.abs().argsort()[:-1]] for a in answer]
    assert sweep.bandwidth[3].tolist() == pytest.approx([2 * literal(a) for a in kept], rel=1e-14)
    for lead in range(2):
        for i in range(4):
            for j in range(4):
                a, b = (set(sweep.is_peak[s, lead].nonzero()[:, 0].tolist()) for s in (i, j))
                found = float(sweep.jaccard[lead, i, j])
                assert math.isnan(found) if not a | b else found == pytest.approx(len(a & b) / len(a | b))
    columns = sweep.to_dict()
    assert {len(column) for column in columns.values()} == {4 * 2 * 40}
    row = (2 * 2 + 1) * 40 + 3  # sigma 2, trajectory 1, step 3
    assert [columns[name][row] for name in ("sigma", "trajectory", "step")] == ["median", 1, 3]
    assert columns["mi"][row] == float(sweep.mi[2, 1, 3])
    assert columns["bandwidth"][row] == float(sweep.bandwidth[2, 1])
    pairs = sweep.jaccard_to_dict()
    assert {len(column) for column in pairs.values()} == {2 * 6}
    assert [pairs[name][7] for name in ("trajectory", "sigma_a", "sigma_b")] == [1, "50", "median"]


def test_sweep_without_peaks_has_no_jaccard():
    sweep = bandwidth_sweep(torch.full((5, 23), 2.5), vectors(23, seed=6))  # constant steps score exactly 0
    assert not sweep.is_peak.any()
    assert sweep.jaccard.isnan().all()
    assert sweep.mi.shape == (7, 5)


@pytest.mark.parametrize("sigmas", [(), "median", (50, 50)])
def test_sweep_refuses_bandwidths_that_are_not_several(sigmas):
    with pytest.raises(InputError, match="sigmas as a sequence of different bandwidths"):
        bandwidth_sweep(torch.ones(3, 4), torch.ones(4), sigmas=tuple(sigmas) if sigmas != "median" else sigmas)
