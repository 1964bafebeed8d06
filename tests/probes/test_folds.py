"""Folds by literal loops over problems, and cross-fitting another estimator with them against its closed form."""

import numpy as np
import pytest
import torch

from probes import InputError
from probes.folds import Folds


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


GROUPS = torch.tensor([5, 5, -2, 9, 9, 9, 9, 1, 0, 0, 3, 4, 6, 7, 8, 8, 10, 11, 12, 13, 14, 15, 16, 17])


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["problems", "groups"])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_every_problem_is_tested_once_and_groups_never_part(count, groups):
    folds = Folds.draw(24, count, groups=groups, generator=seeded())
    name = list(range(24)) if groups is None else groups.tolist()
    tested: list[int] = []
    units = []
    for split in folds:
        roles = [part.tolist() for part in (split.train, split.choose, split.test)]
        assert sorted(i for role in roles for i in role) == list(range(24)), "all of them, each in one part"
        assert all(role == sorted(role) for role in roles)
        names = [{name[i] for i in role} for role in roles]
        assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
        tested += roles[2]
        units.append(len(names[2]))
    assert len(units) == count
    assert sorted(tested) == list(range(24))
    assert max(units) - min(units) <= 1
    assert folds.n_units == sum(units) == len(set(name))


def test_one_training_unit_in_four_chooses():
    for split in Folds.draw(400, 5, generator=seeded()):
        assert (len(split.train), len(split.choose), len(split.test)) == (240, 80, 80)
    chosen = [len(split.choose) for split in Folds.draw(4000, 4, generator=seeded(1))]
    assert chosen == [750] * 4


def test_the_seed_is_all_that_decides():
    first, again, other = (Folds.draw(60, generator=seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.fold, again.fold)
    assert not torch.equal(first.fold, other.fold)
    # What a group is called and in which order its samples come does not matter to whether they part.
    unit = Folds.draw(24, 3, groups=GROUPS * 10 + 1, generator=seeded()).unit_of
    assert torch.equal(unit, Folds.draw(24, 3, groups=GROUPS, generator=seeded()).unit_of)


def test_folds_are_drawn_evenly():
    """Over many seeds each problem is as often in one fold as in another, and sits with any other one time in four."""
    drawn = torch.stack([Folds.draw(9, 3, generator=seeded(seed)).fold for seed in range(3000)])
    shares = torch.stack([(drawn == f).double().mean(dim=0) for f in range(3)])
    assert float((shares - 1 / 3).abs().max()) < 5 * (2 / 9 / 3000) ** 0.5
    together = float((drawn[:, 0] == drawn[:, 5]).double().mean())
    assert together == pytest.approx(2 / 8, abs=5 * (3 / 16 / 3000) ** 0.5)


def test_cover_is_a_loop_over_turns():
    folds = Folds.draw(12, 3, generator=seeded(2))
    valid = torch.rand(200, 12, generator=seeded(5)) < 0.6
    expected = [
        all(any(row[i] for i in part.tolist()) for split in folds for part in (split.train, split.choose, split.test))
        for row in valid.tolist()
    ]
    assert folds.cover(valid).tolist() == expected
    assert 0 < sum(expected) < 200
    assert folds.cover(valid.reshape(2, 100, 12)).shape == (2, 100)


def test_another_estimator_cross_fits_with_them():
    """Least squares: a held-out residual has the closed form (I - H_tt)^-1 e_t, H the hat matrix of all problems."""
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(24), rng.normal(size=(24, 3))])
    y = x @ np.array([1.0, -2.0, 0.5, 3.0]) + rng.normal(size=24)
    hat = x @ np.linalg.solve(x.T @ x, x.T)
    for split in Folds.draw(24, 4, groups=GROUPS, generator=seeded(7)):
        fitted, test = np.concatenate([split.train.numpy(), split.choose.numpy()]), split.test.numpy()
        weights = np.linalg.lstsq(x[fitted], y[fitted], rcond=None)[0]
        closed = np.linalg.solve(np.eye(len(test)) - hat[np.ix_(test, test)], (y - hat @ y)[test])
        np.testing.assert_allclose(y[test] - x[test] @ weights, closed, rtol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"count": 1}, "folds >= 2, a whole number, received 1"),
        ({"count": 25}, "a problem or more for each of 25 folds, received 24"),
        ({"count": 19, "groups": GROUPS}, "a group or more for each of 19 folds, received 18"),
        (
            {"groups": GROUPS[1:]},
            r"groups as an integer tensor of shape \(24,\), received torch.int64 of shape \(23,\)",
        ),
        ({"groups": GROUPS / 2}, r"groups as an integer tensor of shape \(24,\), received torch.float32"),
    ],
)
def test_what_cannot_be_folded_is_refused(arguments, text):
    with pytest.raises(InputError, match=f"^Folds: expected {text}"):
        Folds.draw(24, generator=seeded(), **arguments)
