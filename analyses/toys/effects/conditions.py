"""Tables A, B and C: thinking words suppressed, responses continued, representations recycled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from analyses.toys.effects.study import LAYERS, LIMIT, Study
from analyses.toys.effects.tables import SEED, Effect, Table, paired_difference
from analyses.toys.facts import ANSWER_MARKERS, FILLERS, LABELS, OPENERS, THINKING, VERBS
from analyses.toys.task import planted_answer
from interp.interventions import (
    BudgetForcing,
    ContinueThinking,
    Recompute,
    RecurseLatents,
    RecycleRepresentation,
    SuppressTokens,
    at_random,
    matched_random_tokens,
    thinking_token_ids,
)

__all__ = ["BUDGETS", "SUPPRESSED", "continuation", "recycling", "suppression"]

BUDGETS = (120, 240)
SUPPRESSED = {
    "Wait suppressed": ("Wait",),
    "Hmm suppressed": ("Hmm",),
    "Wait and Hmm suppressed": ("Wait", "Hmm"),
    "all five thinking words suppressed": THINKING,
    "Okay, So, Therefore suppressed": ("Okay", "So", "Therefore"),
}
CONTROLLED = ("Wait and Hmm suppressed", "all five thinking words suppressed")
SYNONYMS = (VERBS, FILLERS, OPENERS, ANSWER_MARKERS[1:], *((label,) for label in LABELS))
NEUTRAL = OPENERS[0]


def suppression(study: Study, *, draws: int = 5) -> Table:
    """Table A; see the head of `analyses.toys.effects`.

    >>> from analyses.toys.task import held_out_questions
    >>> from interp import load_model
    >>> study = Study(load_model("toy-reasoner"), held_out_questions(9, min_ops=2, max_ops=2))
    >>> suppression(study, draws=2).rows[-1].against
    'mean of its 2 draws'
    """
    rows, outcomes = [Effect.of(study.normal)], {}
    for name, words in SUPPRESSED.items():
        planted = partial(planted_answer, wait="Wait" not in words, hmm="Hmm" not in words)
        outcomes[name] = study.run(name, SuppressTokens(thinking_token_ids(study.model, words)), planted=planted)
        rows.append(Effect.of(outcomes[name], study.normal))
    for name in CONTROLLED:
        ids = thinking_token_ids(study.model, SUPPRESSED[name])
        # The words matched are `ids`; the other thinking words are no controls either.
        keep = [*SYNONYMS, *((word,) for word in THINKING if word not in ids)]
        controls = []
        drawn = matched_random_tokens(study.normal.rollouts, ids, draws=draws, seed=SEED, keep=keep)
        for number, control_ids in enumerate(drawn, start=1):
            listing = ", ".join(f"{word} {study.word_counts[word]}" for word in sorted(control_ids))
            control = study.run(f"control: {listing}", SuppressTokens(control_ids), planted=planted_answer)
            controls.append(control.right)
            title = f"{len(ids)} words, draw {number}: {listing}"
            rows.append(replace(Effect.of(control, study.normal), name=title))
        mean = [sum(rights) / draws for rights in zip(*controls, strict=True)]
        rows.append(Effect(name, f"mean of its {draws} draws", paired_difference(outcomes[name].right, mean)))
    counts = ", ".join(f"{word} {study.word_counts[word]}" for word in THINKING)
    return Table.of("A. Suppression", f"Normal responses use {counts} times.", rows)


def continuation(study: Study, *, budgets: Sequence[int] = BUDGETS) -> list[Table]:
    """Tables B; see the head of `analyses.toys.effects`.

    >>> from analyses.toys.task import held_out_questions
    >>> from interp import load_model
    >>> study = Study(load_model("toy-reasoner"), held_out_questions(2, min_ops=1, max_ops=1))
    >>> [len(table.rows) for table in continuation(study, budgets=())]
    [5, 2]
    """
    end = int(study.model.tokenizer.eos_token_id)
    rows, contrasts = [Effect.of(study.normal)], []
    for times, often in ((1, "once"), (2, "twice")):
        pair = []
        for token in ("Wait", NEUTRAL):
            planted = partial(planted_answer, care=times if token == "Wait" else 0)
            forced = BudgetForcing(end, ignore=times, append=token)
            pair.append(study.run(f"{token} appended {often}", forced, limit=2 * LIMIT, planted=planted))
            rows.append(Effect.of(pair[-1], study.normal))
        contrasts.append(Effect.of(*pair))
    for budget in budgets:
        plain = study.normal  # which a budget that cuts nothing off leaves as it is
        if budget < study.longest:
            nothing = ContinueThinking("", budget, at="start", final_prompt="")
            plain = study.run(f"plain, budget {budget}", nothing, limit=budget)
            rows.append(Effect.of(plain, study.normal))
        pair = []
        for token in ("Wait", NEUTRAL):
            think = ContinueThinking(token, budget, final_prompt="")
            pair.append(study.run(f"{token}, budget {budget}", think, limit=budget))
            rows.append(Effect.of(pair[-1], plain))
        contrasts.append(Effect.of(*pair))
    note = f"The longest normal response has {study.longest} tokens. Where a budget is spent, all are cut."
    return [
        Table.of("B. Continuation", note, rows),
        Table.of("B. Wait against the neutral token", "", contrasts),
    ]


def recycling(study: Study, *, layers: Sequence[int] = LAYERS, repeats: Sequence[int] = (1, 2)) -> list[Table]:
    """Tables C; see the head of `analyses.toys.effects`.

    >>> from analyses.toys.task import held_out_questions
    >>> from interp import load_model
    >>> study = Study(load_model("toy-reasoner"), held_out_questions(2, min_ops=1, max_ops=1))
    >>> [len(table.rows) for table in recycling(study, layers=[2], repeats=[1])]
    [5, 3]
    """
    normal, ids = study.normal, thinking_token_ids(study.model, THINKING)
    rate = sum(study.word_counts[word] for word in THINKING) / study.word_counts.total()
    entropy = torch.cat([rollout.entropy for rollout in normal.rollouts])
    threshold = float(entropy.median())
    above = float((entropy > threshold).float().mean())
    rows, contrasts = [], []

    def compare(name: str, control: Recompute, gated: dict[str, Recompute]) -> None:
        random = study.run(f"{name}, at random", control, limit=study.longest)
        for gate, recompute in gated.items():
            outcome = study.run(f"{name}, {gate}", recompute, limit=study.longest)
            rows.append(Effect.of(outcome, normal))
            contrasts.append(Effect.of(outcome, random))
        rows.append(Effect.of(random, normal))

    for layer in layers:
        for k in repeats:
            gated = {
                gate: RecycleRepresentation(layer, ids, repeats=k, trigger=gate) for gate in ("predicted", "input")
            }
            name = f"layer {layer}, {k} time{'s' * (k > 1)}"
            compare(name, Recompute(layer, layer, at_random(rate), repeats=k), gated)
    recurse = RecurseLatents(top_layers=1, entropy_threshold=threshold)
    compare("recursion", replace(recurse, gate=at_random(above)), {"uncertain": recurse})
    note = (
        f"Rates of the random gates: {rate:.3f}; {above:.3f} for recursion (entropy above {threshold:.3f} nats, up to "
        f"{recurse.repeats} times). Responses are cut at {study.longest} tokens."
    )
    return [
        Table.of("C. Recycling", note, rows),
        Table.of("C. Recycling against as many positions at random", "", contrasts),
    ]
