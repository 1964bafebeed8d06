"""The bounds on a decoder's error against brute force, known channels and exact Bayes errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.bounds import error_bounds
from probes.errors import InputError
from probes.information import Information
from probes.vinformation import v_information


def known(bits, low=None, high=None, bound="exact"):
    return Information(bits, bits if low is None else low, bits if high is None else high, 0.95, 100, bound, "known")


def binary_entropy(p):
    return 0.0 if p in (0.0, 1.0) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


@pytest.mark.parametrize("n_answers", [2, 3, 10, 1000])
def test_lower_bound_is_the_first_crossing_on_a_fine_grid(n_answers):
    p = np.linspace(1e-12, 1 - 1 / n_answers, 200_001)
    fano = -p * np.log2(p) - (1 - p) * np.log2(1 - p) + p * math.log2(n_answers - 1)
    for share in (0.01, 0.2, 0.5, 0.9, 0.999):
        rest = share * math.log2(n_answers)
        expected = p[np.argmax(fano >= rest)]
        found = error_bounds(known(math.log2(n_answers) - rest), math.log2(n_answers), n_answers)
        assert found.lower == pytest.approx(expected, abs=1e-5)
        assert found.upper == pytest.approx(rest / 2)


@pytest.mark.parametrize("n_answers", [2, 5, 10])
@pytest.mark.parametrize("error", [0.0, 0.01, 0.2, 0.45])
def test_fano_is_tight_for_the_symmetric_channel(n_answers, error):
    entropy = math.log2(n_answers)
    bits = entropy - binary_entropy(error) - error * math.log2(max(1, n_answers - 1))
    bounds = error_bounds(known(bits), entropy, n_answers)
    assert bounds.lower == pytest.approx(error, abs=1e-9)
    assert bounds.upper >= error - 1e-12


def test_the_exact_error_of_the_best_decoder_lies_between_on_random_joint_distributions():
    rng = np.random.default_rng(0)
    gaps = []
    for trial in range(600):
        n_answers, n_seen = int(rng.integers(2, 9)), int(rng.integers(1, 12))
        joint = rng.dirichlet(np.full(n_answers * n_seen, rng.choice([0.03, 0.3, 3.0]))).reshape(n_seen, n_answers)
        p_seen, p_answer = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
        inside = joint > 0
        bits = float((joint[inside] * np.log2(joint[inside] / (p_seen * p_answer)[inside])).sum())
        entropy = float(-(p_answer[p_answer > 0] * np.log2(p_answer[p_answer > 0])).sum())
        error = 1 - float(joint.max(axis=1).sum())
        bounds = error_bounds(known(bits), entropy, n_answers)
        assert bounds.lower - 1e-9 <= error <= bounds.upper + 1e-9, trial
        gaps.append((error - bounds.lower, bounds.upper - error))
    # Both are near for some of them: neither bound is trivially loose.
    assert np.min(gaps, axis=0).max() < 0.01


@given(st.integers(2, 50), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_interval_of_the_information_becomes_that_of_the_bounds(n_answers, a, b, c):
    entropy = math.log2(n_answers)
    low, bits, high = sorted(entropy * share for share in (a, b, c))
    bounds = error_bounds(known(bits, low, high), entropy, n_answers)
    at_high, at_low = (error_bounds(known(end), entropy, n_answers) for end in (high, low))
    assert (bounds.lower_low, bounds.lower_high) == (at_high.lower, at_low.lower)
    assert (bounds.upper_low, bounds.upper_high) == (at_high.upper, at_low.upper)
    assert bounds.lower_low <= bounds.lower <= bounds.lower_high <= 1 - 1 / n_answers
    assert bounds.lower <= bounds.upper


@pytest.mark.parametrize(
    ("bound", "lower_is", "upper_is"),
    [
        ("lower", "plug-in estimate", "bound"),
        ("estimate", "plug-in estimate", "plug-in estimate"),
        ("exact", "bound", "bound"),
    ],
)
def test_what_each_bound_is_follows_from_what_the_information_is(bound, lower_is, upper_is):
    bounds = error_bounds(known(1.0, bound=bound), 2.0, 4)
    assert (bounds.lower_is, bounds.upper_is) == (lower_is, upper_is)


def test_information_outside_its_range_is_taken_at_the_end_of_it():
    nothing, all_of_it = error_bounds(known(-0.2), 3.0, 8), error_bounds(known(3.2), 3.0, 8)
    assert nothing == error_bounds(known(0.0), 3.0, 8)
    assert (nothing.lower, nothing.upper) == (pytest.approx(7 / 8), 1.5)
    assert (all_of_it.lower, all_of_it.upper) == (0.0, 0.0)


def test_an_upper_bound_beyond_guessing_is_kept_and_said_to_be_vacuous():
    bounds = error_bounds(known(0.5), math.log2(10), 10)
    assert bounds.upper == pytest.approx((math.log2(10) - 0.5) / 2)
    assert bounds.upper > 1
    assert bounds.upper_is_vacuous
    assert not error_bounds(known(3.0), math.log2(10), 10).upper_is_vacuous


@pytest.mark.parametrize("score", [torch.tensor(0.8), 0.8, None, {"bits": 0.8}])
def test_anything_but_information_is_refused(score):
    with pytest.raises(InputError, match="nHSIC is a similarity of coordinates, not information in bits"):
        error_bounds(score, 2.0, 4)


def test_impossible_entropies_and_answers_are_refused():
    with pytest.raises(InputError, match=r"entropy in bits from 0 to log2\(4\) = 2\.000, received 2\.5"):
        error_bounds(known(1.0), 2.5, 4)
    for entropy in (-0.1, math.nan):
        with pytest.raises(InputError, match="entropy in bits"):
            error_bounds(known(1.0), entropy, 4)
    with pytest.raises(InputError, match="n_answers >= 2, received 1"):
        error_bounds(known(0.0), 0.0, 1)
    # The held-out cross-entropy of frequencies may pass log2 |Y| a little.
    assert error_bounds(known(0.0), 2.01, 4).lower == pytest.approx(0.75)


@pytest.mark.parametrize(("n", "classes"), [(40, 2), (40, 10), (64, 30), (80, 60), (60, 1)])
@pytest.mark.parametrize("skewed", [False, True])
def test_the_entropy_of_v_information_is_taken_whatever_it_is(n, classes, skewed):
    """Frequencies of few problems predict the others badly: their cross-entropy passes log2 of their number."""
    y = torch.arange(n) % classes
    y = torch.where(torch.arange(n) % 4 == 0, y, 0) if skewed else y
    x = torch.randn(1, n, 4, generator=torch.Generator().manual_seed(n))
    answers = max(2, classes)
    found = v_information(x, y, draws=100, control=False, n_classes=answers)
    bounds = error_bounds(found.at(0), found.entropy[0], np.int64(answers))
    entropy, bits = float(found.entropy[0]), float(found.bits[0])
    assert bounds.upper == pytest.approx(min(entropy, entropy - bits) / 2)
    assert isinstance(bounds.upper, float)
    # Rebuilt from a table, without its own entropy, it is known by the number of problems.
    rebuilt = Information(bits, bits, bits, 0.95, n, "lower", "")
    assert error_bounds(rebuilt, entropy, answers) == error_bounds(
        Information(bits, bits, bits, 0.95, n, "lower", "", entropy=entropy), entropy, answers
    )


def test_an_entropy_of_something_else_is_still_refused():
    found = Information(1.0, 1.0, 1.0, 0.95, 1000, "lower", "", entropy=3.9)
    assert error_bounds(found, 3.9, 10).upper == pytest.approx(1.45)
    with pytest.raises(InputError, match=r"to log2\(10\) = 3\.322, or the information's own, 3\.900, received 3\.8"):
        error_bounds(found, 3.8, 10)
    with pytest.raises(InputError, match="entropy as a number of bits and n_answers as a whole number, received str"):
        error_bounds(found, "3.9", 10)
