"""Tables D: residuals of correct runs at the first planted slip of a problem, and the other way round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from analyses.toys.effects.study import BATCH, LAYERS, LIMIT, tick
from analyses.toys.effects.tables import Patched, Table
from analyses.toys.facts import ANSWER_MARKERS, DIGITS, LABELS, OPERATORS, VERBS, fact
from analyses.toys.task import Question, held_out_questions
from interp import ResidualSites, Rollout, decode
from interp.errors import InputError
from interp.interventions import BudgetForcing, PatchResidual

__all__ = ["Slip", "find_slips", "patching", "slip_questions"]

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
_PATCH_BATCH = 16


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

    >>> from interp import load_model
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
    for rollout in decode(model, prompts, max_new_tokens=2 * LIMIT, interventions=[twice], batch_size=BATCH):
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
    """Tables D; see the head of `analyses.toys.effects`.

    >>> from interp import load_model
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
                tick(bar, f"{title}, {site} {layer}")
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
