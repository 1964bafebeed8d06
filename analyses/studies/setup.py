"""A model, problems and settings that fit each other, and what options say of them: looked at before decoding."""

from __future__ import annotations

from collections.abc import Sequence

from analyses.problems import Problem
from analyses.store.run import Cell
from analyses.thinking import thinking_words
from analyses.trace.settings import TraceSettings
from analyses.trace.tracer import Tracer
from interp.errors import InputError
from interp.loading.models import BUNDLED
from interp.sites import resolve_layers
from interp.types import Bridge

__all__ = ["Setup", "checked_words", "layers_of", "scored_layers"]


class Setup:
    """A model, problems and settings that fit each other, before anything is decoded: what options are checked against.

    Attributes:
        model: the bridge; ``facts`` its dimensions.
        problems: by id.
        options: the settings of the trace that is the baseline.
        layers, site: whose nHSIC the study is about (layer 0 alone stands for ln_final).
        words: thinking words with the ids that spell them.
        calibrating: ids of the problems that would calibrate the study.
        given: the cells of a baseline of given responses; None where the baseline is decoded.
    """

    def __init__(
        self,
        model: Bridge,
        problems: Sequence[Problem],
        options: TraceSettings,
        words: str = "thinking",
        calibrating: Sequence[str] = (),
        given: Sequence[Cell] | None = None,
    ) -> None:
        self.tracer = Tracer(model, list(problems), options)
        self.model, self.facts, self.options = model, self.tracer.facts, self.tracer.options
        self.layers, self.site = self.tracer.layers, options.site
        self.problems, self.words = self.tracer.problems, thinking_words(model, words)
        self.calibrating = tuple(calibrating)
        self.given = None if given is None else tuple(given)

    @property
    def is_toy(self) -> bool:
        """Whether the model is one of those bundled, whose mechanism is planted."""
        return self.facts.name in BUNDLED

    def cells(self, condition: str = "baseline") -> list[Cell]:
        """This condition's cells, one a problem and sample; of given responses those that there are."""
        cells = self.tracer.cells
        if self.given is not None:
            cells = [cell for cell in self.given if cell.problem in self.problems]
        return [Cell(cell.problem, cell.sample, condition=condition) for cell in cells]


def layers_of(text: str, setup: Setup, operation: str) -> tuple[int, ...]:
    """The layers that an option names: "all", or numbers separated by commas, negative from the end."""
    if text == "all":
        return resolve_layers("all", setup.facts.n_layers, operation)
    wanted = [int(number) for number in text.split(",")]
    found = resolve_layers(wanted, setup.facts.n_layers, operation)
    if len(found) < len(wanted):
        raise InputError(operation, expected="no layer twice", received=f"layers={text}", remedy="Name it once.")
    return found


def scored_layers(text: str, setup: Setup, operation: str) -> tuple[int, ...]:
    """The layers that an option names among those whose nHSIC the run has ("all" are all of these)."""
    if text == "all":
        return setup.layers
    found = layers_of(text, setup, operation)
    missing = [layer for layer in found if layer not in setup.layers]
    if missing:
        raise InputError(
            operation,
            expected=f"layers whose nHSIC the run has: {', '.join(map(str, setup.layers))} ({setup.site})",
            received=f"layers={text}",
            remedy="Choose among these, or score more layers (--layers).",
        )
    return found


def checked_words(named: Sequence[str], setup: Setup, operation: str, option: str) -> None:
    """Refuse words that are none of the run's thinking words."""
    unknown = [word for word in named if word not in setup.words]
    if unknown:
        raise InputError(
            operation,
            expected=f"{option} among the thinking words {', '.join(setup.words)}",
            received=", ".join(unknown),
            remedy="Give them with --words.",
        )
