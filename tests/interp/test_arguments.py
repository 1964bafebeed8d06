"""What users hand in to every public function: it works as the plain form does, or is refused by one InputError."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import families as F
import numpy as np
import pandas as pd
import pytest
import torch

from interp import InputError, ResidualSites, ResidualStream, Rollout, Site, decode, encode, score
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
from interp.sampling import row_seeds
from interp.sites import resolve_layers

TEXT, IDS = "w5 w7 w9", [5, 7, 9]
SITES = ("resid_pre", "resid_mid", "resid_post", "ln_final")


def named(value: Any) -> str:
    """A test's name without addresses: processes that share the tests have to find the same ones."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:60]


def model() -> Any:
    return F.bridge("llama")


@pytest.fixture(scope="module")
def source() -> Rollout:
    return decode(model(), [[5, 6, 7]], max_new_tokens=6, record=ResidualSites(sites=SITES))[0]


def told(rollout: Rollout) -> tuple[Any, ...]:
    """A response as far as two that should be the same are compared."""
    return rollout.prompt_ids.tolist(), rollout.token_ids.tolist(), rollout.logprobs.tolist(), rollout.finish_reason


# Prompts

ONE = {
    "a string": TEXT,
    "a numpy string": np.str_(TEXT),
    "ids": IDS,
    "ids in a tuple": tuple(IDS),
    "a range": range(5, 10, 2),
    "numpy ids": np.array(IDS),
    "small numpy ids": np.array(IDS, dtype=np.uint8),
    "a tensor": torch.tensor(IDS),
    "an int32 tensor": torch.tensor(IDS, dtype=torch.int32),
    "scalars": [np.int64(5), torch.tensor(7), 9],
    "a generator of ids": lambda: (i for i in IDS),
    "a series of ids": pd.Series(IDS, index=[3, 4, 8]),
    "a list of one string": [TEXT],
    "a one-row tensor": torch.tensor([IDS]),
    "a list of an array": [np.array(IDS)],
    "a tokenizer's output": {"input_ids": [IDS], "attention_mask": [[1, 1, 1]]},
    "a padded output": {"input_ids": torch.tensor([[0, 0, *IDS]]), "attention_mask": torch.tensor([[0, 0, 1, 1, 1]])},
}


@pytest.mark.parametrize("form", ONE)
def test_one_prompt_in_every_form(form: str) -> None:
    make = ONE[form] if callable(ONE[form]) else lambda: ONE[form]
    plain = decode(model(), [IDS], max_new_tokens=3)
    assert [told(r) for r in decode(model(), make(), max_new_tokens=3)] == [told(r) for r in plain]
    assert [e.token_ids.tolist() for e in encode(model(), make())] == [IDS]
    (scores,) = score(model(), make(), [[11, 12]])
    assert scores.logprobs.tolist() == score(model(), [IDS], [[11, 12]])[0].logprobs.tolist()


SEVERAL = {
    "a tuple": (TEXT, "w8 w3 w4"),
    "a generator": lambda: (text for text in (TEXT, "w8 w3 w4")),
    "a series": pd.Series([TEXT, "w8 w3 w4"], index=[7, 2]),
    "an array of texts": np.array([TEXT, "w8 w3 w4"]),
    "an array of objects": np.array([TEXT, "w8 w3 w4"], dtype=object),
    "values of a dict": {1: TEXT, 2: "w8 w3 w4"}.values(),
    "a 2-D tensor": torch.tensor([IDS, [8, 3, 4]]),
    "a 2-D array": np.array([IDS, [8, 3, 4]]),
    "tensors": [torch.tensor(IDS), torch.tensor([8, 3, 4])],
    "a mixture": [TEXT, np.array([8, 3, 4])],
}


@pytest.mark.parametrize("form", SEVERAL)
def test_several_prompts_in_every_form(form: str) -> None:
    given = SEVERAL[form]() if callable(SEVERAL[form]) else SEVERAL[form]
    assert [r.prompt_ids.tolist() for r in decode(model(), given, max_new_tokens=1)] == [IDS, [8, 3, 4]]


def test_one_chat_is_one_prompt() -> None:
    chatty = model()
    chatty.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}w3"
    try:
        chat = [{"role": role, "content": text} for role, text in (("user", "w5"), ("assistant", "w7"), ("user", "w9"))]
        for given in (chat, [chat], tuple(chat)):
            assert [r.prompt_ids.tolist() for r in decode(chatty, given, max_new_tokens=1)] == [[5, 7, 9, 3]]
        alone = decode(chatty, chat[0], max_new_tokens=1)
        assert [r.prompt_ids.tolist() for r in alone] == [[5, 3]]
    finally:
        chatty.tokenizer.chat_template = None


def test_no_prompts_are_no_results() -> None:
    for none in ([], (), torch.zeros(0, 3, dtype=torch.long), pd.Series([], dtype=object)):
        assert decode(model(), none, max_new_tokens=2) == []
        assert encode(model(), none) == []
        assert score(model(), none, []) == []


@pytest.mark.parametrize(
    "given",
    [
        None, 5, 5.0, b"\x05\x06", {TEXT}, {"question": TEXT}, pd.DataFrame({"prompt": [TEXT]}), str, [None], [5, TEXT],
        [[5, TEXT]], [[True, False]], torch.tensor([True, False]), torch.tensor([1.0, 2.0]), np.array([1.5]),
        torch.zeros(1, 1, 1, dtype=torch.long), [b"\x05"], [[[5]]], [5.0, 6.0], torch.tensor(5),
        [{"question": TEXT}, 5], {"input_ids": [IDS], "attention_mask": [[1, 1]]},
    ],
    ids=named,
)  # fmt: skip
def test_what_is_no_prompt_is_refused(given: Any) -> None:
    for call in (
        lambda: decode(model(), given, max_new_tokens=1),
        lambda: encode(model(), given),
        lambda: score(model(), given, [[5]]),
    ):
        with pytest.raises(InputError):
            call()


def test_one_string_that_cannot_be_read_is_told_from_a_list() -> None:
    with pytest.raises(InputError, match=r"One string is one prompt; for several pass a list"):
        decode(model(), "ducks", max_new_tokens=1)


# Numbers

SAME_DECODING: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"max_new_tokens": np.int64(3)}, {}),
    ({"max_new_tokens": torch.tensor(3)}, {}),
    ({"batch_size": np.int32(1)}, {"batch_size": 1}),
    ({"temperature": np.float32(0.5), "seed": 4}, {"temperature": 0.5, "seed": 4}),
    ({"temperature": torch.tensor(0.5), "seed": np.int64(4)}, {"temperature": 0.5, "seed": 4}),
    ({"temperature": 1, "top_p": np.float64(0.5)}, {"temperature": 1.0, "top_p": 0.5}),
    ({"temperature": 1.0, "seed": np.array([4, 5])}, {"temperature": 1.0, "seed": [4, 5]}),
    ({"temperature": 1.0, "seed": torch.tensor([4, 5])}, {"temperature": 1.0, "seed": [4, 5]}),
    ({"temperature": 1.0, "seed": (s for s in (4, 5))}, {"temperature": 1.0, "seed": [4, 5]}),
    ({"temperature": 1e-30, "seed": 3}, {}),
    ({"temperature": 5e-324, "seed": 3}, {}),
    ({"temperature": 1.0, "top_p": 5e-324, "seed": 3}, {}),
    ({"interventions": None, "progress": None}, {}),
    ({"interventions": SuppressTokens([40])}, {"interventions": [SuppressTokens([40])]}),
    ({"interventions": (i for i in [SuppressTokens([40])])}, {"interventions": [SuppressTokens([40])]}),
    ({"stop": "w41 w42"}, {"stop": ["w41 w42"]}),
    ({"stop": np.int64(41)}, {"stop": [41]}),
    ({"stop": torch.tensor([41, 42])}, {"stop": [41, 42]}),
]


@pytest.mark.parametrize(("given", "plain"), SAME_DECODING, ids=named)
def test_numbers_of_every_kind_do_what_plain_ones_do(given: dict[str, Any], plain: dict[str, Any]) -> None:
    prompts = [IDS, [8, 3]]
    ours = decode(model(), prompts, **{"max_new_tokens": 3, **given})
    theirs = decode(model(), prompts, **{"max_new_tokens": 3, **plain})
    assert [told(r) for r in ours] == [told(r) for r in theirs]
    if "temperature" not in given or given["temperature"] == plain.get("temperature"):
        assert [r.settings for r in ours] == [r.settings for r in theirs]


@pytest.mark.parametrize(
    "given",
    [
        {"max_new_tokens": 0}, {"max_new_tokens": -1}, {"max_new_tokens": 2.0}, {"max_new_tokens": True},
        {"max_new_tokens": "3"}, {"max_new_tokens": None}, {"max_new_tokens": torch.tensor(2.0)},
        {"max_new_tokens": np.bool_(True)}, {"batch_size": 0}, {"batch_size": -2}, {"batch_size": True},
        {"batch_size": 1.0}, {"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": float("inf")},
        {"temperature": "hot"}, {"temperature": True}, {"temperature": None}, {"temperature": torch.tensor([1.0, 2.0])},
        {"top_p": 0}, {"top_p": 1.1}, {"top_p": float("nan")}, {"top_p": -1}, {"top_p": None}, {"seed": 1.5},
        {"seed": True}, {"seed": "7"}, {"seed": None}, {"seed": [1.0]}, {"seed": [2**64]}, {"seed": [-(2**63) - 1]},
        {"seed": []}, {"seed": [1, 2]}, {"stop": ""}, {"stop": [""]}, {"stop": F.VOCAB}, {"stop": [-1]},
        {"stop": [1.5]}, {"stop": True}, {"stop": [[5]]}, {"stop": None}, {"stop": {5}},
        {"interventions": SuppressTokens}, {"interventions": [SuppressTokens]}, {"interventions": [5]},
        {"interventions": "SuppressTokens"}, {"interventions": {"a": SuppressTokens([5])}}, {"record": ResidualSites},
        {"record": "resid_post"}, {"record": True}, {"record": ["resid_post"]}, {"progress": "yes"}, {"progress": 1},
    ],
    ids=named,
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        decode(model(), [IDS], **{"max_new_tokens": 2, **given})


@pytest.mark.parametrize("seed", [-1, 2**63, 2**200, np.int64(-3)])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    first, second = (decode(model(), [IDS] * 2, max_new_tokens=6, temperature=1.0, seed=seed) for _ in range(2))
    assert [told(r) for r in first] == [told(r) for r in second]
    assert row_seeds(seed, 2) == row_seeds(int(seed), 2) != row_seeds(int(seed) + 1, 2)
    own = decode(model(), [IDS], max_new_tokens=2, temperature=1.0, seed=[-5])
    assert own[0].settings["seed"] == -5


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"batch_size": -1}, {"batch_size": 2.0}, {"record": "resid_post"},
                                   {"record": ResidualSites}], ids=named)  # fmt: skip
def test_options_of_encode_and_score(given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        encode(model(), [IDS], **given)
    if "record" not in given:
        with pytest.raises(InputError):
            score(model(), [IDS], [[5]], **given)


# Responses of score


def test_responses_in_every_form() -> None:
    plain = score(model(), [IDS], [[11, 12]])[0].logprobs.tolist()
    for form in ([11, 12], torch.tensor([11, 12]), np.array([[11, 12]]), [torch.tensor([11, 12])], ((11, 12),)):
        assert score(model(), IDS, form)[0].logprobs.tolist() == plain
    assert score(model(), IDS, [11, 12], last=np.int64(1))[0].logprobs.tolist() == pytest.approx(plain[1:], abs=1e-5)
    for form in ("w11 w12", ["w11 w12"], [[1.5]], [[True]], None, [[{"role": "user", "content": "w5"}]]):
        with pytest.raises(InputError):
            score(model(), [IDS], form)
    for last in (0, 3, True, 1.0, "1"):
        with pytest.raises(InputError):
            score(model(), IDS, [11, 12], last=last)


# What is recorded


@pytest.mark.parametrize(
    ("layers", "found"),
    [("all", (0, 1, 2)), (1, (1,)), (np.int64(-1), (2,)), (torch.tensor([0, 2]), (0, 2)), (range(2), (0, 1)),
     ((n for n in (2, 0)), (0, 2)), (np.array([1]), (1,)), ({0, 1}, (0, 1)), (torch.tensor(1), (1,))],
    ids=named,
)  # fmt: skip
def test_layers_in_every_form(layers: Any, found: tuple[int, ...]) -> None:
    record = ResidualSites(layers=layers)
    for _ in range(2):  # a generator is read when the request is made, not when it is used
        assert decode(model(), [IDS], max_new_tokens=1, record=record)[0].layers == found


@pytest.mark.parametrize(
    "given",
    [{"layers": 1.0}, {"layers": True}, {"layers": [True]}, {"layers": "last"}, {"layers": None}, {"layers": [3]},
     {"layers": []}, {"layers": -4}, {"sites": "resid_post"}, {"sites": []}, {"sites": [Site("resid_post", 1)]},
     {"sites": Site("resid_post", 1)}, {"sites": None}, {"sites": [1]}, {"dtype": torch.int64}, {"dtype": "float99"},
     {"device": "toaster"}],
    ids=named,
)  # fmt: skip
def test_requests_to_record_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        decode(model(), [IDS], max_new_tokens=1, record=ResidualSites(**given))


def test_a_stream_needs_someone_to_tell() -> None:
    with pytest.raises(InputError, match="on_step as a function"):
        ResidualStream(on_step="print")


def test_sites_and_layers_by_themselves() -> None:
    assert Site("resid_post", np.int64(2)) == Site("resid_post", torch.tensor(2)) == Site("resid_post", 2)
    assert type(Site("resid_post", np.int64(2)).layer) is int
    for wrong in ((True,), (1.0,), ("1",), (None,)):
        with pytest.raises(InputError):
            Site("resid_post", *wrong)
        with pytest.raises(InputError):
            resolve_layers(*wrong, n_layers=3)


# Interventions

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


# What interventions say of themselves


def steered(by: float) -> Callable[[Any, Any], Any]:
    return lambda here, new: here + by


LEVEL = 1.0


def different(source: Rollout, other: Rollout) -> list[list[Any]]:
    class Own(Intervention):
        def __init__(self, held: Any) -> None:
            self.held = held

    return [
        [SteerResidual(VECTOR, 1), SteerResidual(-VECTOR, 1), SteerResidual(VECTOR.double(), 1),
         SteerResidual(VECTOR, 1, rows=[0]), SteerResidual(VECTOR, 1, scale=2.0)],
        [MeanAblate(VECTOR, 1), MeanAblate(VECTOR + 1e-6, 1), MeanAblate(VECTOR, 1, site="resid_mid")],
        [PatchResidual(source, 1, [0]), PatchResidual(other, 1, [0]), PatchResidual(source, 2, [0]),
         PatchResidual(source, 1, {0: 1}), PatchResidual(source, 1, [0], exchange=steered(1.0)),
         PatchResidual(source, 1, [0], exchange=steered(2.0)),
         PatchResidual(source, 1, [0], exchange=lambda here, new: new)],
        [Recompute(1, 1, any_token([5])), Recompute(1, 1, any_token([6])), Recompute(1, 1, input_token([5])),
         Recompute(1, 1, uncertain(1.0)), Recompute(1, 1, uncertain(2.0)), Recompute(1, 1, at_random(0.5)),
         Recompute(1, 1, at_random(0.5, "other")), Recompute(1, 1, lambda step: [True] * len(step.rows)),
         Recompute(1, 1, lambda step: [False] * len(step.rows))],
        [RecycleRepresentation(1, [5]), RecycleRepresentation(1, [6]), RecycleRepresentation(1, [5], 0.5),
         RecycleRepresentation(1, [5], trigger="input")],
        [RecurseLatents(1), RecurseLatents(1, entropy_threshold=0.5), RecurseLatents(1, tolerance=0.5)],
        [Own(np.zeros(3)), Own(np.ones(3)), Own([1, 2]), Own({"a": 1}), Own(source), Own(other), Own({1: VECTOR}),
         Own({1: -VECTOR}), Own(list(range(500))), Own([*range(499), 7]), Own([0.5] * 500), Own([0.5] * 499 + [1.0]),
         Own(np.random.default_rng(0).random), Own(float("nan"))],
    ]  # fmt: skip


def test_no_two_different_interventions_are_described_alike(source: Rollout) -> None:
    import json

    other = decode(model(), [[5, 6, 9]], max_new_tokens=6, record=ResidualSites(sites=SITES))[0]
    for kind, again in zip(different(source, other), different(source, other), strict=True):
        told_of = [json.dumps(one.describe(), sort_keys=True, allow_nan=False) for one in kind]
        assert len(set(told_of)) == len(told_of)
        assert told_of == [json.dumps(one.describe(), sort_keys=True) for one in again]
        assert not any(" at 0x" in text for text in told_of)


def test_a_function_is_told_by_what_it_does_and_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def gate(step: Step) -> list[bool]:
        return [LEVEL > 0.5] * len(step.rows)

    before = Recompute(1, 1, gate).describe()
    assert Recompute(1, 1, gate).describe() == before
    monkeypatch.setitem(globals(), "LEVEL", 0.25)
    assert Recompute(1, 1, gate).describe() != before


def test_two_classes_of_one_name_are_told_apart_in_the_settings() -> None:
    def make(bonus: float) -> Intervention:
        if bonus:

            class Favour(Intervention):
                def before_choice(self, step: Step) -> None:
                    step.edit_logits(lambda logits, which: logits + 1.0)
        else:

            class Favour(Intervention):  # type: ignore[no-redef]
                def before_choice(self, step: Step) -> None:
                    step.edit_logits(lambda logits, which: logits - 1.0)

        return Favour()

    settings = [decode(model(), [IDS], max_new_tokens=1, interventions=make(b))[0].settings for b in (1.0, 0.0, 1.0)]
    codes = [tuple(s["intervention_code"]) for s in settings]
    assert codes[0] == codes[2] != codes[1]
