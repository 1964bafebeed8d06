"""What users hand in to interventions, words, controls and sweeps: it works as the plain form does, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import families as F
import numpy as np
import pandas as pd
import pytest
import torch
from references import SITES, told

from interp import InputError, ResidualSites, Rollout, Site, decode, score
from interp.interventions import (
    BudgetForcing,
    ContinueThinking,
    MeanAblate,
    PatchResidual,
    Recompute,
    RecurseLatents,
    RecycleRepresentation,
    SteerResidual,
    SuppressTokens,
    any_token,
    at_random,
    input_token,
    log_probability,
    logit_difference,
    matched_random_tokens,
    patch_sweep,
    thinking_token_ids,
    uncertain,
)
from interp.protocol import Intervention, Step

IDS = [5, 7, 9]


def model() -> Any:
    return F.bridge("llama")


VECTOR = torch.linspace(-1, 1, 44)

ALIKE: list[tuple[Callable[[Rollout], Any], Callable[[Rollout], Any]]] = [
    (lambda _: SuppressTokens(41), lambda _: SuppressTokens([41])),
    (lambda _: SuppressTokens(np.array([41, 42])), lambda _: SuppressTokens([41, 42])),
    (lambda _: SuppressTokens(torch.tensor([41, 42])), lambda _: SuppressTokens([41, 42])),
    (lambda _: SuppressTokens({"a": 41, "b": np.array([42])}), lambda _: SuppressTokens([41, 42])),
    (lambda _: SuppressTokens(i for i in (41, 42)), lambda _: SuppressTokens([41, 42])),
    (lambda _: RecycleRepresentation(np.int64(1), torch.tensor([41]), np.float32(1), torch.tensor(2)),
     lambda _: RecycleRepresentation(1, [41], 1.0, 2)),
    (lambda _: RecurseLatents(torch.tensor(1), np.int64(2), np.float64(0.5), torch.tensor(0.25)),
     lambda _: RecurseLatents(1, 2, 0.5, 0.25)),
    (lambda _: Recompute(np.int64(2), torch.tensor(1), any_token(41), token_ids=41),
     lambda _: Recompute(2, 1, any_token([41]), token_ids=(41,))),
    (lambda _: ContinueThinking(np.int64(41), np.int64(4), final_prompt=torch.tensor([20]), final_tokens=np.int64(2)),
     lambda _: ContinueThinking([41], 4, final_prompt=[20], final_tokens=2)),
    (lambda _: BudgetForcing(torch.tensor(33), np.int64(1), "w40", torch.tensor(3)),
     lambda _: BudgetForcing([33], 1, [40], 3)),
    (lambda s: PatchResidual(s, np.int64(1), 2, rows=0), lambda s: PatchResidual(s, 1, [2], rows=[0])),
    (lambda s: PatchResidual(s, torch.tensor(-1), np.array([0, 2])), lambda s: PatchResidual(s, 2, [0, 2])),
    (lambda s: PatchResidual(s, 1, {np.int64(1): torch.tensor(-1)}, rows=np.array([-1])),
     lambda s: PatchResidual(s, 1, {1: 5}, rows=[1])),
    (lambda _: SteerResidual(VECTOR.numpy(), np.int64(1), 0, scale=np.float32(2), rows=torch.tensor([-2])),
     lambda _: SteerResidual(VECTOR, 1, [0], scale=2.0, rows=[0])),
    (lambda _: SteerResidual(VECTOR.tolist(), 1, scale=torch.tensor(2)), lambda _: SteerResidual(VECTOR, 1, scale=2)),
    (lambda _: MeanAblate(pd.Series(VECTOR.numpy()), torch.tensor(1), range(2), rows=(n for n in (0,))),
     lambda _: MeanAblate(VECTOR, 1, [0, 1], rows=[0])),
]  # fmt: skip


@pytest.mark.parametrize("which", range(len(ALIKE)))
def test_interventions_of_every_form_do_what_plain_ones_do(which: int, source: Rollout) -> None:
    prompts = [IDS, [8, 3]]
    ours, theirs = (
        decode(model(), prompts, max_new_tokens=6, record=ResidualSites(), interventions=[make(source)])
        for make in ALIKE[which]
    )
    for a, b in zip(ours, theirs, strict=True):
        assert told(a) == told(b)
        assert [e.note for e in a.events] == [e.note for e in b.events]
        assert torch.equal(a.residuals["resid_post"], b.residuals["resid_post"])


REFUSED: dict[str, Callable[[Rollout], Any]] = {
    "a word for ids": lambda _: SuppressTokens("Wait"),
    "digits for ids": lambda _: SuppressTokens("12"),
    "texts of ids": lambda _: SuppressTokens(["1", "2"]),
    "a float id": lambda _: SuppressTokens([1.5]),
    "bools as ids": lambda _: SuppressTokens([True]),
    "none for ids": lambda _: SuppressTokens(None),
    "a negative id": lambda _: SuppressTokens(-1),
    "a float layer": lambda _: RecycleRepresentation(1.0, [41]),
    "a bool layer": lambda _: RecycleRepresentation(True, [41]),
    "a text layer": lambda _: RecycleRepresentation("1", [41]),
    "NaN probability": lambda _: RecycleRepresentation(1, [41], float("nan")),
    "float repeats": lambda _: RecycleRepresentation(1, [41], repeats=1.5),
    "a bool for blocks": lambda _: RecurseLatents(True),
    "NaN threshold": lambda _: RecurseLatents(1, entropy_threshold=float("nan")),
    "a text threshold": lambda _: Recompute(1, 1, uncertain("1")),
    "NaN tolerance": lambda _: RecurseLatents(1, tolerance=float("nan")),
    "NaN rate": lambda _: Recompute(1, 1, at_random(float("nan"))),
    "no gate": lambda _: Recompute(1, 1, [True]),
    "a gate of one truth": lambda _: Recompute(1, 1, lambda step: True),
    "a gate of too many": lambda _: Recompute(1, 1, lambda step: [True] * 9),
    "a gate of a matrix": lambda _: Recompute(1, 1, lambda step: torch.ones(len(step.rows), 2)),
    "a float budget": lambda _: ContinueThinking([41], 4.0),
    "a bool budget": lambda _: ContinueThinking([41], True),
    "no token": lambda _: ContinueThinking(None, 4),
    "a float token": lambda _: ContinueThinking(41.0, 4),
    "float final tokens": lambda _: ContinueThinking([41], 4, final_tokens=1.5),
    "a limit that is the end": lambda _: BudgetForcing(33, max_thinking=6, append=[40]),
    "a limit beyond": lambda _: BudgetForcing(33, max_thinking=50, append=[40]),
    "a float limit": lambda _: BudgetForcing(33, max_thinking=3.0, append=[40]),
    "no delimiter": lambda _: BudgetForcing([], append=[40]),
    "nothing to append": lambda _: BudgetForcing(33, ignore=1, append=""),
    "a bool to ignore": lambda _: BudgetForcing(33, ignore=True, append=[40]),
    "no source": lambda _: PatchResidual("source", 1, [0]),
    "a step too late for all": lambda s: PatchResidual(s, 1, {6: 0}),
    "a row too many": lambda s: PatchResidual(s, 1, [0], rows=[2]),
    "a row too few": lambda s: PatchResidual(s, 1, [0], rows=[-3]),
    "a float row": lambda s: PatchResidual(s, 1, [0], rows=0.0),
    "a bool row": lambda s: PatchResidual(s, 1, [0], rows=[True]),
    "a step before": lambda s: PatchResidual(s, 1, -1),
    "a source step before": lambda s: PatchResidual(s, 1, {0: -7}),
    "a float step": lambda s: PatchResidual(s, 1, [0.0]),
    "a text of steps": lambda s: PatchResidual(s, 1, "all"),
    "a Site for its name": lambda s: PatchResidual(s, 1, [0], site=Site("resid_post", 1)),
    "an unknown site": lambda s: PatchResidual(s, 1, [0], site="resid_end"),
    "no exchange": lambda s: PatchResidual(s, 1, [0], exchange="mean"),
    "an exchange of another shape": lambda s: PatchResidual(s, 1, [0, 1], exchange=lambda here, new: new[0]),
    "a matrix": lambda _: SteerResidual(torch.ones(2, 44), 1),
    "a text for a vector": lambda _: SteerResidual("up", 1),
    "ragged vector": lambda _: SteerResidual([[1.0], 2.0], 1),
    "NaN scale": lambda _: SteerResidual(VECTOR, 1, scale=float("nan")),
    "infinite scale": lambda _: SteerResidual(VECTOR, 1, scale=float("inf")),
    "a text for steps": lambda _: SteerResidual(VECTOR, 1, "prompt"),
    "steps too late": lambda _: SteerResidual(VECTOR, 1, [6, 7]),
    "a row beyond": lambda _: MeanAblate(VECTOR, 1, rows=5),
    "a vector of bools": lambda _: MeanAblate(VECTOR > 0, 1),
    "an imaginary mean": lambda _: MeanAblate(VECTOR.to(torch.complex64), 1),
}


@pytest.mark.parametrize("case", REFUSED)
def test_interventions_that_mean_nothing_are_refused(case: str, source: Rollout) -> None:
    with pytest.raises(InputError):
        decode(model(), [IDS, [8, 3]], max_new_tokens=6, interventions=[REFUSED[case](source)])


def test_a_step_that_a_response_does_not_reach_is_told(source: Rollout) -> None:
    free = decode(model(), [IDS], max_new_tokens=6)[0].token_ids.tolist()
    for make in (
        lambda: PatchResidual(source, 0, {0: 0, 4: 0}, exchange=lambda here, new: here),
        lambda: SteerResidual(VECTOR, 0, [0, 4], scale=0.0),
        lambda: MeanAblate(VECTOR, 0, [40, 4], rows=[0]),
    ):
        stopped = decode(model(), [IDS], max_new_tokens=6, stop=[free[2]], interventions=[make()])[0]
        assert len(stopped) < 5
        notes = [e.note for e in stopped.events]
        assert len(notes) == 1
        assert notes[0].startswith("not reached: step")
        assert "4" in notes[0]
    reached = decode(model(), [IDS], max_new_tokens=6, interventions=[SteerResidual(VECTOR, 0, [0, 4], scale=0.0)])[0]
    assert reached.events == []


def test_steps_and_rows_of_given_responses(source: Rollout) -> None:
    steer = SteerResidual(VECTOR, 1, [1], scale=4.0, rows=-1)
    plain, edited = (score(model(), [IDS, IDS], [[11, 12]] * 2, interventions=some) for some in ([], steer))
    assert [torch.equal(a.logprobs, b.logprobs) for a, b in zip(plain, edited, strict=True)] == [True, False]
    for wrong in (SteerResidual(VECTOR, 1, [1, 2]), SteerResidual(VECTOR, 1, [0], rows=2)):
        with pytest.raises(InputError):
            score(model(), [IDS, IDS], [[11, 12]] * 2, interventions=[wrong])


def test_one_site_or_layer_alone_is_as_good_as_a_list() -> None:
    class Raise(Intervention):
        edits = Site("resid_post", 1)
        reads = Site("resid_post", 2)
        injects = 1

        def edit_residual(self, site: Any, residual: Any, at: Any) -> Any:
            return residual + 1

        def before_choice(self, step: Step) -> None:
            step.rerun([0], 1, step.residual(Site("resid_post", 2)))

    class Listed(Raise):
        edits = (Site("resid_post", 1),)
        reads = (Site("resid_post", 2),)
        injects = (1,)

    one, listed = (decode(model(), [IDS], max_new_tokens=4, interventions=i())[0] for i in (Raise, Listed))
    assert told(one) == told(listed) != told(decode(model(), [IDS], max_new_tokens=4)[0])

    class Wrong(Intervention):
        edits = ("resid_post",)

    class Forgets(Intervention):
        def prepare(self, facts: Any) -> Any:
            self.facts = facts

    for wrong in (Wrong, Forgets):
        with pytest.raises(InputError):
            decode(model(), [IDS], max_new_tokens=2, interventions=[wrong()])


# Words, controls, sweeps


def test_words_in_every_form() -> None:
    facts = model()
    assert thinking_token_ids(facts, "w40") == thinking_token_ids(facts, ["w40"]) == {"w40": (40,)}
    assert thinking_token_ids(facts, pd.Series(["w40", "w41"])) == {"w40": (40,), "w41": (41,)}
    for wrong in (None, 5, [5], b"w40", [None]):
        with pytest.raises(InputError):
            thinking_token_ids(facts, wrong)


def test_gates_take_ids_in_every_form() -> None:
    for gate in (any_token, input_token):
        for wrong in ("Wait", [1.5], None, [True]):
            with pytest.raises(InputError):
                gate(wrong)


def test_controls_in_every_form() -> None:
    words = ["Wait", "is", "makes", "then", "is", "then"]
    ids = torch.tensor([1, 2, 3, 4, 2, 4])
    rollout = Rollout(ids, ids, words, "", "eos", torch.zeros(6), torch.zeros(6))
    plain = matched_random_tokens([rollout], {"Wait": (1,)}, draws=4, seed=2, exclude=["then"])
    given = matched_random_tokens(rollout, {"Wait": 1}, np.int64(4), torch.tensor(2), exclude="then")
    assert given == plain
    for change in (
        {"rollouts": "text"}, {"rollouts": [5]}, {"token_ids": [1]}, {"draws": 0}, {"draws": 1.5}, {"seed": 0.5},
        {"seed": None}, {"nearest": 0}, {"keep": "is"}, {"keep": ["is", "makes"]}, {"exclude": 5},
    ):  # fmt: skip
        with pytest.raises(InputError):
            matched_random_tokens(**{"rollouts": [rollout], "token_ids": {"Wait": (1,)}, **change})


def test_sweeps_in_every_form(source: Rollout) -> None:
    target = decode(model(), [[5, 6, 8]], max_new_tokens=6, record=ResidualSites(sites=SITES))[0]
    metric = log_probability(np.int64(7))
    plain = patch_sweep(model(), target, source, log_probability(7), at=5, layers=[2], steps={5: 5})
    for change in (
        {"at": np.int64(-1), "layers": 2, "steps": -1},
        {"at": torch.tensor(5), "layers": np.array([-1]), "steps": {np.int64(-1): torch.tensor(-1)}},
        {"layers": torch.tensor([2]), "steps": 5, "batch_size": np.int64(1)},
    ):
        pd.testing.assert_frame_equal(patch_sweep(model(), target, source, metric, **change), plain)
    for change in (
        {"at": 6}, {"at": -7}, {"at": 1.0}, {"at": True}, {"layers": "last"}, {"layers": 1.0}, {"layers": [True]},
        {"steps": [0.0]}, {"steps": "all"}, {"steps": [6]}, {"steps": {0: 9}}, {"site": "resid_end"}, {"batch_size": 0},
        {"batch_size": True}, {"metric": 7}, {"exchange": "mean"}, {"source": "it"}, {"target": [5]},
        {"metric": log_probability(F.VOCAB)}, {"exchange": lambda here, new: new[0]},
    ):  # fmt: skip
        options = {"target": target, "source": source, "metric": metric, **change}
        with pytest.raises(InputError):
            patch_sweep(model(), **options)
    for wrong in (-1, True, 1.5, "w5", None):
        with pytest.raises(InputError):
            log_probability(wrong)
        with pytest.raises(InputError):
            logit_difference(3, wrong)


def test_an_exchange_is_one_patch_whatever_the_batch(source: Rollout) -> None:
    """Each response sees its own patches alone; in a sweep each patch is a text of its own."""
    shapes: list[tuple[int, ...]] = []

    def centred(here: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(here.shape))
        return new - here.mean(0) + torch.randn(here.shape, generator=torch.Generator().manual_seed(0))

    def run(prompts: list[list[int]], **options: Any) -> list[Rollout]:
        patch = PatchResidual(source, 1, {0: 2, 1: 3}, exchange=centred)
        return decode(model(), prompts, max_new_tokens=3, interventions=[patch], record=ResidualSites(), **options)

    prompts = [IDS, [8, 3], [4, 6, 3, 12, 9]]
    together, alone = run(prompts), run(prompts, batch_size=1)
    assert set(shapes) == {(1, 44)}  # each step is a pass of its own
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.residuals["resid_post"], b.residuals["resid_post"], atol=1e-4, rtol=1e-4)
    shapes.clear()
    target = decode(model(), [[5, 6, 8]], max_new_tokens=6)[0]
    tables = [patch_sweep(model(), target, source, log_probability(5), exchange=centred, batch_size=n) for n in (1, 7)]
    pd.testing.assert_frame_equal(*tables, atol=1e-4)
    assert set(shapes) == {(1, 44)}
    shapes.clear()
    score(model(), [IDS, [8, 3]], [[11, 12, 13]] * 2, interventions=PatchResidual(source, 1, [0, 2], exchange=centred))
    assert shapes == [(2, 44)] * 2  # both steps are in one pass
