"""Which problem each response answers, and which of its samples it is.

1. With a problem file, the problem is that of the response's id, else that of its question, else that whose prompt the
   response was given. An id under which the file has another question names another problem, and is not taken.
2. Without one, problems are what the responses say: the question (or the prompt), and a gold answer or solution.
   Responses of one id, or without ids of one question, are samples of one problem.
3. Samples are numbered as the file numbers them, the others in their order.

What cannot be paired is told with its place; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from analyses.problems import Problem, problem_of
from analyses.responses.files import Responses
from analyses.responses.stored import Stored
from analyses.store.run import Cell
from interp.errors import InputError

__all__ = ["Paired", "pair"]

_OPERATION = "pair responses"


@dataclass(frozen=True)
class Paired:
    """Responses by the cell that each becomes, with their problems.

    Attributes:
        refused: what became no cell, by a cell that names its place, with the reason.
        sources: as of :class:`analyses.responses.Responses`.
    """

    problems: tuple[Problem, ...]
    stored: Mapping[Cell, Stored]
    refused: Mapping[Cell, str]
    sources: tuple[Mapping[str, object], ...] = field(default=())

    def first(self, n: int | None) -> Paired:
        """Those of the first ``n`` problems (all at None)."""
        if n is None or n >= len(self.problems):
            return self
        problems = self.problems[:n]
        names = {problem.id for problem in problems}
        stored = {cell: one for cell, one in self.stored.items() if cell.problem in names}
        return Paired(problems, stored, self.refused, self.sources)


def pair(
    responses: Responses,
    problems: Sequence[Problem] | None = None,
    prompt_of: Callable[[Problem], tuple[int, ...]] | None = None,
    text_of: Callable[[tuple[int, ...]], str] = lambda ids: "",
) -> Paired:
    """Pair responses with problems, or make these of what the responses say.

    >>> from analyses.responses.files import Responses
    >>> said = [Stored(f"line {n}", "rows", question="2 + 2?", text=text, answer="4") for n, text in enumerate("45", 1)]
    >>> found = pair(Responses(tuple(said), {}, ()))
    >>> [problem.answer for problem in found.problems], list(found.stored)[1]
    (['4'], Cell(condition='baseline', problem='0', sample=1))

    Args:
        prompt_of: the token ids that a model is given for a problem; text_of: the text of token ids, special tokens
            written out. For responses that have but the prompt.

    Raises:
        InputError: no response can be paired, with the first reason.
    """
    refused = {Cell(place): why for place, why in responses.refused.items()}
    known = _Known(problems, prompt_of, text_of) if problems is not None else _Made(responses.sources)
    found: list[tuple[Stored, Problem]] = []
    for one in responses.stored:
        try:
            found.append((one, known.problem(one)))
        except InputError as error:
            refused[Cell(one.where)] = str(error)
    taken: dict[Cell, Stored] = {}
    for one, problem in found:  # those that are numbered first, so that no other takes their place
        if one.sample is not None:
            cell = Cell(problem.id, one.sample)
            if cell in taken:
                refused[Cell(one.where)] = str(
                    _refused(
                        _OPERATION,
                        expected="one response of each number",
                        received=f"sample {one.sample} of problem {problem.id!r} again (first: {taken[cell].where})",
                        remedy="Number the samples, or leave the number out.",
                    )
                )
            else:
                taken[cell] = one
    free: dict[str, int] = {}
    for one, problem in found:
        if one.sample is None:
            number = free.get(problem.id, 0)
            while Cell(problem.id, number) in taken:
                number += 1
            taken[Cell(problem.id, number)] = one
            free[problem.id] = number + 1
    names = dict.fromkeys(problem.id for _, problem in found)
    by_id = {problem.id: problem for _, problem in found}
    if not taken:
        place, why = next((cell.problem, why) for cell, why in refused.items())
        raise _refused(
            _OPERATION,
            expected="responses to known problems",
            received=f"none, first {place}: {why}",
            remedy="See docs/RESPONSES.md.",
        )
    order = {name: place for place, name in enumerate(names)}
    cells = sorted(taken, key=lambda cell: (order[cell.problem], cell.sample))
    return Paired(
        tuple(by_id[name] for name in names), {cell: taken[cell] for cell in cells}, refused, responses.sources
    )


class _Made:
    """Problems made of what responses say."""

    def __init__(self, sources: Sequence[Mapping[str, object]]) -> None:
        self.sources = sources
        self.by_id: dict[str, tuple[Problem, Stored]] = {}
        self.by_question: dict[str, str] = {}

    def problem(self, one: Stored) -> Problem:
        question = one.asked if one.asked is not None else one.prompt
        if question is None:
            raise _refused(
                _OPERATION,
                expected="a question, or a problem file that has it",
                received="a response without one",
                remedy="Pass --problems FILE (problems=), with ids or prompts that are those of the responses.",
            )
        identity = one.id if one.id is not None else self.by_question.get(_plain(question))
        identity = str(len(self.by_id)) if identity is None else identity
        known = self.by_id.get(identity)
        if known is not None and _plain(known[0].question) != _plain(question):
            if known[1].source == one.source:
                raise _refused(
                    _OPERATION,
                    expected="one question under each id",
                    received=f"another one under {identity!r}, first in {known[1].where}",
                    remedy="Give the problems ids of their own.",
                )
            # Files that both number their rows
            identity = f"{self.sources[one.source]['file']}:{identity}"
            known = self.by_id.get(identity)
        if known is not None:
            return known[0]
        if not one.answer.strip() and not one.solution.strip():
            raise _refused(
                _OPERATION,
                expected="a gold answer or a solution, or a problem file that has it",
                received="a response without one",
                remedy="Pass --problems FILE (problems=), or put the answer beside the response.",
            )
        problem = problem_of(identity, question, one.solution, one.answer, one.where)
        self.by_id[identity] = problem, one
        if one.id is None:
            self.by_question[_plain(question)] = identity
        return problem


class _Known:
    """Problems of a file."""

    def __init__(
        self,
        problems: Sequence[Problem],
        prompt_of: Callable[[Problem], tuple[int, ...]] | None,
        text_of: Callable[[tuple[int, ...]], str],
    ) -> None:
        self.problems, self.prompt_of, self.text_of = problems, prompt_of, text_of
        self.by_id = {problem.id: problem for problem in problems}
        self.by_question = {_plain(problem.question): problem for problem in reversed(problems)}
        self._by_prompt: dict[object, Problem] | None = None

    def problem(self, one: Stored) -> Problem:
        asked = one.asked
        named = self.by_id.get(one.id) if one.id is not None else None
        # A question may stand within a longer message: then the id is to be believed
        if named is not None and (asked is None or _plain(named.question) in _plain(asked)):
            return named
        found = self.by_question.get(_plain(asked)) if asked is not None else None
        found = found or self._prompted(one)
        if found is not None:
            return found
        if named is not None:
            received = f"id {one.id!r} beside another question, which the problem file does not have"
        else:
            received = "one whose id, question and prompt are none of the problem file's"
        raise _refused(
            _OPERATION,
            expected="a response to a problem of the problem file",
            received=received,
            remedy="Give both the same ids.",
        )

    def _prompted(self, one: Stored) -> Problem | None:
        """The problem whose prompt, as the model is given it, the response came from."""
        if self.prompt_of is None or (one.prompt_ids is None and one.prompt is None):
            return None
        if self._by_prompt is None:
            self._by_prompt = {}
            for problem in reversed(self.problems):
                try:
                    known = tuple(self.prompt_of(problem))
                except InputError:
                    continue  # told where the problem itself is taken
                self._by_prompt |= {known: problem, self.text_of(known).strip(): problem}
        ids = None if one.prompt_ids is None else tuple(one.prompt_ids)
        keys = (ids, None if one.prompt is None else one.prompt.strip())
        return next((self._by_prompt[key] for key in keys if key in self._by_prompt), None)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _refused(operation: str, *, expected: str, received: str, remedy: str) -> InputError:
    return InputError(operation, expected=expected, received=received[:400], remedy=remedy)
