"""A model's generation_config: greedy decoding against Hugging Face's ``generate``, one unpadded prompt at a time."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import families as F
import pytest
import torch

from interp import InputError, decode, score
from interp.engines.registry import model_facts
from interp.generation_config import generation_rules
from interp.interventions import RecycleRepresentation, SuppressTokens
from interp.protocol import Intervention, Step

NEW = 10
# Each alone; token ids are among those the tiny models and the toy are fond of, or they would change nothing.
SETTINGS: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.4},
    "repetition rewarded": {"repetition_penalty": 0.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 3.0},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "suppress_tokens": {"suppress_tokens": "common"},
    "begin_suppress_tokens": {"begin_suppress_tokens": "first"},
    "bad_words_ids": {"bad_words_ids": "pairs"},
    "sequence_bias": {"sequence_bias": "bias"},
    "min_length": {"min_length": 10, "eos_token_id": "common"},
    "min_new_tokens": {"min_new_tokens": 5, "eos_token_id": "common"},
    "both minima": {"min_new_tokens": 3, "min_length": 14, "eos_token_id": "common"},
    "forced_bos_token_id": {"forced_bos_token_id": 9},
    "forced_eos_token_id": {"forced_eos_token_id": 7},
    "forced eos of several": {"forced_eos_token_id": [9, 7]},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (2, 1.5), "eos_token_id": [11]},
    "remove_invalid_values": {"remove_invalid_values": True, "suppress_tokens": "common"},
    "renormalize_logits": {"renormalize_logits": True, "repetition_penalty": 1.2},
    "watermark": {"watermarking_config": {"bias": 6.0, "greenlist_ratio": 0.5}},
    "watermark of itself": {"watermarking_config": {"bias": 6.0, "seeding_scheme": "selfhash"}},
    "lengths": {"max_length": 5, "max_new_tokens": 3},
    "no end": {"eos_token_id": None},
    "sampling": {"do_sample": True, "temperature": 0.3, "top_k": 3, "top_p": 0.5, "min_p": 0.2, "typical_p": 0.4},
    "all at once": {
        "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "begin_suppress_tokens": "first", "min_new_tokens": 4,
        "bad_words_ids": "pairs", "eos_token_id": "common", "renormalize_logits": True, "do_sample": True,
        "forced_eos_token_id": 7, "exponential_decay_length_penalty": (3, 1.2), "encoder_repetition_penalty": 1.2,
    },
}  # fmt: skip


@contextmanager
def configured(settings: dict[str, Any], *models: Any) -> Iterator[None]:
    """These settings in each model's generation_config for a while."""
    before = [copy.deepcopy(model.generation_config) for model in models]
    try:
        for model in models:
            for name, value in settings.items():
                setattr(model.generation_config, name, value)
        yield
    finally:
        for model, config in zip(models, before, strict=True):
            model.generation_config = config


def resolved(settings: dict[str, Any], free: list[list[int]]) -> dict[str, Any]:
    """Settings whose ids are taken from what the model says without them."""
    from transformers import WatermarkingConfig

    said = [token for tokens in free for token in tokens]
    common = sorted(set(said), key=said.count)[-3:]
    words = {
        "common": common,
        "first": sorted({tokens[0] for tokens in free}),
        "pairs": [tokens[1:3] for tokens in free] + [[common[0]]],
        "bias": {tuple(tokens[:1]): -8.0 for tokens in free} | {tuple(tokens[2:4]): -9.0 for tokens in free},
    }
    found = {name: words[value] if isinstance(value, str) else value for name, value in settings.items()}
    if "watermarking_config" in found:
        found["watermarking_config"] = WatermarkingConfig(**found["watermarking_config"])
    return found


def hf_greedy(hf: Any, ids: list[int], new: int = NEW, **options: Any) -> list[int]:
    prompt = torch.tensor([ids])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = hf.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, do_sample=False, **options
        )
    return out[0, len(ids) :].tolist()


def both(name: str, count: int = 3) -> tuple[Any, Any, list[list[int]]]:
    hf, model = F.pair(name)
    texts = F.texts(name, count)
    return hf, model, [*texts, texts[0][:1]]  # the last of one token, which is where a first token is forced


@cache
def unsettled(name: str) -> list[list[int]]:
    """What Hugging Face says to these prompts without any settings."""
    hf, _, prompts = both(name, 2)
    return [hf_greedy(hf, prompt) for prompt in prompts]


# All of them on one model; on the toy, which has words, one of each sort; on the other families all at once.
ALL = [("llama", kind) for kind in SETTINGS]
TOY = (
    "repetition_penalty", "no_repeat_ngram_size", "suppress_tokens", "bad_words_ids", "min_new_tokens",
    "forced_eos_token_id", "exponential_decay_length_penalty", "watermark", "all at once",
)  # fmt: skip
SOME = [(family, "all at once") for family in F.FAMILIES[1:]]


@pytest.mark.parametrize(("family", "kind"), [*ALL, *(("toy", kind) for kind in TOY), *SOME])
def test_greedy_equals_hugging_face(family: str, kind: str) -> None:
    hf, model, prompts = both(family, 2)
    free = unsettled(family)
    settings = resolved(SETTINGS[kind], free)
    with configured(settings, hf, model.original_model):
        expected = [hf_greedy(hf, prompt) for prompt in prompts]
        together = decode(model, prompts, max_new_tokens=NEW)
        alone = decode(model, prompts[:1], max_new_tokens=NEW)
    assert [rollout.token_ids.tolist() for rollout in together] == expected
    assert alone[0].token_ids.tolist() == expected[0]
    if family == "llama":  # or the comparison could not fail
        assert (expected == free) == (kind in ("lengths", "no end", "sampling"))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_rows_that_leave_and_several_samples(family: str) -> None:
    """Ends at different steps, the same prompt thrice, batches of two."""
    hf, model, prompts = both(family)
    settings: dict[str, Any] = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}
    with configured(settings, hf):
        settings["eos_token_id"] = F.staggering_stops([hf_greedy(hf, prompt) for prompt in prompts])
    many = [*prompts, prompts[0], prompts[2], prompts[0]]
    with configured(settings, hf, model.original_model):
        expected = [hf_greedy(hf, prompt) for prompt in many]
        assert len({len(tokens) for tokens in expected}) > 1
        for size in (2, 16):
            found = decode(model, many, max_new_tokens=NEW, batch_size=size)
            assert [rollout.token_ids.tolist() for rollout in found] == expected


def test_logprobs_and_scores_are_of_the_processed_distribution() -> None:
    hf, model, prompts = both("llama")
    settings = {"repetition_penalty": 1.4, "suppress_tokens": [5, 6], "min_new_tokens": 3}
    with configured(settings, hf, model.original_model):
        rollouts = decode(model, prompts, max_new_tokens=NEW)
        scored = score(model, prompts, [rollout.token_ids for rollout in rollouts])
        at_end = score(model, prompts, [rollout.token_ids for rollout in rollouts], last=4)
        for prompt, rollout, whole, end in zip(prompts, rollouts, scored, at_end, strict=True):
            ids = torch.tensor([prompt])
            out = hf.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False,
                output_scores=True, return_dict_in_generate=True,
            )  # fmt: skip
            log_probs = torch.cat(out.scores).log_softmax(-1)
            expected = log_probs.gather(-1, rollout.token_ids[:, None])[:, 0]
            torch.testing.assert_close(rollout.logprobs, expected, atol=1e-4, rtol=1e-4)
            entropy = -(log_probs.exp() * log_probs.clamp_min(-1e30)).sum(-1)
            torch.testing.assert_close(rollout.entropy, entropy, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(whole.logprobs, rollout.logprobs, atol=1e-4, rtol=1e-4)
            assert whole.is_greedy.all()
            assert torch.equal(end.logprobs, whole.logprobs[-4:])
        raw = score(model, prompts, [rollout.token_ids for rollout in rollouts], generation_config=False)
    assert not all(one.is_greedy.all() for one in raw)


def test_off_and_changed() -> None:
    hf, model, prompts = both("qwen2")
    free = [hf_greedy(hf, prompt) for prompt in prompts]
    end = free[0][4]
    with configured({"repetition_penalty": 1.4, "eos_token_id": end}, hf, model.original_model):
        penalised = [hf_greedy(hf, prompt) for prompt in prompts]
        off = decode(model, prompts, max_new_tokens=NEW, generation_config=False)
        changed = decode(model, prompts, max_new_tokens=NEW, generation_config={"repetition_penalty": 1.1})
        config = copy.deepcopy(hf.generation_config)
        config.update(repetition_penalty=1.1)
        as_object = decode(model, prompts, max_new_tokens=NEW, generation_config=config)
        hf.generation_config.repetition_penalty = 1.1
        milder = [hf_greedy(hf, prompt) for prompt in prompts]
    assert penalised != free
    assert off[0].token_ids.tolist() == free[0][: free[0].index(end) + 1], "ids that end a response stay"
    assert [r.token_ids.tolist() for r in changed] == [r.token_ids.tolist() for r in as_object] == milder
    assert changed[0].settings["generation_config"] == {"repetition_penalty": 1.1, "eos_token_id": end}
    assert off[0].settings["generation_config"] == {"eos_token_id": end}
    with pytest.raises(InputError, match="expected settings of transformers' GenerationConfig, received 'repetion"):
        decode(model, prompts, max_new_tokens=2, generation_config={"repetion_penalty": 1.1})
    with pytest.raises(InputError, match="expected generation_config of True, False, a mapping or a GenerationConfig"):
        decode(model, prompts, max_new_tokens=2, generation_config=3)


def test_what_had_nothing_to_do_has_when_it_is_set() -> None:
    """That settings come to no processor is remembered, of those settings alone."""
    _, model, prompts = both("llama")
    plain, penalised, again = (
        decode(model, prompts[:1], max_new_tokens=NEW, generation_config=changes)[0].token_ids.tolist()
        for changes in ({"temperature": 0.3}, {"repetition_penalty": 1.4}, {"temperature": 0.3})
    )
    assert plain == again != penalised


@pytest.fixture(scope="module")
def spelling() -> Any:
    """A model whose tokens are letters and pieces of words, and a space where a word begins."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    alphabet = [*"abcdefghijklmnopqrstuvwxyz", "\u2581"]
    trainer = trainers.BpeTrainer(
        vocab_size=F.VOCAB, special_tokens=["<pad>", "<eos>", "<unk>"], initial_alphabet=alphabet
    )
    core.train_from_iterator(
        ["the quick brown fox jumps over lazy dogs abcdef and stops stopping at every stop"], trainer
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    from interp import load_model

    return load_model("tiny", hf_model=copy.deepcopy(F.hf_model("llama")), tokenizer=tokenizer, device="cpu")


def test_stop_strings_of_the_config(spelling: Any) -> None:
    hf, model, prompts = F.hf_model("llama"), spelling, F.prompts(4)
    prompts = [[token for token in prompt if token < len(model.tokenizer)] for prompt in prompts]
    free = decode(model, prompts, max_new_tokens=NEW)
    text = model.tokenizer.decode([*prompts[2], free[2].token_ids[0]])
    # One token, a piece over two of them, and a text that begins in the prompt
    stops = [free[0].tokens[3], (free[1].tokens[5] + free[1].tokens[6])[1:], text[-4:]]
    with configured({"stop_strings": stops}, hf, model.original_model):
        found = decode(model, prompts, max_new_tokens=NEW)
        expected = [hf_greedy(hf, prompt, tokenizer=model.tokenizer) for prompt in prompts]
    assert [rollout.token_ids.tolist() for rollout in found] == expected
    assert [rollout.finish_reason for rollout in found[:3]] == ["stop"] * 3
    assert len(found[2]) == 1


def test_stop_strings_without_transformers_help() -> None:
    """transformers cannot search the text of a closed vocabulary; without a tokenizer nobody can."""
    _, model, prompts = both("llama")
    free = decode(model, prompts, max_new_tokens=NEW)
    with configured({"stop_strings": [free[0].tokens[3]]}, model.original_model):
        found = decode(model, prompts, max_new_tokens=NEW)[0]
        assert (found.finish_reason, len(found)) == ("stop", free[0].tokens.index(free[0].tokens[3]) + 1)
        assert found.settings["generation_config"]["stop_strings"] == [free[0].tokens[3]]
    mute = F.load_without_tokenizer("llama")
    mute.original_model.generation_config.stop_strings = ["w5"]
    with pytest.raises(InputError, match=r"expected a tokenizer to find the generation_config's stop_strings"):
        decode(mute, prompts, max_new_tokens=2)


REFUSED = {
    "num_beams": 3, "guidance_scale": 1.5, "dola_layers": "low", "penalty_alpha": 0.6, "constraints": [object()],
    "force_words_ids": [[5]], "token_healing": True, "num_return_sequences": 2, "cache_implementation": "quantized",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_another_way_of_decoding_is_refused_by_name(name: str) -> None:
    _, model, prompts = both("llama")
    with configured({name: REFUSED[name]}, model.original_model):
        with pytest.raises(InputError, match=rf"decode: expected a generation_config of plain .* received {name}="):
            decode(model, prompts, max_new_tokens=2)
        decode(model, prompts, max_new_tokens=2, generation_config=False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"repetition_penalty": 2}, "`penalty` has to be a strictly positive float, but is 2"),
        ({"repetition_penalty": -1.0}, "strictly positive float"),
        ({"exponential_decay_length_penalty": (2, 1.5), "eos_token_id": None}, "NoneType"),
        ({"sequence_bias": {(F.VOCAB + 3,): 1.0}}, "tokens were being biased: .104."),
        ({"suppress_tokens": "all"}, "str|suppress|dimension"),
    ],
)
def test_settings_that_transformers_refuses_are_one_error(settings: dict[str, Any], said: str) -> None:
    _, model, prompts = both("llama")
    with configured(settings, model.original_model), pytest.raises(InputError, match=said) as raised:
        decode(model, prompts, max_new_tokens=2)
    assert "decode by the model's generation_config" in str(raised.value)
    assert "generation_config=False" in str(raised.value)


def test_what_is_not_done_is_told_once_by_name_and_recorded() -> None:
    hf, model, prompts = both("llama")
    with (
        configured({"max_time": 1e-9, "prompt_lookup_num_tokens": 3}, model.original_model),
        pytest.warns(UserWarning, match=r"asks for max_time=1e-09, prompt_lookup_num_tokens=3, which decode"),
    ):
        found = decode(model, prompts, max_new_tokens=NEW)
    assert [rollout.token_ids.tolist() for rollout in found] == [hf_greedy(hf, prompt) for prompt in prompts]
    assert found[0].settings["generation_config_ignored"] == ["max_time", "prompt_lookup_num_tokens"]
    with configured({"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}, model.original_model):
        decode(model, prompts, max_new_tokens=2)  # greedy: nothing to tell
        with pytest.warns(UserWarning, match=r"asks for top_k=20, top_p=0.95"):
            decode(model, prompts, max_new_tokens=2, temperature=0.6)
        with pytest.warns(UserWarning, match=r"asks for top_k=20, which"):
            decode(model, prompts, max_new_tokens=2, temperature=0.6, top_p=0.95)


def test_draws_follow_the_processed_distribution() -> None:
    _, model, prompts = both("llama")
    with configured({"suppress_tokens": list(range(3, 95)), "repetition_penalty": 5.0}, model.original_model):
        rollouts = decode(model, prompts, max_new_tokens=8, temperature=1.0, seed=3)
    assert all(token < 3 or token >= 95 for rollout in rollouts for token in rollout.token_ids.tolist())
    assert rollouts[0].logprobs.isfinite().all()


class Watch(Intervention):
    """Keeps what it sees before the choice."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def before_choice(self, step: Step) -> None:
        self.seen.append(step.logits.clone())


def test_interventions_come_after_and_recycling_is_processed_too() -> None:
    _, model, prompts = both("llama")
    prompt = prompts[:1]
    banned = decode(model, prompt, max_new_tokens=NEW)[0].token_ids.tolist()[2]
    everywhere = RecycleRepresentation(1, range(F.VOCAB))
    watch = Watch()
    with configured({"suppress_tokens": [banned], "repetition_penalty": 1.3}, model.original_model):
        found = decode(model, prompt, max_new_tokens=NEW, interventions=[everywhere, watch, SuppressTokens([9])])[0]
        penalised = generation_rules(model_facts(model))
        processors = penalised.processors(prompt, NEW, NEW, torch.device("cpu"))
        assert processors is not None
    assert found.events
    assert all(logits[0, banned] == float("-inf") for logits in watch.seen)
    assert 9 not in found.token_ids.tolist()
    # The last pass of each step, processed: what the raw logits of the recycled passes become.
    raw = Watch()
    given = found.token_ids.tolist()
    forced = [Force(given), everywhere, raw]
    decode(model, prompt, max_new_tokens=NEW, interventions=forced, generation_config=False)
    for t, token in enumerate(given):
        torch.testing.assert_close(processors(raw.seen[t], [0]), watch.seen[t])
        processors.append([0], torch.tensor([[token]]))


class Force(Intervention):
    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def begin(self, row: Any) -> None:
        row.force(self.ids, by=self)


def test_a_watermark_that_counts_steps() -> None:
    """SynthID keeps state: batches, runs of positions again and given responses must each count a step once."""
    from transformers import SynthIDTextWatermarkingConfig

    hf, model, prompts = both("llama")
    mark = SynthIDTextWatermarkingConfig(keys=[654, 400, 836, 123], ngram_len=3, context_history_size=16)
    with configured({"watermarking_config": mark, "eos_token_id": None}, hf, model.original_model):
        expected = [hf_greedy(hf, prompt) for prompt in prompts]
        found = decode(model, prompts, max_new_tokens=NEW)
        assert [rollout.token_ids.tolist() for rollout in found] == expected
        scored = score(model, prompts, [rollout.token_ids for rollout in found], last=5)
        assert all(one.is_greedy.all() for one in scored)
        # A position run again from its own input is the same position.
        again = decode(model, prompts, max_new_tokens=NEW, interventions=[Again()])
        assert [rollout.token_ids.tolist() for rollout in again] == expected


class Again(Intervention):
    """Runs each position again from block 0's own input."""

    from interp.sites import Site

    injects = (0,)
    reads = (Site("resid_pre", 0),)

    def before_choice(self, step: Step) -> None:
        step.rerun(range(len(step.rows)), 0, step.residual(self.reads[0]).clone())


def test_a_trace_refuses_another_way_of_decoding_before_any_work(tmp_path: Any) -> None:
    from analyses.trace import trace

    _, model, _ = both("toy")
    out = tmp_path / "run"
    with (
        configured({"num_beams": 4}, model.original_model),
        pytest.raises(InputError, match=r"trace: expected a generation_config of plain decoding, .* num_beams=4"),
    ):
        trace(model, n=2, out=out, max_new_tokens=4)
    assert not out.exists()


def test_generate_has_a_flag(tmp_path: Any) -> None:
    import json
    import shutil

    from typer.testing import CliRunner

    from analyses.commands.cli import app
    from interp import bundled_model_path

    shutil.copytree(bundled_model_path("toy-reasoner"), tmp_path / "m")
    file = tmp_path / "m" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"suppress_tokens": [34, 10]}))
    command = ["generate", "--model", str(tmp_path / "m"), "--json", "--max-new-tokens", "12", "6 A * 3 B - 8 ? ->"]
    on, off = (CliRunner().invoke(app, [*command, *more]) for more in ([], ["--no-generation-config"]))
    on, off = json.loads(on.stdout), json.loads(off.stdout)
    assert not {34, 10} & set(on["token_ids"])
    assert {34, 10} & set(off["token_ids"])
    assert on["settings"]["generation_config"] == {"suppress_tokens": [34, 10], "eos_token_id": 2}
