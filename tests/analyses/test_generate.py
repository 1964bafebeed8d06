"""`peaklens generate` as a user calls it, and how its options become interventions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from processes import Command

from analyses.commands.show_response import RECYCLE as KINDS
from analyses.commands.show_response import build_interventions, parse_options, show_response
from analyses.thinking import thinking_words
from interp import InputError, decode, load_model
from interp.interventions import SuppressTokens, thinking_token_ids
from interp.rows import name_of

QUESTION = "6 A * 3 B - 8 C + 1 ? ->"


def test_the_command_prints_the_response_with_marks(peaklens: Command) -> None:
    options = ["--suppress", "thinking", "--recycle", "layer=2,p=1", "--quiet"]
    code, out, said = peaklens("generate", *options, QUESTION)
    assert code == 0, said
    assert "«begin»1" in out
    assert "suppressed 'Okay'" in out
    assert "Wait" not in out.split("tokens, ended by")[0]
    never = "RecycleRepresentation never acted: the tokens that trigger it are banned by SuppressTokens, which acts"
    assert never in " ".join(out.split())


def test_json_is_the_rollout_of_decode(peaklens: Command) -> None:
    _, out, _ = peaklens("generate", "--suppress", "Wait,Hmm", "--json", QUESTION)
    got: dict[str, Any] = json.loads(out)
    model = load_model("toy-reasoner")
    ban = SuppressTokens(thinking_token_ids(model, ["Wait", "Hmm"]))
    rollout = decode(model, [QUESTION], max_new_tokens=256, interventions=[ban])[0]
    assert got["token_ids"] == rollout.token_ids.tolist()
    assert [e["step"] for e in got["events"]] == [e.step for e in rollout.events] != []
    assert all(e.is_act for e in rollout.events)
    # An event is where plain decoding, given what came before, would have said the word.
    for event in rollout.events:
        before = rollout.token_ids[: event.step].tolist()
        following = decode(model, [rollout.prompt_ids.tolist() + before], max_new_tokens=1)[0]
        assert event.note == f"suppressed {following.tokens[0]!r}"


def test_every_option_acts() -> None:
    model = load_model("toy-reasoner")
    built = build_interventions(
        model,
        suppress="Okay",
        recycle="layer=1,p=1,words=So+Wait,trigger=input",
        recurse="top=2,entropy=0.1",
        continue_with="token=then,budget=60,final=",
        force_budget="end=<eos>,ignore=1,append=next",
    )
    rollout = decode(model, [QUESTION], max_new_tokens=60, interventions=built)[0]
    names = [name_of(intervention) for intervention in built]
    assert names == ["SuppressTokens", "RecycleRepresentation", "RecurseLatents", "ContinueThinking", "BudgetForcing"]
    assert {event.intervention for event in rollout.events if event.is_act} == set(names) - {"BudgetForcing"}
    idle = [event for event in rollout.events if not event.is_act]
    assert [(event.intervention, event.step) for event in idle] == [("BudgetForcing", len(rollout))]
    assert idle[0].note == "never acted: no delimiter came to ignore or force"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p=1", "--recycle: expected layer=.*Add layer"),
        ("layer=x", "--recycle: expected layer=.*received 'layer=x'"),
        ("layer=1,depth=2", "received 'depth=2'"),
    ],
)
def test_wrong_options_are_said(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_options("--recycle", text, KINDS, ("layer",))


def test_wrong_input_ends_in_one_line(peaklens: Command) -> None:
    for arguments, text in (
        (("--recycle", "layer=9", QUESTION), "layer"),
        (("--suppress", "nonsense", QUESTION), "words that are single tokens"),
        (("",), "at least one prompt token"),
    ):
        code, _, said = peaklens("generate", "--quiet", *arguments)
        assert code == 2
        last = said.strip().splitlines()[-1]
        assert last.startswith("peaklens: ")
        assert text in last


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("toy-reasoner")
    rollout = decode(model, [QUESTION], max_new_tokens=5)[0]
    rollout.tokens[1] = "\x1b]0;owned\x07[red]"
    show_response(rollout)
    shown = capsys.readouterr().out
    assert "\x1b]" not in shown
    assert "[red]" in shown


def test_thinking_words_leave_out_what_is_several_tokens() -> None:
    import families as F

    with pytest.raises(InputError, match="spells none of So, Let"):
        thinking_words(F.bridge("llama"))
