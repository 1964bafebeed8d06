"""Faithfulness, completeness, minimality and random circuits, held against closed forms of made linear models."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas
import pytest
from circuit_samples import WEIGHTS, Network, added, additive

from analyses.attribution import (
    Circuit,
    Node,
    against_known,
    completeness,
    minimality,
    random_circuits,
    recovered,
    recovery_curve,
    removal_curve,
)
from analyses.stats import auc_with_interval
from interp import InputError

GAP = sum(WEIGHTS.values())
PERCENT = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def even(count: int) -> Circuit:
    names = [f"L{i // 10}H{i % 10}" for i in range(count)]
    return Circuit(pandas.DataFrame({"node": names, "score": np.linspace(2, 1, count)}))


def added_up(kept: frozenset[Any]) -> float:
    return float(len(kept))


def test_areas_of_equal_parts_have_a_closed_form() -> None:
    """1,000 parts of 1/1000 each: f(k) = k, so that CPR is the area of a triangle and CMD that of the other."""
    curve = recovery_curve(even(1000), lambda kept: 5 + len(kept) / 1000)
    assert curve.frame["asked"].tolist() == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert curve.frame["recovered"].tolist() == pytest.approx([p / 100 for p in PERCENT])
    assert curve.cpr == pytest.approx((1 - 0.001**2) / 2, abs=1e-12)
    assert curve.cmd == pytest.approx(0.999 - (1 - 0.001**2) / 2, abs=1e-12)
    assert (curve.full, curve.empty) == (6.0, 5.0)
    assert recovery_curve(even(15), added_up).frame["asked"].tolist() == [0, 0, 0, 0, 0, 0, 1, 3, 7, 15]  # never more
    assert recovery_curve(even(100), added_up, fractions=[0.29, 1]).frame["asked"].tolist() == [
        29,
        100,
    ]  # 0.29 * 100 < 29
    at_once = recovery_curve(even(1000), lambda kept: float(len(kept) > 0))  # the first part does it all
    assert (at_once.cpr, at_once.cmd) == (pytest.approx(0.999), 0.0)


def test_the_curve_is_mibs_formula_written_out_and_nothing_is_clipped() -> None:
    network = Network(4)
    circuit = network.circuit()
    scores = circuit.to_frame("edges")["score"].to_numpy()
    every, order = circuit.candidates("edges"), np.argsort(-np.abs(scores), kind="stable")
    shares, low = [], network.measure(frozenset())
    for percent in PERCENT:
        kept = frozenset(every[i] for i in order[: int(percent * len(every) / 100)])
        shares.append((network.measure(kept) - low) / (network.measure(frozenset(every)) - low))
    areas = [0.0, 0.0]
    for (x, a), (y, b) in pairwise(zip(PERCENT, shares, strict=True)):
        areas[0] += (y - x) / 100 * (a + b) / 2
        areas[1] += (y - x) / 100 * (abs(1 - a) + abs(1 - b)) / 2
    for connected in ("no", "target", "both"):  # what is not connected adds nothing here
        curve = recovery_curve(circuit, network.measure, connected=connected)
        assert curve.frame["recovered"].tolist() == pytest.approx(shares, abs=1e-9)
        assert [curve.cpr, curve.cmd] == pytest.approx(areas, abs=1e-9)
    assert min(shares) < 0 or max(shares) > 1  # of this network, some are
    assert f"CPR {curve.cpr:.6g}" in repr(curve)


def test_removal_is_what_is_left_and_other_rankings_are_told_apart() -> None:
    circuit, half = additive(), (0.2, 0.4, 1.0)
    kept = recovery_curve(circuit, added, fractions=half)
    left = removal_curve(circuit, added, fractions=half)
    assert kept.frame["recovered"].tolist() == pytest.approx([3 / GAP, 5 / GAP, 1.0])
    assert left.frame["recovered"].tolist() == pytest.approx([1 - 3 / GAP, 1 - 5 / GAP, 0.0])
    assert left.frame["kept"].tolist() == [4, 3, 0]
    signed = recovery_curve(circuit, added, fractions=(0.6, 0.8, 1), absolute=False)
    assert signed.frame["recovered"].tolist() == pytest.approx([5.5 / GAP, 5.75 / GAP, 1.0])  # the hindrance comes last
    norm = Circuit(circuit.to_frame("nodes").assign(weight_norm=[1, 2, 3, 4, 5]))
    by_norm = recovery_curve(norm, added, fractions=(0.2, 1), by="weight_norm")
    assert by_norm.frame["recovered"].tolist() == pytest.approx([0.25 / GAP, 1.0])
    network = Network(4)
    greedy = recovery_curve(network.circuit(), network.measure, how="greedy")
    assert greedy.frame["kept"].tolist()[-1] == len(network.weights)


def test_one_circuit_alone_and_without_it() -> None:
    frame = recovered(additive().top(2), added).frame
    assert frame["recovered"].tolist() == pytest.approx([5 / GAP, 1 - 5 / GAP])
    network = Network(2)
    some = network.circuit().greedy(12)
    cut = recovered(some, network.measure).frame
    every, members = frozenset(network.weights), some.kept("edges")
    whole, none = network.measure(every), network.measure(frozenset())
    expected = [(network.measure(kept) - none) / (whole - none) for kept in (members, every - members)]
    assert cut["recovered"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_flat_metric_has_no_shares_and_says_so(value: float) -> None:
    noise = iter(np.random.default_rng(0).normal(size=10_000) * 1e-7 * value)
    for flat in (lambda _: value, lambda _: value + next(noise)):
        curve = recovery_curve(additive(), flat)
        assert math.isnan(curve.cpr)
        assert math.isnan(curve.cmd)
        assert "the same up to rounding" in repr(curve)
        drawn = random_circuits(additive().top(2), flat, n=3)
        assert math.isnan(drawn.p_value)
        for found in (completeness(additive(), flat), minimality(additive(), flat), recovered(additive(), flat)):
            assert "undefined" in found.note
            assert found.frame.iloc[:, -1].isna().all()
            assert not found.frame.iloc[:, -2].isna().all()  # the metric itself is there
    broken = recovery_curve(additive(), lambda kept: math.nan if not kept else 1.0)
    assert "m(nothing) = NaN" in broken.note


def test_completeness_of_an_additive_model_is_what_the_circuit_lacks() -> None:
    """m(C without K) - m(all without K) is the weight outside of C, whatever K is."""
    circuit = additive().top(3)
    outside = GAP - (3 - 1 + 2)
    found = completeness(circuit, added, n=5, greedy=2, sets={"both heads": [Node("L0H0"), Node("L1H0")]})
    assert found.frame["incompleteness"].tolist() == pytest.approx([outside / GAP] * 9)
    assert found.frame["removed"].tolist()[:2] == ["nothing", "both heads"]
    assert found.frame["size"].tolist()[1] == 2
    assert set(found.frame["size"].tolist()[2:7]) <= {0, 1, 2, 3}
    assert completeness(additive(), added, n=3).frame["incompleteness"].tolist() == [0.0] * 4  # all of it


def backup(kept: frozenset[Any]) -> float:
    """A head, and one that does the same where the first is missing."""
    return float(bool(kept & {Node("L0H0"), Node("L0H1")}))


def test_a_backup_head_makes_a_circuit_incomplete_and_itself_not_minimal() -> None:
    every = Circuit(pandas.DataFrame({"node": ["L0H0", "L0H1"], "score": [1.0, 0.5]}))
    alone = every.top(1)
    assert recovered(alone, backup).frame["recovered"][0] == 1.0  # faithful
    found = completeness(alone, backup, n=0, greedy=1).frame.set_index("removed")["incompleteness"]
    assert found.to_dict() == {"nothing": 0.0, "greedy 1": 1.0}  # but not complete: without it, the other does it
    lone = minimality(every, backup, n=0).frame
    assert lone["change"].tolist() == [0.0, 0.0]
    assert (lone["share"] == 0).all()
    grouped = minimality(every, backup, n=0, groups={"copies": every.candidates("nodes")}).frame
    assert grouped["change"].tolist() == [-1.0, -1.0]  # each is needed where the other is gone
    assert grouped["after_removing"].tolist() == ["copies"] * 2


def test_minimality_of_an_additive_model_is_each_weight() -> None:
    frame = minimality(additive(), added, n=3).frame
    assert dict(zip(frame["node"], frame["change"], strict=True)) == pytest.approx(
        {name: -weight for name, weight in WEIGHTS.items()}
    )
    assert frame["share"].tolist() == pytest.approx([abs(weight) / GAP for weight in WEIGHTS.values()])
    network = Network(2)
    edges = minimality(network.circuit().greedy(4), network.measure, n=1).frame
    assert {"source", "target", "port", "source_position", "position"} <= set(edges.columns)


def test_random_circuits_have_its_size_and_the_mean_of_the_whole() -> None:
    circuit = even(200).top(20)
    weights = {key: 1 / (1 + i) for i, key in enumerate(circuit.candidates("nodes"))}
    drawn = random_circuits(circuit, lambda kept: sum(weights[key] for key in kept), n=400)
    assert (drawn.frame["kept"] == 20).all()
    # Each is drawn with probability 1/10, so that a tenth of the whole is expected.
    error = drawn.frame["recovered"].std() / math.sqrt(400)
    assert abs(drawn.frame["recovered"].mean() - 0.1) < 4 * error
    assert drawn.own_recovered == pytest.approx(sum(1 / (1 + i) for i in range(20)) / sum(weights.values()))
    assert drawn.p_value == 1 / 401
    again = random_circuits(circuit, lambda kept: sum(weights[key] for key in kept), n=400)
    assert again.frame.equals(drawn.frame)
    assert not random_circuits(circuit, lambda kept: len(kept), n=2, seed=1).frame["value"].equals(drawn.frame["value"])


def test_random_circuits_of_the_same_layers() -> None:
    seen: list[frozenset[Any]] = []

    def measure(kept: frozenset[Any]) -> float:
        seen.append(kept)
        return float(len(kept))

    circuit = even(50).with_kept([Node("L0H1"), Node("L0H2"), Node("L3H0")])
    random_circuits(circuit, measure, n=30, like="layers")
    for kept in [kept for kept in seen if 0 < len(kept) < 50]:
        assert sorted(key.node[:2] for key in kept) == ["L0", "L0", "L3"]
    assert len(set(seen)) == len(seen)  # each set is run once


def test_agreement_with_a_known_circuit() -> None:
    """Precision, recall and AUROC over problems, by counting."""
    draws, found, scores, labels, problems = np.random.default_rng(0), [], [], [], []
    right = chosen = 0
    names = [f"L{i}H{j}" for i in range(4) for j in range(3)]
    known = {"L1H0", "L1H2", "L3H1"}
    for problem in range(12):
        score = draws.normal(size=12) + [2.0 * (name in known) for name in names]
        frame = pandas.DataFrame({"node": [*names, "logits"], "score": [*score, np.nan]})
        one = Circuit(frame).top(3)
        best = [names[i] for i in np.argsort(-np.abs(score))[:3]]
        right, chosen = right + len(known & {*best}), chosen + 3
        scores += np.abs(score).tolist()
        labels += [name in known for name in names]
        problems += [problem] * 12
        found.append(one)
    agreement = against_known(found, known)
    assert agreement.precision.estimate == pytest.approx(right / chosen)
    assert agreement.recall.estimate == pytest.approx(right / (3 * 12))
    assert agreement.auroc == auc_with_interval(scores, labels, clusters=problems)
    assert agreement.recall.low < agreement.recall.estimate < agreement.recall.high
    assert agreement.recall.n == 12
    two = against_known(found, known, problems=[i // 2 for i in range(12)])
    assert (two.recall.n, two.recall.estimate) == (6, agreement.recall.estimate)
    lost = against_known(found[0], {*known, "L9H0"})
    assert lost.frame["missed"].tolist() == [1]
    assert math.isnan(lost.recall.low)  # one problem says nothing of others


def test_agreement_by_places_names_and_pairs() -> None:
    nodes = pandas.DataFrame({"node": ["L0H0", "L0H0", "L0H1"], "position": [1, 2, 2], "score": [0.1, -5.0, 3.0]})
    one = Circuit(nodes).top(1)
    by_name = against_known(one, ["L0H0"])
    assert (by_name.frame["candidates"][0], by_name.precision.estimate, by_name.auroc.estimate) == (2, 1.0, 1.0)
    by_place = against_known(one, [Node("L0H0", 1)])
    assert (by_place.frame["candidates"][0], by_place.precision.estimate, by_place.auroc.estimate) == (3, 0.0, 0.0)
    network = Network(1)
    pairs = against_known(network.circuit().greedy(5), [("L1 MLP", "logits"), ("embed", "logits")])
    assert pairs.of == "edges"
    assert pairs.frame["candidates"][0] == len({(edge.source, edge.target) for edge in network.weights})
    nothing = against_known(network.circuit().top(0), [("L1 MLP", "logits", "out")])
    assert math.isnan(nothing.precision.estimate)
    assert nothing.recall.estimate == 0.0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: recovery_curve(additive(), 3), "measure as a callable"),
        (lambda: recovery_curve(additive(), lambda kept: "high"), "a number"),
        (lambda: recovery_curve(additive(), added, fractions=[1, 0.5]), "fractions, growing"),
        (lambda: recovery_curve(additive(), added, fractions=[0.5, 2]), "from 0 to 1"),
        (lambda: recovery_curve(additive(), added, how="best"), '"top" or "greedy"'),
        (lambda: recovery_curve(additive(), added, of="heads"), '"nodes" or "edges"'),
        (lambda: recovery_curve(Circuit(None), added), "at least one of its nodes"),
        (lambda: completeness(additive(), added, sets={"x": [Node("L7H0")]}), "sets of keys"),
        (lambda: minimality(additive(), added, n=-1), "n at least 0"),
        (lambda: random_circuits(additive(), added, n=0), "n at least 1"),
        (lambda: random_circuits(additive(), added, like="heads"), '"any" or "layers"'),
        (lambda: against_known([], ["L0H0"]), "circuits"),
        (lambda: against_known(additive(), []), "something known"),
        (lambda: against_known([additive()] * 2, [["L0H0"]]), "each of 2 circuits"),
        (lambda: against_known(additive(), ["L0H0", ("embed", "logits")]), "one form"),
        (lambda: against_known([additive()], ["L0H0"], problems=[1, 2]), "1 problems"),
    ],
)
def test_bad_input_is_one_clear_error(call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()
