"""Are the settings of a run in order? All of them, in one place, before a model is loaded or anything is decoded.

What hangs on the model's size (layers, coordinates left out, the context) is checked by
:class:`analyses.trace.tracing.Tracer`, as soon as there is a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch

from analyses.grading import Reading
from analyses.problems import Problem
from analyses.store.columns import POSITIONS
from analyses.work.spread import On, Spread
from interp.arguments import Judged, as_number, as_whole, refused
from interp.errors import InputError
from interp.prompts import Prompt
from interp.sites import SITE_NAMES
from probes import nhsic, tukey_peaks

__all__ = [
    "GROWING",
    "NOTED",
    "TABLE_SETTINGS",
    "Number",
    "TraceSettings",
    "Whole",
    "check_measure",
    "check_sampling",
    "check_site",
    "check_width",
    "check_work",
    "one_of",
    "whole_layers",
]

# Numbers of any kind come in, plain ones come out.
Number: TypeAlias = Judged[float]
Whole: TypeAlias = Judged[int]

_HOTTEST = 1e4  # a temperature above draws all tokens alike; below 1 / 1e4 logits overflow before they are greedy


def one_of(operation: str, name: str, value: Any, allowed: Sequence[str]) -> str:
    """The value, if it is one of these.

    >>> one_of("trace", "prompt", "raw", ("raw", "chat"))
    'raw'
    """
    if not isinstance(value, str) or value not in allowed:
        raise InputError(
            operation, expected=f"{name} {' or '.join(allowed)}", received=repr(value), remedy="Choose one."
        )
    return str(value)


def whole_layers(operation: str, layers: Any) -> str | int | list[int]:
    """ "all", a layer or several, as plain numbers.

    >>> whole_layers("trace", range(2))
    [0, 1]
    """
    layers = layers.tolist() if hasattr(layers, "tolist") else layers
    if isinstance(layers, str):
        if layers != "all":
            raise InputError(
                operation, expected='layers "all" or numbers', received=repr(layers), remedy="For instance [0, -1]."
            )
        return layers
    if not isinstance(layers, Iterable):
        return as_whole(layers, operation, "layers")
    return [as_whole(layer, operation, "layers") for layer in layers]


def check_sampling(
    operation: str, max_new_tokens: Any, temperature: Any, top_p: Any, seed: Any
) -> tuple[int, float, float, int]:
    """What any decoding is given, as plain numbers.

    >>> check_sampling("trace", 20, 0, 1, 7)
    (20, 0.0, 1.0, 7)
    """
    tokens = as_whole(max_new_tokens, operation, "max_new_tokens", 1)
    heat = as_number(temperature, operation, "temperature", 0, _HOTTEST)
    if 0 < heat < 1 / _HOTTEST:
        expected = f"temperature 0 (greedy), or {1 / _HOTTEST:g} or more"
        raise refused(operation, expected, temperature, "Set 0 for greedy decoding.")
    return tokens, heat, as_number(top_p, operation, "top_p", 0, 1, above=True), as_whole(seed, operation, "seed")


def check_measure(
    operation: str, sigma: Any, eps: Any, drop_top: Any, tau: Any
) -> tuple[float | str, float, int, float]:
    """What nHSIC and the rule of peaks are given, as plain numbers; they themselves say what they take.

    >>> check_measure("trace", "median", 1e-5, 0, 1.5)
    ('median', 1e-05, 0, 1.5)
    """
    sigma = str(sigma) if isinstance(sigma, str) else as_number(sigma, operation, "sigma", 0, above=True)
    eps = as_number(eps, operation, "eps", 0, above=True)
    drop_top = as_whole(drop_top, operation, "drop_top", 0)
    tau = as_number(tau, operation, "tau", 0)
    _try_measure(sigma, eps, 0, 16)
    _try_peaks(tau)
    return sigma, eps, drop_top, tau


def check_width(sigma: float | str, eps: float, drop_top: int, d_model: int) -> None:
    """Refuse what does not go with the width of a model: more coordinates left out than there are.

    >>> check_width(50.0, 1e-5, 4, 64)
    """
    _try_measure(sigma, eps, drop_top, d_model)


@lru_cache(maxsize=256)  # what was taken once is taken again; a refusal is not remembered
def _try_measure(sigma: float | str, eps: float, drop_top: int, d_model: int) -> None:
    some = torch.linspace(-1, 1, d_model)
    nhsic(some[None], some, sigma=sigma, eps=eps, drop_top=drop_top)


@lru_cache(maxsize=256)
def _try_peaks(tau: float) -> None:
    tukey_peaks(torch.linspace(-1, 1, 16), tau)


def check_site(operation: str, site: Any) -> str:
    """The name of a site of the residual stream.

    >>> check_site("trace", "ln_final")
    'ln_final'
    """
    if site not in SITE_NAMES:
        raise InputError(
            operation, expected=f"sites among {', '.join(SITE_NAMES)}", received=repr(site), remedy="Choose one."
        )
    return str(site)


def check_work(operation: str, n: Any, batch_size: Any, workers: Any, on: On = None) -> tuple[int | None, int, Spread]:
    """How many problems, and how they are worked on, as plain numbers.

    >>> check_work("trace", None, 8, None)
    (None, 8, Spread(workers=None, ray=None))
    """
    return (
        None if n is None else as_whole(n, operation, "n", 1),
        as_whole(batch_size, operation, "batch_size", 1),
        Spread.of(operation, None if workers is None else as_whole(workers, operation, "workers", 1), on),
    )


TABLE_SETTINGS = ("tau", "thinking_markers", "final_prompts")
"""Settings that no cell depends on: a finished run takes another value, and its tables are derived with it."""

GROWING = ("layers", "samples", "problems", "probes", "null", "excess", "responses", "responses_from", "data")
"""Settings that a run may be given more of later."""

NOTED = ("model", *TABLE_SETTINGS)


@dataclass(frozen=True)
class TraceSettings:
    """What a trace is pinned to: it must stay the same when a run is resumed.

    ``layers`` and ``samples`` may grow; :data:`TABLE_SETTINGS`, on which no cell depends, may change.

    >>> TraceSettings(max_new_tokens=64).prompt
    'auto'

    Attributes:
        prompt: "raw" (the question as it is, like the paper's scripts), "chat" (the model's chat template), or "auto":
            chat where the model has a template; which it is, is settled and pinned (:mod:`analyses.trace.prompting`).
        reference: the text that stands for the answer: "solution" or "answer".
        reference_position: where it is read: "last", its last token, as in the paper; or "predicts", the position
            before the answer's first token (:mod:`analyses.trace.references`). Runs of earlier versions are "last".
        site: resid_post, resid_pre, resid_mid or ln_final.
        sigma, eps, drop_top: of :func:`probes.nhsic` (sigma a number, or "median"); tau: of :func:`probes.tukey_peaks`.
        samples: responses a problem; more than one needs a temperature.
        thinking_markers, final_prompts: how responses are read for grading, beside what is known: pairs of what opens
            and closes thinking, and texts after which an answer was forced (:class:`analyses.grading.Reading`).
    """

    max_new_tokens: Whole = 256
    prompt: str = "auto"
    reference: str = "solution"
    reference_position: str = "last"
    layers: str | Whole | Sequence[Whole] = "all"
    site: str = "resid_post"
    temperature: Number = 0.0
    top_p: Number = 1.0
    seed: Whole = 0
    samples: Whole = 1
    sigma: Number | str = 50.0
    eps: Number = 1e-5
    drop_top: Whole = 0
    tau: Number = 1.5
    thinking_markers: Sequence[Any] = ()
    final_prompts: Sequence[Any] = ()

    def __post_init__(self) -> None:
        operation = "trace"
        one_of(operation, "prompt", self.prompt, ("auto", "raw", "chat"))
        one_of(operation, "reference", self.reference, ("solution", "answer"))
        one_of(operation, "reference_position", self.reference_position, POSITIONS)
        if self.reference_position == "predicts" and self.reference == "answer":
            raise InputError(
                operation,
                expected="reference solution where it is read at the position that predicts the answer",
                received="reference answer, which has nothing before the answer",
                remedy="Leave --reference at solution, or --reference-position at last.",
            )
        tokens, heat, top_p, seed = check_sampling(
            operation, self.max_new_tokens, self.temperature, self.top_p, self.seed
        )
        sigma, eps, drop_top, tau = check_measure(operation, self.sigma, self.eps, self.drop_top, self.tau)
        markers, final_prompts = Reading.of(self.thinking_markers, self.final_prompts).own()
        plain = {
            "thinking_markers": markers, "final_prompts": final_prompts,
            "max_new_tokens": tokens, "temperature": heat, "top_p": top_p, "seed": seed, "sigma": sigma, "eps": eps,
            "drop_top": drop_top, "tau": tau, "samples": as_whole(self.samples, operation, "samples", 1),
            "layers": whole_layers(operation, self.layers), "site": check_site(operation, self.site),
        }  # fmt: skip
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if self.samples > 1 and self.temperature == 0:
            raise InputError(
                operation,
                expected="one greedy response a problem, or several with a temperature above 0",
                received=f"samples={self.samples} at temperature {self.temperature}",
                remedy="Set a temperature, e.g. 0.6.",
            )

    def prompt_of(self, problem: Problem) -> Prompt:
        """The question in its form; that of "auto" hangs on the model, and `Tracer.options` say which it is."""
        if self.prompt == "auto":
            raise InputError(
                "trace",
                expected="a prompt that is raw or chat",
                received="auto, which hangs on the model",
                remedy="Take the options of Tracer(model, problems, options).",
            )
        return problem.question if self.prompt == "raw" else [{"role": "user", "content": problem.question}]

    def reference_of(self, problem: Problem) -> str:
        return problem.solution if self.reference == "solution" else problem.answer
