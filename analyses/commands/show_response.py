"""One response under interventions, printed with marks where they acted: what ``peaklens generate`` does.

Interventions are named by short options such as ``layer=2,p=1`` and act in this order, whatever the order on the
command line: suppress, recycle, recurse, continue, budget forcing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analyses.thinking import WordUse, thinking_words, uses_line
from interp.errors import InputError
from interp.interventions import (
    BudgetForcing,
    ContinueThinking,
    RecurseLatents,
    RecycleRepresentation,
    SuppressTokens,
)
from interp.protocol import Intervention
from interp.rollout import Rollout
from interp.token_text import gap_between
from interp.types import Bridge

__all__ = ["build_interventions", "named_layers", "named_words", "parse_options", "response_facts", "show_response"]

Kinds = Mapping[str, tuple[str, Callable[[str], Any]]]

RECYCLE: Kinds = {
    "layer": ("layer", int), "p": ("probability", float), "repeats": ("repeats", int), "trigger": ("trigger", str),
    "words": ("words", lambda text: text.replace("+", ",")),
}  # fmt: skip
RECURSE: Kinds = {
    "top": ("top_layers", int), "iterations": ("max_iterations", int), "entropy": ("entropy_threshold", float),
    "tolerance": ("tolerance", float),
}  # fmt: skip
CONTINUE: Kinds = {
    "token": ("token", str), "budget": ("budget", int), "at": ("at", str), "final": ("final_prompt", str),
    "final_tokens": ("final_tokens", int),
}  # fmt: skip
FORCE: Kinds = {
    "end": ("end_token", lambda text: int(text) if text.isdecimal() else text), "ignore": ("ignore", int),
    "append": ("append", str), "max": ("max_thinking", int),
}  # fmt: skip


def parse_options(option: str, text: str, kinds: Kinds, required: tuple[str, ...]) -> dict[str, Any]:
    """``"layer=2,p=1"`` as arguments.

    >>> parse_options("--recycle", "layer=2,p=0.5", RECYCLE, ("layer",))
    {'layer': 2, 'probability': 0.5}
    """
    given: dict[str, Any] = {}
    usage = ",".join(f"{name}=..." if name in required else f"[{name}=...]" for name in kinds)
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        try:
            argument, kind = kinds[name.strip()]
            given[argument] = kind(value) if equals else kind("")
        except (KeyError, ValueError):
            raise InputError(
                option, expected=usage, received=repr(part), remedy="Write name=value, separated by commas."
            ) from None
    missing = [name for name in required if kinds[name][0] not in given]
    if missing:
        raise InputError(option, expected=usage, received=repr(text), remedy=f"Add {', '.join(missing)}.")
    return given


def build_interventions(
    model: Bridge,
    suppress: str | None = None,
    recycle: str | None = None,
    recurse: str | None = None,
    continue_with: str | None = None,
    force_budget: str | None = None,
) -> list[Intervention]:
    """The interventions that the command's options name, in the order in which they act.

    >>> from interp import load_model
    >>> kinds = build_interventions(load_model("toy-reasoner"), suppress="Wait,Hmm", recycle="layer=2,p=1")
    >>> [kind.describe()["name"] for kind in kinds]
    ['SuppressTokens', 'RecycleRepresentation']
    """
    found: list[Intervention] = []
    if suppress is not None:
        found.append(SuppressTokens(thinking_words(model, suppress)))
    if recycle is not None:
        options = parse_options("--recycle", recycle, RECYCLE, ("layer",))
        layer, words = options.pop("layer"), thinking_words(model, options.pop("words", "thinking"))
        found.append(RecycleRepresentation(layer, words, **options))
    if recurse is not None:
        found.append(RecurseLatents(**parse_options("--recurse", recurse, RECURSE, ("top",))))
    if continue_with is not None:
        found.append(ContinueThinking(**parse_options("--continue", continue_with, CONTINUE, ("token", "budget"))))
    if force_budget is not None:
        found.append(BudgetForcing(**parse_options("--force-budget", force_budget, FORCE, ("end",))))
    return found


def named_layers(recycle: str | None, recurse: str | None) -> dict[str, list[int]]:
    """The layers that the options name, by option.

    >>> named_layers("layer=-1,p=1", "top=2")
    {'--recycle': [-1], '--recurse': [-2]}
    """
    found: dict[str, list[int]] = {}
    if recycle is not None:
        found["--recycle"] = [parse_options("--recycle", recycle, RECYCLE, ("layer",))["layer"]]
    if recurse is not None:
        found["--recurse"] = [-parse_options("--recurse", recurse, RECURSE, ("top",))["top_layers"]]
    return found


def named_words(model: Bridge, suppress: str | None, recycle: str | None) -> dict[str, tuple[int, ...]]:
    """The words that the options stand for, "thinking" spelled out.

    >>> from interp import load_model
    >>> list(named_words(load_model("toy-reasoner"), "Wait", "layer=2"))
    ['Wait', 'Okay', 'So', 'Hmm', 'Therefore']
    """
    found = {} if suppress is None else thinking_words(model, suppress)
    if recycle is not None:
        found |= thinking_words(
            model, parse_options("--recycle", recycle, RECYCLE, ("layer",)).get("words", "thinking")
        )
    return found


def response_facts(rollout: Rollout) -> dict[str, Any]:
    """The response as JSON-able data."""
    return {
        "text": rollout.text,
        "tokens": rollout.tokens,
        "token_ids": rollout.token_ids.tolist(),
        "finish_reason": rollout.finish_reason,
        "events": [{"step": e.step, "intervention": e.intervention, "note": e.note} for e in rollout.events],
        "settings": rollout.settings,
    }


def show_response(rollout: Rollout, words: Sequence[WordUse] = ()) -> None:
    """Print a response; where interventions acted its tokens are in brackets and numbered as in the list below it.

    Args:
        words: those that the interventions are about, and how often the response says them.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from analyses.commands.show_trace import clean_token, marked_tokens

    acts = sorted((event for event in rollout.events if event.is_act), key=lambda event: event.step)
    steps = sorted({event.step for event in acts})
    numbers = {step: number for number, step in enumerate(steps, 1)}
    console = Console(highlight=False)
    gap = gap_between(rollout.tokens, rollout.text)
    console.print(marked_tokens(rollout.tokens, {step: str(number) for step, number in numbers.items()}, gap))
    console.print(Text(f"\n{len(rollout)} tokens, ended by {rollout.finish_reason}", style="dim"))
    if words:
        console.print(Text(f"Words: {uses_line(words, 'this response')}", style="dim"), soft_wrap=True)
    for event in rollout.events:
        if not event.is_act:
            console.print(Text(f"{event.intervention} {clean_token(event.note)}", style="bold"), soft_wrap=True)
    if not steps:
        console.print(Text("No intervention acted.", style="dim"))
        return
    table = Table(title="Where interventions acted", title_justify="left")
    for heading in ("mark", "step", "token", "intervention", "what it did"):
        table.add_column(heading, overflow="fold")
    for event in acts:
        token = clean_token(rollout.tokens[event.step]) if event.step < len(rollout) else ""
        row = (str(numbers[event.step]), str(event.step), token, event.intervention, clean_token(event.note))
        table.add_row(*map(Text, row))
    console.print(table)
