"""V-information on planted relations of known information, on nothing, and in its edge cases."""

import math

import numpy as np
import pytest
import torch

from probes.bounds import error_bounds
from probes.errors import InputError
from probes.information import Information, entropy_bits
from probes.vinformation import VInformation, _permuted, v_information


def channel_bits(q, error):
    return math.log2(q) + error * math.log2(error) + (1 - error) * math.log2(1 - error) - error * math.log2(q - 1)


def planted(n, d, q, errors, *, seed, scale=4.0):
    """y, and per error a noisy copy of it as one-hot in a random basis, with Gaussian noise on top."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(q, (n,), generator=g)
    basis = torch.linalg.qr(torch.randn(d, d, generator=g))[0][:q]
    places = []
    for error in errors:
        flip = torch.rand(n, generator=g) < error
        copy = torch.where(flip, (y + torch.randint(1, q, (n,), generator=g)) % q, y)
        places.append(scale * math.sqrt(2) * basis[copy] + 0.5 * torch.randn(n, d, generator=g))
    return torch.stack(places), y


def nothing(n, d, q, *, seed, lead=()):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, n, d, generator=g), torch.randint(q, (n,), generator=g)


def parity(n, d, *, seed):
    """y is whether two signs differ: 1 bit, none of it linear."""
    g = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (n, 2), generator=g)
    x = 0.3 * torch.randn(n, d, generator=g)
    x[:, :2] += 2.0 * signs - 1
    return x @ torch.linalg.qr(torch.randn(d, d, generator=g))[0], signs[:, 0] ^ signs[:, 1]


@pytest.mark.parametrize("probe", ["linear", "mlp"])
def test_a_planted_channel_is_recovered_within_its_interval(probe):
    errors, q = (0.1, 0.3, 0.6), 5
    x, y = planted(1500, 8, q, errors, seed=0)
    found = v_information(x, y, probe=probe)
    for place, error in enumerate(errors):
        truth = channel_bits(q, error)
        assert found.low[place] <= truth <= found.high[place], (place, found.bits, truth)
        assert float(found.bits[place]) == pytest.approx(truth, abs=0.1)
        # No decoder does better than the channel, and this one comes near.
        assert float(found.accuracy[place]) == pytest.approx(1 - error, abs=0.04)
    assert (found.control_bits.abs() < 0.02).all()
    assert torch.allclose(found.selectivity, found.bits - found.control_bits)


def test_it_is_a_lower_bound_on_average_and_the_bounds_hold_the_error_of_the_best_decoder():
    q, error = 4, 0.25
    runs = [v_information(*planted(300, 8, q, (error,), seed=seed), control=False) for seed in range(12)]
    bits = torch.stack([run.bits[0] for run in runs])
    assert channel_bits(q, error) - 0.15 < float(bits.mean()) < channel_bits(q, error)
    rest = torch.stack([run.entropy[0] - run.bits[0] for run in runs])
    assert float(rest.mean()) > 2 - channel_bits(q, error)
    uppers = [error_bounds(run.at(0), float(run.entropy[0]), q).upper for run in runs]
    assert np.mean(uppers) > error


def test_a_parity_is_seen_by_the_mlp_alone():
    x, y = parity(600, 6, seed=0)
    linear, mlp = (v_information(x, y, probe=probe) for probe in ("linear", "mlp"))
    assert abs(float(linear.bits)) < 0.03
    assert linear.low <= 0.01
    assert float(mlp.bits) > 0.9
    assert float(mlp.accuracy) > 0.98
    assert abs(float(mlp.control_bits)) < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_nothing_gives_about_zero_and_an_interval_that_covers_it(seed):
    x, y = nothing(500, 64, 6, seed=seed, lead=(4,))
    found = v_information(x, y, seed=seed)
    assert (found.bits.abs() < 0.03).all(), found.bits
    # Ignoring x costs nothing, so the estimate may only be a little below 0; by chance it may be above.
    assert (found.high >= -0.005).all()
    assert (found.low <= 0.005).all()
    assert (found.control_bits.abs() < 0.03).all()
    assert (found.accuracy < 0.3).all()


def test_nothing_for_the_mlp_gives_about_zero():
    found = v_information(*nothing(400, 16, 4, seed=5, lead=(2,)), probe="mlp")
    assert (found.bits.abs() < 0.03).all(), found.bits


def test_an_onset_in_layers_and_steps_is_found_where_it_was_planted():
    q, error = 4, 0.2
    told, y = planted(600, 8, q, (error,), seed=3)
    x = nothing(600, 8, q, seed=4, lead=(3, 5))[0]
    x[1:, 2:] += told[0]  # from layer 1 and step 2 on
    found = v_information(x, y, control=False)
    after = torch.zeros(3, 5, dtype=torch.bool)
    after[1:, 2:] = True
    assert (found.bits[~after].abs() < 0.03).all(), found.bits
    assert ((found.bits[after] - channel_bits(q, error)).abs() < 0.2).all(), found.bits
    assert found.control_bits.isnan().all()
    assert found.bits.shape == found.low.shape == found.n.shape == (3, 5)


def test_a_label_of_its_own_for_each_place():
    x, _ = nothing(400, 3, 2, seed=0)
    y = (x > 0).long().T  # at place i the label is the sign of coordinate i
    places = x.expand(3, -1, -1)
    assert (v_information(places, y, control=False).bits > 0.75).all()
    shared = v_information(places, y[1], control=False)
    assert torch.allclose(shared.bits, v_information(x, y[1], control=False).bits, atol=1e-4)
    only_one = torch.zeros(3, 400, 3)
    only_one[torch.arange(3), :, torch.arange(3)] = x.T
    wrong = v_information(only_one, y.roll(1, 0), control=False)
    assert (wrong.bits.abs() < 0.03).all()


def test_responses_of_different_lengths():
    x, y = planted(400, 8, 4, (0.2, 0.2, 0.2, 0.2), seed=1)
    valid = torch.ones(4, 400, dtype=torch.bool)
    valid[1, 150:] = False
    valid[2, 39:] = False
    valid[3] = False
    labels = y.expand(4, -1).clone()
    labels[~valid] = -7
    holes = x.clone()
    holes[~valid] = math.nan
    found = v_information(holes, labels, valid=valid)
    assert found.n.tolist() == [400, 150, 39, 0]
    for column in (found.bits, found.low, found.high, found.entropy, found.control_bits, found.accuracy):
        assert column.isnan().tolist() == [False, False, True, True]
    assert (found.bits[:2] > 0.6).all()
    # Whatever stands where a problem lacks the step is not read.
    other = torch.where(valid[..., None], x, 1e6)
    again = v_information(other, torch.where(valid, y, 3), valid=valid)
    assert torch.equal(again.bits[:2], found.bits[:2])
    assert torch.equal(again.control_bits[:2], found.control_bits[:2])
    with pytest.raises(InputError, match=r"a place with 40 valid problems, some in every fold, received 39 at \(2,\)"):
        found.at(2)


def test_the_control_permutes_labels_among_valid_problems_only():
    labels = torch.arange(60).expand(2, -1)
    valid = torch.stack([torch.ones(60, dtype=torch.bool), torch.arange(60) % 3 > 0])
    control = _permuted(labels, valid, torch.rand(60, generator=torch.Generator().manual_seed(0)))
    for place in range(2):
        assert control[place, valid[place]].sort().values.tolist() == labels[place, valid[place]].tolist()
        assert (control == labels)[place, valid[place]].sum() < 10


def test_samples_of_one_problem_stay_on_one_side():
    # Each problem has its own vector and a label that has nothing to do with it, five samples each.
    g = torch.Generator().manual_seed(0)
    problem = torch.arange(80).repeat_interleave(5)
    x = torch.randn(80, 200, generator=g)[problem] + 0.01 * torch.randn(400, 200, generator=g)
    y = torch.randint(3, (80,), generator=g)[problem]
    assert float(v_information(x, y, control=False).bits) > 0.8  # recognises the problem
    found = v_information(x, y, groups=problem * 7 - 3, control=False)
    assert abs(float(found.bits)) < 0.05
    # Five copies of a problem say no more than one: the interval is wider than for 400 problems of their own.
    x, y = planted(80, 6, 3, (0.3,), seed=2)
    x, y = x[0, problem], y[problem]
    alone, together = (v_information(x, y, groups=groups, control=False) for groups in (None, problem))
    assert float(together.high - together.low) > 1.5 * float(alone.high - alone.low)


def test_entropy_and_differences_are_those_of_the_held_out_problems():
    # A constant feature: the probe can only ignore it, and the entropy is that of the frequencies.
    _, y = nothing(300, 1, 3, seed=0)
    found = v_information(torch.ones(300, 2), y)
    assert (float(found.bits), float(found.low), float(found.high), float(found.control_bits)) == (0, 0, 0, 0)
    # Higher than the plug-in entropy by about (K - 1) / (2 n_train ln 2) twice, for train and for held-out problems.
    assert 0 < float(found.entropy) - entropy_bits(y) < 0.05


def test_one_label_is_no_information_and_not_undefined():
    found = v_information(torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(60).long())
    assert abs(float(found.bits)) < 0.01
    assert float(found.accuracy) == 1


@pytest.mark.parametrize("skewed", [False, True])
def test_many_labels_and_few_problems_do_not_make_the_frequencies_a_poor_rival(skewed):
    # 60 possible labels, of which one or all occur: a probe on noise must not gain by correcting the frequencies.
    x, y = nothing(80, 3, 60, seed=1, lead=(3,))
    y = torch.where(torch.arange(80) % 20 == 0, y, 0) if skewed else y
    found = v_information(x, y, n_classes=60)
    assert (found.bits < 0.06).all(), found.bits
    assert (found.bits > -0.3).all(), found.bits  # sixteen problems choose the ridge
    assert (found.entropy < (1.2 if skewed else 6.3)).all(), found.entropy


def test_seeded_and_without_state_and_whatever_the_memory():
    x, y = planted(200, 6, 3, (0.2, 0.5, 0.9), seed=0)
    state = torch.random.get_rng_state()
    first = v_information(x, y, seed=1)
    v_information(x, y, probe="mlp", folds=3, draws=100)
    again = v_information(x, y, seed=1)
    assert first.to_dict() == again.to_dict()
    assert first.to_dict() != v_information(x, y, seed=2).to_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    for other in (v_information(x, y, seed=1, max_bytes=1), v_information(x.double(), y.to(torch.uint8), seed=1)):
        assert torch.allclose(other.bits, first.bits, atol=2e-3)
        assert torch.allclose(other.low, first.low, atol=2e-3)
    assert x.grad is None


def test_shift_scale_and_rotation_of_x_do_not_matter_much():
    x, y = planted(300, 6, 3, (0.3,), seed=0)
    expected = v_information(x, y, control=False)
    assert torch.allclose(v_information(1e3 * x - 1e4, y, control=False).bits, expected.bits, atol=0.01)
    flat = torch.cat([x, torch.full((1, 300, 1), 600.0)], dim=-1)  # a massive activation that never changes
    assert torch.allclose(v_information(flat, y, control=False).bits, expected.bits, atol=0.01)


def test_one_place_as_information_and_all_as_columns():
    x, y = planted(120, 6, 3, (0.2, 0.5, 0.2, 0.5), seed=0)
    found = v_information(x.reshape(2, 2, 120, 6), y, level=0.9, draws=200)
    place = found.at(1, 0)
    assert place == Information(
        float(found.bits[1, 0]),
        float(found.low[1, 0]),
        float(found.high[1, 0]),
        0.9,
        120,
        "lower",
        "V-information, linear probe, 5 folds",
    )
    table = found.to_dict()
    assert set(table) == {"bits", "low", "high", "entropy", "control_bits", "accuracy", "n", "selectivity"}
    assert table["bits"][2] == place.bits
    assert table["n"] == [120] * 4
    assert isinstance(found, VInformation)
    for index in ((1,), (2, 0), (0, 0, 0)):
        with pytest.raises(InputError, match=r"one index for each axis of \(2, 2\)"):
            found.at(*index)


def test_bad_input_is_refused_before_any_work():
    x, y = nothing(60, 3, 4, seed=0, lead=(2,))
    for change, text in [
        ({"x": x.long()}, r"x as a floating tensor \[\*lead, n, d\], not empty"),
        ({"y": y.float()}, r"y as an integer tensor \[n\] or \[\*lead, n\]"),
        ({"y": y[1:]}, r"received torch.int64 of shape \(59,\)"),
        ({"y": y - 1}, "labels from 0, received -1 to 2"),
        ({"n_classes": 3}, r"labels from 0 to n_classes - 1 = 2, received 0 to 3"),
        ({"valid": torch.ones(2, 60)}, r"valid as a boolean tensor of shape \(2, 60\)"),
        ({"valid": torch.zeros(2, 60, dtype=torch.bool)}, "some valid problem, received none"),
        ({"groups": torch.arange(59)}, r"groups as an integer tensor of shape \(60,\)"),
        ({"groups": torch.arange(60) // 3}, "at least 40 groups, 8 for each of 5 folds, received 20"),
        ({"x": x[:, :39], "y": y[:39]}, "at least 40 problems, 8 for each of 5 folds, received 39"),
        ({"probe": "forest"}, "probe as one of linear, mlp, received 'forest'"),
        ({"folds": 1}, "folds >= 2, a whole number, received 1"),
        ({"level": 95.0}, "0 < level < 1 and at least 100 draws"),
        ({"max_bytes": 0}, "max_bytes > 0 and finite, received 0"),
    ]:
        with pytest.raises(InputError, match=text):
            v_information(**({"x": x, "y": y} | change))
    bad = x.clone()
    bad[1, 7, 2] = math.nan
    with pytest.raises(InputError, match=r"NaN or inf in 1 vectors, first at place 1 .*, problem 7"):
        v_information(bad, y)


def one_bit(n=200, d=10):
    g = torch.Generator().manual_seed(7)
    y = torch.arange(n) % 2
    return (2 * y - 1)[:, None] * 1.5 + torch.randn(n, d, generator=g), y, g


def outliers(kind):
    """The same vectors with some problems far out, in ways that have nothing to do with the label."""
    x, y, g = one_bit()
    if kind == "one coordinate of one problem":
        x[17, 0] = 1e4 * (-1 if y[17] == 1 else 1)
    elif kind == "all of one problem":
        x[17] *= -1e5
    elif kind == "all of five problems":
        x[:5] *= -1e4
    elif kind == "one coordinate of one problem in ten":
        x[::10, 3] = 1e4 * torch.randn(20, generator=g)
    elif kind == "any coordinate of one problem in five":
        x[torch.arange(40) * 5, torch.randint(10, (40,), generator=g)] = 1e4 * torch.randn(40, generator=g)
    return x, y


@pytest.mark.parametrize("probe", ["linear", "mlp"])
@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("one coordinate of one problem", 0.1),
        ("all of one problem", 0.15),
        ("all of five problems", 0.65),
        ("one coordinate of one problem in ten", 0.1),
        ("any coordinate of one problem in five", 0.3),
    ],
)
def test_some_problems_far_out_do_not_ruin_the_others(kind, lost, probe):
    x, y = outliers(kind)
    assert float(v_information(x, y, draws=100, control=False, probe=probe).bits) > 0.95 - lost


def test_massive_activations_that_all_problems_have_cost_nothing():
    x, y, g = one_bit()
    clean = float(v_information(x, y, draws=100, control=False).bits)
    massive = x.clone()
    massive[:, 2] = 600 + 5 * massive[:, 2]
    massive[:, 7] = -600 * (1 + 0.01 * torch.randn(200, generator=g))
    assert float(v_information(massive, y, draws=100, control=False).bits) == pytest.approx(clean, abs=0.05)
    half = v_information(massive.half(), y, draws=100, control=False)
    assert float(half.bits) == pytest.approx(clean, abs=0.05)
    # Where only the massive coordinate tells, it tells.
    alone = torch.stack([600 + 8.0 * y, torch.full((200,), 600.0)], dim=1) + 0.5 * torch.randn(200, 2, generator=g)
    assert float(v_information(alone, y, draws=100, control=False).bits) > 0.95


def test_a_held_out_problem_costs_at_most_nine_bits():
    """The mixture's bound: a confident mistake is worth -log2(1/512) over ignoring the vector, no more."""
    x, y, _ = one_bit(400)
    wrong = torch.arange(400) % 50 == 0
    found = v_information(8 * x, torch.where(wrong, 1 - y, y), draws=100, control=False)
    assert float(found.accuracy) == pytest.approx(0.98, abs=0.01)
    assert float(found.bits) > 1 - 0.02 * (9 + 1) - 0.1


def test_rare_coordinates_are_not_taken_for_outliers():
    """A coordinate that is 0 for nine problems in ten and tells of the tenth keeps what it tells."""
    y = torch.arange(200) % 10
    one_hot = torch.nn.functional.one_hot(y, 10).float()
    assert float(v_information(one_hot, y, draws=100, control=False).bits) > 3.2


def test_labels_may_be_boolean():
    x, y, _ = one_bit()
    assert v_information(x, y.bool(), draws=100).to_dict() == v_information(x, y, draws=100).to_dict()
