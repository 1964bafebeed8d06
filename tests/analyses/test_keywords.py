"""Every setting is a keyword that an editor shows, with the default it has: none hides behind ``**``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from typing import Any

import peaklens as pl
import pytest

import interp.interventions
from analyses.studies.estimate import estimate_study
from analyses.trace.probing import Probing
from analyses.trace.settings import TraceSettings


def defaults(*kinds: type) -> dict[str, Any]:
    found = {field.name: field.default for kind in kinds for field in fields(kind)}
    assert MISSING not in found.values()
    return found


@pytest.mark.parametrize(
    ("function", "kinds"),
    [(pl.trace, (TraceSettings, Probing)), (pl.run_study, (TraceSettings,)), (estimate_study, (TraceSettings,))],
)
def test_settings_are_keywords_with_the_defaults_they_have(function: Callable[..., Any], kinds: tuple[type]) -> None:
    keywords = inspect.signature(function).parameters
    wanted = defaults(*kinds)
    assert {name: keywords[name].default for name in wanted if name in keywords} == wanted
    assert {keywords[name].kind for name in wanted} == {inspect.Parameter.KEYWORD_ONLY}
    assert all(name in (function.__doc__ or "") for name in wanted) or function is estimate_study


@pytest.fixture(scope="module")
def toy() -> Any:
    model = pl.load_model("toy-reasoner", device="cpu")
    model.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return model


@pytest.mark.parametrize("name", sorted(defaults(TraceSettings, Probing)))
def test_a_keyword_of_trace_reaches_what_it_names(name: str, toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keyword alone is changed; it arrives as itself, and nothing else is changed by it."""
    values: dict[str, Any] = {
        "max_new_tokens": 7, "prompt": "raw", "reference": "answer", "reference_position": "predicts", "layers": [1],
        "site": "resid_pre",
        "temperature": 0.5, "top_p": 0.5, "seed": 3, "samples": 2, "sigma": 10.0, "eps": 0.1, "drop_top": 1, "tau": 3.0,
        "thinking_markers": [["<plan>", "</plan>"]], "final_prompts": ["So:"], "probes": ("nhsic", "r2"), "null": 99,
        "null_match": "none", "null_statistic": "standardised", "null_seed": 5, "excess": 30,
    }  # fmt: skip
    values = {**defaults(TraceSettings, Probing), name: values[name]}
    if name == "samples":
        values["temperature"] = 1.0
    seen: list[Any] = []

    class Enough(Exception):
        pass

    def look(probing: Probing, options: TraceSettings, d_model: int) -> None:
        seen.extend([probing, options])
        raise Enough

    from analyses.trace import tracing

    monkeypatch.setattr(tracing, "check_measures", look)
    with pytest.raises(Enough):
        tracing.trace(toy, n=1, **values)
    kinds = (Probing, TraceSettings)
    if name != "prompt":
        values["prompt"] = "chat"  # what "auto" comes to for a tokenizer with a template
    expected = [kind(**{field.name: values[field.name] for field in fields(kind)}) for kind in kinds]
    assert seen == expected


def test_patching_has_the_same_keywords_in_both_rooms() -> None:
    ours, theirs = (inspect.signature(sweep).parameters for sweep in (pl.patch_sweep, interp.interventions.patch_sweep))
    assert list(ours) == list(theirs)
    assert [(one.kind, one.default, one.annotation) for one in ours.values()] == [
        (one.kind, one.default, one.annotation) for one in theirs.values()
    ]


def callables(module: Any, names: list[str]) -> Iterator[tuple[str, Any]]:
    for name in names:
        value = getattr(module, name)
        if inspect.isfunction(value):
            yield f"{module.__name__}.{name}", value
        elif inspect.isclass(value):
            yield from (
                (f"{module.__name__}.{name}.{method}", member)
                for method, member in inspect.getmembers(value, inspect.isroutine)
                if not method.startswith("_") and getattr(member, "__module__", "").split(".")[0] in PACKAGES
            )


PACKAGES = ("interp", "probes", "analyses")


def test_no_public_function_takes_what_it_does_not_name() -> None:
    rooms = [pl, pl.interventions, pl.views, pl.stats, pl.probes]
    found = dict(pair for room in rooms for pair in callables(room, room.__all__))
    assert len(found) > 100
    loose = [
        name
        for name, value in found.items()
        if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(value).parameters.values())
    ]
    assert loose == []
