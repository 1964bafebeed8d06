"""What commands share beside options: loading the model that was chosen, complaints, and exit codes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from analyses.commands.options import device_map_of

__all__ = [
    "collect_seldom", "complain", "first_line", "load_chosen", "no_word", "say", "tell_engine", "tell_failures",
    "tell_prompt", "tell_tracker",
]  # fmt: skip

_former: list[tuple[int, int, int]] = []  # thresholds of the garbage collector, while they are raised


def collect_seldom() -> None:
    """Look for garbage seldom until a model is there.

    A command imports a million objects, all of which stay: walking through them again and again takes a tenth of the
    time that a short one has. In a process that has imported them nothing is changed.
    """
    if "torch" not in sys.modules:
        _former.append(gc.get_threshold())
        gc.set_threshold(50_000, 10, 10)


def _collect_as_usual() -> None:
    """From now on, as often as before, and not among what is imported."""
    if _former:
        gc.freeze()
        gc.set_threshold(*_former.pop())


def load_chosen(
    model: str, device: str | None, dtype: str | None, device_map: str | None, silent: bool, spread: Any = None
) -> Any:
    """The model in this process; where ``spread`` says that the workers are elsewhere, the device map is theirs."""
    from analyses.work.model_ref import share_threads
    from interp.loading.hugging_face import import_transformer_lens, without_bars
    from interp.loading.models import load_model

    import_transformer_lens()
    _collect_as_usual()
    placement: dict[str, Any] = {} if device_map is None else {"device_map": device_map_of(device_map)}
    if spread is not None and spread.ray is not None:
        placement = spread.loading(model)
    named = {name: value for name, value in (("device", device), ("dtype", dtype)) if value is not None}
    with without_bars(silent):
        loaded = load_model(model, **placement | named)
    share_threads(loaded)
    return loaded


def tell_prompt(model: Any, prompt: str, folder: Path | None = None, *within: str) -> None:
    """Say in a line what prompt ``auto`` comes to; a folder that was begun tells of its own."""
    from analyses.trace.prompting import begun_with, prompt_for, prompt_line
    from interp.engines.registry import model_facts

    if prompt == "auto" and (folder is None or begun_with(folder, *within) is None):
        say(prompt_line(prompt_for(model.tokenizer), model_facts(model).name))


def tell_engine(model: Any, folder: Path | None = None) -> None:
    """Say in a line what computes; a folder that was begun on the bridge goes on with it."""
    from analyses.trace.provenance import engine_begun_with
    from interp.engines.registry import engine_told, only_engine

    begun = None if folder is None else engine_begun_with(folder)
    with only_engine("bridge" if begun == "bridge" else None):
        told = engine_told(model)
    say(f"runs on the {told}{', as the folder was begun' if begun == 'bridge' else ''}")


def tell_failures(failures: Mapping[Any, str], what: str) -> None:
    """One line about what failed, and exit code 1: whoever goes on with the tables has to know that they lack some."""
    if failures:
        cell, reason = next(iter(failures.items()))
        told = f"{len(failures)} {what}{'s' if len(failures) > 1 else ''} failed, the first (problem {cell.problem!r})"
        remedy = "All are listed in failures.json, and --retry-failed tries them again."
        raise typer.Exit(complain(f"{told}: {first_line(reason)} {remedy}", 1))


def tell_tracker(tracker: str | None, result: Any) -> None:
    """Tell a tracker of a result. One that fails is said, and no more: the result is whole, so is the exit code."""
    if tracker is None:
        return
    from analyses.sharing.tracking import log_to
    from interp.errors import InputError

    try:
        say(f"told {log_to(tracker, result)}")
    except InputError as error:
        say(str(error))


def first_line(reason: object) -> str:
    text = (str(reason).strip().splitlines() or [""])[0]
    return text if len(text) <= 400 else f"{text[:397]}..."


def complain(text: str, code: int) -> int:
    say(text)
    return code


def no_word(text: str) -> None:
    """Say nothing."""


def say(text: str) -> None:
    print(f"peaklens: {text}", file=sys.stderr)
