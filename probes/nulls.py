"""What scores would look like by chance: the same steps against answers of other problems.

1. `null_scores`: the score of every step with each of K other answers, the step factorised once; 2. `null_test`:
p-values per step and per trajectory, familywise over its steps by the maximum; 3. over layers too:
:func:`probes.many_tests.holm_over_layers`.

The null hypothesis of a step: its scores with the true answer and with the K others are exchangeable, as they are when
the true answer was drawn like the others and the step knows nothing of it. So the others should be matched (same last
token, for example), or the test finds the mismatch. The smallest p is 1 / (K + 1).

Source: Westfall & Young 1993 (maximum statistic); Phipson & Smyth 2010 (the observed one counts among the nulls).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.checks import check_finite, check_max_bytes, check_tensor
from probes.chunks import DEFAULT_MAX_BYTES
from probes.errors import InputError
from probes.kernel import Kernel
from probes.scoring import paired_scores

__all__ = [
    "NullTest",
    "null_scores",
    "null_test",
    "random_answers",
]


def null_scores(
    steps: Tensor,
    answers: Tensor,
    *,
    sigma: float | int | str = 50.0,
    eps: float | int = 1e-5,
    drop_top: int = 0,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Float64[Tensor, "*lead null step"]:
    """nHSIC of `steps [*lead, step, d_model]` with each of `answers [*lead, null, d_model]`, leading axes alike.

    >>> steps, answers = torch.arange(24.0).sin().reshape(2, 3, 4) * 30, torch.arange(72.0).cos().reshape(2, 9, 4) * 30
    >>> null_scores(steps, answers).shape
    torch.Size([2, 9, 3])

    Each step is factorised once for all answers; with `drop_top` once for each, since an answer takes out its own
    coordinates. Equal to `nhsic` with one answer at a time. Unit, options, errors and source as for `nhsic`.
    """
    check_max_bytes("null_scores", max_bytes)
    kernel = Kernel(sigma, eps, drop_top=drop_top, operation="null_scores")
    kernel.check_answer(answers, axes=("null", "d_model"), name="answers")
    lead = tuple(answers.shape[:-2])
    if isinstance(steps, Tensor) and steps.shape[:-2] != lead:
        raise InputError(
            "null_scores",
            expected=f"answers with the leading axes {tuple(steps.shape[:-2])} of the steps",
            received=f"answers of shape {tuple(answers.shape)}",
            remedy="steps is [*lead, step, d_model], answers is [*lead, null, d_model].",
        )
    kernel.check_steps(steps, lead, answers.shape[-1])
    return paired_scores(steps[..., None, :, :], answers, kernel, max_bytes=max_bytes)[0]


def random_answers(answer: Tensor, count: int, generator: torch.Generator) -> Float64[Tensor, "*lead null d_model"]:
    """Gaussian directions of the norm of `answer [*lead, d_model]`, `count` for each: a floor for the null.

    >>> drawn = random_answers(torch.tensor([3.0, 4.0]), 2, torch.Generator().manual_seed(0))
    >>> [round(norm, 12) for norm in drawn.norm(dim=-1).tolist()]
    [5.0, 5.0]

    No answer of a model looks like these (no massive activations, no shared direction): a score that does not exceed
    them means nothing, one that does may still mean little. Drawn on the generator's device, in float64,
    so that norms are equal to rounding. Raises `InputError` for count < 1 and for NaN or inf.
    """
    check_tensor("random_answers", "answer", answer, axes=("d_model",))
    if count < 1:
        raise InputError("random_answers", expected="count >= 1", received=repr(count), remedy="99 allow p = 0.01.")
    *lead, d_model = answer.shape
    draws = torch.randn(*lead, count, d_model, dtype=torch.float64, device=generator.device, generator=generator)
    draws = draws.to(answer.device)
    norm = torch.linalg.vector_norm(answer.detach().double(), dim=-1)[..., None, None]
    return draws.mul_(norm / torch.linalg.vector_norm(draws, dim=-1, keepdim=True))


@dataclass(frozen=True)
class NullTest:
    """P-values of one trajectory per leading index. Made by `null_test`, which says what each is.

    `null_mean`, `null_sd` and `z` describe the K nulls of a step (sd with K - 1): z = (observed - mean) / sd, in null
    standard deviations, NaN where the nulls do not vary. `null_max` is each null's maximum over steps of the statistic.
    """

    p_step: Float64[Tensor, "*lead step"]
    p_family: Float64[Tensor, "*lead step"]
    p_trajectory: Float64[Tensor, "*lead"]
    null_mean: Float64[Tensor, "*lead step"]
    null_sd: Float64[Tensor, "*lead step"]
    null_max: Float64[Tensor, "*lead null"]
    z: Float64[Tensor, "*lead step"]


def null_test(observed: Tensor, null: Tensor, statistic: str = "score") -> NullTest:
    """Which of the `observed [*lead, step]` scores exceed what the K answers of `null [*lead, null, step]` give.

    >>> null = torch.rand(99, 6, generator=torch.Generator().manual_seed(0))
    >>> test = null_test(torch.tensor([0.5, 0.5, 0.5, 2.0, 0.5, 0.5]), null)
    >>> test.p_family[3].item(), test.p_trajectory.item()
    (0.01, 0.01)

    `p_step` = (1 + #{k: null_k(t) >= observed(t)}) / (K + 1), for a step chosen beforehand. `p_family` compares with
    the maximum over steps, max_t' null_k(t'): the chance that any step rises so high, valid for the step picked because
    it is highest. `p_trajectory` is the smallest `p_family`. Ties count as exceeding. All use one set of nulls across
    the steps, so the dependence between steps is kept.

    "score" takes the maximum of the scores. "standardised" first centres and scales each step by the mean and sd of
    its K + 1 scores, the observed one among them: exchangeability survives, and steps of a low level count as much as
    those of a high one. A step whose K + 1 scores are all equal gets p = 1 there.

    Raises `InputError` for NaN or inf, K < 1, shapes that do not fit and an unknown statistic.
    Source: Westfall & Young 1993; Phipson & Smyth 2010, Permutation p-values should never be zero.
    """
    if statistic not in ("score", "standardised"):
        raise InputError(
            "null_test", expected='"score" or "standardised"', received=repr(statistic), remedy="Choose one."
        )
    _check_scores("null_test", "observed", observed, min_axes=1)
    fits = isinstance(null, Tensor) and null.ndim == observed.ndim + 1 and null.shape[-2] > 0
    if not (fits and (*null.shape[:-2], null.shape[-1]) == tuple(observed.shape)):
        shape = f"shape {tuple(null.shape)}" if isinstance(null, Tensor) else type(null).__name__
        layout = ", ".join([*map(str, observed.shape[:-1]), "null", str(observed.shape[-1])])
        raise InputError(
            "null_test",
            expected=f"null of shape [{layout}] with at least one null",
            received=shape,
            remedy="Give null_scores of the same steps with other answers.",
        )
    _check_scores("null_test", "null", null, min_axes=2)
    seen, others = observed.detach().double(), null.detach().double()
    n_null = others.shape[-2]

    def p_value(exceeding: Tensor) -> Tensor:
        return (1 + exceeding.sum(dim=-2)).double() / (n_null + 1)

    p_step = p_value(others >= seen[..., None, :])
    mean, sd = _moments(others, correction=1)
    x, y = seen, others
    if statistic == "standardised":
        pool = torch.cat([seen[..., None, :], others], dim=-2)
        pool_mean, pool_sd = _moments(pool, correction=0)
        # A constant step is out of every maximum; being -inf itself it is exceeded by all, so its p is 1.
        pool = torch.where(
            pool_sd[..., None, :] > 0, (pool - pool_mean[..., None, :]) / pool_sd[..., None, :], -math.inf
        )
        x, y = pool[..., 0, :], pool[..., 1:, :]
    null_max = y.amax(dim=-1)
    p_family = p_value(null_max[..., :, None] >= x[..., None, :])
    return NullTest(
        p_step=p_step,
        p_family=p_family,
        p_trajectory=p_family.amin(dim=-1),
        null_mean=mean,
        null_sd=sd,
        null_max=null_max,
        z=torch.where(sd > 0, (seen - mean) / sd, math.nan),
    )


def _moments(pool: Tensor, *, correction: int) -> tuple[Tensor, Tensor]:
    """Mean and sd over the second last axis; equal values have an sd of exactly 0, a single one none (NaN)."""
    mean = pool.mean(dim=-2)
    total = (pool - mean[..., None, :]).square().sum(dim=-2)
    sd = (
        (total / (pool.shape[-2] - correction)).sqrt()
        if pool.shape[-2] > correction
        else torch.full_like(mean, math.nan)
    )
    return mean, torch.where(pool.amax(dim=-2) == pool.amin(dim=-2), 0.0 * sd, sd)


def _check_scores(operation: str, name: str, x: Tensor, *, min_axes: int) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < min_axes or x.numel() == 0:
        received = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            operation,
            expected=f"{name} as a floating tensor with at least one step",
            received=received,
            remedy="Give the scores of nhsic and null_scores.",
        )
    check_finite(operation, name, x, "Leave undefined steps out before testing.")
