"""Null scores against one answer at a time; tests against their definition and by simulation."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import binom, chisquare

from probes import InputError, nhsic
from probes.many_tests import holm, holm_over_layers, nulls_needed, smallest_p
from probes.nulls import null_scores, null_test, random_answers


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(*shape: int, seed: int) -> torch.Tensor:
    """Scores [..., answer, step]: steps share what the answer brings, and have levels and spreads of their own."""
    level = torch.linspace(0.0, 3.0, shape[-1], dtype=torch.float64)
    return draw(*shape, seed=seed) * (1 + level) + draw(*shape[:-1], 1, seed=seed + 1) + 2 * level


def upper_bound(n: int, rate: float = 0.05) -> float:
    return binom.ppf(0.999, n, rate) / n


@pytest.mark.parametrize(
    ("sigma", "drop_top", "lead", "d", "apart"),  # each with each of the others
    [
        (50.0, 0, (), 15, 1e-12), (50.0, 2, (), 21, 1e-10), (50.0, 0, (2, 2), 21, 1e-10), (50.0, 2, (2, 2), 15, 1e-12),
        ("median", 2, (), 15, 1e-12), ("median", 0, (3,), 21, 1e-10), ("median", 2, (3,), 21, 1e-10),
        (50.0, 0, (3,), 15, 1e-12), ("median", 0, (2, 2), 15, 1e-12),
    ],
)  # fmt: skip
def test_null_scores_equal_one_answer_at_a_time(sigma, drop_top, lead, d, apart):
    """From 16 coordinates on, a step that meets one answer is factorised in another way, each within tol, 1e-10."""
    steps, answers = 20 * draw(*lead, 3, d, seed=1), 20 * draw(*lead, 4, d, seed=2)
    options = {"sigma": sigma, "drop_top": drop_top, "eps": 1e-4}
    expected = torch.stack([nhsic(steps, answers[..., k, :], **options) for k in range(4)], dim=-2)
    assert expected.shape == (*lead, 4, 3)
    torch.testing.assert_close(null_scores(steps, answers, **options), expected, rtol=apart, atol=apart)
    for max_bytes in (1, 60_000):
        chunked = null_scores(steps, answers, max_bytes=max_bytes, **options)
        torch.testing.assert_close(chunked, expected, rtol=apart, atol=apart)


@pytest.mark.parametrize(
    ("steps", "answers", "text"),
    [
        (torch.ones(2, 3, 4), torch.ones(5, 4), r"answers with the leading axes \(2,\) of the steps, received answers"),
        (torch.ones(3, 4), torch.ones(5, 6), "steps and answer of one d_model, answer has 6"),
        (torch.ones(3, 4), torch.ones(0, 4), r"answers of shape \[\*lead, null, d_model\], not empty"),
        (torch.ones(3, 4), torch.full((2, 4), math.nan), "finite answers, received 8 NaN"),
    ],
)
def test_null_scores_refuse(steps, answers, text):
    with pytest.raises(InputError, match=text):
        null_scores(steps, answers)


def test_random_answers_have_the_norm_and_no_direction():
    answer = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1e-3]])
    drawn = random_answers(answer, 4000, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 4000, 3)
    norms = drawn.norm(dim=-1)
    torch.testing.assert_close(norms, answer.double().norm(dim=-1)[:, None].expand(2, 4000), rtol=1e-14, atol=0)
    unit = drawn / norms[..., None]
    covariance = unit.mT @ unit / 4000
    torch.testing.assert_close(covariance, torch.eye(3).double().expand(2, 3, 3) / 3, rtol=0, atol=0.02)
    assert float(unit.mean(dim=1).abs().max()) < 0.04
    assert torch.equal(drawn, random_answers(answer, 4000, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn, random_answers(answer, 4000, torch.Generator().manual_seed(1)))
    with pytest.raises(InputError, match="count >= 1, received 0"):
        random_answers(answer, 0, torch.Generator())


@pytest.mark.parametrize("statistic", ["score", "standardised"])
def test_p_values_are_their_definition(statistic):
    scores = correlated(5, 8, 6, seed=0).round()  # rounded, so that there are ties
    scores[..., 3] = 2.0  # and a step that never varies
    seen, null = scores[:, 0], scores[:, 1:]
    found = null_test(seen, null, statistic)
    for lead in range(5):
        pool = scores[lead].numpy()
        used = pool
        if statistic == "standardised":
            with np.errstate(invalid="ignore"):
                used = (pool - pool.mean(axis=0)) / pool.std(axis=0)
            used[:, 3] = -math.inf
        maxima = used[1:].max(axis=1)
        for t in range(6):
            step = (1 + sum(pool[k, t] >= pool[0, t] for k in range(1, 8))) / 8
            family = (1 + sum(maximum >= used[0, t] - 1e-12 for maximum in maxima)) / 8
            assert float(found.p_step[lead, t]) == step
            assert float(found.p_family[lead, t]) == family
        assert float(found.p_trajectory[lead]) == float(found.p_family[lead].min())
        np.testing.assert_allclose(found.null_max[lead].numpy(), maxima, rtol=1e-12)
        np.testing.assert_allclose(found.null_mean[lead].numpy(), pool[1:].mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.null_sd[lead].numpy(), pool[1:].std(axis=0, ddof=1), rtol=1e-12)
    moving = [0, 1, 2, 4, 5]
    expected = ((seen - found.null_mean) / found.null_sd)[:, moving]
    torch.testing.assert_close(found.z[:, moving], expected)
    assert found.z[:, 3].isnan().all()
    assert (found.p_step[:, 3] == 1).all()
    if statistic == "standardised":
        assert (found.p_family[:, 3] == 1).all()


@pytest.mark.parametrize("statistic", ["score", "standardised"])
def test_when_nothing_varies_nothing_is_found(statistic):
    found = null_test(torch.full((4,), 0.1), torch.full((9, 4), 0.1), statistic)
    for p in (found.p_step, found.p_family, found.p_trajectory):
        assert (p == 1).all()
    one = null_test(torch.tensor([3.0, 0.0]), torch.tensor([[1.0, 1.0]]), statistic)
    assert one.p_step.tolist() == [0.5, 1.0]
    assert one.null_sd.isnan().all()  # one null has no spread


@pytest.mark.parametrize("seed", [0, 100, 200])
@pytest.mark.parametrize("statistic", ["score", "standardised"])
def test_uniform_and_at_level_when_the_answer_is_one_of_many(seed, statistic):
    # K + 1 = 20 exchangeable answers; 4000 trajectories of correlated steps of unequal level.
    scores = correlated(4000, 20, 12, seed=seed)
    found = null_test(scores[:, 0], scores[:, 1:], statistic)
    for p in (found.p_trajectory, found.p_step[:, 5]):
        counts = torch.bincount((p * 20).round().long(), minlength=21)[1:]
        assert counts.sum() == 4000
        assert chisquare(counts.numpy()).pvalue > 1e-4
    # Any step of the trajectory at p <= 0.05: one in twenty.
    wrong = (found.p_family <= 0.05).any(dim=-1).double().mean()
    assert binom.ppf(0.001, 4000, 0.05) / 4000 <= float(wrong) <= upper_bound(4000)
    # Without the maximum it is far more, or this could not fail.
    assert float((found.p_step <= 0.05).any(dim=-1).double().mean()) > 0.2


def test_end_to_end_level_and_planted_relation():
    n, d, n_steps = 300, 16, 5
    steps, answers = 20 * draw(n, n_steps, d, seed=3), 20 * draw(n, 20, d, seed=4)
    scores = null_scores(steps, answers)
    at_level = null_test(scores[:, 0], scores[:, 1:]).p_trajectory <= 0.05
    assert binom.ppf(0.001, n, 0.05) <= int(at_level.sum()) <= binom.ppf(0.999, n, 0.05)
    planted = steps[:, 2] + 2 * draw(n, d, seed=5)
    observed = nhsic(steps, planted)
    found = null_test(observed[:50], scores[:50, 1:])
    assert float((found.p_family[:, 2] == 0.05).double().mean()) > 0.9  # the smallest p that 19 nulls allow
    assert float((found.p_family[:, [0, 1, 3, 4]] <= 0.05).double().mean()) < 0.1


def test_standardising_finds_a_peak_at_a_step_of_low_level():
    scores = draw(400, 100, 10, seed=6)
    scores[..., 0] = scores[..., 0] * 20 + 100
    scores[:, 0, 4] += 6
    seen, null = scores[:, 0], scores[:, 1:]
    power = {
        s: float((null_test(seen, null, s).p_family[:, 4] <= 0.05).double().mean()) for s in ("score", "standardised")
    }
    assert power["score"] == 0
    assert power["standardised"] > 0.9


@pytest.mark.parametrize(
    ("observed", "null", "options", "text"),
    [
        (
            torch.ones(3),
            torch.ones(0, 3),
            {},
            r"null of shape \[null, 3\] with at least one null, received shape \(0, 3\)",
        ),
        (torch.ones(3), torch.ones(4, 2), {}, r"null of shape \[null, 3\].* received shape \(4, 2\)"),
        (torch.ones(2, 3), torch.ones(4, 3), {}, r"null of shape \[2, null, 3\].* received shape \(4, 3\)"),
        (torch.ones(3), torch.tensor([[1.0, math.nan, 1.0]]), {}, r"finite null, received 1 NaN and 0 inf.*\[0, 1\]"),
        (torch.tensor([math.inf]), torch.ones(4, 1), {}, "finite observed, received 0 NaN and 1 inf"),
        (torch.ones(3).long(), torch.ones(4, 3), {}, "observed as a floating tensor"),
    ],
)
def test_null_test_refuses(observed, null, options, text):
    with pytest.raises(InputError, match=text):
        null_test(observed, null, **options)


def closed_test(p: np.ndarray) -> np.ndarray:
    """Every set of (layer, step) pairs, by the definition of a closed test."""
    pairs = list(product(range(p.shape[0]), range(p.shape[1])))
    adjusted = np.zeros_like(p)
    for inside in product([False, True], repeat=len(pairs)):
        chosen = [pair for pair, used in zip(pairs, inside, strict=True) if used]
        if chosen:
            value = min(1.0, len({layer for layer, _ in chosen}) * min(p[pair] for pair in chosen))
            for pair in chosen:
                adjusted[pair] = max(adjusted[pair], value)
    return adjusted


@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (3, 2), (4, 2), (3, 3)])
def test_holm_over_layers_is_the_closed_test(shape):
    for seed in range(6):
        p = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
        np.testing.assert_allclose(holm_over_layers(p).numpy(), closed_test(p.numpy()), rtol=1e-12)


def test_holm_over_layers_by_hand():
    p = torch.tensor([[0.01], [0.02], [0.03]], dtype=torch.float64)
    # One step a layer: plain Holm.
    assert holm_over_layers(p)[:, 0].tolist() == pytest.approx([0.03, 0.04, 0.04])
    assert holm(p[:, 0]).tolist() == pytest.approx([0.03, 0.04, 0.04])
    assert holm(torch.tensor([[0.5, 0.9], [0.9, 0.01]])).flatten().tolist() == pytest.approx([1.0, 1.0, 0.9, 0.02])
    # A single layer is not multiplied; nothing exceeds 1.
    assert holm_over_layers(torch.tensor([[0.2, 0.7]])).flatten().tolist() == pytest.approx([0.2, 0.7])
    assert float(holm_over_layers(torch.full((9, 2), 0.5)).max()) == 1.0


def falling(p: torch.Tensor) -> torch.Tensor:
    """The tempting shortcut: multiply a layer's steps by its Holm multiplier for p_trajectory."""
    trajectory = p.amin(dim=-1)
    order = trajectory.argsort(stable=True)
    out, floor = torch.empty_like(p), torch.tensor(0.0, dtype=p.dtype)
    for rank, layer in enumerate(order.tolist()):
        out[layer] = torch.maximum(floor, p[layer] * (len(p) - rank)).clamp(max=1.0)
        floor = out[layer].min()
    return out


@pytest.mark.parametrize("real_peaks", [False, True])
def test_error_rate_over_layers_and_steps(real_peaks):
    n, n_layers, n_steps, n_null = 1500, 3, 12, 119
    scores = draw(n, n_layers, n_null + 1, n_steps, seed=11)
    if real_peaks:
        scores[:, :, 0, 0] += 50.0
    idle = slice(1, None) if real_peaks else slice(None)
    p = null_test(scores[:, :, 0], scores[:, :, 1:]).p_family
    wrong = torch.tensor([bool((holm_over_layers(one)[:, idle] <= 0.05).any()) for one in p]).double().mean()
    assert float(wrong) <= upper_bound(n)
    assert float(wrong) > 0.02  # of use, not only safe
    shortcut = torch.tensor([bool((falling(one)[:, idle] <= 0.05).any()) for one in p]).double().mean()
    # Where every layer has a real peak the shortcut names idle steps beyond the level.
    assert (float(shortcut) > upper_bound(n)) == real_peaks
    if real_peaks:
        assert torch.stack([holm_over_layers(one)[:, 0] for one in p[:50]]).amax() <= 0.05


def test_how_many_nulls():
    assert nulls_needed(1) == 19
    assert nulls_needed(30, 0.01) == 2999
    for n_layers, level in product((1, 2, 3, 6, 7, 12, 30, 49, 64, 127), (0.05, 0.01, 0.1)):
        needed = nulls_needed(n_layers, level)
        # Through the very tests: a peak far above all nulls is found with so many, not with one fewer.
        assert float(
            holm_over_layers(torch.tensor([[1 / (needed + 1)]] + [[1.0]] * (n_layers - 1)).double()).min()
        ) == (pytest.approx(smallest_p(needed, n_layers)))
        assert n_layers * (1 / (needed + 1)) <= level
        assert smallest_p(needed, n_layers) <= level
        assert needed == 1 or smallest_p(needed - 1, n_layers) > level
    for bad in ((0, 0.05), (3, 0.0), (3, 1.0)):
        with pytest.raises(InputError, match="n_layers >= 1 and a level between 0 and 1"):
            nulls_needed(*bad)
    with pytest.raises(InputError, match="n_null >= 1 and n_layers >= 1"):
        smallest_p(0)


@pytest.mark.parametrize(
    "bad", [torch.tensor([[0.5, 1.5]]), torch.tensor([[math.nan, 0.5]]), torch.tensor([[-0.1, 0.5]])]
)
def test_p_values_outside_their_range_are_refused(bad):
    for adjust in (holm, holm_over_layers):
        with pytest.raises(InputError, match="p-values from 0 to 1"):
            adjust(bad)
    with pytest.raises(InputError, match=r"\[layer, step\], not empty, received torch.float32 of shape \(2,\)"):
        holm_over_layers(bad[0])
