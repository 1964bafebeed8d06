"""HSIC across problems against literal loops and closed forms; its p under independence, with power, and by groups."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch

from probes import InputError, sample_hsic


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal_gaussian(z: np.ndarray, multiple: float = 1.0, width: float | None = None) -> np.ndarray:
    distance = scipy.spatial.distance.pdist(z)
    width = multiple * np.median(distance[distance > 0]) if width is None else width
    return np.exp(-(scipy.spatial.distance.squareform(distance) ** 2) / (2 * width**2))


def literal_hsic(k: np.ndarray, l_: np.ndarray) -> float:
    """Gretton et al. 2005, written as expectations over all pairs, triples and quadruples of samples."""
    n = len(k)
    first = sum(k[i, j] * l_[i, j] for i in range(n) for j in range(n)) / n**2
    second = k.sum() * l_.sum() / n**4
    third = sum(k[i, j] * l_[i, q] for i in range(n) for j in range(n) for q in range(n)) / n**3
    return first + second - 2 * third


def literal_unbiased(k: np.ndarray, l_: np.ndarray) -> float:
    n, total, number = len(k), 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (l_[i, j] + l_[q, r] - 2 * l_[i, q])
                        number += 1
    return total / number


@pytest.mark.parametrize("kind", ["labels", "vectors"])
def test_it_is_its_definition(kind):
    x, labels = draw(2, 9, 3, seed=0), torch.tensor([0, 1, 2, 0, 1, 2, 2, 0, 5])
    y = labels if kind == "labels" else draw(9, 2, seed=1)
    found = sample_hsic(x, y, permutations=19)
    l_ = (labels[:, None] == labels).double().numpy() if kind == "labels" else literal_gaussian(y.numpy())
    for place in range(2):
        k = literal_gaussian(x[place].numpy())
        expected = literal_hsic(k, l_)
        assert float(found.hsic[place]) == pytest.approx(expected, rel=1e-10)
        assert float(found.unbiased[place]) == pytest.approx(literal_unbiased(k, l_), rel=1e-9)
        norm = math.sqrt(literal_hsic(k, k) * literal_hsic(l_, l_))
        assert float(found.normalised[place]) == pytest.approx(expected / norm, rel=1e-10)
        assert float(found.bandwidth[place]) == pytest.approx(np.median(scipy.spatial.distance.pdist(x[place].numpy())))
    assert sample_hsic(x[0], y).hsic.shape == ()


def test_two_balanced_labels_have_a_closed_form():
    """With vectors that are the labels themselves, two values a apart and n/2 of each, HSIC = (1 - exp(-1/2)) / 4."""
    y = torch.arange(20) % 2
    found = sample_hsic(3.0 * y[:, None].double(), y)
    # K is 1 or e = exp(-1/2) (all that differ lie one median apart), L 1 or 0: centred, they are (1 - e)/2 and 1/2.
    assert float(found.hsic) == pytest.approx((1 - math.exp(-0.5)) / 4, rel=1e-12)
    assert float(found.normalised) == pytest.approx(1.0, rel=1e-12)
    assert float(found.bandwidth) == 3.0
    assert sample_hsic(3.0 * y[:, None].double(), y, sigma=1.5).hsic.item() == pytest.approx(
        (1 - math.exp(-2.0)) / 4, rel=1e-12
    )
    multiple = sample_hsic(draw(20, 2, seed=1), y, sigma="0.5*median")
    assert float(multiple.bandwidth) == pytest.approx(float(sample_hsic(draw(20, 2, seed=1), y).bandwidth) / 2)


@pytest.mark.parametrize("kind", ["labels", "vectors", "groups", "groups that differ"])
def test_p_is_that_of_a_loop_over_permutations(kind):
    """Any loop of as many permutations agrees to its sampling error; the observed assignment counts among them."""
    n, group = 24, torch.arange(24) // 2
    x = draw(n, 2, seed=3)
    y = (x[:, 0] + 1.5 * draw(n, seed=4) > 0).long() + torch.arange(n) % 2
    if kind.startswith("groups"):
        x = x + draw(12, 2, seed=5)[group]
        y = y if kind.endswith("differ") else (draw(12, seed=6)[group] + 0.5 * x[group * 2, 0] > 0).long()
    vectors = kind == "vectors"
    grouped = kind.startswith("groups")
    answer = y[:, None].double() + draw(n, 1, seed=7) if vectors else y
    found = sample_hsic(x, answer, groups=group if grouped else None, permutations=3999)
    k = literal_gaussian(x.numpy())
    l_ = literal_gaussian(answer.numpy()) if vectors else (y[:, None] == y).double().numpy()
    if grouped:
        k, l_ = (m.reshape(12, 2, 12, 2).mean(axis=(1, 3)) for m in (k, l_))
    rng, m = np.random.default_rng(0), len(k)
    h = np.eye(m) - 1 / m
    centred = h @ k @ h
    observed = (centred * l_).sum()
    null = []
    for _ in range(4000):
        order = rng.permutation(m)
        null.append((centred * l_[np.ix_(order, order)]).sum())
    expected = (np.array(null) >= observed - 1e-12).mean()
    assert float(found.hsic) == pytest.approx(observed / m**2, rel=1e-9)
    assert float(found.n) == m
    assert 0.004 < expected < 0.9, "the case tells something"
    assert float(found.p) == pytest.approx(expected, abs=5 * math.sqrt(2 * expected * (1 - expected) / 4000) + 1e-3)


def test_p_counts_the_observed_and_ties():
    y = torch.tensor([0] * 3 + [1] * 3)
    found = sample_hsic(y[:, None].double(), y, permutations=20_000)
    # Of 20 ways to choose three of six, the two that keep the halves do as well.
    assert float(found.p) == pytest.approx(0.1, abs=0.01)
    assert sample_hsic(draw(40, 3, seed=0) + torch.arange(40)[:, None] % 2 * 9, torch.arange(40) % 2).p == 1 / 1000


@pytest.mark.parametrize("kind", ["labels", "rare labels", "vectors", "own labels"])
def test_p_is_uniform_under_independence(kind):
    places, n = 400, 20
    x = draw(places, n, 2, seed=0) ** 3  # far from Gaussian
    labels = torch.arange(n) % 4 if kind != "rare labels" else (torch.arange(n) < 2).long()
    y = draw(n, 1, seed=1) if kind == "vectors" else labels
    if kind == "own labels":
        y = torch.stack([labels[torch.randperm(n, generator=torch.Generator().manual_seed(k))] for k in range(places)])
    p = sample_hsic(x, y, permutations=199, seed=3).p.numpy()
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert scipy.stats.binomtest(int((p <= 0.05).sum()), places, 0.05).pvalue > 0.01


@pytest.mark.parametrize("varying", [False, True])
def test_samples_of_a_problem_are_permuted_whole(varying):
    """Problems leave their mark on their samples' vectors and answers: samples as units find dependence in nothing."""
    places, problems = 300, 15
    group = torch.arange(problems).repeat_interleave(4)
    if varying:
        group = group[:-6]  # groups of different sizes, and answers that differ within
    n = len(group)
    x = draw(places, problems, 2, seed=0)[:, group] + 0.3 * draw(places, n, 2, seed=1)
    dice = torch.Generator().manual_seed(2)
    y = torch.randint(2, (places, problems), generator=dice)[:, group]
    if varying:
        y = torch.where(torch.rand(places, n, generator=dice) < 0.1, 1 - y, y)
    naive = sample_hsic(x[:100], y[:100], permutations=99).p
    assert (naive <= 0.05).double().mean() > 0.3
    p = sample_hsic(x, y, groups=group * 3 + 1, permutations=99).p.numpy()
    p = p[~np.isnan(p)]
    assert len(p) > 290
    assert scipy.stats.binomtest(int((p <= 0.05).sum()), len(p), 0.05, alternative="greater").pvalue > 0.01
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.001


def test_power_grows_with_what_was_planted():
    n = 60
    y = torch.arange(n) % 3
    shift = torch.tensor([0.0, 0.3, 0.8, 2.0])[:, None, None, None]
    x = draw(4, 50, n, 3, seed=0) + shift * (y == 0)[:, None]
    rates = (sample_hsic(x, y, permutations=99).p <= 0.05).double().mean(dim=1).tolist()
    assert rates[0] < 0.16
    assert rates[0] < rates[1] < rates[2] <= rates[3] == 1
    # A dependence that no mean shows: the scale hangs on the label.
    scale = draw(50, n, 3, seed=1) * (1 + 2.0 * (y == 0))[:, None]
    assert (sample_hsic(scale, y, permutations=99).p <= 0.05).double().mean() > 0.9


def test_responses_that_lack_a_place():
    x, y = draw(5, 40, 3, seed=0), torch.arange(40) % 4
    valid = torch.ones(5, 40, dtype=torch.bool)
    valid[1, 30:], valid[2, 3:], valid[3] = False, False, False
    valid[4] = y == 2
    holes = x.masked_fill(~valid[..., None], math.nan)
    labels = y.expand(5, -1).masked_fill(~valid, -9)
    found = sample_hsic(holes, labels, valid=valid)
    assert found.n.tolist() == [40, 30, 3, 0, 10]
    for column in (found.hsic, found.unbiased, found.normalised, found.p):
        assert column.isnan().tolist() == [False, False, True, True, True], "three problems, none, one answer"
    short = sample_hsic(x[1, :30], y[:30])
    assert float(found.hsic[1]) == pytest.approx(float(short.hsic), rel=1e-12)
    assert found.to_dict()["n"] == [40, 30, 3, 0, 10]


@pytest.mark.parametrize("kind", ["labels", "vectors", "groups"])
def test_neither_memory_nor_company_changes_anything(kind):
    x, y = draw(2, 3, 30, 4, seed=0), torch.arange(30) % 3
    valid = draw(2, 3, 30, seed=1) > -1
    groups = torch.arange(30) // 2 if kind == "groups" else None
    y = draw(30, 2, seed=2) if kind == "vectors" else y
    options = {"valid": valid, "groups": groups, "permutations": 99, "seed": 5}
    whole = sample_hsic(x, y, **options)
    for max_bytes in (1, 20_000, 2**20):
        part = sample_hsic(x, y, max_bytes=max_bytes, **options)
        for name in ("hsic", "unbiased", "normalised", "p", "bandwidth"):
            torch.testing.assert_close(getattr(part, name), getattr(whole, name), rtol=1e-12, atol=1e-15)
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(sample_hsic(strided, y, **options).p, whole.p)
    assert torch.equal(sample_hsic(x, y, **options).p, whole.p)
    assert not torch.equal(sample_hsic(x, y, **{**options, "seed": 6}).p, whole.p)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16])
def test_any_dtype_whatever_the_default(dtype, default):
    x, y = draw(2, 20, 3, seed=0).to(dtype), torch.arange(20) % 2
    expected = sample_hsic(x.double(), y, permutations=99)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = sample_hsic(x, y, permutations=99)
    finally:
        torch.set_default_dtype(before)
    for name in ("hsic", "unbiased", "normalised", "p", "bandwidth"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-15)


def test_massive_activations_that_all_have_and_vectors_that_coincide():
    x, y = draw(40, 5, seed=0) + (torch.arange(40) % 2)[:, None], torch.arange(40) % 2
    plain = sample_hsic(x, y)
    massive = torch.cat([x, torch.full((40, 2), 600.0, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(sample_hsic(massive, y).hsic, plain.hsic, rtol=1e-8, atol=0)
    assert sample_hsic(massive, y).p == plain.p
    # Most vectors coincide: the width is that of those that differ.
    few = torch.zeros(40, 2, dtype=torch.float64)
    few[:4, 0] = 600.0
    found = sample_hsic(few, (few[:, 0] > 0).long())
    assert float(found.bandwidth) == pytest.approx(600.0)
    assert float(found.normalised) == pytest.approx(1.0)
    assert sample_hsic(torch.full((40, 2), 0.1), y).p.isnan()


def test_refusals():
    x, y = draw(2, 20, 3, seed=0), torch.arange(20) % 2
    for change, text in [
        ({"x": x.long()}, r"x as a floating tensor \[\*lead, n, d\], not empty"),
        ({"y": y[1:]}, r"y as integer labels \(20,\) or \(2, 20\), or as floating vectors of one axis more"),
        ({"y": y.double()}, r"one number a problem is a vector \[n, 1\]"),
        ({"y": draw(19, 2, seed=0)}, r"received torch.float64 of shape \(19, 2\)"),
        ({"x": torch.full_like(x, math.inf)}, "finite x at valid problems, received NaN or inf in 40 vectors"),
        ({"y": torch.full((20, 1), math.nan)}, "finite y at valid problems"),
        ({"valid": torch.ones(20, dtype=torch.bool)}, r"valid as a boolean tensor of shape \(2, 20\)"),
        ({"groups": torch.arange(19)}, r"groups as an integer tensor of shape \(20,\)"),
        ({"groups": torch.arange(20) // 7}, "at least 4 groups, received 3"),
        ({"x": x[:, :3], "y": y[:3]}, "at least 4 problems, received 3"),
        ({"permutations": 18}, "at least 19 permutations, received 18"),
        ({"sigma": 0.0}, "sigma > 0 and finite, received 0.0"),
        ({"sigma_y": "mean"}, '"median", or a positive multiple'),
        ({"max_bytes": 0}, "max_bytes > 0"),
    ]:
        with pytest.raises(InputError, match=text):
            sample_hsic(**({"x": x, "y": y} | change))


def test_groups_of_different_sizes_are_permuted_among_their_like():
    """A mean over one sample lies further out than one over nine, in vectors and answers alike: no dependence."""
    places, sizes = 300, [1] * 8 + [9] * 8
    group = torch.cat([torch.full((size,), k) for k, size in enumerate(sizes)])
    x = draw(places, len(group), 2, seed=0)
    y = torch.randint(2, (places, len(group)), generator=torch.Generator().manual_seed(1))
    p = sample_hsic(x, y, groups=group, permutations=99).p.numpy()
    assert scipy.stats.binomtest(int((p <= 0.05).sum()), places, 0.05, alternative="greater").pvalue > 0.01
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.001
