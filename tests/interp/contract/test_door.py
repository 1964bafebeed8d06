"""Everything that is done with a model goes through the engine that `engine_for` chooses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families as F
import pytest
import torch

import interp
from interp import InputError, ResidualSites, decode, encode, load_model, score
from interp.engines import registry
from interp.engines.base import Engine
from interp.interventions import SuppressTokens, log_probability, patch_sweep


def sweep(model: Any) -> None:
    target = decode(model, [[5, 6]], max_new_tokens=2, record=ResidualSites())[0]
    patch_sweep(model, target, target, log_probability(5))


THROUGH: dict[str, tuple[Callable[[Any], Any], int]] = {  # passes at least
    "decode": (lambda model: decode(model, [[5, 6]], max_new_tokens=3), 3),
    "encode": (lambda model: encode(model, [[5, 6]]), 1),
    "score": (lambda model: score(model, [[5, 6]], [[7]]), 1),
    "sweep": (sweep, 4),
    "load": (lambda model: load_model("x", hf_model=copy.deepcopy(model.original_model), device="cpu"), 2),
}


@pytest.mark.parametrize("what", THROUGH)
def test_every_pass_is_the_chosen_engines(what: str, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    class Counting(engine):
        def forward(self, ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            passes.append(ids.shape[1])
            return super().forward(ids, *args, **kwargs)

    model = F.bridge("llama")
    monkeypatch.setattr(registry, "ENGINES", (Counting, *registry.ENGINES[1:]))
    act, least = THROUGH[what]
    act(model)
    assert len(passes) >= least


def test_the_first_that_serves_a_model_runs_it(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(engine):
        @classmethod
        def serves(cls, model: Any) -> bool:
            return False

    class Later(engine):
        pass

    model = F.bridge("llama")  # loading asks for the bridge, too
    monkeypatch.setattr(registry, "ENGINES", (Never, engine, Later))
    assert type(registry.engine_for(model)) is engine
    monkeypatch.setattr(registry, "ENGINES", (Later, engine))
    assert type(registry.engine_for(model)) is Later


def test_what_no_engine_serves_is_refused() -> None:
    for model, said in (("toy-reasoner", "'toy-reasoner'"), (F.hf_model("llama"), "LlamaForCausalLM"), (None, "None")):
        for ask in (registry.engine_for, registry.model_facts, registry.check_model):
            with pytest.raises(InputError, match=f"use a model: expected a model that load_model returns .*{said}"):
                ask(model)


def test_an_engine_is_an_engine_and_says_of_a_model_what_decoding_asks(engine: Any) -> None:
    made = registry.engine_for(F.bridge("gemma3"))
    assert isinstance(made, Engine)
    assert made.facts == engine.facts_of(F.bridge("gemma3"))
    facts = made.facts
    assert (facts.n_layers, facts.d_model, facts.d_vocab, facts.n_ctx) == (4, 44, F.VOCAB, 512)
    assert facts.eos == {F.PAD_EOS["eos_token_id"]}
    assert facts.tokenizer is F.bridge("gemma3").tokenizer
    assert facts.generator.generation_config.eos_token_id == F.PAD_EOS["eos_token_id"]
    assert "torch" in facts.libraries


def test_the_end_is_that_of_the_generation_config_before_that_of_the_config() -> None:
    model = F.load_without_tokenizer("llama")
    model.original_model.generation_config.eos_token_id = [7, 8]
    assert registry.model_facts(model).eos == {7, 8}
    model.original_model.generation_config = None
    facts = registry.model_facts(model)
    assert facts.eos == {F.PAD_EOS["eos_token_id"]}
    assert facts.generator is None
    assert len(decode(model, F.prompts(1), max_new_tokens=4)[0]) > 0


def test_capped_logits_cannot_be_suppressed_at_the_unembedding() -> None:
    model = F.load_without_tokenizer("gemma3")
    assert SuppressTokens([5]).hooks(model)[0][0] == "unembed.hook_out"
    model.original_model.config.final_logit_softcapping = 30.0
    with pytest.raises(InputError, match="whose logits are the unembedding's output, received tiny-gemma3, which caps"):
        SuppressTokens([5]).hooks(model)


def test_a_model_in_training_decodes_without_dropout_and_stays_in_training() -> None:
    """GPT-2 drops parts of its embeddings in a module that TransformerLens does not count as its own."""
    model = F.load_without_tokenizer("gpt2")
    expected = decode(model, F.prompts(1), max_new_tokens=8)[0].logprobs
    modules = list(model.original_model.modules())
    for module in modules:
        module.training = not isinstance(module, torch.nn.Linear)
    before = [module.training for module in modules]
    assert torch.equal(decode(model, F.prompts(1), max_new_tokens=8)[0].logprobs, expected)
    assert [module.training for module in modules] == before
    assert any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in modules)


def test_nobody_else_names_an_engine_or_reaches_into_a_model() -> None:
    root = Path(interp.__file__).parent
    files = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    naming = {name for name, text in files.items() if "import BridgeEngine" in text or "import TwinEngine" in text}
    assert naming == {"engines/registry.py", "engines/twin.py"}
    # Loading makes a model, an engine runs it; to everybody else it is one.
    reaching = {name.partition("/")[0] for name, text in files.items() if ".original_model" in text}
    assert reaching == {"engines", "loading"}
