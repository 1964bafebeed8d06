"""`peaklens generate` as a user runs it, and how its options become interventions."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from analyses.commands.cli import main
from analyses.commands.generate import RECYCLE as KINDS
from analyses.commands.generate import build_interventions, parse_options, show_response
from analyses.thinking import thinking_words
from interp import InputError, decode, load_model
from interp.interventions import SuppressTokens, thinking_token_ids
from interp.rows import name_of

QUESTION = "6 A * 3 B - 8 C + 1 ? ->"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "analyses.commands.cli", "generate", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_the_response_with_marks() -> None:
    done = run("--suppress", "thinking", "--recycle", "layer=2,p=1", "--quiet", QUESTION)
    assert done.returncode == 0, done.stderr
    assert "«begin»1" in done.stdout
    assert "suppressed 'Okay'" in done.stdout
    assert "Wait" not in done.stdout.split("tokens, ended by")[0]


def test_json_is_the_rollout_of_decode() -> None:
    done = run("--suppress", "Wait,Hmm", "--json", QUESTION)
    got: dict[str, Any] = json.loads(done.stdout)
    model = load_model("toy-reasoner")
    ban = SuppressTokens(thinking_token_ids(model, ["Wait", "Hmm"]))
    rollout = decode(model, [QUESTION], max_new_tokens=256, interventions=[ban])[0]
    assert got["token_ids"] == rollout.token_ids.tolist()
    assert [e["step"] for e in got["events"]] == [e.step for e in rollout.events] != []
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
    assert {event.intervention for event in rollout.events} == set(names) - {"BudgetForcing"}


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


def test_wrong_input_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in (
        (("--recycle", "layer=9", QUESTION), "layer"),
        (("--suppress", "nonsense", QUESTION), "words that are single tokens"),
        (("",), "at least one prompt token"),
    ):
        monkeypatch.setattr(sys, "argv", ["peaklens", "generate", "--quiet", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("peaklens: ")
        assert text in said


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
