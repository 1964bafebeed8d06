"""The ways to decode and to read that are held beside each other: what each is called and how a process makes it.

Each is made in a process of its own (:mod:`analyses.bench.workers`), which loads the model from its folder and nothing
that the variant does not need. Those of other libraries are written as their users would write them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.bench.clock import Clock
from analyses.bench.timing import Generate, bench_prompts, endless
from interp.types import Bridge

__all__ = [
    "BRIDGE",
    "DECODERS",
    "EAGER",
    "FREE",
    "HIDDEN",
    "LIVE",
    "NNSIGHT",
    "NOTHING",
    "READERS",
    "RECORDED",
    "RECYCLED",
    "SDPA",
    "SQUARE",
    "SUPPRESSED",
    "VARIANTS",
    "Place",
    "answers_of",
    "live_options",
    "own_generate",
    "plain_generate",
    "recorded_options",
    "recycled_block",
]

SDPA, EAGER = "Hugging Face, sdpa", "Hugging Face, eager"
HIDDEN = "Hugging Face, sdpa, output_hidden_states"
BRIDGE = "TransformerLens"
NNSIGHT = "nnsight, all blocks' outputs"
NOTHING = "peaklens, nothing recorded"
RECORDED = "peaklens, pre, mid and post recorded"
LIVE = "peaklens, live nHSIC"
SUPPRESSED = "peaklens, suppression"
RECYCLED = "peaklens, recycling at every step"

VARIANTS = (SDPA, EAGER, HIDDEN, BRIDGE, NNSIGHT, NOTHING, RECORDED, LIVE, SUPPRESSED, RECYCLED)
"""All, in the order of the tables; that of nnsight is made by `analyses/bench/nnsight_script.py`."""

FREE = (SUPPRESSED, RECYCLED)
"""Their tokens are meant to differ from those of the others."""

SQUARE = (EAGER, BRIDGE)
"""Reading takes them memory that grows with the square of the text."""

SITES = ("resid_pre", "resid_mid", "resid_post")
_REFERENCE = 32  # tokens of the text whose last stream stands for the answer

ReadText: TypeAlias = Callable[[Tensor], object]


@dataclass(frozen=True)
class Place:
    """Where processes find the model: ``name`` as `load_model` takes it, the folder of its weights, and how to run it.

    ``room``: tokens of the longest text.
    """

    name: str
    folder: str
    dtype: str
    device: str
    threads: int
    room: int


def recycled_block(n_layers: int) -> int:
    """The block from which every position runs again: three quarters up.

    >>> recycled_block(30)
    23
    """
    from analyses.bench.reruns import rerun_layers

    layers = rerun_layers(n_layers)
    return layers[-2] if len(layers) > 1 else layers[0]


def _network(place: Place, attention: str) -> Any:
    from analyses.bench.decoding import plain_network
    from interp.loading.hugging_face import without_bars

    with without_bars():
        return plain_network(place.folder, attention, getattr(torch, place.dtype), torch.device(place.device))


def plain_generate(network: Any, **options: Any) -> Generate:
    """Hugging Face's own ``generate``."""
    from transformers import StoppingCriteriaList

    def generate(prompts: Tensor, n: int, clock: Clock) -> Tensor:
        ids = prompts.to(network.device)
        whole = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=n,
            stopping_criteria=StoppingCriteriaList([clock]),
            **options,
        )
        tokens: Tensor = whole.sequences if options else whole
        return tokens[:, prompts.shape[1] :]

    return generate


def _plain(attention: str, **options: Any) -> Callable[[Place, ExitStack], Generate]:
    return lambda place, stack: plain_generate(_network(place, attention), **options)


def _model(place: Place) -> Bridge:
    from interp.loading.hugging_face import without_bars
    from interp.loading.models import load_model

    with without_bars():
        return load_model(place.name, device=place.device, dtype=place.dtype)


def _bridge(place: Place, stack: ExitStack) -> Generate:
    from transformers import StoppingCriteriaList

    model = _model(place)

    def generate(prompts: Tensor, n: int, clock: Clock) -> Tensor:
        whole = model.generate(
            prompts.to(place.device),
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

    return generate


Options: TypeAlias = Callable[[int], dict[str, Any]]
"""What ``decode`` is given for a batch of so many rows; ``finish`` is called at its end."""


def own_generate(model: Bridge, of_batch: Options) -> Generate:
    """``decode`` with these options."""
    from interp.decoding import decode

    def generate(prompts: Tensor, n: int, clock: Clock) -> Tensor:
        asked = of_batch(len(prompts))
        finish = asked.pop("finish", lambda: None)
        rollouts = decode(model, list(prompts), max_new_tokens=n, batch_size=len(prompts), progress=clock, **asked)
        finish()
        return torch.stack([rollout.token_ids for rollout in rollouts])

    return generate


def _ours(options: Callable[[Bridge], Options]) -> Callable[[Place, ExitStack], Generate]:
    def make(place: Place, stack: ExitStack) -> Generate:
        model = _model(place)
        stack.enter_context(endless(model))
        return own_generate(model, options(model))

    return make


def recorded_options() -> Options:
    """All layers' streams kept."""
    from interp.record import ResidualSites

    return lambda rows: {"record": ResidualSites(sites=SITES)}


def answers_of(model: Bridge, text: Int[Tensor, " pos"]) -> Float[Tensor, "layer d_model"]:
    """The streams at the end of a text, as a trace has its references."""
    from interp.encoding import encode

    return encode(model, [text], last_only=True)[0].residuals["resid_post"][:, 0]


def _reference(model: Bridge) -> Float[Tensor, "layer d_model"]:
    return answers_of(model, bench_prompts(model, 1, _REFERENCE)[0])


def live_options(answers: Float[Tensor, "layer d_model"]) -> Options:
    """nHSIC of every layer at every step while a batch decodes, as in a trace."""
    from analyses.trace.step_scores import StepScores
    from interp.record import ResidualStream
    from probes import nhsic
    from probes.answers import factor_answers

    def of_batch(rows: int) -> dict[str, Any]:
        scores = StepScores(
            nhsic, None, range(len(answers)), "resid_post", [""] * rows, answers.expand(rows, 1, *answers.shape),
            factor=factor_answers,
        )  # fmt: skip
        return {"record": ResidualStream(on_step=scores.add), "finish": scores.finish}

    return of_batch


def _suppressed(model: Bridge) -> Options:
    from analyses.thinking import thinking_words
    from interp.interventions import SuppressTokens

    words = thinking_words(model)
    return lambda rows: {"interventions": SuppressTokens(words)}


def _recycled(model: Bridge) -> Options:
    from interp.interventions import Recompute

    block = recycled_block(model.cfg.n_layers)
    return lambda rows: {
        "interventions": Recompute(block, block, lambda step: [True] * len(step.rows), label="recycling")
    }


DECODERS: dict[str, Callable[[Place, ExitStack], Generate]] = {
    SDPA: _plain("sdpa"),
    EAGER: _plain("eager"),
    HIDDEN: _plain("sdpa", return_dict_in_generate=True, output_hidden_states=True),
    BRIDGE: _bridge,
    NOTHING: _ours(lambda model: lambda rows: {}),
    RECORDED: _ours(lambda model: recorded_options()),
    LIVE: _ours(lambda model: live_options(_reference(model))),
    SUPPRESSED: _ours(_suppressed),
    RECYCLED: _ours(_recycled),
}
"""What continues prompts, made for a model; what is entered on the stack stays for as long as it is used."""


def _pass(attention: str, **options: Any) -> Callable[[Place], ReadText]:
    def make(place: Place) -> ReadText:
        network = _network(place, attention)
        return lambda ids: network(ids.to(network.device), use_cache=False, logits_to_keep=1, **options)

    return make


def _long(place: Place) -> Bridge:
    """The model, letting texts be longer than it was made for: they cost the same, what is read means nothing."""
    import warnings

    from interp.loading.hugging_face import limit_context

    model = _model(place)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        limit_context(model, max(place.room, model.cfg.n_ctx), "the bench's model")
    return model


def _cached(place: Place) -> ReadText:
    model = _long(place)
    wanted = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    return lambda ids: model.run_with_cache(ids.to(place.device), names_filter=wanted, return_type=None)


def _kept(place: Place) -> ReadText:
    from interp.encoding import encode
    from interp.record import ResidualSites

    model = _long(place)
    return lambda ids: encode(model, [ids[0]], record=ResidualSites(sites=SITES))


def _scored(place: Place) -> ReadText:
    from interp.encoding import encode
    from interp.record import PieceResiduals, ResidualPieces
    from probes import nhsic

    model = _long(place)
    answers = _reference(model)

    def read(ids: Tensor) -> list[Tensor]:
        found: list[Tensor] = []

        def score(piece: PieceResiduals) -> None:
            found.append(nhsic(piece.residuals["resid_post"], answers).cpu())

        encode(model, [ids[0]], record=ResidualPieces(on_piece=score))
        return found

    return read


READERS: dict[str, Callable[[Place], ReadText]] = {
    SDPA: _pass("sdpa"),
    EAGER: _pass("eager"),
    HIDDEN: _pass("sdpa", output_hidden_states=True),
    BRIDGE: _cached,
    RECORDED: _kept,
    LIVE: _scored,
}
"""What reads a text once; the rest of the variants are about decoding alone."""
