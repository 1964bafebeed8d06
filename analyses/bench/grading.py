r"""How often right answers are graded wrong and wrong ones right, by this grader and by bare math-verify.

`python -m analyses.bench.grading FILE...` takes problem files (as ``--problems`` does), writes each gold answer in the
ways in which models write it (`respelled`), makes wrong answers of it (`wrong_answers`), and counts. Bare math-verify
evaluates what it reads: use files that you trust.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analyses.grading.grader import Grader

__all__ = ["Count", "check", "respelled", "wrong_answers"]


@dataclass
class Count:
    """Of `asked` responses of one kind, how many each grader graded wrong, and how many ours did not grade."""

    asked: int = 0
    ours: int = 0
    bare: int = 0
    ungraded: int = 0


def respelled(gold: str, other: str) -> Iterator[tuple[str, str]]:
    r"""Right responses, each with the name of its kind; `other` is tried and given up in the thinking.

    >>> dict(respelled("1250", "7"))["separators"], dict(respelled(r"\frac{1}{2}", "7"))["dfrac"]
    ('The answer is 1,250.', '$\\boxed{\\dfrac{1}{2}}$')
    """
    math = gold.replace(r"\$", "")
    yield "boxed", rf"So the answer is $\boxed{{{gold}}}$."
    yield "display", f"Adding up, we get\n\\[\n\\boxed{{{gold}}}\n\\]"
    yield "spaces", rf"\boxed{{ {gold} }}"
    yield "dollars", f"The answer is ${math}$."
    yield "heading", f"**Final Answer**\n\n$\\boxed{{{gold}}}$"
    yield "hash", f"And so we are done.\n#### {gold}"
    yield (
        "thinking",
        f"<think>\nPerhaps \\boxed{{{other}}}? The answer is {other}. No.\n</think>\n\nSo it is $\\boxed{{{gold}}}$.",
    )
    yield "twice", rf"It is $\boxed{{{gold}}}$. As I said: $\boxed{{{gold}}}$."
    if "frac" in gold:
        yield "dfrac", rf"$\boxed{{{gold.replace('dfrac', 'frac').replace('frac', 'dfrac')}}}$"
        yield "tfrac", rf"$\boxed{{{gold.replace('dfrac', 'frac').replace('frac', 'tfrac')}}}$"
    if "\\left" not in gold and re.search(r"(?<!\\)[(\[]", gold):
        sized = re.sub(r"(?<!\\)([(\[])", r"\\left\1", re.sub(r"(?<!\\)([)\]])", r"\\right\1", gold))
        yield "left right", rf"$\boxed{{{sized}}}$"
    if "\\left" in gold:
        unsized = re.sub(r"\\(?:left|right)", "", gold)
        yield "no left right", rf"$\boxed{{{unsized}}}$"
    number = _integer(gold)
    if number is not None:
        yield "sentence", f"So there are {number} of them in the end."
        yield "plain", f"{number}"
        yield "bold", f"The answer is **{number}**."
        yield "separators", f"The answer is {number:,}."
        yield "money", f"She makes ${number:,} every day."
        yield "decimals", rf"\boxed{{{number}.00}}"
        if "$" not in gold:
            yield "units", rf"$\boxed{{{number} \text{{ cm}}}}$"
        yield "dollars after", f"The answer is {number} dollars."
        yield "equation", f"$x = {number}$"
        yield "not another", f"The answer is {number}, not {number + 1}."
        yield (
            "next question",
            f"The answer is {number}.\n\nQuestion: How many are {number + 3}?\nThe answer is {number + 3}.",
        )
    fraction = re.fullmatch(r"(-?)\\d?frac\{?([0-9]+)\}?\s?\{?([0-9]+)\}?", gold)
    if fraction is not None and "{" in gold:
        yield "slash", rf"\boxed{{{fraction[1]}{fraction[2]}/{fraction[3]}}}"
        yield "slash in a sentence", f"So the answer is {fraction[1]}{fraction[2]}/{fraction[3]}."
        yield "over", rf"$\boxed{{{fraction[1]}{{{fraction[2]} \over {fraction[3]}}}}}$"


def wrong_answers(gold: str, other: str) -> Iterator[tuple[str, str]]:
    r"""Wrong responses, each with the name of its kind.

    >>> [text for _, text in wrong_answers(r"\frac{1}{2}", "7")][-1]
    '$\\boxed{\\frac{2}{2}}$'
    """
    yield "another problem's", rf"So the answer is $\boxed{{{other}}}$."
    yield "right in thinking", f"<think>\nIt is \\boxed{{{gold}}}.\n</think>\n\nSo it is $\\boxed{{{other}}}$."
    number = _integer(gold)
    if number is not None:
        yield "one more", rf"$\boxed{{{number + 1}}}$"
        yield "one more in a sentence", f"The answer is {number + 1}, not {number}."
        if number:
            yield "sign", rf"$\boxed{{{-number}}}$"
            yield "ten times", f"The answer is {10 * number}."
    elif re.match(r"[-\\0-9a-z]", gold) and not re.search(r"text|mbox|matrix|pm|,|\\\{|[=<>]|\\in|\\\$|_|\(", gold):
        yield (
            "sign",
            rf"$\boxed{{{gold[1:] if gold.startswith('-') else '-' + gold}}}$"
            if _one_term(gold)
            else (rf"$\boxed{{-({gold})}}$"),
        )
    if (top := re.search(r"frac\{?([0-9])", gold)) is not None:
        digit = str(int(top[1]) % 9 + 1)
        yield "numerator", rf"$\boxed{{{gold[: top.start(1)] + digit + gold[top.end(1) :]}}}$"


def _one_term(gold: str) -> bool:
    return re.search(r"(?<=.)[-+]", re.sub(r"\{[^{}]*\}", "", gold)) is None


def _integer(gold: str) -> int | None:
    text = re.sub(r"\\!\s*|,(?=\s?(?:\\!\s*)?[0-9]{3}(?![0-9]))|\\?\$", "", gold)
    return int(text) if re.fullmatch(r"-?[0-9]{1,30}", text) and not re.fullmatch(r"-?0[0-9]+", text) else None


def check(golds: Sequence[str], *, bare: bool = True, timeout: float = 5.0) -> tuple[dict[str, Count], list[str]]:
    r"""Counts for each kind of right and wrong answer ("right: boxed", "wrong: sign"), and what ours got wrong.

    >>> counts, mistaken = check([r"\frac{1}{2}", "18"], bare=False)
    >>> counts["right: boxed"], sum(count.ours for count in counts.values()), mistaken
    (Count(asked=2, ours=0, bare=0, ungraded=0), 0, [])
    """
    pairs: list[tuple[str, str, str, float]] = []
    for place, gold in enumerate(golds):
        other = next(
            (one for one in (*golds[place + 1 :], *golds[:place]) if _signs(one) != _signs(gold)), "a wrong answer"
        )
        pairs += [(f"right: {kind}", gold, text, 1.0) for kind, text in respelled(gold, other)]
        pairs += [(f"wrong: {kind}", gold, text, 0.0) for kind, text in wrong_answers(gold, other)]
    counts: dict[str, Count] = {}
    mistaken = []
    with Grader(timeout=timeout) as grader:
        grades = grader.grade([(gold, text) for _, gold, text, _ in pairs])
    for (kind, gold, text, wanted), grade in zip(pairs, grades, strict=True):
        count = counts.setdefault(kind, Count())
        count.asked += 1
        if grade.score != grade.score:
            count.ungraded += 1
            mistaken.append(f"{kind}: gold {gold!r} is not graded: {grade.detail}")
        elif grade.score != wanted:
            count.ours += 1
            mistaken.append(f"{kind}: {text!r} for gold {gold!r} is {grade.status}, read as {grade.extracted!r}")
        if bare:
            count.bare += _bare(gold, text) != wanted
    return counts, mistaken


def _signs(gold: str) -> str:
    return re.sub(r"\\(?:left|right|text|mbox|[dt]?frac|begin|end|pmatrix|circ)|^[a-z]\s?=|[^A-Za-z0-9]", "", gold)


def _bare(gold: str, text: str) -> bool:
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    try:
        return verify(parse(f"${gold}$"), parse(text))
    finally:
        logging.disable(logging.NOTSET)


def _main(files: Sequence[str]) -> None:
    from analyses.problems import load_problems

    for file in files:
        counts, mistaken = check([problem.answer for problem in load_problems(file)])
        print(f"{file}\n{'':28}{'asked':>8}{'ours':>8}{'bare':>8}{'ungraded':>10}")
        for kind, count in counts.items():
            print(f"{kind:28}{count.asked:8}{count.ours:8}{count.bare:8}{count.ungraded:10}")
        print("\n".join(mistaken), end="\n" if mistaken else "")


if __name__ == "__main__":
    _main(sys.argv[1:])
