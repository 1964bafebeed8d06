"""In which form a question is put to a model: raw, or in the model's chat template.

1. ``auto``, the default, is ``chat`` where the tokenizer has a chat template, ``raw`` where it has none: a model that
   was taught to answer in a template answers something else, or nothing, without it.
2. What ``auto`` stands for is settled before anything is decoded; ``run.json`` pins ``raw`` or ``chat``.
3. A folder that holds responses goes on in the form it was begun with, whatever ``auto`` would choose now, and says so.
   A form that was asked for by name is compared with the folder's as any other setting.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from analyses.store.pinned import read_pinned
from analyses.store.shards import any_cells
from analyses.trace.provenance import RunWarning
from analyses.trace.settings import TraceSettings
from interp.engines.registry import model_facts
from interp.types import Bridge

__all__ = ["begun_with", "goes_on_with", "prompt_for", "prompt_line"]


def prompt_for(tokenizer: Any) -> str:
    """What ``auto`` stands for with a model's tokenizer.

    >>> from interp import load_model
    >>> prompt_for(load_model("toy-reasoner").tokenizer)
    'raw'
    """
    return "chat" if getattr(tokenizer, "chat_template", None) else "raw"


def prompt_line(taken: str, name: str) -> str:
    """What ``auto`` came to, in a line.

    >>> prompt_line("raw", "toy-reasoner")
    'prompt raw: toy-reasoner has no chat template'
    """
    if taken == "chat":
        return f"prompt chat: questions go through the chat template of {name} (--prompt raw leaves it out)"
    return f"prompt raw: {name} has no chat template"


def begun_with(folder: Path, *within: str) -> str | None:
    """The form that a folder's responses were asked in, ``None`` where it holds none yet.

    Args:
        within: names of the settings that hold those of the trace; none for a trace's own folder.
    """
    if not (folder / "run.json").is_file() or not any_cells(folder):
        return None
    settings: Any = read_pinned(folder)["settings"]
    for name in (*within, "prompt"):
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings if settings in ("raw", "chat") else None


def goes_on_with(options: TraceSettings, model: Bridge, folder: Path, *within: str) -> TraceSettings:
    """The settings with the form that a folder was begun in, where none is asked for by name.

    Args:
        within: names of the settings that hold those of the trace; none for a trace's own folder.

    Warns:
        RunWarning: ``auto`` would choose another form now.
    """
    begun = begun_with(folder, *within) if options.prompt == "auto" else None
    if begun is None:
        return options
    now, name = prompt_for(model.tokenizer), model_facts(model).name
    if begun != now:
        has = "has a chat template" if now == "chat" else "has no chat template"
        warnings.warn(
            f"{folder} was begun with prompt {begun} and goes on with it; {name} {has}: for prompt {now} choose "
            "another folder",
            RunWarning,
            stacklevel=2,
        )
    return replace(options, prompt=begun)
