"""What the host waits for at a step: the tokens, once, and what an intervention cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import families as F
import pytest
import torch
from pretended import Pretended, moved
from torch import Tensor

from interp import Intervention, ResidualSites, ResidualStream, Rollout, Step, StepResiduals, decode
from interp.devices import Ferry
from interp.engines.bridge import BridgeEngine
from interp.engines.registry import only_engine
from interp.engines.static import SWITCH
from interp.interventions import (
    BudgetForcing,
    ContinueThinking,
    HeadAblate,
    MaskAttention,
    MeanAblate,
    PatchHead,
    PatchResidual,
    RecurseLatents,
    RecycleRepresentation,
    SteerResidual,
    SuppressTokens,
)

NEW, VECTOR, HEADS = 5, [1.0] * 44, [(1, 0), (2, 3)]
MANY = list(range(20, 60))
SITES = ("resid_pre", "resid_mid", "resid_post", "ln_final", "z", "attn_out")
Make = Callable[[Rollout], Intervention]

WITHOUT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "drawn": {"temperature": 0.8, "top_p": 0.9, "seed": 3},
    "kept": {"record": ResidualSites(sites=SITES)},
    "kept on the host": {"record": ResidualSites(device="cpu")},
    "streamed": {"record": ResidualStream(on_step=lambda step: None)},
    "streamed to the host": {"record": ResidualStream(device="cpu", dtype="float64", on_step=lambda step: None)},
    "penalty": {"generation_config": {"repetition_penalty": 1.3, "min_new_tokens": 3}},
    "stop strings": {"stop": ["w3 w3 w3"]},
}
WITH: dict[str, Make] = {
    "SuppressTokens": lambda _: SuppressTokens(MANY),
    "SteerResidual": lambda _: SteerResidual(VECTOR, 1),
    "SteerResidual at steps": lambda _: SteerResidual(VECTOR, 1, range(NEW), rows=[0, 1], mode="project_out"),
    "SteerResidual in the middle": lambda _: SteerResidual(VECTOR, 1, site="resid_mid"),
    "MeanAblate": lambda _: MeanAblate(VECTOR, 1, "all"),
    "PatchResidual": lambda source: PatchResidual(source, 1, range(NEW)),
    "HeadAblate": lambda _: HeadAblate(HEADS),
    "HeadAblate to a mean": lambda source: HeadAblate(HEADS, "mean", source),
    "HeadAblate resampled": lambda source: HeadAblate(HEADS, "resample", source),
    "PatchHead": lambda source: PatchHead(source, HEADS, range(NEW)),
    "MaskAttention": lambda _: MaskAttention((1, 3), of="prompt"),
    "ContinueThinking": lambda _: ContinueThinking("w5 w6", NEW, "start", final_prompt="w7", final_tokens=2),
    "BudgetForcing": lambda _: BudgetForcing("w9", max_thinking=2, append="w5"),
    "RecycleRepresentation at a word read": lambda _: RecycleRepresentation(1, range(3, 101), trigger="input"),
    "RecycleRepresentation": lambda _: RecycleRepresentation(1, range(3, 101)),
    "RecurseLatents": lambda _: RecurseLatents(1, 2, 0.0, None),
    "RecurseLatents until it has converged": lambda _: RecurseLatents(1, 2, 0.0, 0.0),
}
# Whether a position runs again hangs on its logits, which have to be asked for; with a tolerance, after each turn.
MORE = {"RecycleRepresentation": 1, "RecurseLatents": 1, "RecurseLatents until it has converged": 3}
# The bridge's own: its forward, what it reads and writes; interventions are the same on both.
ON_THE_BRIDGE = (
    "nothing",
    "kept",
    "SteerResidual in the middle",
    "HeadAblate",
    "MaskAttention",
    "RecycleRepresentation",
)


@pytest.fixture(autouse=True)
def _plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured ones have a test of their own."""
    monkeypatch.setenv(SWITCH, "0")


@pytest.fixture(scope="module")
def recorded() -> Rollout:
    record = ResidualSites(sites=("resid_post", "z"))
    return decode(F.bridge("llama"), [[5, 6, 7]], max_new_tokens=NEW, record=record)[0]


def waits_of(model: Any, options: dict[str, Any]) -> tuple[list[Rollout], list[list[str]]]:
    """What is decoded on a pretended device, and the waits of each step, those for the step before it left out."""
    noted: list[list[str]] = []

    class Told:
        def update(self, n: int) -> None:
            noted.append(device.waits[sum(map(len, noted)) :])

    with moved(model), Pretended() as device:
        found = decode(model, F.prompts(2), max_new_tokens=NEW, progress=Told(), **options)
    return found, noted


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        *(("twin", name) for name in (*WITHOUT, *WITH) if name != "MaskAttention"),
        *(("bridge", n) for n in ON_THE_BRIDGE),
    ],
)
def test_a_step_waits_for_its_tokens_alone(engine: str, name: str, recorded: Rollout) -> None:
    options = WITHOUT.get(name) or {}
    if name in WITH:
        options = {"interventions": WITH[name](recorded)}
    with only_engine(engine):
        found, noted = waits_of(F.bridge("llama"), options)
    steps = min(map(len, found))
    assert steps >= 4, "too short to tell"
    # The first step has the prompts' waits too, and one after a row has left what its leaving takes.
    for step in range(1, steps):
        waits = [wait for wait in noted[step] if wait != "event"]
        assert waits == ["tolist"] * (1 + MORE.get(name, 0)), f"step {step} of {noted}"


class Asks(Intervention):
    """Looks at a number of the device at every step."""

    def before_choice(self, step: Step) -> None:
        if step.logits[0, 0] > 1e9:
            raise AssertionError


def test_a_wait_of_an_intervention_is_seen() -> None:
    _, noted = waits_of(F.bridge("llama"), {"interventions": Asks()})
    assert noted[1] == ["__bool__", "tolist"]


def test_what_is_sent_lands_in_order_whatever_becomes_of_it_there() -> None:
    landed: list[tuple[int, Tensor]] = []
    with Pretended() as device:
        ferry = Ferry("cuda:0", lambda note, values: landed.append((note, values["x"].clone())), torch.float64)
        here = torch.zeros(3, 4, device="cuda:0")
        for step in range(5):
            here.fill_(step)
            ferry.send(step, {"x": here[: 3 - step % 2, 1:]})
            assert len(landed) == max(0, step + 1 - Ferry.PLACES), "lands when its place is needed"
        ferry.settle()
    assert set(device.waits) == {"event"}
    for step, (note, values) in enumerate(landed):
        assert note == step
        assert torch.equal(values, torch.full((3 - step % 2, 3), step, dtype=torch.float64))


@pytest.mark.parametrize("kept", ["memory", "files", "handed on"])
def test_streams_that_leave_the_device_are_those_of_the_cpu(kept: str, tmp_path: Path) -> None:
    model = F.bridge("llama")
    stops = F.staggering_stops([r.token_ids.tolist() for r in decode(model, F.prompts(), max_new_tokens=12)])
    seen: dict[tuple[str, int, int], Tensor] = {}

    def run(where: str) -> list[Rollout]:
        def on_step(step: StepResiduals) -> None:
            for i, row in enumerate(step.rows):
                seen[where, row, step.step] = step.residuals["resid_post"][:, i].clone()

        record = {
            "memory": ResidualSites(device="cpu"),
            "files": ResidualSites(folder=tmp_path / where),
            "handed on": ResidualStream(device="cpu", on_step=on_step),
        }[kept]
        return decode(model, F.prompts(), max_new_tokens=12, stop=stops, batch_size=3, record=record)

    here = run("cpu")
    with moved(model), Pretended():
        there = run("cuda")
    assert len({len(rollout) for rollout in here}) > 1
    for row, (a, b) in enumerate(zip(here, there, strict=True)):
        for site, values in a.residuals.items():
            assert torch.equal(values, b.residuals[site])
        if kept == "handed on":
            steps = [step for where, of, step in seen if (where, of) == ("cuda", row)]
            assert steps == list(range(len(a))), "in their order, and all of them"
            assert all(torch.equal(seen["cpu", row, step], seen["cuda", row, step]) for step in steps)


def test_layers_on_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As accelerate places them: keys and values stay where their layer is, and what is recorded comes together."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = F.load_without_tokenizer("llama")
    record = ResidualSites(sites=SITES)
    recycle = RecycleRepresentation(2, range(3, 101), trigger="input")
    with only_engine("bridge"):  # which is what runs over several devices: another one rounds differently
        expected = decode(model, F.prompts(3), max_new_tokens=NEW, record=record, interventions=recycle)
    second = [model.blocks[2], model.ln_final, model.unembed]
    modules = [module.original_component for module in second]
    caches: list[Any] = []
    new_cache = BridgeEngine.new_cache
    monkeypatch.setattr(
        BridgeEngine, "new_cache", lambda self, *a, **k: caches.append(new_cache(self, *a, **k)) or caches[-1]
    )
    parts = {id(part) for module in second for part in module.modules()}
    names = {id(part): name for name, part in model.original_model.named_modules()}
    there = {name for key, name in names.items() if key in parts}
    with moved(model, lambda name: "cuda:1" if name in there else "cuda:0"), Pretended():
        for module in modules:
            hook = AlignDevicesHook(execution_device=torch.device("cuda:1"), skip_keys="past_key_values")
            add_hook_to_module(module, hook)
        found = decode(model, F.prompts(3), max_new_tokens=NEW, record=record, interventions=recycle)
    assert found[0].settings["engine"] == "bridge"
    assert [str(keys.device) for keys in caches[0]._keys] == ["cuda:0", "cuda:0", "cuda:1"]
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        for site, values in other.residuals.items():
            torch.testing.assert_close(one.residuals[site], values, check_device=False)
