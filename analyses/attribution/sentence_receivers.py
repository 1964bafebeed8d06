"""Receiver heads by sentences (Bogdan et al. 2025, arXiv 2506.19143): heads whose attention narrows on few sentences.

    A[i, j]   mean attention of all tokens of sentence i on all tokens of sentence j, i - j >= gap
    v[j]      mean of A[i, j] over i                 kurtosis: Fisher's excess kurtosis of v over j
    head      mean kurtosis over responses           sentence: mean of v[j] over the heads with the highest kurtosis

Sentences are those of the response: the prompt has the attention sinks, which would own the kurtosis. ``control`` is by
rank within a row of A unless told otherwise, since early sentences receive more from shorter rows. Kurtosis grows with
the number of sentences: cut responses to one number, or look at what is above the null of shuffled columns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.attribution.receiver_result import ReceiverHeads, ranked
from analyses.attribution.receivers import as_responses, of_each, problems_of
from analyses.token_kinds import token_kind
from interp.arguments import Whole, Wholes, as_text, as_whole, as_wholes
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.rollout import Rollout
from interp.sites import resolve_layers
from interp.types import Bridge
from interp.writes import read_patterns
from probes.receivers import CONTROLS, excess_kurtosis, received_attention, shuffled_kurtosis

__all__ = ["sentence_receivers", "sentence_spans"]

_VALUES = 4  # of v, below which a kurtosis says nothing


def sentence_spans(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Where sentences begin and end: after a full stop, question or exclamation mark, a semicolon, or a line's end.

    >>> sentence_spans(["So", " 4", ".", "\\n", "Wait", ",", " 3", ".", "5", " is", " it", "?", " Yes"])
    [(0, 4), (4, 12), (12, 13)]

    A stop between digits ends nothing, and stops and line ends that follow belong to the sentence before.
    """
    ends = []
    for place, token in enumerate(tokens):
        following = tokens[place + 1] if place + 1 < len(tokens) else ""
        stops = "\n" in token or token_kind(token) == "stop" or bool(re.search(r"[.!?;\u3002][\"')\]]*\s*$", token))
        within = bool(re.match(r"\d", following)) and place > 0 and bool(re.search(r"\d$", tokens[place - 1]))
        if stops and not ("\n" not in token and within):
            ends.append(place + 1)
    spans: list[tuple[int, int]] = []
    for stop in [*ends, len(tokens)]:
        start = spans[-1][1] if spans else 0
        if start < stop:
            bare = all(not re.search(r"\w", token) for token in tokens[start:stop])
            if bare and spans:
                spans[-1] = spans[-1][0], stop
            else:
                spans.append((start, stop))
    return spans


def sentence_receivers(
    model: Bridge,
    rollouts: Any,
    spans: Any = None,
    *,
    problems: Any = None,
    layers: str | Wholes = "all",
    control: str = "rank",
    gap: Whole = 4,
    first: Whole | None = None,
    k: Whole = 20,
    nulls: Whole = 10,
    draws: Whole = 10_000,
    seed: Whole = 0,
) -> ReceiverHeads:
    """Rank heads by the kurtosis of the attention that sentences receive.

    >>> from interp import decode, load_model
    >>> model = load_model("toy-reasoner")
    >>> questions = ["6 A * 3 B - 8 C + 1 D * 7 E - 2 F + 4 G * 3 H + 9 ? ->", "4 A + 3 ? ->"]
    >>> rollouts = decode(model, questions, max_new_tokens=120)
    >>> found = sentence_receivers(model, rollouts, gap=2, draws=200)
    >>> found.settings["responses"], found.settings["too short"], len(found.table)
    (1, 1, 12)

    Args:
        rollouts: one or several, as `decode` returns them; read once more, without interventions.
        spans: of each rollout its sentences as (start, stop), in order; :func:`sentence_spans` unless given.
        problems: the problem of each rollout; one for each different prompt unless given.
        control: "rank" (over the length of the row), "share" (of the row's mean) or "none".
        gap: sentences nearer than this are left out, at least 1; a response needs at least four more than that.
        first: so many sentences of each response alone, responses with fewer left out; all of them unless given.
        k: heads whose mean is a sentence's receiver score.
        nulls: shuffles of each response's columns; draws: of the bootstrap over problems; seed: of both.

    Returns:
        Heads with ``score`` (mean kurtosis over responses), ``null`` (that of shuffled columns) and ``above_null``; in
        ``sentences`` the receiver score of each sentence, NaN for the last ones, which nothing comes after.

    Raises:
        InputError: no response that is long enough, spans that overlap or leave the response, a model without attention
            patterns, a text longer than the context or more than the memory holds.
    """
    operation = "sentence_receivers"
    listed = as_responses(rollouts, operation)
    labels = problems_of(listed, problems, operation)
    control, gap = as_text(control, operation, "control", CONTROLS), as_whole(gap, operation, "gap", 1)
    k, nulls = as_whole(k, operation, "k", 1), as_whole(nulls, operation, "nulls", 1)
    draws, seed = as_whole(draws, operation, "draws", 1), as_whole(seed, operation, "seed", 0)
    least = gap + _VALUES
    most = None if first is None else as_whole(first, operation, "first", least)
    every = _spans(listed, spans, operation)
    wanted = resolve_layers(layers, model.cfg.n_layers, operation)
    if max(map(len, every)) < (most or least):
        raise InputError(
            operation,
            expected=f"a response of at least {most or least} sentences",
            received=f"at most {max(map(len, every))}",
            remedy="Give longer responses, or a smaller first or gap.",
        )
    generator = torch.Generator().manual_seed(seed)
    rows, received = [], {}
    for place, (rollout, own) in enumerate(zip(listed, every, strict=True)):
        if len(own) < (most or least):
            continue
        blocks = _sentence_attention(model, rollout, own[:most], wanted)
        received[place] = {layer: received_attention(blocks[layer], gap, control) for layer in wanted}
        for layer in wanted:
            kurtosis = excess_kurtosis(received[place][layer]).tolist()
            null = shuffled_kurtosis(blocks[layer], gap, control, draws=nulls, generator=generator).tolist()
            rows += [
                {"response": place, "problem": labels[place], "layer": layer, "head": head, "score": score,
                 "null": chance, "above_null": score - chance}
                for head, (score, chance) in enumerate(zip(kurtosis, null, strict=True))
            ]  # fmt: skip
    responses = pandas.DataFrame(rows)
    settings = {
        "model": model_facts(model).name, "score": "kurtosis of the attention that sentences receive",
        "responses": len(received), "too short": len(listed) - len(received),
        "sentences": sum(len(every[place][:most]) for place in received),
        "control": control, "gap": gap, "first": most, "k": k, "nulls": nulls, "draws": draws, "seed": seed,
    }  # fmt: skip
    table = ranked(responses, ("null", "above_null"), draws, seed)
    found = ReceiverHeads(table, responses, pandas.DataFrame(), settings)
    best = found.heads(k)
    sentences = []
    for place, by_layer in received.items():
        scores = torch.stack([by_layer[layer][head] for layer, head in best]).mean(0) if best else None
        sentences += [
            {"response": place, "problem": labels[place], "sentence": n, "start": start, "stop": stop,
             "text": _text(listed[place], start, stop), "score": float("nan") if scores is None else float(scores[n])}
            for n, (start, stop) in enumerate(every[place][:most])
        ]  # fmt: skip
    return ReceiverHeads(table, responses, pandas.DataFrame(sentences), settings)


def _sentence_attention(
    model: Bridge, rollout: Rollout, spans: Sequence[tuple[int, int]], layers: Sequence[int]
) -> dict[int, Float[Tensor, "head sentence sentence"]]:
    """For each layer the mean attention of sentences on sentences."""
    prompt, count = len(rollout.prompt_ids), len(spans)
    block = torch.full((prompt + len(rollout),), -1)
    for number, (start, stop) in enumerate(spans):
        block[prompt + start : prompt + stop] = number
    found: dict[int, Tensor] = {}
    sizes = torch.bincount(block[block >= 0], minlength=count)

    def take(layer: int, begin: int, pattern: Float[Tensor, "head row position"]) -> None:
        rows, columns = pattern.shape[1:]
        if layer not in found:
            found[layer] = torch.zeros(len(pattern), count, count, dtype=torch.float64, device=pattern.device)
        at = block.to(pattern.device)
        numbers = torch.arange(count, device=pattern.device)[:, None]
        giving = (at[begin : begin + rows] == numbers).double()
        getting = at[:columns].masked_fill(at[:columns] < 0, count)  # what is in no sentence goes into one too many
        for head, weights in enumerate(pattern):
            sums = torch.zeros(rows, count + 1, dtype=torch.float64, device=pattern.device)
            found[layer][head] += giving @ sums.index_add_(1, getting, weights.double())[:, :count]

    kept = 8 * len(layers) * (model_facts(model).n_heads or 0) * count**2
    read_patterns(model, rollout.prompt_ids.tolist(), rollout.token_ids.tolist(), take, list(layers), besides=kept)
    pairs = (sizes[:, None] * sizes).double()
    return {layer: total.cpu() / pairs for layer, total in found.items()}


def _spans(rollouts: Sequence[Rollout], spans: Any, operation: str) -> list[list[tuple[int, int]]]:
    if spans is None:
        return [sentence_spans(rollout.tokens) for rollout in rollouts]
    given = of_each(rollouts, spans, operation, "sentences", "Give a list of (start, stop) for each.")
    found = []
    for rollout, own in zip(rollouts, given, strict=True):
        pairs = [as_wholes(pair, operation, "a sentence") for pair in own]
        flat = [end for pair in pairs for end in pair]
        in_order = all(a < b for a, b in pairs) if all(len(pair) == 2 for pair in pairs) else False
        if not in_order or flat != sorted(flat) or (flat and not 0 <= flat[0] <= flat[-1] <= len(rollout)):
            raise InputError(
                operation,
                expected=f"sentences as (start, stop) in order, within {len(rollout)} tokens",
                received=str(own)[:80],
                remedy="Tokens of the response count from 0; stop is the first one that is not in it.",
            )
        found.append([(a, b) for a, b in pairs])
    return found


def _text(rollout: Rollout, start: int, stop: int) -> str:
    tokens = rollout.tokens
    gap = "" if any(" " in token for token in tokens) else " "
    return gap.join(tokens[start:stop]).strip()
