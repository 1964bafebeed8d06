"""The commands ``export-prompts`` and ``export-responses``: what another engine is given, and what is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.common import load_chosen, say
from analyses.commands.options import (
    AnswerColumn,
    Model,
    N,
    Problems,
    Prompt,
    PromptMode,
    QuestionColumn,
    SolutionColumn,
)  # fmt: skip

__all__ = ["export_prompts", "export_responses"]


def export_prompts(
    model: Model = "toy-reasoner",
    problems: Problems = None,
    question: QuestionColumn = None,
    solution: SolutionColumn = None,
    answer: AnswerColumn = None,
    n: N = None,
    prompt: Prompt = PromptMode.auto,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, one JSON object a line.")] = Path(
        "prompts.jsonl"
    ),
) -> None:
    """Write the exact prompts of a trace, as text and token ids, for another engine to answer (docs/RESPONSES.md)."""
    from dataclasses import replace

    from analyses.problems import load_problems
    from analyses.responses import export_prompts as export
    from analyses.trace.inputs import traced_problems
    from analyses.trace.prompting import prompt_for
    from analyses.trace.settings import TraceSettings
    from interp.engines.registry import model_facts

    columns = {"question": question, "solution": solution, "answer": answer}
    chosen = None if problems is None else load_problems(problems, n=n, **columns)
    loaded = load_chosen(model, None, None, None, True)
    options = TraceSettings(prompt=str(prompt))
    if options.prompt == "auto":
        options = replace(options, prompt=prompt_for(loaded.tokenizer))
    listed = traced_problems(loaded, chosen, n)
    asked = [(problem, options.prompt_of(problem)) for problem in listed]
    count, exact = export(asked, loaded.tokenizer, model_facts(loaded), out)
    typer.echo(f"{out}")
    say(f"{count} prompts ({options.prompt}) of {model_facts(loaded).name}")
    if exact < count:
        say(f"{count - exact} of them are other tokens when their text is tokenised: give the engine prompt_token_ids")


def export_responses(
    run: Annotated[Path, typer.Argument(help="Run folder of a trace.")],
    problems: Problems = None,
    question: QuestionColumn = None,
    solution: SolutionColumn = None,
    answer: AnswerColumn = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, one JSON object a line.")] = Path(
        "responses.jsonl"
    ),
) -> None:
    """Write the responses of a run, with their tokens, as `peaklens trace --responses` reads them."""
    from analyses.problems import load_problems
    from analyses.responses import export_responses as export

    columns = {"question": question, "solution": solution, "answer": answer}
    known = (
        None if problems is None else {problem.id: problem for problem in load_problems(problems, n=None, **columns)}
    )
    count, solved = export(run, out, known)
    typer.echo(f"{out}")
    if solved < count:
        say(
            f"{count - solved} of {count} responses are without a solution: pass --problems here, or when they are read"
        )
