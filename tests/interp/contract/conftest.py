"""The contract of engines: every test here runs once for each engine that there is, with no other to choose from."""

from __future__ import annotations

from typing import Any

import on_device
import pytest

from interp.engines import registry
from interp.engines.base import Engine
from interp.engines.bridge import BridgeEngine

on_device.install()

# The twin is Hugging Face's forward and the bridge's numbers, so that what a family is like matters in few places.
WHOLE = ("test_decoding", "test_residuals", "test_recycling")
ON_THE_HOST = (
    "test_larger_than_memory_is_refused_with_the_size",  # the memory in question is the CPU's
    # Pieces are larger on a GPU
    "test_a_user_s_hook_sees_a_whole_text_unless_it_takes_pieces",
    "test_how_texts_are_cut_does_not_hang_on_who_asks",
    "test_long_prompts_are_read_in_pieces_by_decode",
    # They compare within the call with what they have made before, on the CPU
    "test_what_is_handed_on_is_what_is_kept",
    "test_who_is_handed_a_piece_may_run_the_model",
)
ELSEWHERE = ("qwen2", "qwen3")  # like llama to the twin, but for a bias and a norm


# Why the twin may leave a model to the bridge here. Any other reason, that a check at loading has dropped it say, would
# let these tests hold the bridge twice.
TO_THE_BRIDGE = (
    "TransformerLens's own modules are asked for",
    "Hugging Face's forward does not show ",
    "it has a hook of yours on ",
    "settings of it have been changed",
    "TransformerLens computes with copies of its weights (transformer.h.0._",  # GPT-2, see test_twin
)


@pytest.fixture(params=registry.ENGINES, ids=lambda engine: engine.__name__, autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    """The one that `engine_for` chooses; what the twin cannot run goes to the bridge, as always."""
    behind = () if request.param is BridgeEngine else (BridgeEngine,)
    monkeypatch.setattr(registry, "ENGINES", (request.param, *behind))
    choose = registry._chosen

    def chosen(model: Any, *asked: Any) -> tuple[type[Engine], dict[str, str]]:
        kind, doubts = choose(model, *asked)
        assert all(doubt.startswith(TO_THE_BRIDGE) for doubt in doubts.values()), doubts
        return kind, doubts

    monkeypatch.setattr(registry, "_chosen", chosen)
    return request.param


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what would run twice: the twin has no say in GPT-2, which is the bridge's (see test_twin)."""

    def runs(item: pytest.Item) -> bool:
        if on_device.DEVICE != "cpu" and item.name.partition("[")[0] in ON_THE_HOST:
            return False
        if on_device.DEVICE == "pretended" and item.name.endswith("-load]"):
            return False  # weights that pretend are not copied by way of a file
        words = item.name.partition("[")[2].rstrip("]").split("-")
        if "TwinEngine" not in words:
            return True
        return "gpt2" not in words and (item.path.stem in WHOLE or not set(ELSEWHERE) & set(words))

    left = [item for item in items if not runs(item)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if runs(item)]
