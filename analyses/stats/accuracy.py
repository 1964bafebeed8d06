"""The accuracies of several conditions and their differences to a baseline, or each to its own, in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.stats.bootstrap import accuracy_difference
from analyses.stats.conditions import holm, mcnemar, power_note
from analyses.stats.estimate import floats, proportion
from interp.errors import InputError

if TYPE_CHECKING:
    import pandas

__all__ = ["accuracy_table"]


def accuracy_table(
    frame: pandas.DataFrame,
    by: str = "condition",
    baseline: Any = "baseline",
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> pandas.DataFrame:
    """Accuracy of each condition and its difference to the baseline, one row a condition.

    >>> import pandas as pd
    >>> right = {"baseline": [1, 1, 1, 1, 1, 1, 0, 1], "no Wait": [0, 0, 0, 0, 0, 0, 0, 1]}
    >>> rows = [(name, p, 0, x) for name, xs in right.items() for p, x in enumerate(xs)]
    >>> table = accuracy_table(pd.DataFrame(rows, columns=["condition", "problem", "sample", "correct"]))
    >>> table[["condition", "n", "accuracy", "difference", "p"]].values.tolist()
    [['baseline', 8, 0.875, nan, nan], ['no Wait', 8, 0.125, -0.75, 0.03125]]

    `frame` has the columns `by`, problem, sample and correct (true, false, or missing where the grading found nothing
    out), one row each. A problem with such a response drops out of its condition whole, and out of all conditions where
    a column status says that its grading failed or timed out: else right answers would count and wrong ones not. Other
    columns are ignored. `baseline` names the condition that the others are compared with, or is a mapping that names
    one for each condition that has one. The columns of the result:

    - `n` graded responses of `problems` problems; `excluded` responses that dropped out, and in words `left_out`
    - `accuracy`, and `low`, `high`: Wilson's interval; with several samples a problem, for the effective number of
      responses, n / design effect of clusters (Kish 1965), which is never more than n
    - `pairs` (problem, sample) graded in both; `difference`, `difference_low`, `difference_high` over these, by the
      bootstrap of whole problems (`accuracy_difference`)
    - `only_here`, `only_baseline`: discordant pairs; `p` of `mcnemar`, with problems as clusters; `p_holm`, corrected
      for all comparisons of the table together, which are `tests`
    - `note`: of those not told apart (p_holm >= 1 - level), what this n cannot tell beside so many tests

    Raises `InputError` for missing columns, a baseline that is not there, and a response given twice.
    """
    import pandas as pd

    found = frame[by].unique().tolist() if by in frame.columns else []
    several = baseline if isinstance(baseline, Mapping) else {name: baseline for name in found if name != baseline}
    bases = {name: several[name] for name in found if name in several}
    grades = _graded(frame, by, [baseline] if several is not baseline else [*bases.values()])
    case = grades.groupby(["problem", "sample"], sort=False).ngroup().to_numpy()
    problem = np.zeros(case.max() + 1, dtype=np.int64)  # of each case
    problem[case] = pd.factorize(grades["problem"])[0]
    condition, names = pd.factorize(grades[by])
    correct = grades["correct"].to_numpy()
    values = np.full((len(names), len(problem)), np.nan)
    values[condition, case] = correct
    asked = np.bincount(condition, minlength=len(names))
    place = {name: i for i, name in enumerate(names)}
    rows = [
        {
            by: name,
            **_accuracy(values[i], problem, int(asked[i]), level),
            "left_out": _reasons(grades[condition == i]),
            **_against(values[i], values[place[bases[name]]] if name in bases else None, problem, level, draws, seed),
        }
        for i, name in enumerate(names)
    ]
    table = pd.DataFrame(rows)
    p = table["p"].to_numpy(dtype=float)
    adjusted, tests = holm(p), int((~np.isnan(p)).sum())
    notes = [
        "" if told < 1 - level else power_note(row["compared"], row["apart"], level, unit=row["unit"], tests=tests)
        if row["compared"] else row["note"]
        for row, told in zip(rows, adjusted.tolist(), strict=True)
    ]  # fmt: skip
    table = table.drop(columns=["compared", "apart", "unit", "note"])
    return table.assign(p_holm=adjusted, tests=tests, note=notes)


def _graded(frame: pandas.DataFrame, by: str, baselines: Sequence[Any]) -> pandas.DataFrame:
    operation, wanted = "accuracy_table", [by, "problem", "sample", "correct"]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise InputError(
            operation,
            expected=f"the columns {', '.join(wanted)}",
            received=f"none called {', '.join(missing)}",
            remedy="Name the conditions' column with by=.",
        )
    grades = frame[wanted].assign(correct=floats(frame["correct"], operation))
    if not grades["correct"].dropna().isin((0.0, 1.0)).all():
        raise InputError(
            operation, expected="true, false or missing as correct", received="other values", remedy="Give grades."
        )
    unnamed = grades[grades[wanted[:3]].isna().any(axis=1)]
    twice = grades[grades.duplicated(wanted[:3])]
    for found, received in ((unnamed, "without one of them"), (twice, "given twice")):
        if len(found):
            row = ", ".join(f"{name} {found.iloc[0][name]}" for name in wanted[:3])
            raise InputError(
                operation,
                expected=f"one row each {by}, problem and sample",
                received=f"a row {received}: {row}",
                remedy="Number the samples from 0.",
            )
    grades = _whole_problems(grades, by, frame["status"] if "status" in frame.columns else None)
    there = grades[by].unique().tolist()
    absent = [name for name in baselines if name not in there]
    if absent:
        raise InputError(
            operation,
            expected=f"rows of the baseline {absent[0]!r}",
            received=f"the conditions {', '.join(map(str, there))}" if there else "no rows",
            remedy="Name one of them with baseline=.",
        )
    return grades


def _whole_problems(grades: pandas.DataFrame, by: str, status: pandas.Series | None) -> pandas.DataFrame:
    """`grades` without those of problems that have a response without a grade; `why` each dropped out."""
    import pandas as pd

    missing = grades["correct"].isna()
    out = missing.groupby([grades[by], grades["problem"]]).transform("any")
    why = pd.Series("not graded", index=grades.index).where(missing)
    if status is not None:
        failed = status.astype("object").isin(("timeout", "error"))
        out |= failed.groupby(grades["problem"]).transform("any")
        why = status.astype("object").where(failed, why)
    first = why.groupby(grades["problem"]).transform("first")
    return grades.assign(correct=grades["correct"].mask(out), why=first.where(out, ""))


_WHY = {"timeout": "grading timed out", "error": "gold answer not readable or grading failed"}


def _reasons(grades: pandas.DataFrame) -> str:
    problems = grades[grades["why"] != ""].drop_duplicates("problem")["why"].value_counts()
    return ", ".join(
        f"{count} problem{'s' if count > 1 else ''} ({_WHY.get(str(why), why)})" for why, count in problems.items()
    )


def _accuracy(values: np.ndarray, problem: np.ndarray, asked: int, level: float) -> dict[str, Any]:
    n = int((~np.isnan(values)).sum())
    if not n:
        nothing = {"accuracy": math.nan, "low": math.nan, "high": math.nan}
        return {"n": 0, "problems": 0, "excluded": asked, **nothing}
    found = proportion(values, problem, level)
    counts = {"n": n, "problems": found.n, "excluded": asked - n}
    return {**counts, "accuracy": found.estimate, "low": found.low, "high": found.high}


def _against(
    here: np.ndarray, base: np.ndarray | None, problem: np.ndarray, level: float, draws: int, seed: int
) -> dict[str, Any]:
    known = np.zeros(len(here), dtype=bool) if base is None else ~np.isnan(here) & ~np.isnan(base)
    if base is None or not known.any():
        return {
            "pairs": 0, "difference": math.nan, "difference_low": math.nan, "difference_high": math.nan,
            "only_here": 0, "only_baseline": 0, "p": math.nan, "compared": 0, "apart": 0.0, "unit": "",
            "note": "" if base is None else "No response to compare with the baseline.",
        }  # fmt: skip
    here, base, problem = here[known], base[known], np.unique(problem[known], return_inverse=True)[1]
    test = mcnemar(here, base, problem)
    gap = accuracy_difference(here, base, draws=draws, seed=seed, level=level, clusters=problem)
    means = np.bincount(problem, weights=here - base) / np.bincount(problem)
    return {
        "pairs": len(here), "difference": gap.estimate, "difference_low": gap.low, "difference_high": gap.high,
        "only_here": test.only_a, "only_baseline": test.only_b, "p": test.p,
        "compared": len(means), "apart": round(float((means**2).sum()), 6),
        "unit": "pairs" if len(means) == len(here) else "problems", "note": "",
    }  # fmt: skip
