"""Other answers' references, beside which every response is scored: what of its peaks is about its own answer.

1. Which: other answers whose reference ends on the same kind of token, nearly the same set for all problems
   (:meth:`analyses.trace.wrong_answers.WrongAnswers.alike`), from a pool that the run keeps (``others.jsonl``).
2. Each reference is read and factorised once, for whichever response meets it; at both positions
   (:mod:`analyses.trace.references`), the run's own and the one *beside* it, in one pass.
3. A response's steps are scored with its own reference and with the others, at both positions, in one call, while it is
   decoded; those of a run that is asked later, or for more layers, from reading it once more.

What comes of it is :func:`probes.excess`. It is on unless turned off, descriptive, and no test: that is the null's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from analyses.problems import Problem
from analyses.store.pinned import read_pinned
from analyses.store.shards import any_cells
from analyses.trace.references import other_position
from analyses.trace.wrong_answers import Drawn, WrongAnswers, pool_pins, pool_told, read_pool, shuffled
from interp.encoding import encode
from interp.errors import InputError
from interp.record import ResidualSites
from probes import excess
from probes.answers import AnswerFactor, CentredAnswers, centred_answers, factor_answers
from probes.scoring import nhsic_with

if TYPE_CHECKING:
    from analyses.trace.tracer import Tracer

__all__ = [
    "DEFAULT_OTHERS",
    "OTHERS_FILE",
    "OtherReferences",
    "OwnReferences",
    "factors_alone",
    "most_of_pool",
    "other_references",
    "pinned_others",
]

DEFAULT_OTHERS = 20
"""References of other answers in a new run: their mean is known to a fifth of their spread, for less than a fifth more
time."""

OTHERS_FILE = "others.jsonl"
MAX_BYTES = 2**29  # factors held for all responses of a run
_OWN_BYTES = 2**26  # centred factors held of a batch's own references
_AT_ONCE = 2**26  # bytes of factors that some rows of a batch meet at once
_POOL = 10  # problems kept for each reference: kinds of ends, and answers that are the same, leave fewer
_SEED = 0


class OtherReferences:
    """References of other answers, for one model, read and factorised once."""

    def __init__(self, tracer: Tracer, pool: Sequence[Problem], count: int, beside: str | None = None) -> None:
        self.tracer, self.count = tracer, count
        self.positions = (tracer.options.reference_position, *([] if beside is None else [beside]))
        first = WrongAnswers(tracer, pool, count, "kind", _SEED)
        self.wrong = {self.positions[0]: first} | {
            position: WrongAnswers(tracer, pool, count, "kind", _SEED, position, first)
            for position in self.positions[1:]
        }
        self.known: dict[str, int] = {}  # the row of each reference that was read
        self.vectors: dict[tuple[str, int], Float[Tensor, "other d_model"]] = {}  # by position and layer
        self.factors: dict[tuple[str, int, torch.device], AnswerFactor] = {}
        self.ranks: dict[tuple[str, int, torch.device], list[int]] = {}  # of each row of them

    @property
    def pins(self) -> dict[str, Any]:
        """What ``run.json`` holds of them."""
        beside = {"beside": self.positions[1]} if self.positions[1:] else {}
        return {"references": self.count, "pool": self.wrong[self.positions[0]].pins, **beside}

    def keep(self, folder: Path) -> None:
        """Write the pool into a run's folder, unless it is there."""
        self.wrong[self.positions[0]].keep(folder, OTHERS_FILE)

    def drawn(self, problem: str, position: str | None = None) -> Drawn:
        """The other answers of a traced problem: fewer than asked, or none, where the pool has no more.

        None either where its own reference has no such position.
        """
        position = position or self.positions[0]
        if self.tracer.references[problem].place(position) is None:
            return Drawn((), {}, 0)
        return self.wrong[position].alike(problem)

    def told(self, problem: str, layers: Sequence[int]) -> dict[str, Any]:
        """What a cell says of them: which they are, and what was asked at which layers."""
        drawn, more = self.drawn(problem), {}
        for position in self.positions[1:]:
            reference = self.tracer.references[problem]
            why = "" if reference.place(position) is not None else reference.why
            others = list(self.drawn(problem, position).problems)
            more = {"excess_beside": {"position": position, "problems": others, "why": why}}
        return {
            "excess": self.wanted(layers), "excess_problems": list(drawn.problems), "excess_matched": drawn.matched,
            **more,
        }  # fmt: skip

    def wanted(self, layers: Sequence[int]) -> dict[str, Any]:
        """What a cell is to say that was asked."""
        return {**self.pins, "layers": sorted(layers)}

    def read(self, problems: Sequence[str], layers: Sequence[int]) -> None:
        """Read what these problems need and what was not read yet; before decoding, which a model cannot be read in."""
        names = dict.fromkeys(
            name for place in self.positions for problem in problems for name in self.drawn(problem, place).problems
        )
        if any((self.positions[0], layer) not in self.vectors for layer in layers) and self.known:
            # Other layers than before: all of the references anew, at all layers asked so far
            names, self.known = dict.fromkeys([*self.known, *names]), {}
            self.factors.clear()
            self.ranks.clear()
        wanted = sorted({*(layer for _, layer in self.vectors), *layers})
        new = [name for name in names if name not in self.known]
        if not new:
            return
        site = self.tracer.options.site
        texts = [self.wrong[self.positions[0]].readable[name] for name in new]
        # One without a position is drawn for none there: its last token fills the row
        places = [[-1 if (at := text.place(p)) is None else at for p in self.positions] for text in texts]
        longest = [len(text.ids) if -1 in some else max(some) + 1 for text, some in zip(texts, places, strict=True)]
        record = ResidualSites(layers=tuple(wanted), sites=(site,))
        cut = [text.ids[:length] for text, length in zip(texts, longest, strict=True)]
        # One at a time, as the own ones are: what is found does not depend on which others are read
        read = encode(self.tracer.model, cut, record=record, positions=places, batch_size=1)
        rows = torch.stack([encoding.residuals[site].cpu() for encoding in read])  # [new, layer, position, d_model]
        for row, layer in enumerate(wanted):
            for number, position in enumerate(self.positions):
                before = [self.vectors[position, layer]] if self.known else []
                self.vectors[position, layer] = torch.cat([*before, rows[:, row, number]])
        self.known |= {name: len(self.known) + place for place, name in enumerate(new)}

    def scored(
        self,
        problems: Sequence[str],
        layers: Sequence[int],
        steps: Float[Tensor, "row layer step d_model"],
        own: OwnReferences,
        rows: Sequence[int],
    ) -> list[dict[str, Float64[Tensor, "layer step"]]]:
        """What a cell keeps of each row: the scores ``mi`` with its own reference, and the excess over the others.

        ``rows`` are those of ``own`` that the steps are of.
        """
        if steps.device.type == "mps":  # which has no float64
            steps = steps.cpu()
        self.read(problems, layers)
        met = [_Met([self.drawn(problem, position).problems for problem in problems]) for position in self.positions]
        most = sum(one.width for one in met)
        found = torch.empty(len(problems), len(layers), most, steps.shape[2], dtype=torch.float64, device=steps.device)
        for place, layer in enumerate(layers):
            every: AnswerFactor | None = None
            index: list[Tensor] = []
            rank = 1
            for number, (position, one) in enumerate(zip(self.positions, met, strict=True)):
                factor = own.factor(rows, number, place)
                begin = 0 if every is None else len(every.whitened)
                shared = self._factor(position, layer, one.names, steps.device)
                index.append(begin + one.rows(len(factor.whitened), {} if shared is None else shared[1]))
                rank = max(rank, factor.whitened.shape[1])
                if shared is not None:
                    rank = max(rank, *(shared[2][shared[1][name]] for names in one.names for name in names))
                    factor = factor.beside(shared[0])
                every = factor if every is None else every.beside(factor)
            assert every is not None
            # Only as many rows as these references have: the shape, and so the rounding, is that of this batch alone
            every = replace(every, whitened=every.whitened[:, :rank])
            chosen = torch.cat(index, dim=1)
            size = max(1, _AT_ONCE // (most * every.whitened[0].nbytes))
            for begin in range(0, len(chosen), size):
                some = slice(begin, begin + size)
                found[some, place] = nhsic_with(steps[some, place, None], every.chosen(chosen[some]))
        return [
            self._kept(one.cpu(), met, n, own.undefined[row])
            for n, (row, one) in enumerate(zip(rows, found, strict=True))
        ]

    def own(self, answers: Float[Tensor, "row position layer d_model"]) -> OwnReferences:
        """The own references of some responses, as :meth:`scored` takes them."""
        return OwnReferences(answers, self.tracer.kernel)

    def _kept(
        self, scores: Float64[Tensor, "layer met step"], met: Sequence[_Met], row: int, undefined: Sequence[bool]
    ) -> dict[str, Tensor]:
        """The tensors of a row: of the run's own position by plain names, of the one beside it by its name."""
        kept: dict[str, Tensor] = {}
        for position, one, lacks in zip(self.positions, met, undefined, strict=True):
            own, others = scores[:, 0], scores[:, 1 : 1 + len(one.names[row])]
            scores, found = scores[:, one.width :], excess(own, others)
            if position == self.positions[0]:
                kept |= {
                    "mi": own, "excess:difference": found.difference, "excess:standardised": found.standardised,
                    "excess:as_high": found.as_high,
                }  # fmt: skip
                continue
            nothing = torch.full_like(own, torch.nan)
            kept[f"excess:{position}_difference"] = nothing if lacks else found.difference
            kept[f"excess:{position}_standardised"] = nothing if lacks else found.standardised
        return kept

    def _factor(
        self, position: str, layer: int, names: Sequence[Sequence[str]], device: torch.device
    ) -> tuple[AnswerFactor, Mapping[str, int], Sequence[int]] | None:
        """The factors of a layer, the row of each reference in them, and the rank of each row.

        They are held as long as those of all layers fit.
        """
        if not self.known or not any(names):
            return None
        vectors, held = self.vectors[position, layer], self.factors.get((position, layer, device))
        have = 0 if held is None else len(held.whitened)
        if have < len(vectors):
            new = factors_alone(vectors[have:].to(device), **self.tracer.kernel)
            whole = reduce(AnswerFactor.beside, new if held is None else [held, *new])
            ranks = [*self.ranks.get((position, layer, device), ()), *(one.whitened.shape[1] for one in new)]
            if whole.whitened.nbytes * len(self.vectors) > MAX_BYTES:
                some = sorted({name for row in names for name in row})
                part = vectors[[self.known[name] for name in some]].to(device)
                alone = factor_answers(part, **self.tracer.kernel)
                return alone, {name: row for row, name in enumerate(some)}, [alone.whitened.shape[1]] * len(some)
            held = self.factors[position, layer, device] = whole
            self.ranks[position, layer, device] = ranks
        assert held is not None
        return held, self.known, self.ranks[position, layer, device]


class OwnReferences:
    """The own references of some responses, centred once, whichever of the responses are scored together."""

    def __init__(self, answers: Float[Tensor, "row position layer d_model"], kernel: Mapping[str, Any]) -> None:
        if answers.device.type == "mps":  # which has no float64
            answers = answers.cpu()
        lacks = answers.isnan()
        #: Of each row and position, whether the reference has none such: nothing is drawn for it.
        self.undefined: list[list[bool]] = lacks.any(dim=-1).any(dim=-1).tolist()
        self.answers, self.kernel = torch.where(lacks, answers[:, :1], answers), kernel
        self.held: dict[tuple[int, int], CentredAnswers] = {}

    def factor(self, rows: Sequence[int], position: int, layer: int) -> AnswerFactor:
        """Those of some rows, by the numbers of position and layer; the same to the last bit as of them alone."""
        centred = self.held.get((position, layer))
        if centred is None:
            answers = self.answers[:, position, layer]
            if sum(one.nbytes for one in self.held.values()) > _OWN_BYTES:
                return factor_answers(answers[list(rows)], **self.kernel)
            centred = self.held[position, layer] = centred_answers(answers, **self.kernel)
        return centred.whitened(rows)


def factors_alone(answers: Float[Tensor, "answer d_model"], **kernel: Any) -> list[AnswerFactor]:
    """The factor of each, the same to the last bit as if it had been factorised alone.

    >>> vectors = torch.arange(48.0).cos().reshape(3, 16) * 30
    >>> torch.equal(factors_alone(vectors)[1].whitened, factor_answers(vectors[1:2]).whitened)
    True
    """
    centred = centred_answers(answers, **kernel)
    return [centred.whitened([row]) for row in range(len(answers))]


@dataclass(frozen=True)
class _Met:
    """The references that each row meets at one position: its own, then the named others."""

    names: Sequence[Sequence[str]]

    @property
    def width(self) -> int:
        return 1 + max(map(len, self.names))

    def rows(self, own: int, known: Mapping[str, int]) -> Int64[Tensor, "row met"]:
        """Their places among the own references and then the others; short rows are filled up with their own."""
        listed = [[own + known[name] for name in names] for names in self.names]
        return torch.tensor([[i, *some, *[i] * (self.width - 1 - len(some))] for i, some in enumerate(listed)])


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
    begun = any_cells(out)
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
    most = most_of_pool(count)
    pool = sorted(make_pool(most), key=lambda problem: shuffled(_SEED, problem.id))[:most]
    options = tracer.options
    beside = None if options.reference == "answer" else other_position(options.reference_position)
    return OtherReferences(tracer, pool, count, beside)


def most_of_pool(count: int) -> int:
    """How many problems a run keeps to draw so many references from.

    >>> most_of_pool(20)
    200
    """
    return _POOL * count


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
    return OtherReferences(tracer, pool, pinned["references"], pinned.get("beside"))
