r"""Wrong answers: whose answer a response is scored against to see what a peak would be worth by chance.

1. The pool is a list of problems. It belongs to the run: pinned by a digest in ``run.json``, kept whole in
   ``pool.jsonl``, so that a run that grows draws from the pool it began with, whatever became of the problem file.
2. A wrong answer is *another* answer: its gold answer differs (``18``, ``18.0`` and ``\boxed{18}`` do not, see
   :func:`answer_keys`), and its reference is another text. A reference that says the same is no null.
3. Its reference ends like the problem's own, or the null would be beaten by whatever tells the end. In this order, each
   as far as there are any: on the same **token**; on the same kind of token after the same token **before** it; on the
   same **kind** of token (:func:`token_kind`); on **none** of these. Where the last token *is* the answer, as on the
   toys, no wrong answer ends on the same token, and the second is the closest there can be. Where references are read
   at the position that predicts the answer, they end on the answer's first token, after the one that has been read.
4. Which are drawn depends on the seed, the problem and the pool alone. No two of them have the same reference.

Source: the null of Westfall & Young 1993 asks for exchangeable answers; matching is what makes them so.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.grading import decide
from analyses.grading.numbers import read_number
from analyses.grading.spelling import bare, clean, spelling
from analyses.problems import Problem
from analyses.store.atomic import disk_errors, locked, replacing
from analyses.store.columns import CLOSENESS, SIGNIFICANT, is_void
from analyses.store.pinned import read_pinned, write_pinned
from analyses.store.shards import any_cells
from analyses.token_kinds import token_kind, token_kinds
from analyses.trace.provenance import RunWarning
from analyses.trace.references import Reference, reference_from
from interp.errors import InputError
from interp.passes import check_context
from probes.many_tests import nulls_needed, smallest_p

if TYPE_CHECKING:
    from analyses.trace.probing import Probing
    from analyses.trace.tracer import Tracer

__all__ = [
    "POOL_FILE",
    "Drawn",
    "WrongAnswers",
    "answer_keys",
    "forget_void_null",
    "pinned_wrong_answers",
    "pool_pins",
    "pool_told",
    "read_pool",
    "shuffled",
    "token_kind",
    "wrong_answers",
]

POOL_FILE = "pool.jsonl"


@dataclass(frozen=True)
class Drawn:
    """The wrong answers of one problem.

    Attributes:
        problems: ids of the problems of the pool that they are the answers of.
        matched: how many end how, by the names in ``CLOSENESS``.
        answers: how many different gold answers they have.
    """

    problems: tuple[str, ...]
    matched: dict[str, int]
    answers: int


class WrongAnswers:
    """Draws wrong answers from a pool, for one model and one kind of reference."""

    def __init__(
        self,
        tracer: Tracer,
        pool: Sequence[Problem],
        count: int,
        match: str,
        seed: int,
        position: str | None = None,
        like: WrongAnswers | None = None,
    ) -> None:
        """`position` of the references, the run's own unless given; `like` has encoded the same pool already."""
        self.tracer, self.count, self.match, self.seed, self._like = tracer, count, match, seed, like
        self.position = position or tracer.options.reference_position
        self.pool = {problem.id: problem for problem in sorted(pool, key=lambda problem: problem.id)}
        self.pins = pool_pins(self.pool.values())
        self._drawn: dict[str, Drawn] = {}

    def drawn(self, problem: str) -> Drawn:
        """The wrong answers of a traced problem.

        Raises:
            InputError: the pool has too few.
        """
        if problem not in self._drawn:
            self._drawn[problem] = self._draw(self.tracer.problems[problem], self.tracer.references[problem])
        return self._drawn[problem]

    def keep(self, folder: Path, name: str = POOL_FILE) -> None:
        """Write the pool into a run's folder, unless it is there."""
        file = folder / name
        if not file.is_file() or pool_pins(read_pool(file)) != self.pins:
            with (
                disk_errors("write pool", file, "Free some space, then run again."),
                replacing(file) as temporary,
                temporary.open("w", encoding="utf-8") as lines,
            ):
                lines.writelines(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in self.pool.values())

    def reference(self, name: str) -> list[int]:
        """Token ids of the reference of a problem of the pool, up to where it is read."""
        return self._encoded[name].read(self.position)

    def alike(self, problem: str) -> Drawn:
        """Wrong answers whose reference ends on the same kind of token, the same for all problems as far as can be.

        They are the first of one order of the pool that are wrong answers to the problem: nearly one set of references
        serves all problems, so that reading them costs little. Where there are fewer, as many as there are.
        """
        if problem not in self._drawn:
            asked, reference = self.tracer.problems[problem], self.tracer.references[problem]
            own = answer_keys(asked.answer)
            chosen: list[int] = []
            closeness = self._closeness(asked, reference, own)
            for place in self._order:
                if len(chosen) == self.count:
                    break
                if 0 <= closeness[place] < CLOSENESS.index("none") and not self._agree(asked.answer, own, place):
                    chosen.append(place)
            self._drawn[problem] = self._as_drawn(chosen, closeness)
        return self._drawn[problem]

    def _draw(self, problem: Problem, reference: Reference) -> Drawn:
        dice = random.Random(f"{self.seed}:{problem.id}")
        own = answer_keys(problem.answer)
        closeness = self._closeness(problem, reference, own)
        chosen: list[int] = []
        tiers = [closeness >= 0] if self.match == "none" else [closeness == tier for tier in range(len(CLOSENESS))]
        for tier in tiers:
            left = np.flatnonzero(tier).tolist()
            while left and len(chosen) < self.count:
                some = dice.sample(left, min(self.count - len(chosen), len(left)))
                chosen += [place for place in some if not self._agree(problem.answer, own, place)]
                gone = set(some)
                left = [place for place in left if place not in gone]
        if len(chosen) < self.count:
            raise InputError(
                "trace",
                expected=f"{self.count} other problems to take wrong answers from, each with another answer than "
                f"problem {problem.id!r} and another reference",
                received=f"{len(chosen)} in a pool of {len(self.pool)} problems",
                remedy="Lower --null, or give a larger problem file (all of it is used, whatever --n is).",
            )
        return self._as_drawn(chosen, closeness)

    def _as_drawn(self, chosen: list[int], closeness: np.ndarray) -> Drawn:
        kinds = closeness[chosen].tolist()
        return Drawn(
            tuple(self._names[place] for place in chosen),
            {name: kinds.count(tier) for tier, name in enumerate(CLOSENESS)},
            len({self._keys[place] for place in chosen}),
        )

    def _closeness(self, problem: Problem, reference: Reference, own: frozenset[Hashable]) -> np.ndarray:
        """For each reference of the pool its place in ``CLOSENESS``, -1 where it is no wrong answer."""
        last, before = reference.end(self.position)
        kind = self._kind(last)
        lasts, befores, kinds = self._ends
        alike = kinds == kind
        found = np.where(lasts == last, 0, np.where(alike & (befores == before), 1, np.where(alike, 2, 3)))
        for key in own:
            found[self._by_key.get(key, [])] = -1
        if (same := self._places.get(tuple(reference.read(self.position)))) is not None:
            found[same] = -1
        return found

    def _agree(self, answer: str, own: frozenset[Hashable], place: int) -> bool:
        """Whether the grader takes one answer for the other; whole numbers are told apart by their keys."""
        if _WHOLE in own and _WHOLE in self._keys[place]:
            return False
        others = [self.pool[name].answer for name in self._alike[place]]
        return any(decide(answer, other) or decide(other, answer) for other in others)

    @cached_property
    def _encoded(self) -> dict[str, Reference]:
        """References that can be read at the position; a problem of the pool without one is no wrong answer."""
        found = self.readable if self._like is None else self._like.readable
        return {name: one for name, one in found.items() if one.place(self.position) is not None}

    @cached_property
    def readable(self) -> dict[str, Reference]:
        """References that the model can read."""
        tracer, found = self.tracer, {}
        for name, problem in self.pool.items():
            try:
                text = tracer.options.reference_of(problem)
                reference = reference_from(tracer.model.tokenizer, text, problem.answer, tracer.facts, "trace")
                check_context([reference.ids], 0, tracer.facts, "trace")
            except InputError:
                continue
            found[name] = reference
        return found

    @cached_property
    def _alike(self) -> list[list[str]]:
        """Ids of the pool, those with the very same reference together."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for name, reference in self._encoded.items():
            groups.setdefault(tuple(reference.read(self.position)), []).append(name)
        return list(groups.values())

    @cached_property
    def _names(self) -> list[str]:
        return [names[0] for names in self._alike]

    @cached_property
    def _order(self) -> list[int]:
        """The places of the pool in the one order of the seed."""
        return sorted(range(len(self._names)), key=lambda place: shuffled(self.seed, self._names[place]))

    @cached_property
    def _places(self) -> dict[tuple[int, ...], int]:
        return {tuple(self.reference(name)): place for place, name in enumerate(self._names)}

    @cached_property
    def _keys(self) -> list[frozenset[Hashable]]:
        return [frozenset().union(*(answer_keys(self.pool[name].answer) for name in names)) for names in self._alike]

    @cached_property
    def _by_key(self) -> dict[Hashable, list[int]]:
        places = defaultdict(list)
        for place, keys in enumerate(self._keys):
            for key in keys - {_WHOLE}:
                places[key].append(place)
        return places

    @cached_property
    def _ends(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The token at which each reference ends, the one before it, and the kind of the first (`Reference.end`)."""
        ends = [self._encoded[name].end(self.position) for name in self._names]
        lasts, befores = np.array(ends, dtype=np.int64).reshape(-1, 2).T
        kinds = {last: self._kind(last) for last in set(lasts.tolist())}
        return lasts, befores, np.array([kinds[last] for last in lasts.tolist()], dtype=object)

    def _kind(self, token: int) -> str:
        return token_kinds(self.tracer.model.tokenizer, [token])[0]


def shuffled(seed: int, name: str) -> str:
    """What to sort by for a shuffled order in which a problem has its place whatever others there are."""
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogatepass")).hexdigest()


_WHOLE = "a whole number without a unit"  # a mark among the keys, not one of them


@lru_cache(maxsize=2**16)  # each run asks for those of its whole pool
def answer_keys(answer: str) -> frozenset[Hashable]:
    r"""What an answer says, in the grader's spellings: two answers that share a key are taken for the same.

    >>> answer_keys("18") == answer_keys("18.0") == answer_keys(r"\boxed{18}"), bool(answer_keys("1/2") & {0.5})
    (True, True)

    A number has its value as key (a percentage also a hundredth of it: ``50%`` may be meant by ``50`` and by ``0.5``),
    an equation that of its last side too, everything else its spelling. Formulas that differ in form alone differ here.
    """
    cleaned = clean(answer)
    found: set[Hashable] = set()
    for part in {cleaned, cleaned.rpartition("=")[2].strip()}:
        number = read_number(part)
        if number is not None:
            found |= {number.value, number.value / 100} if number.percent else {number.value}
            if number.value.denominator == 1 and not (number.percent or number.unit or number.base):
                found.add(_WHOLE)
        else:
            # A choice is the same with and without parentheses
            choice = re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", bare(part))
            found.add(choice[1].upper() if choice else spelling(part).casefold())
    return frozenset(found or {answer.strip()})


def wrong_answers(
    tracer: Tracer, out: Path, probing: Probing, make_pool: Callable[[], Sequence[Problem]]
) -> WrongAnswers | None:
    """What a trace into ``out`` is to draw from, before anything is pinned or decoded; None without a null.

    Raises:
        InputError: too few for one of the problems, or for so many layers; another pool than the run's own; a run whose
            null is void.

    Warns:
        RunWarning: the run grows by layers beyond what its null can tell.
    """
    forget_void_null(out, asked=bool(probing.null))
    settings = read_pinned(out)["settings"] if (out / "run.json").is_file() else {}
    # A folder without cells takes corrected settings
    has_cells = any_cells(out)
    null = (settings.get("null") or {}) if has_cells else {}
    before = settings.get("layers", ()) if has_cells else ()
    _check_reach(out, probing.null, null.get("null", 0), len(before), len({*before, *tracer.layers}))
    if probing.null:
        wrong = WrongAnswers(tracer, make_pool(), probing.null, probing.null_match, probing.null_seed)
        if null and null["null_pool"] != wrong.pins:
            raise InputError(
                "trace",
                expected=f"the pool that {out} takes wrong answers from, {pool_told(null['null_pool'])}",
                received=f"one of {pool_told(wrong.pins)}",
                remedy="Leave the null out: the run keeps its pool and scores new responses against it. For another "
                "pool choose another folder.",
            )
    elif null:
        wrong = pinned_wrong_answers(tracer, out, null)
    else:
        return None
    # Problems of the run were found to have enough when they came into it
    asked_before = null and (not probing.null or null == probing.pins(wrong.pins)["null"])
    known = settings.get("problems", {}) if asked_before else {}
    for name in tracer.problems:
        if name not in known:
            wrong.drawn(name)
    return wrong


def _check_reach(out: Path, asked: int, has: int, layers_before: int, layers: int) -> None:
    """Refuse a null with which nothing can be found over so many layers; one that a run has already is told of."""
    count = asked or has
    if not count or smallest_p(count, layers) <= SIGNIFICANT:
        return
    needed = nulls_needed(layers, SIGNIFICANT)
    if count == has:
        if layers_before < layers:
            warnings.warn(
                f"{out} has {has} wrong answers a response: with {layers} layers no peak can reach p = {SIGNIFICANT} "
                f"(Holm over layers). That takes {needed}, in another folder",
                RunWarning,
                stacklevel=3,
            )
        return
    enough = int(SIGNIFICANT * (count + 1) * (1 + 1e-12))
    raise InputError(
        "trace",
        expected=f"at least {needed} wrong answers for {layers} layers, so that a peak can reach p = {SIGNIFICANT} "
        "(Holm over layers)",
        received=f"null={count}, with which no p is below {smallest_p(count, layers):.2g}",
        remedy=f"Give --null {needed}, or score fewer layers (--layers): {count} do for {enough}.",
    )


def pinned_wrong_answers(tracer: Tracer, folder: Path, null: Mapping[str, Any]) -> WrongAnswers:
    """From the pool that a run keeps.

    Raises:
        InputError: it is no longer there, or another.
    """
    file, pins = folder / POOL_FILE, null["null_pool"]
    pool = read_pool(file) if file.is_file() else None
    if pool is None or pool_pins(pool) != pins:
        raise InputError(
            "trace",
            expected=f"{file} with the problems that this run takes wrong answers from, {pool_told(pins)}",
            received="no such file" if pool is None else f"another pool, {pool_told(pool_pins(pool))}",
            remedy=f"Give --null {null['null']} and the problem file that it was asked with: the pool is kept anew.",
        )
    return WrongAnswers(tracer, pool, null["null"], null["null_match"], null["null_seed"])


def pool_pins(pool: Iterable[Problem]) -> dict[str, Any]:
    """What a run pins of its pool, the same in whatever order it is given."""
    lines = sorted(f"{problem.id}\0{problem.digest}" for problem in pool)
    return {"problems": len(lines), "digest": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]}


def pool_told(pins: Mapping[str, Any]) -> str:
    return f"{pins['problems']} problems ({pins['digest']})"


def read_pool(file: Path) -> list[Problem]:
    try:
        return [Problem(**json.loads(line)) for line in file.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError, TypeError):
        return []  # another pool than any run's


def forget_void_null(folder: Path, asked: bool) -> None:
    """Unpin a null of earlier versions where a new one is asked for; its numbers are made anew, nothing is decoded.

    Raises:
        InputError: none is asked for, so that the void one would be extended.
    """
    if not (folder / "run.json").is_file() or not is_void(read_pinned(folder)["settings"]):
        return
    if not asked:
        raise InputError(
            "trace",
            expected="a null whose wrong answers are other answers",
            received=f"{folder}, whose null an earlier version made: its wrong answers could be right ones",
            remedy="Give --null K once more: finished responses are read again for it, none is decoded again.",
        )
    with disk_errors("start run", folder, "Choose a folder that can be written."), locked(folder / ".lock"):
        pinned = read_pinned(folder)
        pinned["settings"].pop("null", None)
        write_pinned(folder, pinned)
