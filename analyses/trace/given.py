"""Responses that exist, as a trace takes them: paired with problems, turned into the model's tokens, by cell.

1. `paired_responses` reads files and pairs their responses with problems, or makes problems of what they say.
2. `given_responses` makes tokens of them. What fits neither context nor vocabulary is told by its cell, the rest is
   taken.
3. A run of such responses pins the tokens of each (`Givens.pins`), so that one that changed in the file is refused by
   name, and says which files they came from. What only decoding has (temperature, seed, the token limit) it
   does not pin: nobody here knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from analyses.problems import Problem, bundled_problems, load_problems
from analyses.responses import Given, Paired, Responses, given_response, load_responses, pair
from analyses.store.run import Cell
from analyses.trace.prompting import prompt_for
from analyses.trace.settings import TraceSettings
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.foreign import decode_text
from interp.loading.models import BUNDLED
from interp.prompts import encode_prompt
from interp.types import Bridge

__all__ = ["DECODING", "GivenFrom", "Givens", "given_responses", "paired_responses", "settings_without_decoding"]

DECODING = ("max_new_tokens", "temperature", "top_p", "seed")
"""Settings of decoding, which a run of given responses has none of."""

GivenFrom: TypeAlias = "str | Path | Sequence[str | Path] | Responses | Paired"


@dataclass(frozen=True)
class Givens:
    """Responses as tokens, by the cell that each becomes.

    Attributes:
        refused: cells whose response cannot be read, or places that hold none, each with the reason.
        sources: the files, for ``run.json``.
    """

    by_cell: Mapping[Cell, Given] = field(default_factory=dict)
    refused: Mapping[Cell, str] = field(default_factory=dict)
    sources: tuple[Mapping[str, Any], ...] = ()

    def cells(self, problem: str) -> list[Cell]:
        """The cells of a problem."""
        return self._of.get(problem, [])

    def __post_init__(self) -> None:
        of: dict[str, list[Cell]] = {}
        for cell in self.by_cell:
            of.setdefault(cell.problem, []).append(cell)
        object.__setattr__(self, "_of", of)

    _of: Mapping[str, list[Cell]] = field(init=False, repr=False, default_factory=dict)

    @property
    def pins(self) -> dict[str, Any]:
        """What ``run.json`` holds of them; both grow with the run."""
        return {
            "responses": {f"{cell.problem}/{cell.sample}": given.digest for cell, given in self.by_cell.items()},
            "responses_from": [dict(source) for source in self.sources],
        }


def paired_responses(
    responses: GivenFrom, problems: str | Path | Sequence[Problem] | None, model: Bridge, options: TraceSettings
) -> Paired:
    """Responses with their problems: those of a file or a list, of the toys for a toy, else what the responses say.

    Raises:
        InputError: nothing can be read, or paired.
    """
    if isinstance(responses, Paired):
        return responses
    found = responses if isinstance(responses, Responses) else load_responses(responses)
    tokenizer, facts = model.tokenizer, model_facts(model)
    known: Sequence[Problem] | None = None
    if problems is not None:
        known = load_problems(problems) if isinstance(problems, str | Path) else list(problems)
    elif facts.name in BUNDLED and not any(one.answer or one.solution for one in found.stored):
        known = bundled_problems()
    form = options if options.prompt != "auto" else replace(options, prompt=prompt_for(tokenizer))

    def prompt_of(problem: Problem) -> tuple[int, ...]:
        return tuple(encode_prompt(tokenizer, form.prompt_of(problem), facts, "trace"))

    return pair(found, known, prompt_of, lambda ids: "" if tokenizer is None else decode_text(tokenizer, list(ids)))


def given_responses(paired: Paired, model: Bridge, options: TraceSettings) -> Givens:
    """The tokens of paired responses; ``options`` say the form of the prompt where a response has but a question.

    Raises:
        InputError: none of them can be read by this model, with the first reason.
    """
    tokenizer, facts = model.tokenizer, model_facts(model)
    problems = {problem.id: problem for problem in paired.problems}
    form = options if options.prompt != "auto" else replace(options, prompt=prompt_for(tokenizer))
    found: dict[Cell, Given] = {}
    refused = dict(paired.refused)
    for cell, stored in paired.stored.items():
        try:
            found[cell] = given_response(stored, form.prompt_of(problems[cell.problem]), tokenizer, facts)
        except InputError as error:
            refused[cell] = f"{error} ({stored.where})"
    if not found:
        place, why = next(iter(refused.items()))
        raise InputError(
            "trace",
            expected="at least one response that the model can read",
            received=f"{len(refused)} that it cannot, the first ({place.problem!r}): {why}",
            remedy="Check the file, the problems and the model.",
        )
    return Givens(found, refused, paired.sources)


def settings_without_decoding(options: TraceSettings) -> TraceSettings:
    """The settings of a run of given responses.

    Raises:
        InputError: settings of decoding that are not the usual ones: nothing is decoded.
    """
    usual = {item.name: item.default for item in fields(TraceSettings)}
    asked = asdict(options)
    if asked["max_new_tokens"] == 1:  # as this function has set it
        asked["max_new_tokens"] = usual["max_new_tokens"]
    if named := [name for name in (*DECODING, "samples") if asked[name] != usual[name]]:
        raise InputError(
            "trace",
            expected="no settings of decoding beside responses that are there already",
            received=", ".join(f"{name}={asked[name]}" for name in named),
            remedy="Leave them out: each response is read as it is, whole.",
        )
    # What is asked of a prompt's room: the response's own length is looked at where it is known
    return replace(options, max_new_tokens=1)
