"""L-BFGS for many small smooth objectives at once, without state between calls."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["PAIRS", "Objective", "minimise"]

#: Steps and changes of gradient that are kept.
PAIRS = 8

#: Value `[place, fit]` and gradient `[place, fit, weight]` at some weights.
Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


def minimise(
    objective_of: Callable[[Tensor], Objective],
    w: Float[Tensor, "place fit weight"],
    inverse: Float[Tensor, "place fit weight"],
    *,
    iterations: int,
    tolerance: float,
) -> Float[Tensor, "place fit weight"]:
    """L-BFGS for many objectives at once, [place, fit] of them, each with its own step length.

    One evaluation an iteration: a trial that does not lower its objective enough is taken back and tried again at half
    the length, while the others go on. Fits that are done in all places leave: where about `tolerance` is left to gain,
    or after `iterations`. `inverse` is the first guess of the inverse second derivative; `objective_of` gives the
    objectives of the fits of the given numbers.

    >>> target = torch.tensor([[[1.0, 2.0], [3.0, -4.0]]])  # one place, two fits
    >>> def objective_of(fits):
    ...     return lambda w: (((w - target[:, fits]) ** 2).sum(dim=-1), 2 * (w - target[:, fits]))
    >>> start, options = torch.zeros(1, 2, 2), {"iterations": 20, "tolerance": 1e-9}
    >>> minimise(objective_of, start, torch.ones(1, 2, 2), **options).round().tolist()
    [[[1.0, 2.0], [3.0, -4.0]]]

    Source: Nocedal & Wright 2006, algorithm 7.4 and the condition of Armijo.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=-1, keepdim=True)

    out, fits = w.clone(), torch.arange(w.shape[1], device=w.device)
    objective = objective_of(fits)
    value, gradient = objective(w)
    value = value[..., None]
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    gamma = torch.ones_like(value)
    length = torch.ones_like(value)
    for _ in range(iterations):
        direction, alphas = gradient.clone(), []
        for s, t, rho in reversed(pairs):
            alphas.append(rho * dot(s, direction))
            direction.addcmul_(alphas[-1], t, value=-1)
        direction *= inverse * gamma
        for (s, t, rho), alpha in zip(pairs, reversed(alphas), strict=True):
            direction.addcmul_(alpha - rho * dot(t, direction), s)
        slope = dot(gradient, direction)  # the decrease to come is about half of it
        running = slope > 2 * tolerance
        alive = running.any(dim=0)[:, 0]
        if not bool(alive.all()):
            out[:, fits] = w
            fits = fits[alive]
            if len(fits) == 0:
                return out
            objective = objective_of(fits)
            w, value, gradient, gamma, length, direction, slope, running, inverse = (
                v[:, alive] for v in (w, value, gradient, gamma, length, direction, slope, running, inverse)
            )
            pairs = [(s[:, alive], t[:, alive], rho[:, alive]) for s, t, rho in pairs]
        move = -length * running * direction
        trial_value, trial_gradient = objective(w + move)
        drop = value - trial_value[..., None]
        # Float32 cannot tell smaller changes of the objective from rounding.
        taken = running & (drop >= 1e-4 * length * slope - 1e-6 * value.abs())
        move = move * taken
        change = (trial_gradient - gradient) * taken
        bend = dot(move, change)
        # Curvature must be positive for the update to keep a descent direction; otherwise the pair counts for nothing.
        useful = bend > 1e-8 * (dot(move, move) * dot(change, change)).sqrt()
        rho = torch.where(useful, 1 / bend, 0.0)
        gamma = torch.where(useful, bend / dot(change, inverse * change), gamma)
        pairs = [*pairs, (move, change, rho)][-PAIRS:]
        w, gradient, value = w + move, gradient + change, value - torch.where(taken, drop, 0.0)
        length = torch.where(taken, 1.0, length / 2)
    out[:, fits] = w
    return out
