"""What the interventions do to toy-reasoner, where the right result is known: `python -m analyses.toys.effects`.

Every figure comes from `interp.decode`, greedy, on held-out problems. `analyses.toys.evaluate` measures suppression and
appended tokens with plain Hugging Face and shares no decode code with this module, so each checks the other. All of it
validates the tool; it is no evidence about large models.

**A. Suppression** Thinking words, the planted negative (Okay, So, Therefore have substitutes), and as many other words
from `matched_random_tokens`, several draws. A draw leaves one verb, filler and opener at least; labels and `answer` are
never drawn, digits, operators and separators are no words. A number after a word is how often normal responses use it.
The last row of each set is the thinking words' accuracy minus the mean of the draws'.

**B. Continuation** "Appended" is s1's rule with `<eos>` as the delimiter: it is ignored once or twice and the token
takes its place. At a fixed budget `ContinueThinking` does so at every end until the budget is spent; its baseline is
plain decoding under the same cap, which is normal decoding unless that cuts something off. The neutral token opens a
pass too, a sloppy one. The last answer stated counts, and no final prompt is added: in the middle of a pass it would
ask for an answer that is not there yet.

**C. Recycling** `RecycleRepresentation` at all five thinking words, for every layer, and `RecurseLatents` of the last
layer above the median entropy of normal responses. Nothing is planted here. The control runs as many positions again at
random: the share of normal response steps that emit a thinking word, or half of them. Responses are cut where the
longest normal one ends, as recycling can keep them from ending.

**D. Patching** Each problem's first planted slip: so slips are independent, and the step starts from a true value. The
counterfactual has to be a run of the model itself that differs in what is to be explained and in nothing else:

- *careful pass*: the same step, label, value, operator, operand and verb, in the first later pass opened by `Wait` that
  gets it right. Same token, same fact, another past, the first pass and its repairs included. At `resid_pre` of layer 0
  the patch changes nothing, because the token is the same; from `resid_mid` of the last layer on it decides everything,
  because attention is over.
- *after Wait*: the slip is written and `Wait` follows, which makes the model write the right value. The residual is
  that of `Wait`, so the token differs as well.
- *other problem*: the careful step of another problem, whose right value is neither this slip nor this right value. It
  has been as careful, about another fact: what makes this slip right with it is care, what brings its value is not.

Patched is the position that predicts the value, read is the next token. Both ways: a correct run's residual into the
slip, and the slip's into the correct run. Between one attention and the next the stream of a position depends on itself
alone, so `resid_mid` and `resid_post` of a layer and `resid_pre` of the next have to agree: three ways to write it.

Accuracy has Wilson's interval. Differences are paired by problem, in percentage points, with a percentile bootstrap
over problems and the exact McNemar test of problems gained against problems lost. Where no answer changes, the
bootstrap has nothing to vary and its interval is [0, 0]. p-values are not corrected for their number. All intervals are
95 %.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from analyses.stats import mcnemar, paired_bootstrap, wilson
from interp import Intervention, ResidualSites, Rollout, decode, load_model
from interp.errors import InputError
from interp.interventions import (
    BudgetForcing,
    ContinueThinking,
    PatchResidual,
    Recompute,
    RecurseLatents,
    RecycleRepresentation,
    SuppressTokens,
    at_random,
    matched_random_tokens,
    thinking_token_ids,
)

from .evaluate import BUNDLED, Figure
from .facts import ANSWER_MARKERS, DIGITS, FILLERS, LABELS, OPENERS, OPERATORS, THINKING, VERBS, fact
from .task import Question, held_out_questions, planted_answer, read_answer

__all__ = [
    "SUPPRESSED",
    "Difference",
    "Effect",
    "Outcome",
    "Patched",
    "Slip",
    "Study",
    "Table",
    "continuation",
    "find_slips",
    "markdown",
    "paired_difference",
    "patching",
    "recycling",
    "slip_questions",
    "suppression",
]

MODEL, LAYERS, BUDGETS, SEED = "toy-reasoner", (0, 1, 2), (120, 240), 0
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
SITES = ("resid_pre", "resid_mid", "resid_post")
PATCHES = {
    "D. A correct run's residual into the slip": (
        ("slip", "careful pass"),
        ("slip", "after Wait"),
        ("slip", "other problem"),
    ),
    "D. The slip's residual into a correct run": (("careful pass", "slip"), ("after Wait", "slip")),
}
"""Pairs of (target, source) by the title of their table."""
_LIMIT, _BATCH, _PATCH_BATCH = 400, 320, 16
_DISCLAIMER = "This validates the tool; it is no evidence about large models."
_COLUMNS = "condition|right, % [95 %]|of n|as planted|against|points [95 %]|gained, lost|McNemar p|cut off"


@dataclass(frozen=True)
class Difference:
    """A paired difference in percentage points, with its interval.

    `gained` and `lost` count the problems that only this or only the baseline has right, `p` is McNemar's; None where
    the baseline is a mean over several conditions.
    """

    points: float
    low: float
    high: float
    gained: int | None = None
    lost: int | None = None
    p: float | None = None

    @property
    def cells(self) -> tuple[str, str, str]:
        points = f"{self.points:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"
        if self.p is None:
            return points, "", ""
        return points, f"{self.gained}, {self.lost}", "< 0.0001" if self.p < 1e-4 else f"{self.p:.4f}"


def paired_difference(this: Sequence[bool], base: Sequence[bool] | Sequence[float]) -> Difference:
    """Accuracy of one condition minus that of another on the same problems.

    >>> paired_difference([True, True, True, False], [True, False, False, False])
    Difference(points=50.0, low=0.0, high=100.0, gained=2, lost=0, p=0.5)

    `base` may be a share for each problem, as the mean of several draws is.
    """
    found = paired_bootstrap(this, base, draws=10_000, seed=SEED)
    points = (100 * found.estimate, 100 * found.low, 100 * found.high)
    if not all(isinstance(value, bool) for value in base):
        return Difference(*points)
    test = mcnemar(this, base)
    return Difference(*points, test.only_a, test.only_b, test.p)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The responses to all problems under one condition."""

    name: str
    questions: Sequence[Question]
    rollouts: Sequence[Rollout]
    planted: Callable[[Question], int] | None = None
    """What the planted mechanism answers under this condition; None where it says nothing."""

    @cached_property
    def answers(self) -> list[int | None]:
        """The last answer stated in each response."""
        return [read_answer(" ".join(rollout.tokens)) for rollout in self.rollouts]

    @cached_property
    def right(self) -> list[bool]:
        return [answer == question.answer for answer, question in zip(self.answers, self.questions, strict=True)]

    @property
    def figure(self) -> Figure:
        agreed = None
        if self.planted is not None:
            agreed = sum(a == self.planted(q) for a, q in zip(self.answers, self.questions, strict=True))
        return Figure(self.name, sum(self.right), len(self.questions), agreed)

    @property
    def cut_off(self) -> int:
        """How many responses ended for want of room."""
        return sum(rollout.finish_reason == "length" for rollout in self.rollouts)


@dataclass(frozen=True)
class Effect:
    """One row: a condition, its accuracy, and its difference to another condition."""

    name: str
    against: str
    difference: Difference | None
    figure: Figure | None = None
    cut_off: int | None = None

    @classmethod
    def of(cls, this: Outcome, base: Outcome | None = None) -> Effect:
        difference = None if base is None else paired_difference(this.right, base.right)
        return cls(this.name, base.name if base else "", difference, this.figure, this.cut_off)

    @property
    def cells(self) -> tuple[str, ...]:
        figure = self.figure
        share = ("", "", "")
        if figure is not None:
            planted = "" if figure.as_planted is None else str(figure.as_planted)
            share = (_share(figure), f"{figure.right} of {figure.n}", planted)
        paired = ("", "", "") if self.difference is None else self.difference.cells
        return (self.name, *share, self.against, *paired, "" if self.cut_off is None else str(self.cut_off))


@dataclass(frozen=True)
class Patched:
    """What the model writes when the residual of runs of kind `source` stands in runs of kind `target`."""

    target: str
    source: str
    layer: int
    site: str
    n: int
    right: int
    """How often the right value is written."""
    slip: int
    """How often the planted slip is."""
    carried: int
    """How often the value is that the source's own run writes."""

    @property
    def cells(self) -> tuple[str, ...]:
        shares = (_share(Figure("", self.right, self.n)), f"{100 * self.slip / self.n:.1f}")
        return (*shares, f"{100 * self.carried / self.n:.1f}") if self.source == "other problem" else shares


def _share(figure: Figure) -> str:
    found = wilson(figure.right, figure.n)
    return f"{100 * found.estimate:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


@dataclass(frozen=True)
class Table:
    """A title, a remark, and rows both as text and as they are."""

    title: str
    note: str
    columns: tuple[str, ...]
    cells: list[tuple[str, ...]]
    rows: Sequence[Effect | Patched]

    @classmethod
    def of(cls, title: str, note: str, rows: Sequence[Effect]) -> Table:
        return cls(title, note, tuple(_COLUMNS.split("|")), [row.cells for row in rows], rows)


@dataclass(eq=False)
class Study:
    """Decodes the same problems under one condition after another and keeps the outcomes by name.

    >>> study = Study(load_model("toy-reasoner"), held_out_questions(2, min_ops=3, max_ops=3))
    >>> study.run("normal").figure.n
    2
    """

    model: Any
    questions: Sequence[Question]
    bar: Any = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def run(
        self,
        name: str,
        *interventions: Intervention,
        limit: int = _LIMIT,
        planted: Callable[[Question], int] | None = None,
    ) -> Outcome:
        """The outcome of a condition; a name stands for one condition, which is decoded once."""
        if name not in self.outcomes:
            prompts = [question.text for question in self.questions]
            rollouts = decode(self.model, prompts, max_new_tokens=limit, interventions=interventions, batch_size=_BATCH)
            self.outcomes[name] = Outcome(name, self.questions, rollouts, planted)
            _tick(self.bar, name)
        return self.outcomes[name]

    @property
    def normal(self) -> Outcome:
        return self.run("normal", planted=planted_answer)

    @cached_property
    def word_counts(self) -> Counter[str]:
        """How often normal responses use each word."""
        return Counter(token for rollout in self.normal.rollouts for token in rollout.tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest normal response."""
        return max(len(rollout) for rollout in self.normal.rollouts)


def _tick(bar: Any, name: str) -> None:
    if bar is not None:
        bar.set_description(name[:40])
        bar.update(1)


def suppression(study: Study, *, draws: int = 5) -> Table:
    """Table A; see the head of this module.

    >>> study = Study(load_model("toy-reasoner"), held_out_questions(9, min_ops=3, max_ops=3))
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
    """Tables B; see the head of this module.

    >>> study = Study(load_model("toy-reasoner"), held_out_questions(2, min_ops=3, max_ops=3))
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
            pair.append(study.run(f"{token} appended {often}", forced, limit=2 * _LIMIT, planted=planted))
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
    """Tables C; see the head of this module.

    >>> study = Study(load_model("toy-reasoner"), held_out_questions(2, min_ops=3, max_ops=3))
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


@dataclass(frozen=True)
class Slip:
    """Token ids up to the value of a step that slips, after which come `wrong`, or `right` in correct runs."""

    sloppy: list[int]
    careful: list[int]
    after_wait: list[int]
    wrong: str
    right: str


@dataclass(frozen=True)
class _Written:
    """A step of a response: its words before the value, the value written, where, and what opened its pass."""

    key: tuple[str, ...]
    value: str
    right: str
    at: int
    opener: str


def _written(tokens: Sequence[str]) -> Iterator[_Written]:
    opener, digits = tokens[0], set(DIGITS)
    for at in range(5, len(tokens)):
        if tokens[at - 3] in ANSWER_MARKERS and tokens[at - 2] in digits:
            opener = tokens[at]
        label, value, op, operand, verb, written = key = tuple(tokens[at - 5 : at + 1])
        if label in LABELS and op in OPERATORS and verb in VERBS and {value, operand, written} <= digits:
            yield _Written(key[:-1], written, str(fact(int(value), op, int(operand)).right), at, opener)


def slip_questions(n: int, *, min_ops: int = 5, max_ops: int = 8) -> list[Question]:
    """The first `n` held-out problems whose true way meets a slip fact.

    >>> slip_questions(3)[:2] == slip_questions(2)
    True
    """
    found: list[Question] = []
    asked = n
    while len(found) < n:
        asked *= 2
        questions = held_out_questions(asked, min_ops=min_ops, max_ops=max_ops)
        found = [question for question in questions if _has_slip(question)]
    return found[:n]


def _has_slip(question: Question) -> bool:
    values = (question.start, *question.running)
    return any(fact(value, *op).kind != "ok" for value, op in zip(values, question.ops, strict=False))


def find_slips(model: Any, questions: Sequence[Question]) -> list[Slip]:
    """The first slip in the response to each question, with its correct runs.

    >>> model = load_model("toy-reasoner")
    >>> slip = find_slips(model, slip_questions(3, min_ops=3, max_ops=3))[0]
    >>> model.tokenizer.decode(slip.after_wait[-3:]), slip.wrong, slip.right
    ('is 9 Wait', '9', '8')

    The careful passes are those that `Wait` in place of the first two ends makes the model write. Left out are
    questions where the model does not slip, or no careful pass writes the right value of the same step.
    """
    end, wait = model.tokenizer.convert_tokens_to_ids(["<eos>", "Wait"])
    prompts, twice = [question.text for question in questions], BudgetForcing(end, ignore=2, append="Wait")
    slips = []
    for rollout in decode(model, prompts, max_new_tokens=2 * _LIMIT, interventions=[twice], batch_size=_BATCH):
        steps = list(_written(rollout.tokens))
        first = next((step for step in steps if step.value != step.right), None)
        if first is None or first.opener == "Wait":
            continue
        again = (step for step in steps if step.at > first.at and step.opener == "Wait" and step.key == first.key)
        careful = next((step for step in again if step.value == step.right), None)
        if careful is not None:
            prompt, response = rollout.prompt_ids.tolist(), rollout.token_ids.tolist()
            sloppy, after_wait = ([*prompt, *response[:at]] for at in (first.at, first.at + 1))
            correct = [*prompt, *response[: careful.at]], [*after_wait, wait]
            slips.append(Slip(sloppy, *correct, wrong=first.value, right=first.right))
    return slips


def patching(model: Any, slips: Sequence[Slip], *, layers: Sequence[int] = LAYERS, bar: Any = None) -> list[Table]:
    """Tables D; see the head of this module.

    >>> model = load_model("toy-reasoner")
    >>> slips = find_slips(model, slip_questions(3, min_ops=3, max_ops=3))
    >>> forward, backward = patching(model, slips, layers=[2])
    >>> forward.rows[-1].source, backward.rows[-1].target
    ('other problem', 'after Wait')
    """
    record = ResidualSites(layers=list(layers), sites=SITES)

    def runs_of(prefixes: list[list[int]]) -> list[Rollout]:
        return decode(model, prefixes, max_new_tokens=1, record=record, batch_size=_PATCH_BATCH)

    runs = {
        "slip": runs_of([slip.sloppy for slip in slips]),
        "careful pass": runs_of([slip.careful for slip in slips]),
        "after Wait": runs_of([slip.after_wait for slip in slips]),
    }
    # What a run is taken for, it has to be: the slip slips, the correct runs are correct.
    sound = [
        i
        for i, slip in enumerate(slips)
        if [run[i].tokens[0] for run in runs.values()] == [slip.wrong, slip.right, slip.right]
    ]
    slips, runs = [slips[i] for i in sound], {kind: [run[i] for i in sound] for kind, run in runs.items()}
    runs["other problem"] = [runs["careful pass"][i] for i in _strangers(slips)]
    note = f"{len(slips)} slips, each the first of its problem."
    tables = []
    for title, pairs in PATCHES.items():
        columns, cells, rows = ["layer", "site"], [], []
        for target, source in pairs:
            columns += [f"{target if source == 'slip' else source}: right, %", "slip, %"]
            columns += ["its value, %"] * (source == "other problem")
        for layer in layers:
            for site in SITES:
                line = [_patched(model, slips, runs, target, source, layer, site) for target, source in pairs]
                _tick(bar, f"{title}, {site} {layer}")
                cells.append((str(layer), site, *(cell for row in line for cell in row.cells)))
                rows += line
        tables.append(Table(title, note, tuple(columns), cells, rows))
    return tables


def _strangers(slips: Sequence[Slip]) -> list[int]:
    """For each slip the next one whose right value is neither its right value nor its slip."""
    found = []
    for i, slip in enumerate(slips):
        others = ((i + step) % len(slips) for step in range(1, len(slips)))
        stranger = next((j for j in others if slips[j].right not in (slip.right, slip.wrong)), None)
        if stranger is None:
            break
        found.append(stranger)
    if not slips or len(found) < len(slips):
        raise InputError(
            "patch slips",
            expected="problems whose first slips have different right values",
            received=f"{len(slips)} with a slip and correct runs",
            remedy="Take more problems.",
        )
    return found


def _patched(
    model: Any,
    slips: Sequence[Slip],
    runs: dict[str, list[Rollout]],
    target: str,
    source: str,
    layer: int,
    site: str,
) -> Patched:
    """Patch the last position of every target run with its source's, and count what is written next."""
    targets, sources = runs[target], runs[source]
    written = [""] * len(slips)
    order = sorted(range(len(slips)), key=lambda i: len(targets[i].prompt_ids))  # like lengths together: less padding
    for first in range(0, len(order), _PATCH_BATCH):
        batch = order[first : first + _PATCH_BATCH]
        patches = [PatchResidual(sources[i], layer, [0], site, rows=[row]) for row, i in enumerate(batch)]
        prompts = [targets[i].prompt_ids for i in batch]
        rollouts = decode(model, prompts, max_new_tokens=1, interventions=patches, batch_size=_PATCH_BATCH)
        for i, rollout in zip(batch, rollouts, strict=True):
            written[i] = rollout.tokens[0]
    right = sum(value == slip.right for value, slip in zip(written, slips, strict=True))
    slipped = sum(value == slip.wrong for value, slip in zip(written, slips, strict=True))
    carried = sum(value == run.tokens[0] for value, run in zip(written, sources, strict=True))
    return Patched(target, source, layer, site, len(slips), right, slipped, carried)


def markdown(tables: Sequence[Table]) -> str:
    """Tables as Markdown.

    >>> print(markdown([Table("T", "Note.", ("a", "b"), [("1", "2")], [])]))
    ## T
    <BLANKLINE>
    Note.
    <BLANKLINE>
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    parts = []
    for table in tables:
        head = [f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
        body = "\n".join([*head, *(f"| {' | '.join(line)} |" for line in table.cells)])
        parts += [f"## {table.title}", *([table.note] if table.note else []), body]
    return "\n\n".join(parts)


def _show(tables: Sequence[Table]) -> None:
    from rich.console import Console
    from rich.table import Table as Shown
    from rich.text import Text

    # Numbers must stay whole: what is too wide for the terminal is wrapped by it, not cut.
    console = Console(width=max(150, Console().width))
    for table in tables:
        shown = Shown(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
        for column in table.columns:
            if column in ("condition", "against"):
                shown.add_column(Text(column), overflow="fold", min_width=24)
            else:
                shown.add_column(Text(column), justify="right", no_wrap=True)
        for line in table.cells:
            shown.add_row(*map(Text, line))  # as text: [1, 2] would be taken for markup
        console.print(shown)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure, print the tables, write Markdown and JSON when asked."""
    parser = argparse.ArgumentParser(prog="python -m analyses.toys.effects", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--n", type=int, default=320, help="held-out problems")
    parser.add_argument("--only", nargs="+", choices="ABCD", default="ABCD", help="some of the tables")
    parser.add_argument("--layers", nargs="+", type=int, choices=LAYERS, default=LAYERS, help="of tables C and D")
    parser.add_argument("--draws", type=int, default=5, help="controls for a set of words")
    parser.add_argument("--budgets", nargs="*", type=int, default=BUDGETS, help="tokens")
    parser.add_argument("--json", type=Path, help="file to write every number to")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to")
    options = parser.parse_args(arguments)
    if options.n < 1:
        raise InputError("effects", expected="n of at least 1", received=str(options.n), remedy="Change --n.")
    torch.set_num_threads(1)
    model = load_model(MODEL, device="cpu")
    tables: list[Table] = []
    with tqdm(unit=" conditions", disable=None) as bar:
        study = Study(model, held_out_questions(options.n), bar)
        if "A" in options.only:
            tables.append(suppression(study, draws=options.draws))
        if "B" in options.only:
            tables += continuation(study, budgets=options.budgets)
        if "C" in options.only:
            tables += recycling(study, layers=options.layers)
        if "D" in options.only:
            slips = find_slips(model, slip_questions(options.n))
            tables += patching(model, slips, layers=options.layers, bar=bar)
    _show(tables)
    print(_DISCLAIMER)
    if options.markdown:
        options.markdown.write_text(f"{_DISCLAIMER}\n\n{markdown(tables)}\n")
    if options.json:
        weights = json.loads((BUNDLED / MODEL / "training.json").read_text())["sha256"]
        settings = decode(model, ["1 A + 1 ? ->"], max_new_tokens=1)[0].settings
        content = {
            "model": MODEL,
            "sha256": weights,
            "n": options.n,
            "seed": SEED,
            "versions": settings["versions"],
            "tables": [{"title": t.title, "note": t.note, "rows": [asdict(row) for row in t.rows]} for t in tables],
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
