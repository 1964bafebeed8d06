"""What thinking words are and how often they are said; and that an intervention which never acted says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import Command

from analyses.commands.show_study import do_study
from analyses.store import Cell
from analyses.studies import make_study
from analyses.studies.run import run_study
from analyses.thinking import ORDINARY, uses_line, word_uses
from interp import decode, load_model
from interp.interventions import RecycleRepresentation, SuppressTokens, thinking_token_ids

QUESTION = "6 A * 3 B - 8 C + 1 ? ->"
NEVER = "never acted: the tokens that trigger it are banned by SuppressTokens, which acts before it"


def test_a_study_tells_how_often_its_words_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, settings = make_study("suppress", {"counts": "2", "draws": "1"}), {"n": 6, "max_new_tokens": 60}
    result = run_study(study, "toy-reasoner", out=tmp_path / "s", calibrate=4, **settings)
    # A literal loop over the baseline's responses as text
    (folder,) = (tmp_path / "baselines").iterdir()
    baseline = type(result.run).open(folder)
    tokens = [token for cell in baseline.cells() for token in baseline.payload(cell)["tokens"]]
    for use in result.words:
        assert use.count == tokens.count(use.word)
        assert use.per_thousand == pytest.approx(1000 * tokens.count(use.word) / len(tokens))
        assert use.is_ordinary == (use.per_thousand > ORDINARY)
    assert [use.word for use in result.words] == ["Okay", "So", "Wait", "Hmm", "Therefore"]
    assert uses_line(result.words) in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    model = load_model("toy-reasoner")
    for as_json in (False, True):
        do_study(study, model, None, tmp_path / "s", not as_json, as_json, calibrate=4, **settings)
    facts = json.loads(capsys.readouterr().out)
    assert [word["count"] for word in facts["words"]] == [use.count for use in result.words]


def test_ordinary_words_are_marked() -> None:
    uses = word_uses({"to": (1, 2), "Wait": (3,)}, [1, 2, 3] + [9] * 97)
    assert uses_line(uses).startswith("to 20.0*, Wait 10.0 (times in 1,000 tokens of the baseline; * above 10: ")
    assert word_uses({"to": (1,)}, [])[0].is_ordinary is False


def test_what_never_acted_says_so_and_why() -> None:
    model = load_model("toy-reasoner")
    words = thinking_token_ids(model, ["Wait", "Hmm"])
    ban, recycle = SuppressTokens(words), RecycleRepresentation(2, words)

    def idle(*interventions: object) -> list[tuple[str, str, int]]:
        rollout = decode(model, [QUESTION], max_new_tokens=60, interventions=list(interventions))[0]
        return [(e.intervention, e.note, e.step - len(rollout)) for e in rollout.events if not e.is_act]

    assert idle(ban, recycle) == [("RecycleRepresentation", NEVER, 0)]
    assert idle(recycle, ban) == [], "before the ban it decides on the raw logits"
    only = thinking_token_ids(model, ["Wait"])
    closed = [("RecycleRepresentation", "never acted: its gate never opened", 0)]
    assert idle(SuppressTokens(only), RecycleRepresentation(2, words)) == closed, "Hmm, not banned, is not said here"
    assert idle(RecycleRepresentation(2, words, probability=0)) == closed
    plain = decode(model, [QUESTION], max_new_tokens=60)[0]
    unsaid = next(i for i in range(len(model.tokenizer)) if i not in plain.token_ids.tolist())
    assert idle(SuppressTokens([unsaid])) == [
        ("SuppressTokens", "never acted: none of its tokens was ever the likeliest", 0)
    ]
    # Two of one name: each is told for itself
    assert len(idle(SuppressTokens(words), SuppressTokens([unsaid]))) == 1


def test_a_study_says_which_conditions_are_the_baseline_once_more(tmp_path: Path) -> None:
    options = {"layers": "1", "probabilities": "", "repeats": "", "triggers": "", "gates": ""}
    result = run_study(
        make_study("recycle", options), "toy-reasoner", out=tmp_path / "r", n=3, words="Hmm", max_new_tokens=5
    )
    (name,) = {cell.condition for cell in result.run.cells()}
    assert f"{name}: RecycleRepresentation never acted: its gate never opened, in any of its 3 responses." in (
        result.readings
    )
    assert result.table["recycled_share"].dropna().tolist() == [0.0]
    assert result.run.payload(Cell(result.run.cells()[0].problem, condition=name))["events"][0]["step"] == 5


def test_the_command_of_the_readme_tells_it(peaklens: Command) -> None:
    words = ["generate", "--suppress", "thinking", "--recycle", "layer=2,p=1", "--json", QUESTION]
    facts = json.loads(peaklens(*words)[1])
    assert NEVER in {event["note"] for event in facts["events"]}
    assert facts["words"] == {"Okay": 0, "So": 0, "Wait": 0, "Hmm": 0, "Therefore": 0}
    _, out, _ = peaklens("generate", "--recycle", "layer=2", QUESTION)
    assert "Words: Okay " in out
