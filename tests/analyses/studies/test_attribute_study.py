"""The study of what writes peaks: its means are those of single attributions, and what cannot be asked is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families as F
import numpy as np
import pandas as pd
import pytest
import torch

from analyses.attribution import mi_attribution
from analyses.problems import bundled_problems
from analyses.stats import bootstrap_interval, mean_intervals, paired_test
from analyses.store import Cell, Run
from analyses.studies import make_study
from analyses.studies.base import StudyResult
from analyses.studies.planted import planted_line
from analyses.studies.run import run_study
from analyses.token_kinds import token_kinds
from interp import InputError, ResidualSites, encode
from probes import nhsic, tukey_peaks

LAYER, MOST, N = 1, 2, 3
MEASURES = ("nhsic", "nhsic@100/drop4", "nhsic excess")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    folder = tmp_path_factory.mktemp("attribute")
    options = {
        "layers": str(LAYER),
        "most": str(MOST),
        "classes": "digit,stop",
        "measures": "nhsic@100/drop4",
        "draws": "300",
    }
    return run_study(
        make_study("attribute", options), F.pair("toy")[1], n=N, out=folder / "attribute", max_new_tokens=60
    )


@pytest.fixture(scope="module")
def baseline(result: StudyResult) -> Run:
    (folder,) = (result.run.path.parent / "baselines").iterdir()
    return Run.open(folder)


def answer(problem: str) -> torch.Tensor:
    """The stream at the end of a gold solution, read on its own."""
    text = {one.id: one.solution for one in bundled_problems()}[problem]
    record = ResidualSites(layers=[LAYER])
    return encode(F.pair("toy")[1], [text], record=record, last_only=True)[0].residuals["resid_post"][0, 0]


def attributed(data: Any, step: int, reference: list[int], of: str, others: Any = None) -> pd.DataFrame:
    """One step alone: shares by measure and component."""
    found = mi_attribution(
        F.pair("toy")[1], data.tensors["prompt_ids"], data.tensors["token_ids"], step, layer=LAYER, answer=answer(of),
        others=others, measures=[name for name in MEASURES if others is not None or "excess" not in name],
        reference=reference, total="none", sources=0,
    )  # fmt: skip
    return found.shares.pivot(index="measure", columns="component", values="share")


def highest(scores: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    peaks = tukey_peaks(scores, 1.5)
    return sorted(sorted(peaks.nonzero()[:, 0].tolist(), key=lambda step: -scores[step])[:MOST]), peaks


@pytest.fixture(scope="module")
def literal(baseline: Run) -> dict[str, dict[str, pd.DataFrame]]:
    """By group and problem the mean of attributions of single steps, with peaks and partners found anew."""
    found: dict[str, dict[str, pd.DataFrame]] = {"peaks": {}, "non-peaks": {}, "wrong answers' peaks": {}}
    tokenizer = F.pair("toy")[1].tokenizer
    for cell in baseline.cells():
        data, name = baseline.read(cell), cell.problem
        ids = data.tensors["token_ids"].tolist()
        read = [int(data.tensors["prompt_ids"][-1]), *ids[:-1]]
        kinds = token_kinds(tokenizer, read)
        kinds = [
            "thinking" if tokenizer.decode([token]).strip().lower() in THINKING else kind
            for token, kind in zip(read, kinds, strict=True)
        ]
        scores = data.tensors["mi"][data.payload["layers"].index(LAYER)]
        steps, peaks = highest(scores)
        partners: list[int] = []
        for step in steps:
            alike = [s for s in range(len(ids)) if kinds[s] == kinds[step] and not peaks[s] and s not in partners]
            partners += [min(alike, key=lambda s: abs(s - step))] if alike else []
        others = data.payload["excess_problems"]
        ordinary = [s for s in range(len(ids)) if not peaks[s] and s not in partners]
        streams = torch.stack([answer(other) for other in others])
        for group, some in (("peaks", steps), ("non-peaks", partners)):
            if some:
                found[group][name] = sum(attributed(data, s, ordinary, name, streams) for s in some) / len(some)
        text = torch.cat([data.tensors["prompt_ids"], data.tensors["token_ids"]])[:-1]
        stream = encode(F.pair("toy")[1], [text], record=ResidualSites(layers=[LAYER]))[0].residuals["resid_post"][0]
        steps, peaks = highest(nhsic(stream[-len(ids) :], streams[0]))
        ordinary = [s for s in range(len(ids)) if not peaks[s]]
        if steps:
            rows = [attributed(data, s, ordinary, others[0]) for s in steps]
            found["wrong answers' peaks"][name] = sum(rows) / len(rows)
    return found


THINKING = {"wait", "hmm", "okay", "so", "therefore"}


def test_means_are_those_of_single_attributions(result: StudyResult, literal: dict[str, dict[str, Any]]) -> None:
    parts = result.tables["attribute_components"].groupby(["group", "measure"])
    table = {key: rows.set_index("component") for key, rows in parts}
    assert len(literal["peaks"]) == N, "each response has a peak"
    for group, problems in literal.items():
        for measure in MEASURES[: 2 if "wrong" in group else 3]:
            rows = table[group, measure]
            each = pd.DataFrame({name: shares.loc[measure] for name, shares in problems.items()})
            np.testing.assert_allclose(rows["share"], each.mean(axis=1)[rows.index], rtol=1e-3, atol=1e-5)
            assert set(rows["problems"]) == {len(problems)}
            np.testing.assert_allclose(rows["total"], each.sum().mean(), rtol=1e-3, atol=1e-5)
    for first, second in (("peaks", "non-peaks"), ("peaks", "wrong answers' peaks")):
        both = sorted(set(literal[first]) & set(literal[second]))
        rows = table[f"{first} less {second}", "nhsic"]
        for component, row in rows.iterrows():
            pairs = [[literal[group][name].loc["nhsic", component] for name in both] for group in (first, second)]
            assert row["share"] == pytest.approx(np.subtract(*pairs).mean(), rel=1e-3, abs=1e-5)
            assert row["p"] == pytest.approx(paired_test(*pairs), abs=1e-6)
            assert row["problems"] == len(both)


def test_layers_and_kinds_add_up_and_ranks_are_within_problems(
    result: StudyResult, literal: dict[str, dict[str, Any]]
) -> None:
    keys = ["measure", "group"]
    parts, whole = (result.tables[name] for name in ("attribute_components", "attribute"))
    sums = parts.assign(layer=parts["layer"].fillna(-1)).groupby([*keys, "layer", "kind"])["share"].sum()
    names = {"embed": "embedding", "head": "head", "mlp": "MLP"}
    mine = whole.assign(layer=whole["layer"].fillna(-1)).set_index([*keys, "layer", "kind"])["share"]
    for (measure, group, layer, kind), share in sums.items():
        assert mine[measure, group, layer, names[kind]] == pytest.approx(share, abs=1e-9)
    ranks = result.tables["attribute_ranks"].set_index(["against_measure", "against_group"])
    each = [
        shares.loc["nhsic"].corr(shares.loc["nhsic@100/drop4"], method="spearman")
        for shares in literal["peaks"].values()
    ]
    assert ranks.loc[("nhsic@100/drop4", "peaks"), "spearman"] == pytest.approx(np.mean(each), abs=0.02)
    assert {name for name, group in ranks.index if group == "peaks"} == set(MEASURES[1:])


def test_shares_of_a_class_sum_to_plain_logits(result: StudyResult, baseline: Run) -> None:
    """The mean logit of predicted full stops, less that of the best other token, by Hugging Face alone."""
    hf, each = F.pair("toy")[0], []
    for cell in baseline.cells():
        tensors = baseline.read(cell).tensors
        rows = result.run.payload(Cell(cell.problem, 0, condition="shares"))["logits"]["rows"]
        steps = [row["step"] for row in rows if (row["group"], row["position"]) == ("stop", "predicted")]
        tokens = token_kinds(F.pair("toy")[1].tokenizer, tensors["token_ids"].tolist())
        assert [tokens[step] for step in steps] == ["stop"] * MOST
        with torch.no_grad():
            logits = hf(torch.cat([tensors["prompt_ids"], tensors["token_ids"]])[None]).logits[0]
        values = []
        for step in steps:
            here = logits[len(tensors["prompt_ids"]) - 1 + step]
            target = int(tensors["token_ids"][step])
            values.append(float(here[target] - here[torch.arange(len(here)) != target].max()))
        each.append(np.mean(values))
    table = result.tables["attribute_classes"]
    rows = table[(table["measure"] == "logit") & (table["group"] == "stop") & (table["position"] == "predicted")]
    assert rows["share"].sum() == pytest.approx(np.mean(each), rel=1e-4)
    assert set(table["position"]) == {"predicted", "input"}
    assert set(table["group"]) == {"digit", "stop"}


def test_it_says_what_it_found(result: StudyResult) -> None:
    assert not result.failures
    said = " ".join(result.readings)
    for words in (
        "Layer 1: at ", "Peaks against non-peaks, shares in nhsic by layer and kind (n = ",
        "Peaks against wrong answers' peaks, shares in nhsic by component", "Peaks under other",
        "by class of the token predicted", "sum to it, at peaks but for at most",
    ):  # fmt: skip
        assert words in said, words
    assert result.figures
    assert "shares sum to the difference" in planted_line(result, bundled_problems(N))
    assert planted_line(result, bundled_problems(N)).endswith(" Found.*")


def test_intervals_of_many_means_are_those_of_each() -> None:
    values = np.random.default_rng(0).normal(size=(25, 3)) * [1, 10, 0.1]
    found = mean_intervals(values, draws=20_000)
    for column in range(3):
        alone = bootstrap_interval(values[:, column], draws=20_000)
        spread = alone.high - alone.low
        assert found[0, column] == pytest.approx(alone.estimate)
        np.testing.assert_allclose(found[1:, column], [alone.low, alone.high], atol=0.04 * spread)
    assert np.isnan(mean_intervals(values[:1])[1:]).all()
    assert np.isnan(mean_intervals(values[:0])).all()


@pytest.mark.parametrize(
    ("options", "settings", "said"),
    [
        ({}, {"site": "resid_pre"}, "scores of resid_post.*received site resid_pre"),
        ({"measures": "nhsic excess"}, {}, "measures of one answer, .*received measures=nhsic excess"),
        ({"measures": "r2@100"}, {}, "measures like nhsic, nhsic/drop4, nhsic@median"),
        ({"layers": "2"}, {"layers": [0, 1]}, "layers whose nHSIC the run has: 0, 1"),
        ({"classes": "verbs"}, {}, "classes as among thinking, digit"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_decoded(
    options: dict[str, str], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        run_study(make_study("attribute", options), n=1, out=tmp_path / "s", max_new_tokens=8, **settings)
    assert not (tmp_path / "baselines").exists()
