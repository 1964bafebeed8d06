"""What users hand in to every public function: it works as the plain form does, or is refused by one InputError."""

from __future__ import annotations

import re
from typing import Any

import families as F
import numpy as np
import pandas as pd
import pytest
import torch
from references import told

from interp import InputError, ResidualSites, ResidualStream, Site, decode, encode, score
from interp.interventions import SuppressTokens
from interp.sampling import row_seeds
from interp.sites import resolve_layers

TEXT, IDS = "w5 w7 w9", [5, 7, 9]


def named(value: Any) -> str:
    """A test's name without addresses: processes that share the tests have to find the same ones."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:60]


def model() -> Any:
    return F.bridge("llama")


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
    for form in ("w11 w12", ["w11 w12"]):
        assert score(model(), IDS, form)[0].logprobs.tolist() == plain
    for form in ([[1.5]], [[True]], None, [[{"role": "user", "content": "w5"}]]):
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
