"""Captured steps: the tokens of Hugging Face, the streams of its modules, whatever rows and memory do meanwhile.

Graphs are :mod:`replaying`'s, which bake in what a CUDA graph bakes in.
"""

from __future__ import annotations

from typing import Any

import families as F
import pytest
import torch
from pretended import Pretended, moved
from references import SITES, check
from replaying import recorded
from torch import Tensor

from interp import InputError, Intervention, Positions, ResidualSites, Rollout, Site, Step, decode
from interp.engines import static
from interp.engines.registry import engine_for
from interp.engines.static import StaticSteps
from interp.engines.twin import TwinEngine
from interp.interventions import RecycleRepresentation, SuppressTokens

NEW = 14


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[StaticSteps]:
    """Captured steps everywhere; those of each engine that is made."""
    found: list[StaticSteps] = []
    begin = StaticSteps.__init__

    def init(self: StaticSteps, *args: Any) -> None:
        begin(self, *args)
        found.append(self)

    monkeypatch.setattr(StaticSteps, "__init__", init)
    monkeypatch.setattr(static, "captured", recorded)
    monkeypatch.setenv(static.SWITCH, "1")
    return found


def hf_greedy(family: str, prompt: list[int], new: int) -> list[int]:
    ids = torch.tensor([prompt])
    hf = F.hf_model(family, torch.float64)
    out = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize(("family", "size"), [("llama", 5), ("qwen3", 2), ("gemma3", 1)])
def test_tokens_of_hugging_face(family: str, size: int, made: list[StaticSteps]) -> None:
    """Alone, with padding, and with prompts that come in the places of rows that have left."""
    expected = [hf_greedy(family, prompt, NEW) for prompt in F.prompts()]
    stops = F.staggering_stops(expected)
    model = F.bridge(family, torch.float64)
    torch.use_deterministic_algorithms(True)  # by which memory that nobody has written is NaN
    try:
        rollouts = decode(model, F.prompts(), max_new_tokens=NEW, stop=stops, batch_size=size)
    finally:
        torch.use_deterministic_algorithms(False)
    for rollout, tokens in zip(rollouts, expected, strict=True):
        cut = min((tokens.index(stop) + 1 for stop in stops if stop in tokens), default=len(tokens))
        assert rollout.token_ids.tolist() == tokens[:cut]
    assert made[-1].why is None
    assert made[-1].captured > 0
    assert rollouts[0].settings["engine"] == "twin (sdpa, captured steps)"


@pytest.mark.parametrize(
    ("family", "dtype"), [("llama", torch.float32), ("gemma3", torch.float32), ("llama", torch.bfloat16)]
)
def test_streams_of_the_modules(family: str, dtype: torch.dtype, made: list[StaticSteps]) -> None:
    record = ResidualSites(sites=(*SITES, "z", "attn_out"))
    found = decode(F.bridge(family, dtype), F.prompts(3), max_new_tokens=NEW, record=record)
    assert made[-1].captured == 1
    if dtype == torch.float32:
        for rollout in found:
            check(F.hf_model(family), rollout)
    for rollout, other in zip(found, plainly(family, dtype, prompts=F.prompts(3), record=record), strict=True):
        assert rollout.token_ids.tolist() == other.token_ids.tolist()
        for site, values in other.residuals.items():
            error = (rollout.residuals[site] - values).float().norm(dim=-1) / values.float().norm(dim=-1)
            assert float(error.max()) <= (1e-5 if dtype == torch.float32 else 0.1), site


def plainly(family: str, dtype: torch.dtype, prompts: list[list[int]], **options: Any) -> list[Rollout]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(static.SWITCH, "0")
        return decode(F.bridge(family, dtype), prompts, max_new_tokens=NEW, **options)


def same(found: list[Rollout], others: list[Rollout]) -> None:
    assert [one.token_ids.tolist() for one in found] == [one.token_ids.tolist() for one in others]
    for one, other in zip(found, others, strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-6, rtol=1e-5)
        for site, values in other.residuals.items():
            torch.testing.assert_close(one.residuals[site], values, check_device=False)


def test_memory_that_grows_is_captured_anew(made: list[StaticSteps], monkeypatch: pytest.MonkeyPatch) -> None:
    new_cache = TwinEngine.new_cache
    monkeypatch.setattr(TwinEngine, "new_cache", lambda self, pad, capacity: new_cache(self, pad, min(capacity, 27)))
    found = decode(F.bridge("llama", torch.float64), F.prompts(), max_new_tokens=30)
    assert [one.token_ids.tolist() for one in found] == [hf_greedy("llama", prompt, 30) for prompt in F.prompts()]
    assert made[-1].captured == 3  # with room for 27 columns, for half as many more, and for half as many more again


def test_rows_that_leave_leave_the_step_as_it_is_until_half_have_left(made: list[StaticSteps]) -> None:
    """The longest prompt's row too, with which columns go that were padding for all others."""

    class Leave(Intervention):
        staggered = True

        def __init__(self, ends: dict[int, int]) -> None:
            self.ends = ends

        def after_choice(self, step: Step) -> None:
            for i, row in enumerate(step.rows):
                if len(row.token_ids) == self.ends.get(row.index):
                    step.end(i, "left")

    prompts = F.prompts()
    longest = max(range(5), key=lambda i: len(prompts[i]))
    model = F.bridge("llama", torch.float64)
    for ends, captures in (({longest: 6, 0: 8}, 1), ({longest: 6, 0: 8, 1: 9}, 2)):
        found = decode(model, prompts, max_new_tokens=NEW, interventions=Leave(ends), record=ResidualSites())
        assert made[-1].captured == captures
        same(found, plainly("llama", torch.float64, prompts, interventions=Leave(ends), record=ResidualSites()))


class Look(Intervention):
    """Decodes scratch tokens at every third step."""

    def before_choice(self, step: Step) -> None:
        if step.t % 3 == 0:
            step.scratch(range(len(step.rows)), [5], 6)


class Nothing(Intervention):
    """Edits, and changes nothing."""

    edits = (Site("resid_post", 1),)

    def edit_residual(self, site: Site, residual: Tensor, at: Positions) -> Tensor | None:
        return None


@pytest.mark.parametrize(
    ("intervention", "captures"),
    [
        (SuppressTokens(list(range(20, 60))), 1),
        (RecycleRepresentation(1, list(range(3, 50))), 1),
        (Look(), 1),
        (Nothing(), 0),
    ],
)
def test_beside_interventions(intervention: Intervention, captures: int, made: list[StaticSteps]) -> None:
    """Positions are run again and scratch tokens tried on the same memory; an edit needs Python between the blocks."""
    options = {"interventions": intervention, "record": ResidualSites()}
    found = decode(F.bridge("llama", torch.float64), F.prompts(), max_new_tokens=NEW, **options)
    assert made[-1].captured == captures
    same(found, plainly("llama", torch.float64, F.prompts(), **options))


def test_logits_that_are_kept_stay_what_they_were(made: list[StaticSteps]) -> None:
    class Keeps(Intervention):
        def __init__(self) -> None:
            self._kept: list[Tensor] = []

        def before_choice(self, step: Step) -> None:
            self._kept.append(step.logits)

    ours, plain = Keeps(), Keeps()
    decode(F.bridge("llama", torch.float64), F.prompts(2), max_new_tokens=NEW, interventions=ours)
    plainly("llama", torch.float64, F.prompts(2), interventions=plain)
    torch.testing.assert_close(ours._kept, plain._kept)


def test_a_read_that_is_more_than_a_copy_sees_every_step(made: list[StaticSteps]) -> None:
    seen: list[int] = []
    engine = engine_for(F.bridge("llama"))
    cache = engine.new_cache([0], 40)
    with engine.tapped({Site("resid_post", 1): lambda value: seen.append(value.shape[1])}, {}):
        for _ in range(8):
            engine.forward(torch.tensor([[5]]), cache)
    assert seen == [1] * 8


def test_a_family_that_asks_how_long_the_text_is_is_not_captured(
    made: list[StaticSteps], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that Python knows, and a graph would keep: the plain step tells."""
    logits = TwinEngine._logits

    def counting(self: TwinEngine, keep: int = 1, **inputs: Any) -> Tensor:
        return logits(self, keep, **inputs).roll(inputs["past_key_values"].get_seq_length(), -1)

    monkeypatch.setattr(TwinEngine, "_logits", counting)
    with pytest.warns(UserWarning, match="not captured any more: a captured step of it gives other logits"):
        found = decode(F.bridge("llama", torch.float64), F.prompts(), max_new_tokens=NEW)
    assert made[-1].why is not None
    same(found, plainly("llama", torch.float64, F.prompts()))


def test_a_switch_that_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(static.SWITCH, "yes")
    with pytest.raises(InputError, match="expected PEAKLENS_STATIC_STEPS=0 or PEAKLENS_STATIC_STEPS=1, received 'yes'"):
        engine_for(F.bridge("llama"))


def test_the_default_is_the_device(monkeypatch: pytest.MonkeyPatch, made: list[StaticSteps]) -> None:
    monkeypatch.delenv(static.SWITCH)
    decode(F.bridge("llama"), F.prompts(1), max_new_tokens=NEW)
    assert made[-1].why == "there are graphs on CUDA devices only"
    assert made[-1].captured == 0


class TestOnADevice:
    """The way to a graph that CUDA devices go, on a pretended one."""

    @pytest.fixture(autouse=True)
    def _as_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()  # the real way to a capture, and the default of the switch

    def test_one_wait_a_step(self) -> None:
        noted: list[list[str]] = []

        class Told:
            def update(self, n: int) -> None:
                noted.append(device.waits[sum(map(len, noted)) :])

        model = F.bridge("llama", torch.float64)
        expected = decode(model, F.prompts(2), max_new_tokens=NEW, record=ResidualSites())
        with moved(model), Pretended() as device:
            found = decode(model, F.prompts(2), max_new_tokens=NEW, record=ResidualSites(), progress=Told())
        same(found, expected)
        checked = static.AFTER + static.CHECKED
        assert [waits.count("__bool__") for waits in noted[1:]] == [0] * static.AFTER + [1, 1] + [0] * (
            NEW - checked - 1
        )
        assert noted[checked + 1 :] == [["tolist"]] * (NEW - checked - 1)

    def test_what_waits_within_a_step_is_not_captured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        logits = TwinEngine._logits
        made: list[TwinEngine] = []

        def looking(self: TwinEngine, keep: int = 1, **inputs: Any) -> Tensor:
            made.append(self)
            found = logits(self, keep, **inputs)
            return found if float(found[0, 0, 0]) < 1e9 else -found

        model = F.bridge("llama", torch.float64)
        monkeypatch.setattr(TwinEngine, "_logits", looking)
        expected = decode(model, F.prompts(2), max_new_tokens=NEW)
        made.clear()
        with moved(model), Pretended() as device:
            found = decode(model, F.prompts(2), max_new_tokens=NEW)
        same(found, expected)
        assert "cannot be captured (called a synchronizing CUDA operation" in str(made[0]._steps.why)
        assert device.raises == "default"
