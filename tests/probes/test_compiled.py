"""Compiled code and torch say what the formula says; what compiled code makes of a step hangs on that step alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
from vectors import correlated

import probes
from probes import compiled, compiling, expansion, kernel_cka, lowrank, nhsic, nhsic_dense, null_scores
from probes.answers import factor_answers
from probes.compiled_steps import CompiledSteps
from probes.expansion import base_point
from probes.kernel import Kernel
from probes.lowrank import factorise
from probes.scoring import nhsic_with


def steps_of(d: int, scale: float, *, seed: int = 0, n: int = 5) -> torch.Tensor:
    return correlated(n, d, seed=seed, scale=scale, massive=3 if d >= 32 else 0)


@pytest.mark.parametrize("scale", [1e-5, 0.3, 5.0, 40.0, 150.0])
@pytest.mark.parametrize("d", [16, 17, 100, 255, 256, 257, 520])
def test_scores_are_those_of_the_dense_formula(road, d, scale):
    """Blocks of 256 coordinates end before, at and after the last one; wide vectors leave compiled code for another."""
    steps = steps_of(d, scale)
    for answer in (steps[1], correlated(1, d, seed=9, scale=12.0)[0]):
        torch.testing.assert_close(nhsic(steps, answer), nhsic_dense(steps, answer), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "options", [{"sigma": "median"}, {"sigma": 8.0}, {"eps": 1e-2}, {"eps": 1e-6}, {"drop_top": 3}]
)
def test_options_mean_the_same(road, options):
    steps, answer = steps_of(120, 6.0), correlated(1, 120, seed=3, scale=9.0, massive=2)[0]
    torch.testing.assert_close(
        nhsic(steps, answer, **options), nhsic_dense(steps, answer, **options), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("count", [1, 3, 4, 5, 30])
def test_many_answers_are_as_good_as_one(road, count):
    """Up to four of them products are with features, beyond with what these are brought down to."""
    steps, answers = steps_of(150, 6.0, n=40), steps_of(150, 8.0, seed=7, n=count)
    found = nhsic_with(steps, factor_answers(answers))
    for row, answer in zip(found, answers, strict=True):
        torch.testing.assert_close(row, nhsic_dense(steps, answer), rtol=0, atol=1e-9)


def test_each_step_with_answers_of_its_own(road):
    """Trajectories of one step that meet one, two or no other's answer go through one call."""
    steps, answers = steps_of(64, 6.0, n=6)[:, None], steps_of(64, 9.0, seed=5, n=6)
    found = nhsic_with(steps, factor_answers(answers))
    pairs = nhsic_with(steps[None], factor_answers(torch.stack([answers, answers.flip(0)])))
    for n in range(6):
        torch.testing.assert_close(found[n], nhsic_dense(steps[n], answers[n]), rtol=0, atol=1e-9)
        torch.testing.assert_close(pairs[1, n], nhsic_dense(steps[n], answers[5 - n]), rtol=0, atol=1e-9)


def test_factors_rebuild_the_kernel_and_no_more_rows_than_it_takes(road):
    for d, scale in ((40, 2.0), (300, 6.0), (300, 30.0)):
        x = steps_of(d, scale, seed=2)
        u = x[:, :, None] - x[:, None]
        kernel = torch.expm1(-u.square() / 5000)
        kernel = kernel - kernel.mean(dim=1, keepdim=True)
        kernel = kernel - kernel.mean(dim=2, keepdim=True)
        p = factorise(x)
        assert p.mean(dim=2).abs().max() < 1e-12
        left = (kernel - p.mT @ p).diagonal(dim1=1, dim2=2).sum(dim=1)
        assert bool((left.abs() <= 1e-10 * 1e-5 * d * d + 1e-12 * d).all())
        values = torch.linalg.eigvalsh(kernel[0]).flip(0)
        enough = int((values.flip(0).cumsum(0).flip(0) > 1e-10 * 1e-5 * d).sum())
        assert p.shape[1] <= enough + 6


def test_constant_vectors_score_nothing_and_kernel_cka_knows_no_ridge(road):
    steps = torch.cat([steps_of(90, 5.0, n=2), torch.full((1, 90), 7.0)])
    answer = steps_of(90, 9.0, seed=4, n=1)[0]
    assert nhsic(steps, answer)[2] == 0
    cka = kernel_cka(steps[:2], answer)
    k, l_ = (torch.expm1(-((v[:, None] - v) ** 2) / 5000) for v in (steps[0], answer))
    h = torch.eye(90, dtype=torch.float64) - 1 / 90
    k, l_ = h @ k.double() @ h, h @ l_.double() @ h
    torch.testing.assert_close(cka[0], (k * l_).sum() / (k.norm() * l_.norm()), rtol=0, atol=1e-9)


def test_a_step_does_not_hang_on_those_beside_it():
    """To the last bit, whoever is beside it, however many and in whatever order; on one thread and on two."""
    x = torch.cat([steps_of(200, scale, seed=seed, n=30) for seed, scale in enumerate((1e-3, 2.0, 8.0, 25.0))]).float()
    answers = factor_answers(steps_of(200, 9.0, seed=8, n=2))
    many = factor_answers(steps_of(200, 9.0, seed=8, n=12))
    for factor in (answers, many):
        whole = nhsic_with(x, factor)
        for rows in (torch.tensor([3]), torch.arange(33), torch.arange(119, -1, -1), torch.tensor([50, 119, 0])):
            assert torch.equal(nhsic_with(x[rows], factor), whole[:, rows])
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            assert torch.equal(nhsic_with(x.repeat(12, 1), factor), whole.repeat(1, 12))
        finally:
            torch.set_num_threads(before)
    whole = factorise(x)
    for n in (0, 50, 119):
        alone = factorise(x[n])
        assert torch.equal(alone, whole[n, : len(alone)])
        assert bool((whole[n, len(alone) :] == 0).all())


@pytest.mark.parametrize(
    "x", [[0.0] * 40, [1.0] * 20 + [-1.0] * 20, list(range(-20, 20)), [0.0] * 39 + [1e30], [9.0, -3.5] * 100]
)
def test_the_farthest_coordinates(x):
    values = np.array([x], dtype=float)
    u, sizes, places = np.empty_like(values), np.empty((1, 7)), np.empty((1, 7), np.int64)
    compiled.in_units(values, 1.0, u, sizes, places)
    base = float(base_point(torch.from_numpy(values)))
    assert u[0].tolist() == (values[0] - base).tolist()
    assert sizes[0].tolist() == sorted(np.abs(u[0]).tolist(), reverse=True)[:7]
    assert len(set(places[0].tolist())) == 7
    assert np.abs(u[0])[places[0]].tolist() == sizes[0].tolist()


def test_both_roads_cut_at_the_same_place():
    assert compiled._FARTHEST == expansion.FARTHEST


def test_massive_coordinates_that_coincide():
    """What the features leave among them is then of lower rank than they are many."""
    steps = steps_of(128, 4.0)
    steps[:, :6] = torch.tensor([700.0, 700.0, 700.0, -300.0, -300.0, 450.0], dtype=torch.float64)
    answer = steps_of(128, 9.0, seed=4, n=1)[0]
    found, fits = CompiledSteps.of(steps.clone(), Kernel(), compiled)
    assert found is not None
    assert fits is None
    assert (found.steps[3] > 0).all()
    torch.testing.assert_close(nhsic(steps, answer), nhsic_dense(steps, answer), rtol=0, atol=1e-9)


def test_without_numba_or_where_it_may_not_compile_torch_does_it(monkeypatch):
    script = (
        "import torch\n"
        "from probes.compiling import kernels\n"
        "from probes.hsic import nhsic\n"
        "assert kernels() is None\n"
        "x = torch.arange(1200.0).sin().reshape(6, 200) * 30\n"
        "print(nhsic(x, x[0]).tolist())\n"
    )
    x = torch.arange(1200.0).sin().reshape(6, 200) * 30
    forbidden = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    absent = "import sys; sys.modules['numba'] = None\n" + script
    for code, environment in ((script, forbidden), (absent, dict(os.environ))):
        told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found = torch.tensor(json.loads(told.stdout), dtype=torch.float64)
        torch.testing.assert_close(found, probes.nhsic(x, x[0]), rtol=0, atol=1e-11)


def test_code_from_the_disk_rounds_as_it_did_when_it_was_compiled(tmp_path):
    """A run that is resumed meets code from the disk, where the process that began it had compiled it."""
    script = (
        "import sys; sys.path.insert(0, 'tests/probes')\n"
        "from hashlib import sha256\n"
        "from vectors import correlated\n"
        "from probes.answers import factor_answers\n"
        "from probes.scoring import nhsic_with\n"
        "x = correlated(40, 128, seed=0, scale=6.0, massive=3)\n"
        "for n in (1, 7):\n"
        "    factor = factor_answers(x[:n])\n"
        "    for found in (factor.whitened, nhsic_with(x, factor)):\n"
        "        print(sha256(found.contiguous().numpy().tobytes()).hexdigest())\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    told = []
    for kept in (False, True):
        assert any(tmp_path.rglob("*.nbc")) is kept
        ran = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        told.append(ran.stdout.split())
    assert len(told[0]) == 4
    assert told[0] == told[1]


def test_where_nothing_can_be_kept_it_is_compiled_for_this_process(monkeypatch):
    asked = []

    def njit(**options):
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert compiling.compiled(steps_of) is steps_of
    assert [options.get("cache", False) for options in asked] == [True, False]


@pytest.mark.parametrize("trouble", ["full", "cut off"])
def test_where_the_disk_fails_it_is_compiled_for_this_process(tmp_path, trouble):
    script = (
        "import resource, sys, warnings\n"
        "import numpy as np\n"
        "from probes import compiled\n"
        "if sys.argv[1] == 'full': resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "x, u, sizes = np.array([[3.0, -5.0]]), np.empty((1, 2)), np.empty((1, 1))\n"
        "places = np.empty((1, 1), np.int64)\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(2): compiled.in_units(x, 2.0, u, sizes, places)\n"
        "print(u.tolist(), *(str(one.message)[:25] for one in told))\n"
    )

    def run(how: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", script, how], env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    if trouble == "cut off":
        assert run("whole") == "[[4.0, 0.0]]"
        for kept in [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]:
            kept.write_bytes(kept.read_bytes()[:9])
    assert run("full" if trouble == "full" else "whole") == "[[4.0, 0.0]] compiled code cannot be k"


def test_nulls_and_their_scores_are_alike_on_both_roads(monkeypatch):
    steps, answers = steps_of(160, 6.0, n=20), steps_of(160, 8.0, seed=7, n=25)
    ours = null_scores(steps, answers)
    monkeypatch.setattr(lowrank, "kernels", lambda: None)
    torch.testing.assert_close(null_scores(steps, answers), ours, rtol=0, atol=1e-9)
    assert compiling.kernels() is compiled
