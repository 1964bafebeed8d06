"""The table of accuracies: it holds what the functions say, whatever is missing."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from stats_shared import SEEDS, covers, frame_of
from statsmodels.stats.multitest import multipletests

from analyses.stats import (
    accuracy_table,
    holm,
    length_matched_auc,
    mcnemar,
    paired_bootstrap,
    power_note,
    wilson,
)
from interp.errors import InputError


def test_the_table_holds_what_the_functions_say() -> None:
    generator = np.random.default_rng(0)
    base = (generator.random((60, 1)) < 0.7).astype(float)
    worse = base * (generator.random((60, 1)) < 0.5)
    same = base.copy()
    same[0], worse[1] = 1 - same[0], np.nan
    table = accuracy_table(frame_of({"baseline": base, "worse": worse, "same": same})).set_index("condition")
    assert list(table.index) == ["baseline", "worse", "same"]
    row = table.loc["worse"]
    assert (row["n"], row["problems"], row["excluded"], row["pairs"]) == (59, 59, 1, 59)
    expected = wilson(int(np.nansum(worse)), 59)
    assert (row["accuracy"], row["low"], row["high"]) == (expected.estimate, expected.low, expected.high)
    test, gap = mcnemar(worse[:, 0], base[:, 0]), paired_bootstrap(worse[:, 0], base[:, 0])
    assert (row["only_here"], row["only_baseline"], row["p"]) == (test.only_a, test.only_b, test.p)
    assert (row["difference"], row["difference_low"], row["difference_high"]) == (gap.estimate, gap.low, gap.high)
    assert list(table["p_holm"][1:]) == holm(table["p"][1:]).tolist()
    assert row["note"] == ""
    assert table.loc["same", "note"] == power_note(60, 1, tests=2)
    assert (table["tests"] == 2).all()
    first = table.loc["baseline"]
    assert first[["difference", "difference_low", "difference_high", "p", "p_holm"]].isna().all()
    assert (first["pairs"], first["note"]) == (0, "")


@pytest.mark.parametrize("dtype", ["float", "boolean", "Float64", "object"])
def test_missing_grades_are_missing_in_any_column_type(dtype: str) -> None:
    values = np.array([[1.0], [0.0], [np.nan]])
    frame = frame_of({"baseline": values, "other": values}, "float")
    column: Any = frame["correct"].astype(dtype) if dtype != "object" else [True, False, None] * 2
    table = accuracy_table(frame.assign(correct=column))
    assert table[["n", "excluded", "accuracy"]].to_numpy().tolist() == [[2, 1, 0.5]] * 2
    assert table["pairs"].tolist() == [0, 2]
    assert table["p"].tolist()[1] == 1.0


def test_all_right_all_wrong_nothing_graded_and_nothing_in_common() -> None:
    ones, nans = np.ones((5, 1)), np.full((5, 1), np.nan)
    frame = frame_of({"baseline": ones, "wrong": 0 * ones, "ungraded": nans})
    elsewhere = frame_of({"elsewhere": ones}).assign(problem=[f"q{i}" for i in range(5)])
    table = accuracy_table(pd.concat([frame, elsewhere])).set_index("condition")
    assert (table.loc["baseline", "high"], table.loc["wrong", "low"]) == (1.0, 0.0)
    assert table.loc["wrong", "difference"] == -1
    assert table.loc["ungraded", ["n", "excluded"]].tolist() == [0, 5]
    for name in ("ungraded", "elsewhere"):
        assert math.isnan(table.loc[name, "p"])
        assert table.loc[name, "note"] == "No response to compare with the baseline."
    assert math.isnan(table.loc["ungraded", "accuracy"])
    assert table.loc["elsewhere", "accuracy"] == 1


def test_samples_of_a_problem_are_one_cluster() -> None:
    generator = np.random.default_rng(2)
    ability = generator.random(40)
    base, other = (
        (generator.random((40, 8)) < np.clip(ability + extra, 0, 1)[:, None]).astype(float) for extra in (0, 0.1)
    )
    table = accuracy_table(frame_of({"baseline": base, "other": other})).set_index("condition")
    row, clusters = table.loc["other"], np.repeat(np.arange(40), 8)
    assert row["p"] == pytest.approx(mcnemar(other.ravel(), base.ravel(), clusters).p)
    gap = paired_bootstrap(other.ravel(), base.ravel(), clusters=clusters)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((gap.low, gap.high))
    naive = wilson(int(other.sum()), 320)
    assert row["low"] < naive.low < naive.high < row["high"]
    # Samples that always agree say no more than one
    agreeing = accuracy_table(frame_of({"baseline": np.repeat(base[:, :1], 8, axis=1)})).iloc[0]
    single = wilson(float(base[:, 0].sum()) * 39 / 40, 39)
    assert (agreeing["low"], agreeing["high"]) == pytest.approx((single.low, single.high))


@pytest.mark.parametrize("n", [1, 3, 40])
def test_a_table_of_pairs_that_are_alike_has_intervals_with_a_width(n: int) -> None:
    ones = np.ones((n, 2))
    conditions = {"baseline": ones, "same": ones, "all wrong": 0 * ones, "half": ones * [1.0, 0.0]}
    for row in accuracy_table(frame_of(conditions)).iloc[1:].to_dict("records"):
        assert row["difference_low"] < row["difference"] <= row["difference_high"] or row["difference"] == -1
        assert row["difference_high"] - row["difference_low"] > 0.05
        assert (row["difference_low"] <= 0 <= row["difference_high"]) or row["p"] < 0.05


def test_each_condition_may_have_a_baseline_of_its_own() -> None:
    generator = np.random.default_rng(9)
    names = ("plain 8", "Wait 8", "plain 16", "Wait 16", "s1 16")
    frame = frame_of({name: (generator.random((30, 2)) < 0.3 + 0.1 * k).astype(float) for k, name in enumerate(names)})
    pairs = {"Wait 8": "plain 8", "Wait 16": "plain 16", "s1 16": "plain 16", "never asked": "plain 8"}
    table = accuracy_table(frame, baseline=pairs, draws=500).set_index("condition")
    for name, base in list(pairs.items())[:3]:
        alone = accuracy_table(frame[frame["condition"].isin([name, base])], baseline=base, draws=500)
        alone = alone.set_index("condition").loc[name]
        for column in ("difference", "difference_low", "difference_high", "p", "n", "problems"):
            assert table.loc[name, column] == alone[column]
    assert table.loc[["plain 8", "plain 16"], "p"].isna().all()
    told = table["p"].notna()
    assert table.loc[told, "p_holm"].tolist() == pytest.approx(multipletests(table.loc[told, "p"], method="holm")[1])
    assert set(table["tests"]) == {3}
    with pytest.raises(InputError, match="rows of the baseline 'plain 32'"):
        accuracy_table(frame, baseline={"Wait 8": "plain 32"})


@pytest.mark.parametrize("seed", SEEDS)
def test_intervals_of_the_table_cover_the_truth_with_several_samples(seed: int) -> None:
    generator = np.random.default_rng(seed)
    worlds = {}
    for number in range(150):
        ability = generator.beta(0.7, 0.7, size=50)
        worlds[f"world {number}"] = (generator.random((50, 6)) < ability[:, None]).astype(float)
    table = accuracy_table(frame_of(worlds, "float"), baseline="world 0", draws=1)
    covered = ((table["low"] <= 0.5) & (table["high"] >= 0.5)).mean()
    naive = np.mean([covers(wilson(int(right.sum()), 300), 0.5) for right in worlds.values()])
    assert 0.89 < covered < 0.99
    assert naive < 0.85


def test_the_table_is_found_by_other_names_and_written_as_json() -> None:
    frame = frame_of({"plain 64": np.ones((3, 1)), "Wait": np.zeros((3, 1))}).rename(columns={"condition": "arm"})
    table = accuracy_table(frame, by="arm", baseline="plain 64")
    assert table["arm"].tolist() == ["plain 64", "Wait"]
    assert json.loads(table.to_json(orient="records"))[1]["difference"] == -1
    assert json.loads(json.dumps(wilson(1, 2).to_dict()))["method"] == "Wilson"
    assert mcnemar([1], [0]).to_dict()["only_a"] == 1
    assert length_matched_auc([1, 2], [0, 1], [1, 1]).to_dict()["matched"]["estimate"] == 1


def test_the_table_refuses() -> None:
    frame = frame_of({"baseline": np.ones((3, 1))})
    with pytest.raises(InputError, match="received none called condition"):
        accuracy_table(frame.drop(columns="condition"))
    with pytest.raises(InputError, match="rows of the baseline 'plain', received the conditions baseline"):
        accuracy_table(frame, baseline="plain")
    with pytest.raises(InputError, match="received no rows"):
        accuracy_table(frame.iloc[:0])
    with pytest.raises(InputError, match="a row given twice: condition baseline, problem p0, sample 0"):
        accuracy_table(pd.concat([frame, frame]))
    with pytest.raises(InputError, match="a row without one of them: condition nan, problem p1, sample 1"):
        accuracy_table(pd.concat([frame, pd.DataFrame([{"problem": "p1", "sample": 1, "correct": True}])]))
    with pytest.raises(InputError, match="true, false or missing"):
        accuracy_table(frame.assign(correct=0.5))
