"""Seeded training of the bundled toy models: `python -m analyses.toys.train --model toy-reasoner --out DIR`.

1. Build the word-level tokenizer and a three-layer Llama of 0.65 M parameters.
2. Write traces on the fly (`task.sample_trace`), sort pools of them by length, cut batches of about 1,500 tokens.
3. AdamW on the trace tokens only; short questions for the first 15 % of steps, constant then linear decay of the rate.
4. Save weights, tokenizer, a record of the run and the model card with the figures `evaluate` measures.

Steps are counted, not seconds, and torch runs on one thread, so that a seed gives the same weights on one machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import tokenizers
import torch
import transformers
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from analyses.toys.card import write_card
from analyses.toys.evaluate import measure, tables
from analyses.toys.facts import SPECIALS, VOCABULARY
from analyses.toys.task import sample_trace, training_questions
from interp.errors import InputError

__all__ = ["MODELS", "STEPS", "batches", "build_model", "build_tokenizer", "save", "train"]

MODELS = ("toy-reasoner", "toy-base")
STEPS = 5000
PEAK_RATE, WARM_UP, DECAY_FROM, SHORT_UNTIL = 3e-3, 100, 0.6, 0.15
BATCH_TOKENS, POOL, IGNORED = 1500, 192, -100


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer: one id per word, `<bos>` in front, unknown words become `<unk>`.

    >>> build_tokenizer()("6 A * 3 ? ->").tokens()
    ['<bos>', '6', 'A', '*', '3', '?', '->']
    """
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    raw.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", ids["<bos>"])]
    )
    pad, bos, eos, unk = SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def build_model(seed: int) -> LlamaForCausalLM:
    """A freshly initialised toy model.

    >>> sum(weight.numel() for weight in build_model(0).parameters())
    651904
    """
    torch.manual_seed(seed)
    pad, bos, eos, _ = range(len(SPECIALS))
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=eos,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=eos, pad_token_id=pad, bos_token_id=bos, max_new_tokens=400
    )
    return model


def _batch(examples: Sequence[tuple[list[int], int]]) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Pad on the right, which a causal model without a mask does not see, and leave prompts out of the loss."""
    width = max(len(ids) for ids, _ in examples)
    inputs = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full_like(inputs, IGNORED)
    for row, (ids, prompt) in enumerate(examples):
        inputs[row, : len(ids)] = torch.tensor(ids)
        labels[row, prompt : len(ids)] = inputs[row, prompt : len(ids)]
    return inputs, labels


def batches(
    model: str, *, steps: int, seed: int
) -> Iterator[tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]]:
    """`steps` batches of token ids and labels; a label of -100 is left out of the loss.

    >>> inputs, labels = next(batches("toy-base", steps=1, seed=0))
    >>> inputs.shape == labels.shape, inputs.numel() <= 1500
    (True, True)
    """
    rng = Random(f"{model} {seed}")
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    short = training_questions(rng, min_ops=2, max_ops=4)
    full = training_questions(rng, min_ops=3, max_ops=8)
    made = 0
    while made < steps:
        examples = []
        for _ in range(POOL):
            question = next(short if made < SHORT_UNTIL * steps else full)
            prompt = ["<bos>", *question.text.split()]
            tokens = [*prompt, *sample_trace(question, rng, model=model).tokens]
            examples.append(([ids[token] for token in tokens], len(prompt)))
        examples.sort(key=lambda example: len(example[0]))
        cut: list[list[tuple[list[int], int]]] = [[]]
        for example in examples:  # sorted, so the newest example is the widest of its batch
            if cut[-1] and (len(cut[-1]) + 1) * len(example[0]) > BATCH_TOKENS:
                cut.append([])
            cut[-1].append(example)
        rng.shuffle(cut)
        for chosen in cut[: steps - made]:
            yield _batch(chosen)
        made += len(cut)


def _rate(step: int, steps: int) -> float:
    """Warm up, hold, then fall linearly to nothing over the last 40 %."""
    return PEAK_RATE * min(1.0, (step + 1) / WARM_UP, (steps - step) / ((1 - DECAY_FROM) * steps))


def train(name: str, *, steps: int = STEPS, seed: int = 0, progress: bool = True) -> tuple[LlamaForCausalLM, float]:
    """Train one of the two models; returns it with its mean loss over the last 50 steps.

    >>> model, loss = train("toy-base", steps=1, progress=False)
    >>> 3.5 < loss < 4.5
    True
    """
    if name not in MODELS or steps < 1:
        raise InputError(
            "train",
            expected=f"a model of {MODELS} and at least one step",
            received=f"{name!r} and {steps} steps",
            remedy="Choose one of the bundled models.",
        )
    model = build_model(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    model.train()
    losses: list[float] = []
    bar = tqdm(batches(name, steps=steps, seed=seed), total=steps, desc=name, disable=not progress, mininterval=2.0)
    for step, (inputs, labels) in enumerate(bar):
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, steps)
        loss = model(input_ids=inputs, labels=labels).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        if step % 50 == 0:
            bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.4f}")
    model.eval()
    return model, sum(losses[-50:]) / len(losses[-50:])


def save(model: LlamaForCausalLM, out: Path, record: dict[str, Any]) -> None:
    """Write config, weights, tokenizer and `training.json`, which says where they come from."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    build_tokenizer().save_pretrained(out)
    weights_file = out / "model.safetensors"
    weights_file.chmod(0o644)  # safetensors makes it private, and it is to be packaged
    weights = sha256(weights_file.read_bytes()).hexdigest()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    (out / "training.json").write_text(json.dumps({**record, "sha256": weights, "versions": versions}, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: train, save, measure, write the card."""
    parser = argparse.ArgumentParser(prog="python -m analyses.toys.train", description="Train a bundled toy model.")
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; made when missing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument(
        "--figures", type=int, default=320, metavar="N", help="held-out problems for the card; 0 for none"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the order of additions, and so the last bit of every weight, depends on it
    started = time.monotonic()
    model, loss = train(options.model, steps=options.steps, seed=options.seed)
    record = {
        "model": options.model,
        "steps": options.steps,
        "seed": options.seed,
        "final_loss": round(loss, 4),
        "seconds": round(time.monotonic() - started),
    }
    save(model, options.out, record)
    write_card(options.out, tables(measure(options.out, options.figures)) if options.figures else "Not measured.")


if __name__ == "__main__":
    main()
