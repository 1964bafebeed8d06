"""What cannot be asked of a study is refused by name, before anything is decoded; what can is brought into form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.problems import Problem
from analyses.studies import find_study, make_study
from analyses.studies.estimate import estimate_study
from analyses.studies.options import option, settle_options
from analyses.studies.run import run_study
from interp import InputError, load_model
from interp.types import Bridge

WRONG = [
    ("trajectories", {"examples": "-1"}, "examples as a whole number of at least 1, received examples=-1"),
    ("trajectories", {"seed": "-1"}, "seed as a whole number of at least 0"),
    ("compare", {"seed": "1e3"}, "received seed='1e3'"),
    ("tokens", {"least": "0"}, "least as a whole number of at least 1"),
    ("tokens", {"top": "x"}, "top as a whole number"),
    ("suppress", {"counts": "2,0"}, "counts as whole numbers of at least 1"),
    ("suppress", {"counts": "2,2"}, "none twice"),
    ("suppress", {"counts": ""}, "at least one"),
    ("suppress", {"counts": "1.5"}, "received counts='1.5'"),
    ("suppress", {"words": "Wait"}, "options among counts, draws, seed"),
    ("suppress", {"source": "mine"}, "options among counts, draws, seed"),
    ("suppress", {"do": "1"}, "options among counts, draws, seed"),
    ("suppress", {"__class__": "1"}, "options among counts, draws, seed"),
    ("recycle", {"layers": ""}, '"all" or layer numbers'),
    ("recycle", {"layers": "0,0"}, "none twice"),
    ("recycle", {"probabilities": "nan"}, "probabilities as numbers"),
    ("recycle", {"probabilities": "inf"}, "probabilities as numbers"),
    ("recycle", {"probabilities": "0"}, "above 0 and at most 1"),
    ("recycle", {"repeats": "-2"}, "repeats as whole numbers of at least 1"),
    ("recycle", {"triggers": "input,output"}, "triggers as among predicted, input"),
    ("recycle", {"gates": "mi,mi"}, "none twice"),
    ("scale", {"budgets": "64,-64"}, "budgets as whole numbers of at least 1"),
    ("scale", {"ignore": "0"}, "ignore as a whole number of at least 1"),
    ("ablate", {"places": ""}, "places as among peaks, others, thinking, at least one"),
    ("ablate", {"methods": "mean,Mean"}, "methods as among mean, resample"),
    ("information", {"align": "start"}, "align as among relative, end, event"),
    ("information", {"points": "1"}, "points as a whole number of at least 2"),
    ("information", {"events": "0"}, "events as whole numbers of at least 1"),
    ("information", {"window": "-1"}, "window as a whole number of at least 0"),
    ("information", {"folds": "1"}, "folds as a whole number of at least 2"),
    ("information", {"reduce": "0"}, "reduce as a whole number of at least 1"),
    ("information", {"max_answers": "1"}, "max_answers as a whole number of at least 2"),
    ("bounds", {"probe": ""}, "probe as one of linear, mlp"),
    ("bounds", {"align": "end,end"}, "none twice"),
    ("overlap", {"entropy": "1"}, "entropy as a number of above 0 and below 1"),
    ("overlap", {"depth": "perhaps"}, "depth as true or false"),
    ("overlap", {"draws": "0"}, "draws as a whole number of at least 1"),
    ("overlap", {"measures": "r3"}, "r3"),
    ("overlap", {"measures": "nhsic"}, "there in any case"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_an_option_that_cannot_be_is_refused_by_name(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_study(name, options)
    assert message in str(caught.value)


MISFIT = [
    ("recycle", {"layers": "3"}, {}, "layers from 0 to 2"),
    ("recycle", {"layers": "0,-3"}, {}, "no layer twice"),
    ("recycle", {"variants_at": "7"}, {}, "variants_at: expected layers from 0 to 2"),
    ("recycle", {"variants_at": "2"}, {"layers": [0]}, "gate mi at variants_at: expected layers whose nHSIC"),
    ("ablate", {"layers": "1"}, {"layers": [0, 2]}, "expected layers whose nHSIC the run has: 0, 2"),
    ("ablate", {"layers": "-4"}, {}, "layers from 0 to 2"),
    ("ablate", {}, {"calibrate": 1}, "at least two problems to calibrate from"),
    ("scale", {"tokens": "Wait,Perhaps"}, {}, "tokens among the thinking words Okay, So, Wait, Hmm, Therefore"),
    ("scale", {"neutral": "perhaps"}, {}, "neutral: expected text made of words the tokenizer has"),
    ("scale", {"neutral": "hmm"}, {}, "a neutral word that is no thinking word"),
    ("scale", {"final": "Final Answer:"}, {}, "final: expected text made of words the tokenizer has"),
    ("scale", {"budgets": "99999"}, {}, "at most 1024 positions"),
    ("information", {"event_words": "So,so"}, {}, "event_words among the thinking words"),
    ("tokens", {"top": "48"}, {}, "top of at most 47"),
    ("suppress", {}, {"words": "Wait,wait"}, "each once in whatever spelling"),
    ("suppress", {}, {"words": ","}, "words separated by commas"),
    ("suppress", {}, {"sigma": -1.0}, "sigma above 0"),
    ("suppress", {}, {"n": 0}, "n at least 1"),
    ("suppress", {}, {"batch_size": 0}, "at least 1"),
    ("suppress", {}, {"workers": 0}, "at least 1"),
    ("suppress", {}, {"calibrate": 0}, "calibrate at least 1"),
    ("compare", {"origin": "toy-reasoner"}, {}, "received the model itself"),
    ("compare", {"origin": "no-such-model"}, {}, "no-such-model"),
]


@pytest.mark.parametrize(("name", "options", "more", "message"), MISFIT)
def test_what_does_not_fit_the_model_is_refused_before_decoding(
    name: str, options: dict[str, str], more: dict[str, Any], message: str, toy: Bridge, tmp_path: Path
) -> None:
    study = make_study(name, options)
    with pytest.raises(InputError) as caught:
        run_study(study, toy, out=tmp_path / "study", **{"n": 2, "max_new_tokens": 8, **more})
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir()), "nothing was begun"
    with pytest.raises(InputError):
        estimate_study(study, toy, **{"n": 2, "max_new_tokens": 8, **more})


@pytest.fixture(scope="module")
def toy() -> Bridge:
    return load_model("toy-reasoner", device="cpu")


def test_the_same_weights_under_another_path_are_the_same_model(tmp_path: Path) -> None:
    import shutil

    from interp import bundled_model_path

    shutil.copytree(bundled_model_path("toy-reasoner"), tmp_path / "elsewhere")
    study = make_study("compare", {"origin": str(tmp_path / "elsewhere")})
    with pytest.raises(InputError, match="which has the same weights"):
        run_study(study, n=1, out=tmp_path / "runs" / "c", max_new_tokens=8)
    assert not (tmp_path / "runs").exists()


def test_an_origin_is_known_for_one_model_alone(tmp_path: Path) -> None:
    import families as F

    with pytest.raises(InputError, match="the model that tiny-llama was made from, received none"):
        run_study(
            make_study("compare", {}),
            F.bridge("llama"),
            [Problem("a", "w3 w4", "w5", "w5")],
            tmp_path / "c",
            words="w3",
        )
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Options:
    """Not a study: only its options."""

    name = "options"
    several: tuple[int, ...] = option((1,), least=1)
    shares: tuple[float, ...] = option((0.5,), above=0, below=1)
    names: tuple[str, ...] = ()
    layers: str = option("all", layers=True)
    many: int = 3
    flag: bool = False
    share: float = 0.5


@pytest.mark.parametrize(
    ("option", "given", "kept"),
    [
        ("several", 5, (5,)),
        ("several", [1, 5], (1, 5)),
        ("several", np.array([1, 5]), (1, 5)),
        ("several", "1, 5", (1, 5)),
        ("several", torch.tensor(2), (2,)),
        ("shares", np.float32(0.25), (0.25,)),
        ("names", "Wait", ("Wait",)),
        ("names", ["Wait", "Hmm"], ("Wait", "Hmm")),
        ("layers", -1, "-1"),
        ("layers", [0, 2], "0,2"),
        ("layers", torch.tensor([0, 2]), "0,2"),
        ("many", np.int64(4), 4),
        ("many", "4", 4),
        ("flag", np.bool_(True), True),
        ("share", 1, 1.0),
    ],
)
def test_values_of_other_kinds_are_brought_into_form(option: str, given: Any, kept: Any) -> None:
    study = Options(**{option: given})
    settle_options(study)
    assert getattr(study, option) == kept
    assert type(getattr(study, option)) is type(kept)


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("several", [1, 1]), ("several", []), ("several", None), ("several", True), ("several", 1.5),
        ("several", [[1]]),
        ("shares", float("nan")), ("shares", [0.5, 1]), ("names", [1]), ("names", b"Wait"), ("layers", None),
        ("layers", 1.0), ("layers", "0;1"), ("many", 2.0), ("many", "two"), ("many", None), ("flag", 1), ("flag", "2"),
        ("share", "inf"), ("share", [0.5]), ("share", True),
    ],
)  # fmt: skip
def test_values_that_cannot_be_brought_into_form_are_refused(option: str, given: Any) -> None:
    with pytest.raises(InputError, match=f"expected {option} as .*received {option}="):
        settle_options(Options(**{option: given}))


OWN = """
from dataclasses import dataclass
from typing import ClassVar
from analyses.studies.base import Condition, Study

{decorator}
class Own(Study):
    name: ClassVar[str] = "own"
    title: ClassVar[str] = "A question"
    {source}
    {option}

    def conditions(self, lab):
        return [Condition(name) for name in {conditions}]

    def tables(self, data):
        return {{"own": data.responses()}}

    def figures(self, data, tables):
        return []

    def reading(self, tables):
        return []
"""
GOOD = {
    "decorator": "@dataclass(frozen=True)", "source": 'source: ClassVar[str] = "me"',
    "option": "several: tuple[int, ...] = (1, 2)", "conditions": '["a"]',
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"option": "tables_: int = 1\n    check: int = 1"}, "options of other names than the methods"),
        ({"option": "title: str = 'x'"}, "options of other names than the methods"),
        ({"option": "several: int"}, "expected a default for each option, received several"),
        ({"source": "pass"}, "texts for name, title and source, received source"),
        ({"decorator": ""}, "expected a dataclass"),
    ],
)
def test_a_study_of_ones_own_is_looked_at_too(changed: dict[str, str], message: str, tmp_path: Path) -> None:
    file = tmp_path / f"own_{abs(hash(message)) % 10**9}_{len(changed)}.py"
    file.write_text(OWN.format(**(GOOD | changed)))
    with pytest.raises(InputError, match=message):
        find_study(str(file))


def test_options_and_conditions_of_ones_own_study(tmp_path: Path) -> None:
    for number, (conditions, message) in enumerate(
        [('["a", "a"]', "conditions of different names"), ('["baseline"]', 'none of them empty or "baseline"')]
    ):
        file = tmp_path / f"own_conditions_{number}.py"
        file.write_text(OWN.format(**GOOD | {"conditions": conditions}))
        with pytest.raises(InputError, match=message):
            run_study(make_study(str(file), {"several": "3,4"}), n=1, out=tmp_path / f"o{number}", max_new_tokens=4)
        for wrong in ("3,3", "", "x"):
            with pytest.raises(InputError, match="study own: expected several as whole numbers"):
                make_study(str(file), {"several": wrong})


def test_the_origin_is_read_as_the_model_is(tmp_path: Path) -> None:
    model = load_model("toy-reasoner", dtype="float16", device="cpu")
    result = run_study(make_study("compare", {}), model, n=2, out=tmp_path / "c", max_new_tokens=8)
    from analyses.store import Run

    runs = [Run.open(path.parent) for path in (tmp_path / "baselines").glob("*/run.json")]
    assert {run.settings["model"]: run.settings["dtype"] for run in runs} == dict.fromkeys(
        ("toy-reasoner", "toy-base"), "float16"
    )
    assert result.run.settings["options"]["origin"] == "toy-base", "the run says which it was"
