"""What was planted in the toys for each study to find, and whether its numbers found it.

The planted truth is computed from :mod:`analyses.toys` for the very problems of the study, what was found from its
tables: nothing here is typed in. Where nothing is planted, on a real model or for a question that the toys do not
settle, the line says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analyses.problems import Problem
from analyses.stats import wilson
from analyses.studies.base import StudyResult
from analyses.toys.facts import SUBSTITUTES, THINKING, fact
from analyses.toys.running import REPAIR_WORDS
from analyses.toys.task import Question, planted_answer
from interp.loading.models import bundled_model_path

__all__ = ["planted_length", "planted_line", "questions_of"]

TOY = "toy-reasoner"
INERT = tuple(word for word in THINKING if word not in REPAIR_WORDS)
FULL = 0.9  # share of a label's entropy from which a probe is said to know it

Found = tuple[str, bool | None]
"""What was planted, and whether it was found; None where this run did not ask for it."""


def planted_line(result: StudyResult, problems: Sequence[Problem]) -> str:
    """One line, *planted: what the study should find*, and whether it did."""
    model = result.run.settings["model"]
    if model != TOY:
        return f"*planted: nothing in {model}: what the study should find is not known.*"
    look = _LOOKS.get(result.study.name)
    if look is None:
        return "*planted: nothing that this study looks at.*"
    said, found = look(result, questions_of(problems))
    if said.startswith("nothing"):
        return f"*planted: {said}.*"
    verdict = {True: "Found.", False: "NOT found.", None: "Not asked for in this run."}[found]
    return f"*planted: {said}. {verdict}*"


def questions_of(problems: Sequence[Problem]) -> list[Question]:
    """The toy's questions behind problems.

    >>> questions_of([Problem("a", "6 A * 3 B - 8 ? ->", "0", "0")])[0].answer
    0
    """
    found = []
    for problem in problems:
        words = problem.question.split()
        ops = tuple((words[at + 1], int(words[at + 2])) for at in range(1, words.index("?"), 3))
        found.append(Question(int(words[0]), ops))
    return found


def planted_length(question: Question, *, repairs: bool = True) -> int:
    """Tokens of the planted mechanism's first pass, its end included.

    An opener, eight tokens an operation, two more for a repair by ``Wait``; a repair by ``Hmm`` costs the operation
    once more, and the next one where there is one; then marker, answer, separator and end.

    >>> planted_length(Question(0, (("+", 0),))), planted_length(Question(6, (("*", 3),)))  # facts of class ok and I
    (13, 15)
    """
    value, length = question.start, 1 + 4
    for at, (op, operand) in enumerate(question.ops):
        entry = fact(value, op, operand)
        length += 8
        if repairs and entry.kind == "I":
            length += 2
        if repairs and entry.kind == "D":
            following = question.ops[at + 1 : at + 2]
            length += 8 + 8 * len(following)
            # The step gone on with may slip and repair itself by a Wait, before the Hmm throws it away.
            length += 2 * sum(fact(entry.slip, *step).kind == "I" for step in following)
        value = entry.slip if entry.kind.startswith("N") or (not repairs and entry.kind != "ok") else entry.right
    return length


def _share(questions: Sequence[Question], **how: Any) -> float:
    """Accuracy of the planted mechanism."""
    return sum(planted_answer(question, **how) == question.answer for question in questions) / len(questions)


def _near(share: float, accuracy: float, n: int) -> bool:
    """Whether the planted share lies in the interval of the accuracy found."""
    found = wilson(round(accuracy * n), n)
    return found.low <= share <= found.high


def _trajectories(result: StudyResult, questions: Sequence[Question]) -> Found:
    lengths = [planted_length(question) for question in questions]
    table = result.table
    row = table[(table["statistic"] == "n_steps") & (table["layer"] == table["layer"].max())].iloc[0]
    mean = sum(lengths) / len(lengths)
    limit = int(result.run.settings["baseline"]["max_new_tokens"])
    said = (
        "where nHSIC peaks is not planted; how long responses are is, in repairs and redone operations: "
        f"{mean:.1f} steps on average, found {row['mean']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
    )
    return said, None if max(lengths) > limit else bool(row["low"] <= mean <= row["high"])


def _compare(result: StudyResult, questions: Sequence[Question]) -> Found:
    rows = {row["condition"]: row for row in result.tables["compare_accuracy"].to_dict("records")}
    if not {TOY, "toy-base"} <= set(rows):
        return "nothing in this pair of models", None
    mine, its = rows[TOY], rows["toy-base"]
    repaired, bare = _share(questions), _share(questions, wait=False, hmm=False)
    said = (
        f"the same slips in both models, repaired in one of them: {repaired:.1%} against {bare:.1%} right, found "
        f"{mine['accuracy']:.1%} against {its['accuracy']:.1%}"
    )
    near = _near(repaired, mine["accuracy"], int(mine["n"])) and _near(bare, its["accuracy"], int(its["n"]))
    return said, bool(near and mine["difference_low"] > 0)


def _suppress(result: StudyResult, questions: Sequence[Question]) -> Found:
    inert, working, parts = [], [], []
    for row in result.table.to_dict("records"):
        words = set(str(row["list"]).split())
        if not words & set(REPAIR_WORDS):
            inert.append(abs(row["difference"]))
            continue
        share = _share(questions, wait="Wait" not in words, hmm="Hmm" not in words)
        working.append(_near(share, row["thinking"], int(row["n"])))
        parts.append(f"{share:.1%} without {' '.join(sorted(words & set(REPAIR_WORDS)))}, found {row['thinking']:.1%}")
    draws = result.tables["suppress_draws"]
    controls = draws.loc[draws["kind"] == "control", "difference"].abs()
    said = (
        f"{', '.join(INERT)} have substitutes and do nothing, so do controls that leave one of each of "
        f"{len(SUBSTITUTES)} kinds; repairs are lost without Wait and Hmm: {'; '.join(parts) or 'not tried'}. The "
        f"largest change without inert words is {100 * max(inert, default=0):.1f} points, under controls "
        f"{100 * controls.max():.1f}"
    )
    if not working:
        return said, None
    return said, all(working) and max(inert, default=0) <= 0.02 and float(controls.max()) <= 0.05


def _scale(result: StudyResult, questions: Sequence[Question]) -> Found:
    table = result.table
    last = table[table["budget"] == table["budget"].max()].set_index("arm")
    most = _share(questions, care=2)
    once = _share(questions)
    said = (
        f"Wait in the place of the end opens a careful pass, which mends what the first left ({once:.1%} to "
        f"{most:.1%} after two), a neutral word opens a sloppy one, which does not"
    )
    arms = [arm for arm in last.index if str(arm).startswith("neutral")]
    if "token Wait" not in last.index or not arms:
        return said, None
    wait, neutral = last.loc["token Wait"], last.loc[arms[0]]
    said += (
        f"; found at {int(wait['budget'])} tokens {100 * wait['difference']:+.1f} points with Wait "
        f"[{100 * wait['difference_low']:+.1f}, {100 * wait['difference_high']:+.1f}], "
        f"{100 * neutral['difference']:+.1f} with {str(arms[0]).removeprefix('neutral ')}"
    )
    return said, bool(wait["difference_low"] > 0 and neutral["difference_high"] < wait["difference_low"])


def _ablate(result: StudyResult, questions: Sequence[Question]) -> Found:
    table = result.table
    last = table[table["layer"] == table["layer"].max()]
    config = json.loads((bundled_model_path(TOY) / "config.json").read_text(encoding="utf-8"))
    top = config["num_hidden_layers"] - 1
    change = last["logprob_change"].abs().max()
    said = (
        "nothing about peaks; but nothing reads the last block's output at earlier positions, so that there every "
        f"change is 0: found at most {change:.2g} nats"
    )
    asked = int(table["layer"].max()) == top and result.run.settings["baseline"]["site"] == "resid_post"
    return f"by construction: {said}", bool(change < 1e-4) if asked else None


def _correctness(result: StudyResult, questions: Sequence[Question]) -> Found:
    row = result.table.iloc[0]
    n = int(row["right"] + row["wrong"])
    share = _share(questions)
    said = (
        "which responses are right, by the facts that the first pass leaves wrong; not that peaks or nHSIC tell them "
        f"apart. {share:.1%} are to be right, found {row['right'] / max(n, 1):.1%}"
    )
    return said, bool(n and _near(share, row["right"] / n, n))


def _information(result: StudyResult, questions: Sequence[Question]) -> Found:
    table = result.table
    table = table[(table["layer"] == table["layer"].max()) & (table["target"] == "running")]
    words = tuple(result.run.settings["options"]["event_words"])
    events = table[(table["alignment"] == "event") & (table["event"] == 1)]
    # The step that writes the right result: the one after Wait; six after the Hmm that opens the operation anew.
    places = [("event", {"Wait": 1.0, "Hmm": 6.0}[words[0]])] if words in (("Wait",), ("Hmm",)) and len(events) else []
    # An end is result, separator, marker, answer, separator, end.
    places += [("end", -5.0)] if (table["alignment"] == "end").any() else []
    parts, found = [], []
    for alignment, at in places:
        rows = table[(table["alignment"] == alignment) & (table["at"] == at) & table["bits"].notna()]
        if alignment == "event":
            rows = rows[rows["event"] == 1]
        for row in rows.head(1).to_dict("records"):
            where = f"{at:+g} from {words[0]}" if alignment == "event" else f"{at:g} from the last step"
            parts.append(f"at {where} {row['bits']:.2f} of {row['entropy']:.2f} bits")
            found.append(row["bits"] >= FULL * row["entropy"])
    said = (
        "the value being computed is in the stream where its right result is written: last layer "
        f"{', '.join(parts) or 'no such place'}. That nHSIC is high there is not planted"
    )
    return said, all(found) if found else None


def _bounds(result: StudyResult, questions: Sequence[Question]) -> Found:
    row = result.table.iloc[0]
    error = 1 - _share(questions)
    said = (
        f"the error of the stated answers, {error:.1%} by the facts that the first pass leaves wrong, found "
        f"{row['stated_error']:.1%} [{row['stated_low']:.1%}, {row['stated_high']:.1%}]; the error of a decoder of the "
        "gold answer is not planted"
    )
    return said, bool(row["stated_low"] <= error <= row["stated_high"])


def _overlap(result: StudyResult, questions: Sequence[Question]) -> Found:
    table = result.table
    pair = table[(table["first"] == "thinking tokens") & (table["second"] == "planted repairs")]
    peaks = table[(table["first"] == "MI peaks") & (table["second"] == "planted repairs")]
    if pair.empty or peaks.empty:
        return "repairs, which are thinking tokens; that they are peaks is not planted", None
    row, last = pair.iloc[0], peaks[peaks["layer"] == peaks["layer"].max()].iloc[0]
    said = (
        f"{int(row['n_second'])} repairs, all of which are thinking tokens (found {int(row['both'])}); that they are "
        f"peaks is not planted ({int(last['both'])} of them are, last layer, lift {last['lift']:.2f})"
    )
    return said, bool(row["both"] == row["n_second"] > 0)


def _receivers(result: StudyResult, questions: Sequence[Question]) -> Found:
    rows = result.tables["receivers_responses"]
    base = rows[rows["condition"] == "baseline"]
    slips, ordinary = int(base["slips"].sum()), int(base["ordinary"].sum())
    repaired, right = base["repaired"].sum() / max(slips, 1), base["ordinary_right"].sum() / max(ordinary, 1)
    said = (
        f"which head does what came of training; what an untouched response does is planted: it repairs its {slips} "
        f"slips at facts that it slips and repairs itself at, found {repaired:.1%}, and is right in its {ordinary} "
        f"ordinary steps, found {right:.1%}"
    )
    return said, bool(repaired >= 0.95 and right >= 0.95) if slips and ordinary else None


def _attribute(result: StudyResult, questions: Sequence[Question]) -> Found:
    steps = result.tables["attribute_steps"]
    missing = steps.loc[steps["group"] == "peaks", "missing"].astype(float)
    said = (
        "nothing about which components write peaks; but what they wrote adds up to the stream, so that at peaks "
        f"shares sum to the difference of the score: found {missing.max():.2g} of it missing at most"
    )
    return f"by construction: {said}", bool(missing.max() <= 2e-3) if missing.notna().any() else None


def _nothing(said: str) -> Callable[[StudyResult, Sequence[Question]], Found]:
    return lambda result, questions: (said, None)


_LOOKS: Mapping[str, Callable[[StudyResult, Sequence[Question]], Found]] = {
    "trajectories": _trajectories,
    "compare": _compare,
    "tokens": _nothing("nothing: which words nHSIC marks is for the study to tell"),
    "suppress": _suppress,
    "recycle": _nothing("nothing: no training text runs a position twice, so that no gain is to be expected"),
    "scale": _scale,
    "ablate": _ablate,
    "correctness": _correctness,
    "information": _information,
    "bounds": _bounds,
    "overlap": _overlap,
    "receivers": _receivers,
    "attribute": _attribute,
}
