"""Other answers' references, beside which every response is scored: what of its peaks is about its own answer.

1. Which: other answers whose reference ends on the same kind of token, nearly the same set for all problems
   (:meth:`analyses.trace.wrong_answers.WrongAnswers.alike`), from a pool that the run keeps (``others.jsonl``).
2. Each reference is read and factorised once, for whichever response meets it.
3. A response's steps are scored with its own reference and with the others in one call, while it is decoded; those of
   a run that is asked later, or for more layers, from reading it once more.

What comes of it is :func:`probes.excess`. It is on unless turned off, descriptive, and no test: that is the null's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from analyses.problems import Problem
from analyses.store.pinned import read_pinned
from analyses.trace.wrong_answers import Drawn, WrongAnswers, pool_pins, pool_told, read_pool, shuffled
from interp.errors import InputError
from interp.reading import encode
from interp.record import ResidualSites
from probes import excess
from probes.answers import AnswerFactor, factor_answers
from probes.scoring import nhsic_with

if TYPE_CHECKING:
    from analyses.trace.tracer import Tracer

__all__ = [
    "DEFAULT_OTHERS",
    "OTHERS_FILE",
    "OtherReferences",
    "other_references",
    "pinned_others",
]

DEFAULT_OTHERS = 20
"""References of other answers in a new run: their mean is known to a fifth of their spread, for less than a fifth more
time."""

OTHERS_FILE = "others.jsonl"
MAX_BYTES = 2**29  # factors held for all responses of a run
_AT_ONCE = 2**26  # bytes of factors that some rows of a batch meet at once
_POOL = 10  # problems kept for each reference: kinds of ends, and answers that are the same, leave fewer
_SEED = 0


class OtherReferences:
    """References of other answers, for one model, read and factorised once."""

    def __init__(self, tracer: Tracer, pool: Sequence[Problem], count: int) -> None:
        self.tracer, self.count = tracer, count
        self.wrong = WrongAnswers(tracer, pool, count, "kind", _SEED)
        self.known: dict[str, int] = {}  # the row of each reference that was read
        self.vectors: dict[int, Float[Tensor, "other d_model"]] = {}  # by layer
        self.factors: dict[tuple[int, torch.device], AnswerFactor] = {}

    @property
    def pins(self) -> dict[str, Any]:
        """What ``run.json`` holds of them."""
        return {"references": self.count, "pool": self.wrong.pins}

    def keep(self, folder: Path) -> None:
        """Write the pool into a run's folder, unless it is there."""
        self.wrong.keep(folder, OTHERS_FILE)

    def drawn(self, problem: str) -> Drawn:
        """The other answers of a traced problem: fewer than asked, or none, where the pool has no more."""
        return self.wrong.alike(problem)

    def told(self, problem: str, layers: Sequence[int]) -> dict[str, Any]:
        """What a cell says of them: which they are, and what was asked at which layers."""
        drawn = self.drawn(problem)
        return {
            "excess": self.wanted(layers), "excess_problems": list(drawn.problems), "excess_matched": drawn.matched,
        }  # fmt: skip

    def wanted(self, layers: Sequence[int]) -> dict[str, Any]:
        """What a cell is to say that was asked."""
        return {**self.pins, "layers": sorted(layers)}

    def read(self, problems: Sequence[str], layers: Sequence[int]) -> None:
        """Read what these problems need and what was not read yet; before decoding, which a model cannot be read in."""
        names = dict.fromkeys(name for problem in problems for name in self.drawn(problem).problems)
        if any(layer not in self.vectors for layer in layers) and self.known:
            # Other layers than before: all of the references anew, at all layers asked so far
            names, self.known = dict.fromkeys([*self.known, *names]), {}
            self.factors.clear()
        wanted = sorted({*self.vectors, *layers})
        new = [name for name in names if name not in self.known]
        if not new:
            return
        site = self.tracer.options.site
        texts = [self.wrong.reference(name) for name in new]
        record = ResidualSites(layers=tuple(wanted), sites=(site,))
        read = encode(self.tracer.model, texts, record=record, last_only=True)
        rows = torch.stack([encoding.residuals[site][:, 0].cpu() for encoding in read])  # [new, layer, d_model]
        for place, layer in enumerate(wanted):
            before = [self.vectors[layer]] if self.known else []
            self.vectors[layer] = torch.cat([*before, rows[:, place]])
        self.known |= {name: len(self.known) + place for place, name in enumerate(new)}

    def scored(
        self,
        problems: Sequence[str],
        layers: Sequence[int],
        steps: Float[Tensor, "row layer step d_model"],
        own: Float[Tensor, "row layer d_model"],
    ) -> list[dict[str, Float64[Tensor, "layer step"]]]:
        """What a cell keeps of each row: the scores ``mi`` with its own reference, and the excess over the others."""
        if steps.device.type == "mps":  # which has no float64
            steps, own = steps.cpu(), own.cpu()
        self.read(problems, layers)
        names = [self.drawn(problem).problems for problem in problems]
        most = 1 + max(map(len, names))
        found = torch.empty(len(problems), len(layers), most, steps.shape[2], dtype=torch.float64, device=steps.device)
        for place, layer in enumerate(layers):
            mine = factor_answers(own[:, place], **self._kernel)
            shared = self._factor(layer, names, steps.device)
            every = mine if shared is None else mine.beside(shared[0])
            rows = [] if shared is None else [[len(mine.whitened) + shared[1][name] for name in some] for some in names]
            # Shorter rows are filled up with their own reference, and cut below
            index = torch.tensor([[i, *some, *[i] * (most - 1 - len(some))] for i, some in enumerate(rows)])
            index = index if len(index) else torch.arange(len(names))[:, None]
            size = max(1, _AT_ONCE // (most * every.whitened[0].nbytes))
            for begin in range(0, len(index), size):
                some_rows = slice(begin, begin + size)
                found[some_rows, place] = nhsic_with(steps[some_rows, place, None], every.chosen(index[some_rows]))
        return [_kept(one[:, 0].cpu(), one[:, 1 : 1 + len(some)].cpu()) for one, some in zip(found, names, strict=True)]

    @property
    def _kernel(self) -> dict[str, Any]:
        options = self.tracer.options
        return {"sigma": options.sigma, "eps": options.eps, "drop_top": options.drop_top}

    def _factor(
        self, layer: int, names: Sequence[Sequence[str]], device: torch.device
    ) -> tuple[AnswerFactor, Mapping[str, int]] | None:
        """The factors of a layer and the row of each reference in them; held as long as those of all layers fit."""
        if not self.known or not any(names):
            return None
        vectors, held = self.vectors[layer], self.factors.get((layer, device))
        have = 0 if held is None else len(held.whitened)
        if have < len(vectors):
            new = factor_answers(vectors[have:].to(device), **self._kernel)
            whole = new if held is None else held.beside(new)
            if whole.whitened.nbytes * len(self.vectors) > MAX_BYTES:
                some = sorted({name for row in names for name in row})
                part = vectors[[self.known[name] for name in some]].to(device)
                return factor_answers(part, **self._kernel), {name: row for row, name in enumerate(some)}
            held = self.factors[layer, device] = whole
        assert held is not None
        return held, self.known


def _kept(own: Float64[Tensor, "layer step"], others: Float64[Tensor, "layer other step"]) -> dict[str, Tensor]:
    found = excess(own, others)
    return {
        "mi": own,
        "excess:difference": found.difference,
        "excess:standardised": found.standardised,
        "excess:as_high": found.as_high,
    }


def other_references(
    tracer: Tracer, out: Path, asked: int | None, make_pool: Callable[[int], Sequence[Problem]]
) -> OtherReferences | None:
    """What responses of a trace into ``out`` are scored beside; None without.

    A run keeps what it began with. Unless asked otherwise a new run has `DEFAULT_OTHERS`, and one that was begun
    without has none. ``make_pool`` is told how many problems are enough.

    Raises:
        InputError: another number than the run's own; a pool that is gone.
    """
    settings = read_pinned(out)["settings"] if (out / "run.json").is_file() else {}
    # A folder without cells takes corrected settings
    begun = any((out / "cells").glob("*/*/*.safetensors"))
    pinned = settings.get("excess") if begun else None
    if pinned:
        if asked and asked != pinned["references"]:
            raise InputError(
                "trace",
                expected=f"the {pinned['references']} references of other answers that {out} was begun with",
                received=f"excess={asked}",
                remedy="Leave it out, or choose another folder.",
            )
        return pinned_others(tracer, out, pinned)
    count = (0 if begun else DEFAULT_OTHERS) if asked is None else asked
    if not count:
        return None
    pool = sorted(make_pool(_POOL * count), key=lambda problem: shuffled(_SEED, problem.id))[: _POOL * count]
    return OtherReferences(tracer, pool, count)


def pinned_others(tracer: Tracer, folder: Path, pinned: Mapping[str, Any]) -> OtherReferences:
    """From the pool that a run keeps.

    Raises:
        InputError: it is no longer there, or another.
    """
    file = folder / OTHERS_FILE
    pool = read_pool(file) if file.is_file() else None
    if pool is None or pool_pins(pool) != pinned["pool"]:
        raise InputError(
            "trace",
            expected=f"{file} with the problems whose references this run is scored beside, "
            f"{pool_told(pinned['pool'])}",
            received="no such file" if pool is None else f"another pool, {pool_told(pool_pins(pool))}",
            remedy="Restore the file from a copy, or choose another folder.",
        )
    return OtherReferences(tracer, pool, pinned["references"])
