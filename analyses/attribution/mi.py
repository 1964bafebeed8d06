"""Which write makes a peak: a score at a step shared out over the embedding, every head, bias and MLP below it.

With h[t] = sum over components c of w_c[t] the stream at the scored layer, f a score of it, and t0 a reference,

    share_c  = (w_c[t] - w_c[t0]) . mean over the line from h[t0] to h[t] of grad f     sums to f(h[t]) - f(h[t0])
    direct_c = f(h[t]) - f(h[t] - w_c[t] + w_c[t0])             the later writes as they were
    total_c  = f(h[t]) - f(h[t] after the model ran with c's write at t replaced by w_c[t0])

nHSIC is not linear, and nearly blind to scale: gradient times write is no decomposition of it (by Euler's rule its sum
is about 0), and neither are direct effects, which do not add up. The decomposition is of a *difference*, so the
reference is part of the result. A share says what moved the score; what the model uses is for interventions to say.

Source: integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) over writes in place of inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.attribution.mi_measures import measures_of
from analyses.attribution.mi_memory import Needs, check_needs, needs_of
from analyses.attribution.mi_reference import NON_PEAKS, choose_references, chosen_steps, input_kinds
from analyses.attribution.mi_result import MiAttribution
from analyses.attribution.mi_shares import Shared, ends_table, share_table, sources_of
from interp.arguments import Judged, Prompts, Whole, as_list, as_text, as_whole
from interp.encoding import encode
from interp.errors import InputError
from interp.loading.identity import weight_hash
from interp.passes import made_with
from interp.record import ResidualSites
from interp.sites import resolve_layers
from interp.token_text import inputs_of, last_piece, text_pieces
from interp.types import Bridge
from interp.writes import read_writes, replaced_streams
from interp.writes.replacing import block_output, one_text
from probes import nhsic, tukey_peaks

__all__ = ["mi_attribution"]

_OPERATION = "mi_attribution"


@torch.no_grad()
def mi_attribution(
    model: Bridge,
    prompt: Prompts,
    response: Prompts,
    steps: Any,
    *,
    layer: Whole,
    answer: Judged[str | Tensor],
    others: Judged[Sequence[str] | Tensor | None] = None,
    measures: Any = None,
    sigma: float | int | str = 50.0,
    eps: float | int = 1e-5,
    reference: Any = NON_PEAKS,
    tau: float | int = 1.5,
    total: str = "top",
    top: Whole = 10,
    sources: Whole = 3,
    tolerance: float | int = 1e-3,
    max_points: Whole | None = None,
    batch_size: Whole | None = None,
    max_bytes: Whole | None = None,
) -> MiAttribution:
    """The share of every component in the scores of some steps of a response with an answer, at one layer.

    >>> from interp import decode, load_model
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> rollout = decode(model, question, max_new_tokens=60)[0]
    >>> found = mi_attribution(
    ...     model, question, rollout.token_ids, 9, layer=1, answer="Therefore 0", others=["Therefore 3", "Therefore 7"],
    ...     measures=["nhsic", "nhsic excess"],
    ... )
    >>> list(found.shares.columns)[4:]
    ['measure', 'component', 'kind', 'layer', 'head', 'share', 'direct', 'total']
    >>> list(dict.fromkeys(found.ends["measure"]))
    ['nhsic', 'nhsic excess']
    >>> len(found.top(3, measure="nhsic")), bool((found.ends["missing"] < 1e-3).all())
    (3, True)

    Args:
        prompt, response: of one response, as in :func:`interp.read`.
        steps: one or several, negative from its end; or "peaks", all of the response at this layer.
        layer: whose output is scored.
        answer: the reference of the answer: its stream ``[d_model]`` at that layer, or a text (the gold solution),
            whose last token's stream is taken, read on its own.
        others: those of other answers, ``[k, d_model]`` or texts, for the excess over them.
        measures: names, as "nhsic", "nhsic/drop4", "r2", "nhsic excess", "nhsic standardised", "nhsic@median" for
            another bandwidth, or functions with gradients, as ``probes.answer_probe(x, y).score(label)``, the probe's
            bits of V-information; unless given nHSIC, with and without the answer's four largest coordinates, r2, and
            with three ``others`` or more both excesses.
        sigma, eps: of nHSIC, as in :func:`probes.nhsic`.
        reference: what steps are compared with: "non-peaks", the mean of all steps that are neither peaks of nHSIC nor
            asked about; "matched", for each the nearest of them that has read a token of the same kind; or steps, whose
            mean it then is.
        tau: of Tukey's rule for peaks.
        total: total effects of the "top" components of each step and measure, of "all", or of "none".
        top: how many these are.
        sources: heads, of the largest shares of each step and measure, whose positions are told.
        tolerance, max_points: of the integral, as in :func:`probes.integrated_gradient`.
        batch_size: components at a time, where the model is run anew.
        max_bytes: the most that may be taken beside the model; what is free on its device unless given. What is
            needed is estimated before anything is run, and ``settings["bytes"]`` tells it.

    Returns:
        `MiAttribution`: ``shares``, one row a component (``total`` NaN where it was not asked for); ``ends``, the
        scores at step and reference, and what part of their difference the shares fall short of (``missing``, NaN where
        both ends score alike; ``path_missing`` through the integral, the rest because a model in low precision rounds
        its stream, so that writes sum to another); ``sources``, what each chosen head read its share from, which sums
        to it: its attention to each position less that of the reference, times what it would write from there.

    Raises:
        InputError: a step, layer or measure that is not there, an answer of another width, no peaks, no step to compare
            with, more than the memory holds; and a model whose writes do not add up, by its family's name.
    """
    engine, ids, said = one_text(model, prompt, response, _OPERATION)
    facts = engine.facts
    (at,) = resolve_layers(as_whole(layer, _OPERATION, "layer"), facts.n_layers, _OPERATION)
    total = as_text(total, _OPERATION, "total", ("top", "all", "none"))
    top, heads = as_whole(top, _OPERATION, "top", 1), as_whole(sources, _OPERATION, "sources", 0)
    most = None if max_points is None else as_whole(max_points, _OPERATION, "max_points")
    allowed = None if max_bytes is None else as_whole(max_bytes, _OPERATION, "max_bytes", 1)

    def needed(asked_about: int, places: int, scores: int) -> Needs:
        found = needs_of(
            model, engine, len(ids) + len(said) - 1, places, asked_about, at, measures=scores, total=total != "none",
            sources=heads,
        )  # fmt: skip
        about = f"{len(ids) + len(said)} tokens, {asked_about} steps, {scores} measures"
        check_needs(found, engine, allowed, about)
        return found

    needed(1, 2, 1)  # the least there is to do, before anything is run
    stream = _scored(block_output(engine, [*ids, *said[:-1]], at, _OPERATION)[len(ids) - 1 :])
    own = _references(model, answer, at, stream, "answer")
    if len(own) != 1:
        raise InputError(_OPERATION, expected="one answer", received=f"{len(own)}", remedy="Give the rest as others.")
    rest = None if others is None else _references(model, others, at, stream, "others")
    asked = measures_of(measures, own[0], rest, sigma=sigma, eps=eps)
    peaks = tukey_peaks(nhsic(stream, own[0], sigma=sigma, eps=eps), tau).cpu()
    chosen = chosen_steps(steps, peaks)
    read = [ids[-1], *said[:-1]]  # what each step has read
    kinds = input_kinds(model, facts.tokenizer, read) if isinstance(reference, str) else []
    references = choose_references(reference, chosen, peaks, kinds)
    groups = list(dict.fromkeys(found.steps for found in references))
    places = [[step] for step in chosen] + [list(group) for group in groups]
    needs = needed(len(chosen), len(places), len(asked))
    writes = read_writes(model, ids, said, places).upto(at)
    against = [len(chosen) + groups.index(found.steps) for found in references]
    shared = [Shared.of(measure, writes, against, tolerance, most) for measure in asked]
    if total != "none":
        count = len(writes.components) if total == "all" else top
        for place, step in enumerate(chosen):
            numbers = sorted({number for one in shared for number in one.largest(place, count)})
            change = writes.values[numbers, against[place]] - writes.values[numbers, place]
            components = [writes.components[number] for number in numbers]
            changed = replaced_streams(model, ids, said, at, components, {step: change}, batch_size=batch_size)
            for one in shared:
                one.add_total(place, numbers, changed[step])
    sourced = sources_of(model, ids, said, chosen, references, shared, writes.components, heads)
    settings = {
        "model": facts.name, "weight_hash": weight_hash(model), "versions": made_with(engine, [])["versions"],
        "dtype": str(engine.dtype).removeprefix("torch."), "layer": at, "site": "resid_post", "sigma": sigma,
        "eps": eps, "tau": tau, "others": 0 if rest is None else len(rest), "tolerance": tolerance, "max_points": most,
        "units": {measure.name: measure.unit for measure in asked}, "writes_error": writes.error,
        "bytes": needs.most,
        "references": {
            str(step): {"told": found.told, "steps": list(found.steps)}
            for step, found in zip(chosen, references, strict=True)
        },
        "prompt_ids": ids, "response_ids": said,
    }  # fmt: skip
    words = text_pieces(facts.tokenizer, said)
    before = inputs_of(words, last_piece(facts.tokenizer, ids))
    told: dict[str, Sequence[Any]] = {
        "step": chosen,
        "input_token": [before[step] for step in chosen],
        "token": [words[step] for step in chosen],
        "token_id": [said[step] for step in chosen],
    }
    return MiAttribution(
        share_table(told, shared, writes.components), ends_table(told, shared, references), sourced, settings
    )


def _references(model: Bridge, given: Any, at: int, stream: Tensor, name: str) -> Float[Tensor, "reference d_model"]:
    """Streams of answers: as they are given, or of texts read on their own, at their last tokens."""
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        given = torch.as_tensor(given)
    if isinstance(given, Tensor):
        rows = given.detach()[None] if given.ndim == 1 else given.detach()
    else:
        texts = as_list(given, _OPERATION, name, "texts")
        rows = _read(model, texts, at) if texts else stream[:0]
    if rows.ndim != 2 or rows.shape[1] != stream.shape[1] or not len(rows) or not rows.is_floating_point():
        raise InputError(
            _OPERATION,
            expected=f"{name} as texts or as streams of {stream.shape[1]} numbers (d_model of the model)",
            received=f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"{len(rows)}",
            remedy=f"Take the output of block {at} at the reference's last token.",
        )
    return rows.to(stream.device)


def _read(model: Bridge, texts: list[Any], at: int) -> Float[Tensor, "reference d_model"]:
    """The output of block `at` at the end of each text."""
    read = encode(model, texts, record=ResidualSites(layers=[at]), last_only=True)
    return _scored(torch.cat([one.residuals["resid_post"][0] for one in read]))


def _scored(stream: Tensor) -> Tensor:
    """Where it can be scored: a device without float64 has no score either."""
    return stream.cpu() if stream.device.type == "mps" else stream
