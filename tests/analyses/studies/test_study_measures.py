"""A study's measure is its run's own, everywhere: score, site, layers, samples, stated answers, repairs, spellings."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import families as F
import pandas as pd
import pytest

from analyses.problems import Problem, bundled_problems
from analyses.store import Cell, Run
from analyses.studies import make_study
from analyses.studies.planted import planted_length, planted_line, questions_of
from analyses.studies.run import run_study
from analyses.toys.question import held_out_questions
from analyses.toys.running import repairs
from analyses.toys.trace import sample_trace
from interp import decode, load_model
from interp.interventions import matched_random_tokens, thinking_token_ids
from interp.rows import Event
from probes import tukey_peaks

LIMIT = 28


def baseline(folder: Path) -> Run:
    runs = [Run.open(file.parent) for file in (folder / "baselines").glob("*/run.json")]
    return next(run for run in runs if run.settings["model"] == "toy-reasoner")


GATED = {"layers": "2", "probabilities": "", "repeats": "", "triggers": "", "gates": "mi"}


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    "settings",
    [
        {"drop_top": 3, "tau": 0.5}, {"sigma": "median", "eps": 1e-2}, {"site": "resid_pre"}, {"site": "resid_mid"},
        {"site": "ln_final"}, {"reference": "answer", "drop_top": 1, "layers": [2]},
    ],
    ids=str,
)  # fmt: skip
def test_the_gate_opens_first_at_the_baselines_first_peak(settings: dict[str, Any], tmp_path: Path) -> None:
    """Until it opens the response is the baseline's, whose peaks are in its table of scores."""
    result = run_study(
        make_study("recycle", GATED), n=6, out=tmp_path / "r", max_new_tokens=LIMIT, batch_size=6, **settings
    )
    run, opened = baseline(tmp_path), 0
    at = 0 if settings.get("site") == "ln_final" else 2
    for cell in result.run.cells():
        if "gate=mi" not in cell.condition:
            continue
        data = run.read(Cell(cell.problem))
        mi = data.tensors["mi"][data.payload["layers"].index(at)]
        peaks = tukey_peaks(mi, settings.get("tau", 1.5)).nonzero()[:, 0].tolist()
        acted = [event["step"] for event in result.run.read(cell).payload["events"] if Event(**event).is_act]
        assert min(acted, default=None) == min(peaks, default=None)
        opened += bool(acted)
    assert opened > 2
    assert not result.failures


def test_a_shared_baseline_shows_the_layers_samples_and_problems_asked_for(tmp_path: Path) -> None:
    """Studies of one layer, after one of all layers, more problems and more samples, into the same baseline."""
    common: dict[str, Any] = {"max_new_tokens": 22, "temperature": 1.0, "batch_size": 12}
    run_study(make_study("trajectories", {}), n=4, out=tmp_path / "all", samples=3, **common)
    small: dict[str, Any] = {"n": 2, "samples": 2, "layers": [1], "calibrate": 4, **common}
    options = {
        "trajectories": {"examples": "9"}, "compare": {}, "tokens": {"least": "1"}, "correctness": {},
        "overlap": {"measures": "r2", "draws": "20"},
        "ablate": {"places": "peaks", "methods": "mean"},
    }  # fmt: skip
    for name, some in options.items():
        result = run_study(make_study(name, some), out=tmp_path / name, **small)
        assert not result.failures
        for table in result.tables.values():
            if "layer" in table.columns and len(table):
                assert set(table["layer"]) <= {1, -1}, name
            if "problem" in table.columns and len(table):
                assert set(table["problem"]) <= {"toy-000", "toy-001"}, name
                assert set(table["sample"]) <= {0, 1}, name
        if name == "trajectories":
            assert result.figures[0].alt.count("layer 1") == 4
            assert result.table["n"].max() == 4
        if name == "ablate":
            assert set(result.table["layer"]) == {1}
    assert baseline(tmp_path).settings["layers"] == [0, 1, 2], "which holds more"


@pytest.mark.usefixtures("no_figures")
def test_ablation_replaces_the_site_that_was_scored(tmp_path: Path) -> None:
    """Replacing a block's input at peaks changes the answer; replacing what nothing reads afterwards does not."""
    changes = {}
    for site, layers in (("resid_pre", "1"), ("resid_mid", "-1"), ("ln_final", "all"), ("resid_post", "-1")):
        study = make_study("ablate", {"layers": layers, "places": "peaks", "methods": "mean"})
        table = run_study(study, n=3, out=tmp_path / site, max_new_tokens=75, calibrate=3, site=site).table
        assert table["steps"].min() > 0
        changes[site] = table["logprob_change"].abs().max()
    assert changes["resid_pre"] > 0.1
    assert max(changes[site] for site in ("resid_mid", "ln_final", "resid_post")) < 1e-4


def test_repairs_are_the_planted_ones() -> None:
    rng, seen, passes = Random(1), 0, 0
    for question in held_out_questions(60):
        written = sample_trace(question, rng)
        planted = {step.repair_at for step in written.steps} - {None}
        assert {at for at, one in enumerate(repairs(written.tokens)) if one} == planted
        seen += len(planted)
        passes += sum(written.tokens[at] == "Wait" for at in written.openers_at)
    assert seen > 50
    assert passes > 10
    assert repairs(["Wait", "So"]) == [False, False]


def test_planted_lengths_are_those_of_greedy_text() -> None:
    problems = bundled_problems(24)
    rollouts = decode(load_model("toy-reasoner"), [p.question for p in problems], max_new_tokens=160)
    assert [len(r) for r in rollouts] == [planted_length(question) for question in questions_of(problems)]


def test_what_was_planted_is_told_and_looked_at(tmp_path: Path) -> None:
    problems = bundled_problems(8)
    common: dict[str, Any] = {"n": 8, "max_new_tokens": 160, "batch_size": 8}
    result = run_study(make_study("trajectories", {}), out=tmp_path / "t", **common)
    line = planted_line(result, problems)
    assert line.startswith("*planted: ")
    assert line.endswith(" Found.*")
    mean = sum(map(planted_length, questions_of(problems))) / 8
    assert f"{mean:.1f} steps on average" in line
    far = result.table.assign(mean=1.0, low=0.5, high=1.5)
    result.tables["trajectories"] = far
    assert planted_line(result, problems).endswith(" NOT found.*"), "it is computed from the table"
    tokens = run_study(make_study("tokens", {"least": "1"}), out=tmp_path / "k", **common)
    assert planted_line(tokens, problems).startswith("*planted: nothing: which words")
    other = run_study(make_study("trajectories", {}), "toy-base", out=tmp_path / "b", **common | {"max_new_tokens": 40})
    assert planted_line(other, problems).startswith("*planted: nothing in toy-base")


@pytest.mark.usefixtures("no_figures")
def test_a_response_that_was_cut_states_nothing_in_study_scale(tmp_path: Path) -> None:
    """Against the last "Therefore D" or "answer D" of each text, by a plain pattern."""
    import re

    result = run_study(
        make_study("scale", {"budgets": "30,75", "tokens": "So"}), n=6, out=tmp_path / "s", max_new_tokens=75,
        batch_size=12, calibrate=6,
    )  # fmt: skip
    answers = {problem.id: problem.answer for problem in bundled_problems(6)}
    told = result.table.set_index("condition")["accuracy"]
    assert len(told) == 8
    for condition in told.index:
        right = 0
        for cell in result.run.cells(condition):
            stated = re.findall(r"(?:Therefore|answer) (\d)", result.run.read(cell).payload["text"])
            right += bool(stated) and stated[-1] == answers[cell.problem]
        assert told[condition] == pytest.approx(right / 6)
    assert told["plain 30"] == 0
    assert told["plain 75"] > 0


def test_controls_are_banned_in_every_spelling_and_are_no_thinking_word_in_any() -> None:
    model, words = F.lettered_bridge()
    rollouts = decode(model, [f"{word} {word}" for word in words[:12]], max_new_tokens=12)
    said = {token for rollout in rollouts for token in rollout.tokens}
    thinking = thinking_token_ids(model, [next(word for word in words if word in said)])
    others = thinking_token_ids(model, words[20:30])
    (draw,) = matched_random_tokens(rollouts, thinking, draws=1, exclude=others, nearest=50, model=model)
    for word, ids in draw.items():
        assert ids == thinking_token_ids(model, [word])[word]
        assert len(ids) == 2
    banned = {i for some in (thinking, others) for ids in some.values() for i in ids}
    draws = matched_random_tokens(rollouts, thinking, draws=60, exclude=others, nearest=50, model=model)
    assert not banned & {i for draw in draws for ids in draw.values() for i in ids}
    assert len({word for draw in draws for word in draw}) > 5
    seen_alone = matched_random_tokens(rollouts, thinking, draws=1, exclude=others, nearest=50)[0]
    assert {*seen_alone} == {*draw}
    assert set(next(iter(seen_alone.values()))) <= set(next(iter(draw.values())))


@pytest.mark.usefixtures("no_figures")
def test_studies_ban_controls_in_every_spelling(tmp_path: Path) -> None:
    model, words = F.lettered_bridge()
    problems = [Problem(f"p{k}", f"{words[k]} {words[k + 1]}", words[k], words[k]) for k in range(4)]
    study = make_study("suppress", {"counts": "2", "draws": "2"})
    result = run_study(study, model, problems, tmp_path / "s", words=",".join(words[:2]), max_new_tokens=10)
    for cell in result.run.cells():
        (made,) = result.run.read(cell).payload["interventions"]
        assert len(made["token_ids"]) == 4
        spelled = {model.tokenizer.decode([i]) for i in made["token_ids"]}
        assert spelled == {form for word in spelled for form in (word.lower(), word.capitalize())}


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_goes_through_every_gate_and_ablation(dtype: str, tmp_path: Path) -> None:
    model = load_model("toy-reasoner", dtype=dtype, device="cpu")
    common: dict[str, Any] = {"n": 2, "max_new_tokens": 16, "batch_size": 2, "calibrate": 3}
    gates = "mi,entropy,random" if dtype == "bfloat16" else "mi,random"
    options = {
        "recycle": {"layers": "1", "probabilities": "", "repeats": "", "triggers": "", "gates": gates},
        "ablate": {"layers": "0"}, "tokens": {"least": "1"},
    }  # fmt: skip
    for name, some in options.items():
        result = run_study(make_study(name, some), model, out=tmp_path / name, **common)
        assert not result.failures
        assert isinstance(result.table, pd.DataFrame)
    assert (tmp_path / "ablate" / "calibration.safetensors").is_file()
