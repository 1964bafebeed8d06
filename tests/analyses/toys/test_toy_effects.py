"""Effects measured through `interp.decode` against plain Hugging Face, literal definitions and the planted truth."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch
from references import hf_logits, hf_residuals

from analyses.stats import wilson
from analyses.toys.effects import (
    SUPPRESSED,
    Effect,
    Patched,
    Slip,
    Study,
    Table,
    continuation,
    find_slips,
    markdown,
    paired_difference,
    patching,
    recycling,
    slip_questions,
    suppression,
)
from analyses.toys.effects.__main__ import main
from analyses.toys.evaluate import BUNDLED, complete, load
from analyses.toys.facts import FILLERS, OPENERS, THINKING, VERBS, fact
from analyses.toys.task import held_out_questions
from interp import load_model
from interp.errors import InputError

N, SLIPS = 24, 10


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("toy-reasoner", device="cpu")


@pytest.fixture(scope="module")
def hf() -> tuple[Any, Any]:
    return load(BUNDLED / "toy-reasoner")


@pytest.fixture(scope="module")
def normal(study, hf) -> list[str]:
    """What Hugging Face says to the study's prompts."""
    return complete(*hf, [question.text for question in study.questions])


@pytest.fixture(scope="module")
def study(model) -> Study:
    return Study(model, held_out_questions(N, min_ops=4, max_ops=4))


@pytest.fixture(scope="module")
def suppressed(study) -> Table:
    return suppression(study, draws=2)


@pytest.fixture(scope="module")
def continued(study) -> list[Table]:
    return continuation(study, budgets=(40, 90))


@pytest.fixture(scope="module")
def slips(model) -> list[Slip]:
    return find_slips(model, slip_questions(SLIPS, min_ops=4, max_ops=4))


@pytest.fixture(scope="module")
def patched(model, slips) -> dict[tuple[str, str, int, str], Patched]:
    tables = patching(model, slips)
    return {(row.target, row.source, row.layer, row.site): row for table in tables for row in table.rows}


def row(table: Table, name: str, against: str = "normal") -> Effect:
    return next(row for row in table.rows if row.name == name and row.against == against)


def responses(study: Study, name: str) -> list[list[str]]:
    """Words of every response, its end left out."""
    rollouts = study.outcomes[name].rollouts
    assert all(rollout.finish_reason == "eos" and rollout.tokens[-1] == "<eos>" for rollout in rollouts)
    return [rollout.tokens[:-1] for rollout in rollouts]


def test_suppressed_responses_are_those_of_hugging_face(study, suppressed, hf, normal):
    prompts = [question.text for question in study.questions]
    control = next(name for name in study.outcomes if name.startswith("control"))
    words = {**SUPPRESSED, control: [part.split()[0] for part in control.removeprefix("control: ").split(", ")]}
    for name in ("normal", "Wait and Hmm suppressed", "Okay, So, Therefore suppressed", control):
        theirs = complete(*hf, prompts, suppress=words[name]) if name in words else normal
        assert responses(study, name) == [text.split() for text in theirs]
        assert not set().union(*responses(study, name)) & set(words.get(name, ()))


def test_appended_responses_are_those_of_hugging_face(study, continued, hf, normal):
    prompts = [question.text for question in study.questions]
    for token in ("Wait", "start"):
        texts = normal
        for often in ("once", "twice"):
            begun = [f"{text} {token}" for text in texts]
            added = complete(*hf, [f"{prompt} {text}" for prompt, text in zip(prompts, begun, strict=True)])
            texts = [f"{text} {new}" for text, new in zip(begun, added, strict=True)]
            assert responses(study, f"{token} appended {often}") == [text.split() for text in texts]


def test_planted_effects_have_their_signs(study, suppressed, continued):
    for name in ("Wait suppressed", "Hmm suppressed", "Wait and Hmm suppressed", "all five thinking words suppressed"):
        assert row(suppressed, name).difference.points < 0
    assert row(suppressed, "Wait and Hmm suppressed").difference.p < 0.01
    substitutes = row(suppressed, "Okay, So, Therefore suppressed")
    controls = [effect for effect in suppressed.rows if "draw " in effect.name]
    assert len(controls) == 4
    for effect in [substitutes, *controls]:
        assert effect.difference.p > 0.05
        assert effect.difference.low <= 0 <= effect.difference.high
    for name in ("Wait and Hmm suppressed", "all five thinking words suppressed"):
        assert row(suppressed, name, "mean of its 2 draws").difference.high < 0
    once, twice, short, long = continued[1].rows
    assert [effect.against for effect in (once, twice)] == ["start appended once", "start appended twice"]
    assert all(effect.difference.points > 10 and effect.difference.lost == 0 for effect in (once, twice, long))
    assert short.difference.points == 0  # no response ends early enough for another pass
    assert all(effect.figure.as_planted >= N - 2 for effect in [*suppressed.rows[:6], *continued[0].rows[:5]])


def test_rows_say_what_was_decoded(study, suppressed):
    right = {name: torch.tensor(outcome.right).double() for name, outcome in study.outcomes.items()}
    for outcome in study.outcomes.values():
        # the answer as a reader finds it: the number after the last marker that a number follows
        last = [
            [int(b) for a, b in pairwise(r.tokens) if a in ("Therefore", "answer") and b.isdigit()][-1:]
            for r in outcome.rollouts
        ]
        assert outcome.right == [found == [q.answer] for found, q in zip(last, study.questions, strict=True)]
    effect = row(suppressed, "Wait suppressed")
    assert effect.figure.right == right["Wait suppressed"].sum()
    found = wilson(effect.figure.right, N)
    assert effect.figure.interval == (found.low, found.high)
    assert effect.difference.points == pytest.approx(100 * float((right["Wait suppressed"] - right["normal"]).mean()))
    two = [effect for effect in suppressed.rows if effect.name.startswith("2 words, draw")]
    draws = [right[f"control: {effect.name.split(': ')[1]}"] for effect in two]
    contrast = row(suppressed, "Wait and Hmm suppressed", "mean of its 2 draws")
    expected = right["Wait and Hmm suppressed"].mean() - torch.stack(draws).mean()
    assert contrast.difference.points == pytest.approx(100 * float(expected))
    assert contrast.difference.p is None


def test_controls_leave_what_the_task_needs(study, suppressed):
    for name in study.outcomes:
        if name.startswith("control: "):
            words = {part.split()[0] for part in name.removeprefix("control: ").split(", ")}
            assert len(words) in (2, 5)
            assert words <= {*VERBS, *FILLERS, *OPENERS}
            assert all(set(kind) - words for kind in (VERBS, FILLERS, OPENERS))


def test_paired_difference_is_its_definition():
    from scipy.stats import binomtest, bootstrap
    from statsmodels.stats.contingency_tables import mcnemar

    dice = Random(1)
    for share in (0.5, 0.8, 1.0):
        this = [dice.random() < share for _ in range(60)]
        base = [dice.random() < 0.6 for _ in range(60)]
        found = paired_difference(this, base)
        gained = sum(a and not b for a, b in zip(this, base, strict=True))
        lost = sum(b and not a for a, b in zip(this, base, strict=True))
        assert (found.gained, found.lost, found.points) == (gained, lost, pytest.approx(100 * (gained - lost) / 60))
        tail = sum(math.comb(gained + lost, k) for k in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
        assert found.p == pytest.approx(min(1.0, 2 * tail))
        assert found.p == pytest.approx(binomtest(gained, gained + lost).pvalue)
        assert found.p == pytest.approx(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)
        differences = [100.0 * (a - b) for a, b in zip(this, base, strict=True)]
        means = sorted(sum(dice.choices(differences, k=60)) / 60 for _ in range(4000))
        assert (found.low, found.high) == pytest.approx((means[100], means[3899]), abs=1.8)
        theirs = bootstrap((differences,), lambda x, axis: x.mean(axis), method="percentile", random_state=0)
        assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=1.8)
        assert found == paired_difference(this, base)
        shares = paired_difference(this, [float(value) for value in base])
        assert (shares.points, shares.low, shares.high, shares.p) == (found.points, found.low, found.high, None)
    assert paired_difference(base, base).p == 1.0


def test_recycling_is_gated_as_it_says(model):
    study = Study(model, held_out_questions(12, min_ops=2, max_ops=2))
    against_normal, against_random = recycling(study, layers=[1], repeats=[1])
    normal = study.outcomes["normal"].rollouts
    steps = sum(len(rollout) for rollout in normal)
    thinking = sum(token in THINKING for rollout in normal for token in rollout.tokens)

    def opened(name: str) -> set[tuple[int, int]]:
        return {
            (i, event.step)
            for i, rollout in enumerate(study.outcomes[name].rollouts)
            for event in rollout.events
            if event.is_act
        }

    for name, rate in (("layer 1, 1 time, at random", thinking / steps), ("recursion, at random", 0.5)):
        total = sum(len(rollout) for rollout in study.outcomes[name].rollouts)
        assert len(opened(name)) / total == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / total))
    for rollout in study.outcomes["layer 1, 1 time, input"].rollouts:
        before = ["->", *rollout.tokens]
        assert [event.step for event in rollout.events if event.is_act] == [
            i for i, token in enumerate(before[:-1]) if token in THINKING
        ]
    threshold = torch.cat([rollout.entropy for rollout in normal]).median()
    start = {(i, 0) for i, rollout in enumerate(normal) if rollout.entropy[0] > threshold}
    assert {mark for mark in opened("recursion, uncertain") if mark[1] == 0} == start
    assert opened("recursion, uncertain") != opened("recursion, at random")
    assert {effect.against for effect in against_normal.rows} == {"normal"}
    assert [effect.against.split(", ")[-1] for effect in against_random.rows] == ["at random"] * 3


def test_slips_are_planted_and_their_runs_differ_in_nothing_else(model, slips):
    assert len(slips) >= SLIPS - 3
    for slip in slips:
        sloppy, careful, after = (
            model.tokenizer.decode(ids).split() for ids in (slip.sloppy, slip.careful, slip.after_wait)
        )
        label, value, op, operand, verb = sloppy[-5:]
        assert verb in VERBS
        assert careful[-5:] == sloppy[-5:]
        assert after == [*sloppy, slip.wrong, "Wait"]
        entry = fact(int(value), op, int(operand))
        assert (str(entry.right), str(entry.slip)) == (slip.right, slip.wrong)
        assert careful[: len(after) - 1] == after[:-1]
        begun = max(i for i in range(len(careful)) if careful[i - 1 : i + 1] == [".", "Wait"])
        assert careful[begun + 1 :].count(label) == 1
        assert "Therefore" not in careful[begun:]
        response = sloppy[sloppy.index("->") + 1 :]
        assert "Therefore" not in response
        for at in range(4, len(response) - 1):
            if response[at] in VERBS:  # no slip before this one
                start, operator, number, written = (*response[at - 3 : at], response[at + 1])
                assert str(fact(int(start), operator, int(number)).right) == written


def test_patches_that_can_do_nothing_or_everything(patched):
    n = patched["slip", "careful pass", 0, "resid_pre"].n
    assert n >= SLIPS - 3
    for target, source in (("slip", "careful pass"), ("careful pass", "slip")):
        same = patched[target, source, 0, "resid_pre"]  # the same token: its embedding replaced by itself
        assert (same.right, same.slip) == ((0, n) if target == "slip" else (n, 0))
    for (target, source, layer, site), found in patched.items():
        if layer == 2 and site != "resid_pre":  # nothing but the position itself decides
            assert found.carried == n
            assert found.right == (0 if source in ("slip", "other problem") else n)
        if layer < 2:
            counts = [(at.right, at.slip, at.carried) for at in (
                patched[target, source, layer, "resid_mid"],
                patched[target, source, layer, "resid_post"],
                patched[target, source, layer + 1, "resid_pre"],
            )]  # fmt: skip
            assert counts[0] == counts[1] == counts[2]
    careful, other = (patched["slip", source, 1, "resid_mid"] for source in ("careful pass", "other problem"))
    assert wilson(careful.right, n).low > wilson(other.right, n).high
    assert patched["careful pass", "slip", 1, "resid_mid"].slip > 0.8 * n


@torch.no_grad()
def test_patched_digits_are_those_of_hugging_face(model, slips, patched, hf):
    plain = hf[0]
    assert plain.config.num_hidden_layers == 3
    texts = {
        "slip": [slip.sloppy for slip in slips],
        "careful pass": [slip.careful for slip in slips],
        "after Wait": [slip.after_wait for slip in slips],
    }
    streams = {kind: [hf_residuals(plain, ids) for ids in prefixes] for kind, prefixes in texts.items()}
    for target, source in (("slip", "careful pass"), ("slip", "after Wait"), ("careful pass", "slip")):
        for layer, site in ((0, "resid_pre"), (0, "resid_post"), (1, "resid_post")):
            written = []
            for ids, stream in zip(texts[target], streams[source], strict=True):
                edits = {(site, layer): {len(ids) - 1: stream[site][layer][-1]}}
                written.append(model.tokenizer.decode([int(hf_logits(plain, ids, edits).argmax())]))
            found = patched[target, source, layer, site]
            assert found.n == len(slips)
            assert found.right == sum(digit == slip.right for digit, slip in zip(written, slips, strict=True))
            assert found.slip == sum(digit == slip.wrong for digit, slip in zip(written, slips, strict=True))


def test_tables_show_their_rows(continued):
    first = row(continued[0], "Wait appended once")
    low, high = (100 * edge for edge in first.figure.interval)
    share = f"{100 * first.figure.right / N:.1f} [{low:.1f}, {high:.1f}] | {first.figure.right} of {N}"
    paired = first.difference
    points = f"{paired.points:+.1f} [{paired.low:+.1f}, {paired.high:+.1f}] | {paired.gained}, {paired.lost}"
    line = f"| Wait appended once | {share} | {first.figure.as_planted} | normal | {points} | {paired.p:.4f} | 0 |"
    assert line in markdown(continued).splitlines()
    assert f"## {continued[0].title}\n\n{continued[0].note}\n\n| condition |" in markdown(continued)


def test_command_prints_and_writes_the_tables(tmp_path, capsys):
    files = tmp_path / "effects.json", tmp_path / "effects.md"
    main(["--n", "4", "--only", "D", "--layers", "2", "--json", str(files[0]), "--markdown", str(files[1])])
    written = json.loads(files[0].read_text())
    assert (written["model"], written["n"], len(written["sha256"])) == ("toy-reasoner", 4, 64)
    assert [len(table["rows"]) for table in written["tables"]] == [9, 6]
    last = written["tables"][1]["rows"][-1]
    assert {key: last[key] for key in ("target", "source", "layer", "site")} == {
        "target": "after Wait",
        "source": "slip",
        "layer": 2,
        "site": "resid_post",
    }
    assert last["slip"] == last["n"]
    share = f" 0.0 [0.0, {100 * wilson(0, last['n']).high:.1f}]"
    for text in (capsys.readouterr().out, files[1].read_text()):
        for part in ("into a correct run", share, "resid_post", "no evidence about large models"):
            assert part in text


def test_bad_requests_are_refused_in_words(model, slips):
    with pytest.raises(InputError, match="expected n of at least 1, received 0"):
        main(["--n", "0"])
    with pytest.raises(InputError, match=r"accuracy_difference.*received 1, 2"):
        paired_difference([True], [True, False])
    for few in ([], slips[:1]):
        with pytest.raises(InputError, match=f"have different right values, received {len(few)} .*more problems"):
            patching(model, few)
