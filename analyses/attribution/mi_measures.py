"""Measures by name, as functions of a stream that can be differentiated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from interp.arguments import as_list
from interp.errors import InputError
from probes.integrated import Differentiable
from probes.scale import sigma_of
from probes.score_functions import KINDS, score_function
from probes.similarity import SCORES

__all__ = ["DEFAULT_MEASURES", "measures_of"]

#: The score, its robust form, a plain one; and what is about this answer, where there are others.
DEFAULT_MEASURES = ("nhsic", "nhsic/drop4", "r2")
_AGAINST_OTHERS = ("nhsic excess", "nhsic standardised")
_NAME = re.compile(r"(?P<score>\w+)(?:@(?P<sigma>[^/ ]+))?(?:/drop(?P<drop>\d+))?(?: (?P<kind>\w+))?")
_WITH_KERNEL = ("nhsic", "cka")


def measures_of(
    wanted: Any, answer: Tensor, others: Tensor | None, *, sigma: float | int | str, eps: float | int
) -> list[Differentiable]:
    """The measures that were asked for, or the usual ones.

    >>> import torch
    >>> answer, others = torch.arange(8.0).sin() * 30, torch.arange(24.0).cos().reshape(3, 8) * 30
    >>> [measure.name for measure in measures_of(None, answer, others, sigma=50.0, eps=1e-5)]
    ['nhsic', 'nhsic/drop4', 'r2', 'nhsic excess', 'nhsic standardised']
    """
    if wanted is None:
        # Of two others the standard deviation is 0 somewhere on most lines between streams.
        wanted = DEFAULT_MEASURES + (() if others is None or len(others) < 3 else _AGAINST_OTHERS)
    listed: Sequence[Any] = [wanted] if isinstance(wanted, Differentiable) else as_list(
        wanted, "mi_attribution", "measures", "names or functions with gradients"
    )  # fmt: skip
    found = [_measure(one, answer, others, sigma, eps) for one in listed]
    names = [measure.name for measure in found]
    if not names or len(set(names)) < len(names):
        _refuse("measures, each once", str(names))
    return found


def _measure(wanted: Any, answer: Tensor, others: Tensor | None, sigma: Any, eps: Any) -> Differentiable:
    if not isinstance(wanted, str):
        if not isinstance(wanted, Differentiable):
            _refuse("a measure by name, or an object with name, unit, value and gradient", repr(wanted)[:80])
        return wanted
    match = _NAME.fullmatch(wanted)
    score, kind = (match["score"], match["kind"] or "score") if match else ("", "")
    width = match["sigma"] if match else None
    if match is None or score not in SCORES or kind not in KINDS or (width and score not in _WITH_KERNEL):
        _refuse(f"measures like nhsic, nhsic/drop4, nhsic@median, nhsic excess; of {', '.join(SCORES)}", repr(wanted))
        raise AssertionError
    if kind != "score" and others is None:
        _refuse(f"references of other answers for {wanted}", "none")
    sigma = sigma_of("mi_attribution", width) if width else sigma
    found = score_function(
        score, answer, others=others, kind=kind, sigma=sigma, eps=eps, drop_top=int(match["drop"] or 0)
    )
    return replace(found, name=wanted) if width else found  # another bandwidth than the others' is told


def _refuse(expected: str, received: str) -> None:
    raise InputError(
        "mi_attribution",
        expected=expected,
        received=received,
        remedy="Name measures, give others, or pass a ProbeScore of answer_probe.",
    )
