"""How fast ``decode`` is, with and without recording, beside TransformerLens's and Hugging Face's own ``generate``.

1. Each contender continues the same prompts (equal lengths, no padding) greedily by the same number of tokens;
   end-of-sequence ids are taken away for the while, and every result is checked to have all its tokens.
2. Within a call the clock is read when the first token is there, through the look-in at every step that each engine
   offers (``progress`` of ``decode``, stopping criteria of ``generate``): before it is the prompt, after it decoding.
3. Contenders take turns (A B C A B C ...), so that a machine that slows down slows all of them; ratios are taken within
   a turn, then their median.
4. Tokens are compared with those of Hugging Face's eager attention, which is what the bridge reproduces. Where a text
   departs from it, `largest_gap` tells how far apart the two tokens' logits were: a near-tie or a mistake.

Wall-clock time, with the threads torch is set to use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.bench.timing import (
    PLAIN,
    Clock,
    Contender,
    Generate,
    Timings,
    bench_prompts,
    check_counts,
    endless,
    ratios,
    spread,
)
from interp.errors import InputError
from interp.types import Bridge

__all__ = ["bench_decoding", "check_folder", "plain_model", "plain_network"]

OURS, LENS, EAGER, SDPA = "peaklens", "TransformerLens", "HF eager", "HF sdpa"
SITES = ("resid_pre", "resid_mid", "resid_post")


@torch.no_grad()
def bench_decoding(
    model: Bridge,
    *,
    batches: Sequence[int] = (1, 4, 16),
    new_tokens: int = 64,
    prompt_tokens: int = 60,
    repeats: int = 3,
    on_run: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """One row per batch size and contender: ``decode`` without recording, keeping and streaming all residual streams,
    ``TransformerBridge.generate``, and plain ``generate`` with eager and with sdpa attention.

    >>> from interp import load_model
    >>> rows = bench_decoding(load_model("toy-reasoner"), batches=(2,), new_tokens=3, prompt_tokens=8, repeats=1)
    >>> [(row["engine"], row["recording"], row["tokens"]) for row in rows][:2]
    [('peaklens', '-', 6), ('peaklens', 'ResidualSites', 6)]

    Args:
        model: loaded from a Hugging Face folder (bundled, pulled, hub): the plain models are read from there again.
        batches: prompts decoded at once; each is a table of its own.
        new_tokens: tokens every row is continued by, at least 2.
        prompt_tokens: length of every prompt.
        repeats: timings of each contender.
        on_run: told before each timing how many are done, of how many, and what comes next.

    Returns:
        Rows with ``first_token_seconds`` (from the call to the first token of each prompt), ``decode_seconds`` (from
        there to the return, ``new_tokens - 1`` steps), ``tokens_per_s`` (of these steps, all rows),
        ``ratio_to_hf_eager`` (of tokens per second), ``times_hf_sdpa`` (of decode seconds) and ``recording_overhead``
        (decode seconds over those without recording; ``None`` where nothing is recorded), each a :class:`Spread` over
        the repeats; ``same_tokens`` and ``same_share``: tokens equal to those of Hugging Face with eager attention at
        the same place; ``largest_gap``: see the module, in logits, ``None`` if all are equal.

    Raises:
        InputError: numbers out of range, a model that is not a folder, an engine that stopped early.
    """
    check_folder(model)
    check_counts(
        model,
        batches=(min(batches, default=0), 1),
        new_tokens=(new_tokens, 2),
        prompt_tokens=(prompt_tokens, 1),
        repeats=(repeats, 1),
    )
    eager, sdpa = plain_model(model, "eager"), plain_model(model, "sdpa")
    contenders = _contenders(model, eager, sdpa)
    rows: list[dict[str, Any]] = []
    done, total = 0, len(batches) * len(contenders) * repeats
    with endless(model):
        for batch in batches:
            prompts = bench_prompts(model, batch, prompt_tokens)
            for contender in contenders:  # the first call also pays for memory and libraries
                Timings().take(contender, prompts, 2)
            timings = [Timings() for _ in contenders]
            for _ in range(repeats):
                for contender, timing in zip(contenders, timings, strict=True):
                    on_run(done, total, f"{contender.engine} {contender.recording}, batch {batch}")
                    timing.take(contender, prompts, new_tokens)
                    done += 1
            rows += _rows(contenders, timings, prompts, new_tokens, eager)
    on_run(done, total, "done")
    return rows


def _contenders(model: Bridge, eager: Any, sdpa: Any) -> list[Contender]:
    from transformers import StoppingCriteriaList

    from interp.decoding import decode
    from interp.record import ResidualSites, ResidualStream

    def ours(record: ResidualSites | None) -> Generate:
        def generate(prompts: Tensor, n: int, clock: Clock) -> Tensor:
            rollouts = decode(
                model, list(prompts), max_new_tokens=n, batch_size=len(prompts), record=record, progress=clock
            )
            return torch.stack([rollout.token_ids for rollout in rollouts])

        return generate

    def lens(prompts: Tensor, n: int, clock: Clock) -> Tensor:
        whole = model.generate(
            prompts.to(_device(model)),
            max_new_tokens=n,
            do_sample=False,
            stop_at_eos=False,
            use_past_kv_cache=True,
            return_type="tokens",
            verbose=False,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        assert isinstance(whole, Tensor)
        return whole[:, prompts.shape[1] :]

    def plain(network: Any) -> Generate:
        def generate(prompts: Tensor, n: int, clock: Clock) -> Tensor:
            ids = prompts.to(network.device)
            whole: Tensor = network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=n,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
            return whole[:, prompts.shape[1] :]

        return generate

    return [
        Contender(OURS, PLAIN, ours(None)),
        Contender(OURS, "ResidualSites", ours(ResidualSites(sites=SITES))),
        Contender(OURS, "ResidualStream", ours(ResidualStream(sites=SITES, on_step=lambda step: None))),
        Contender(LENS, PLAIN, lens),
        Contender(EAGER, PLAIN, plain(eager)),
        Contender(SDPA, PLAIN, plain(sdpa)),
    ]


def _rows(
    contenders: list[Contender],
    timings: list[Timings],
    prompts: Int[Tensor, "batch pos"],
    new_tokens: int,
    eager: Any,
) -> list[dict[str, Any]]:
    by_name = {(c.engine, c.recording): timing for c, timing in zip(contenders, timings, strict=True)}
    reference, unrecorded, sdpa = by_name[EAGER, PLAIN], by_name[OURS, PLAIN], by_name[SDPA, PLAIN]
    batch, steps = len(prompts), new_tokens - 1
    rows = []
    for contender, timing in zip(contenders, timings, strict=True):
        same = int((timing.tokens == reference.tokens).sum())
        rows.append(
            {
                "engine": contender.engine,
                "recording": contender.recording,
                "batch": batch,
                "prompt_tokens": prompts.shape[1],
                "new_tokens": new_tokens,
                "tokens": timing.tokens.numel(),
                "first_token_seconds": spread(timing.first),
                "decode_seconds": spread(timing.decode),
                "tokens_per_s": spread([batch * steps / seconds for seconds in timing.decode]),
                "ratio_to_hf_eager": spread(ratios(reference.decode, timing.decode)),
                "times_hf_sdpa": spread(ratios(timing.decode, sdpa.decode)),
                "recording_overhead": None
                if contender.recording == PLAIN
                else spread(ratios(timing.decode, unrecorded.decode)),
                "same_tokens": same,
                "same_share": same / timing.tokens.numel(),
                "largest_gap": _largest_gap(eager, prompts, reference.tokens, timing.tokens),
            }
        )
    return rows


def _largest_gap(
    eager: Any,
    prompts: Int[Tensor, "batch pos"],
    reference: Int[Tensor, "batch step"],
    tokens: Int[Tensor, "batch step"],
) -> float | None:
    """Over the rows that depart: by how much ``eager`` prefers its own token where they first do."""
    gaps = []
    for prompt, expected, received in zip(prompts, reference, tokens, strict=True):
        different = (expected != received).nonzero()
        if len(different):
            t = int(different[0])
            text = torch.cat([prompt, expected[:t]])[None].to(eager.device)
            logits = eager(text, logits_to_keep=1).logits[0, -1].float()
            gaps.append(float(logits[expected[t]] - logits[received[t]]))
    return max(gaps, default=None)


def plain_model(model: Bridge, attention: str) -> Any:
    """A copy of the model as Hugging Face runs it, read anew from where the bridge's weights came from."""
    from interp.loading.models import model_source

    path = model_source(model).path
    assert path is not None
    return plain_network(str(path), attention, next(model.original_model.parameters()).dtype, _device(model))


def plain_network(folder: str, attention: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The model of a folder as Hugging Face runs it: greedy, and without ids that end a text."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    network = AutoModelForCausalLM.from_pretrained(
        folder,
        attn_implementation=attention,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    network.generation_config = GenerationConfig(do_sample=False, use_cache=True, pad_token_id=0)
    return network.to(device).eval()


def _device(model: Bridge) -> torch.device:
    return next(model.original_model.parameters()).device


def check_folder(model: Bridge) -> None:
    from interp.loading.models import model_source

    source = model_source(model)
    if source.path is None or not source.path.is_dir():
        raise InputError(
            "bench",
            expected="a model loaded from a Hugging Face folder, which the plain models are read from",
            received=f"{source.name} ({source.kind})",
            remedy="Save it with save_pretrained and load that folder.",
        )
