"""Direct logit attribution: what each component's write adds to a logit at a step of a response.

    logit_v = sum over components c of w_c . u_v / s  +  the final norm's bias  +  the unembedding's

``u_v`` is the unembedding of token v with the final norm's weight folded in, ``s`` the final norm's scale at the step,
taken as it is (:mod:`interp.writes.readout`). Shares are in logits and sum to the logit; biases are rows of their own,
and so is the cap of families that cap their logits, ``c tanh(x / c) - x``. Read through the lens, at an earlier layer,
the final norm is applied to that layer's stream, and the components up to it have shares.

A logit's level means nothing (a constant added to all changes no prediction); its difference to another token's does.

Source: the decomposition of Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; direct logit
attribution as in Wang et al. 2022, arXiv 2211.00593.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from analyses.views.frames import ShareTable
from interp.arguments import Judged, Prompts, Whole, Wholes, as_list, as_token_id, as_wholes, is_whole
from interp.engines.base import ModelFacts
from interp.engines.registry import engine_for
from interp.errors import InputError
from interp.given import paired
from interp.prompts import encode_prompts, encode_text
from interp.protocol import Interventions, as_interventions
from interp.sites import resolve_layers
from interp.token_text import inputs_of, last_piece, text_pieces, token_texts
from interp.types import Bridge
from interp.writes import Readout, Writes, logit_shares, read_writes, readout_of
from interp.writes.reading import components_of

__all__ = ["BEST_OTHER", "logit_attribution"]

BEST_OTHER = "best other"
MAX_BYTES = 1 << 29  # of writes held at a time
_CHUNK = 32  # steps whose logits of the whole vocabulary are held at a time


@torch.no_grad()
def logit_attribution(
    model: Bridge,
    prompts: Prompts,
    responses: Prompts,
    steps: Any = None,
    *,
    token: Judged[str | Whole | None] = None,
    contrast: Judged[str | Whole | Mapping[Any, Any] | None] = None,
    exclude: Wholes = (),
    read_at: str | Wholes = -1,
    interventions: Interventions = (),
    batch_size: Whole | None = None,
) -> ShareTable:
    """The share of every head, MLP, bias and embedding in the logit of the token emitted at each step.

    >>> from interp import decode, load_model
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> rollout = decode(model, question, max_new_tokens=60)[0]
    >>> shares = logit_attribution(model, question, rollout.token_ids, [7, 9], contrast="best other")
    >>> list(shares.columns)[8:]
    ['contrast_id', 'read_at', 'component', 'kind', 'layer', 'head', 'share', 'total']
    >>> step = shares[shares["step"] == 7]
    >>> len(step), bool(abs(step["share"].sum() - step["total"].iloc[0]) < 1e-4)
    (16, True)
    >>> len(shares.top(3)), sorted(set(shares.by("kind")["kind"]))
    (6, ['embed', 'head', 'mlp'])

    Args:
        prompts, responses: as in :func:`interp.read`; a rollout's are ``rollout.prompt_ids`` and ``rollout.token_ids``.
        steps: one or several of the response, negative from its end; all unless given. Of several responses a list of
            those, one each.
        token: whose logit, an id or a text of one token; that of the token emitted at each step unless given.
        contrast: attribute the difference to another token's logit: ``"best other"`` (the highest logit beside the
            target's), a token, or tokens by target, ``{"Wait": "then"}`` (words as frequent that are no thinking
            words: :func:`analyses.attribution.matched_contrasts`).
        exclude: ids never taken for the best other: with thinking words here it is the best other that is none.
        read_at: layers whose stream the final norm reads: the last, which gives the model's own logit; several, or
            ``"all"``, for the logit lens at each.
        interventions: those that only edit, as in :func:`interp.read_writes`: of a pass in which a head was ablated,
            say, these are the shares of what was written then.
        batch_size: texts at a time, at most.

    Returns:
        One row a response, step, `read_at` and component, in the order of the stream. ``share`` sums over components to
        ``total``: the model's logit or difference, or what the lens reads. ``kind`` is one of embed, pos_embed, head,
        attn_bias, mlp, norm_bias, unembed_bias, logit_cap. One pass serves all steps of a response, in parts only where
        its writes are large.

    Raises:
        InputError: a step or layer that is not there, a text that is not one token, a contrast that is the target; and
            what :func:`interp.read_writes` refuses, a model whose writes do not add up above all.
    """
    engine = engine_for(model, modules=True)
    facts, operation = engine.facts, "logit_attribution"
    ids = encode_prompts(facts.tokenizer, prompts, facts, operation)
    answers = paired(responses, ids, facts, operation)
    asked = _as_steps(steps, [len(answer) for answer in answers])
    target = None if token is None else _token(token, facts, operation)
    against = _contrasts(contrast, facts, operation)
    banned = as_wholes(exclude, operation, "exclude", 0, facts.d_vocab - 1)
    layers = resolve_layers(read_at, facts.n_layers, operation)
    readout = readout_of(model)
    found: list[dict[str, Any]] = []
    components = len(components_of(engine.anatomy(), facts.n_layers))
    most = max(1, MAX_BYTES // ((components + facts.n_layers) * facts.d_model * 4))
    interventions = as_interventions(interventions, operation)
    for part in _parts(asked, most):
        if interventions:  # which may act on some rows, told by their places in the whole list
            part = [(n, dict(part).get(n, slice(0, 0))) for n in range(len(ids))]
        places = [[[step] for step in asked[n][some]] for n, some in part]
        texts, said = [ids[n] for n, _ in part], [answers[n] for n, _ in part]
        read = read_writes(model, texts, said, places, interventions=interventions, batch_size=batch_size)
        for (n, some), writes in zip(part, read, strict=True):
            if not asked[n][some]:
                continue
            readout.check(writes.last_stream, writes.last_logits)
            wanted = torch.tensor(
                [answers[n][step] if target is None else target for step in asked[n][some]], dtype=torch.long
            )
            others = _others(against, wanted, writes, readout, banned)
            words = text_pieces(facts.tokenizer, answers[n])
            before = inputs_of(words, last_piece(facts.tokenizer, ids[n]))
            told = {
                "response": n,
                "step": asked[n][some],
                "input_token": [before[step] for step in asked[n][some]],
                "token": [words[step] for step in asked[n][some]],
                "token_id": [answers[n][step] for step in asked[n][some]],
                "target": token_texts(facts.tokenizer, wanted.tolist()),
                "target_id": wanted.tolist(),
                "contrast": None if others is None else token_texts(facts.tokenizer, others.tolist()),
                "contrast_id": None if others is None else others.tolist(),
            }
            for layer in layers:
                shares = logit_shares(writes.upto(layer), readout, wanted, others)
                found.append(told | {"read_at": layer, "shares": shares})
    return _table(found)


def _as_steps(steps: Any, counts: list[int]) -> list[list[int]]:
    """The steps of each response, negative ones resolved."""
    operation = "logit_attribution"
    if steps is None:
        return [list(range(count)) for count in counts]
    listed: list[Any] = [steps] if is_whole(steps) else as_list(steps, operation, "steps", "steps, one list a response")
    if len(counts) == 1 and all(map(is_whole, listed)):
        listed = [listed]
    if len(listed) != len(counts):
        raise InputError(
            operation,
            expected=f"steps of each of {len(counts)} responses",
            received=f"{len(listed)} lists",
            remedy="Pass one list of steps a response, or leave steps out for all.",
        )
    found = []
    for some, count in zip(listed, counts, strict=True):
        wanted = as_wholes(some, operation, "steps")
        if any(not -count <= step < count for step in wanted):
            raise InputError(
                operation,
                expected=f"steps from 0 to {count - 1} (or -{count} to -1)",
                received=str([step for step in wanted if not -count <= step < count][:5]),
                remedy=f"The response has {count} tokens; step t predicts token t.",
            )
        found.append(list(dict.fromkeys(step % count for step in wanted)))
    return found


def _token(token: Any, facts: ModelFacts, operation: str) -> int:
    """One token, from its id or its text."""
    if not isinstance(token, str):
        wanted = as_token_id(token, operation, "token")
        facts.check_token_ids([wanted], operation)
        return wanted
    spelled = encode_text(facts.tokenizer, token, operation, special=False)
    if len(spelled) != 1:
        raise InputError(
            operation,
            expected=f"the text of one token of {facts.name}",
            received=f"{token!r}, which is {len(spelled)}: {token_texts(facts.tokenizer, spelled)[:8]}",
            remedy="A leading space may belong to it; or pass a token id.",
        )
    return spelled[0]


def _contrasts(contrast: Any, facts: ModelFacts, operation: str) -> str | int | dict[int, int] | None:
    if contrast is None or contrast == BEST_OTHER:
        return None if contrast is None else BEST_OTHER
    if isinstance(contrast, Mapping):
        return {_token(a, facts, operation): _token(b, facts, operation) for a, b in contrast.items()}
    return _token(contrast, facts, operation)


def _others(
    against: str | int | dict[int, int] | None, wanted: Int[Tensor, " place"], writes: Writes, readout: Readout,
    banned: list[int],
) -> Int[Tensor, " place"] | None:  # fmt: skip
    """The contrast token of each place."""
    if against is None:
        return None
    if against == BEST_OTHER:
        found = []
        for places in torch.arange(len(wanted)).split(_CHUNK):
            logits = readout.logits(writes.stream[-1, places])
            logits[torch.arange(len(places)), wanted[places]] = -torch.inf
            logits[:, banned] = -torch.inf
            if not bool(logits.isfinite().any(-1).all()):
                raise InputError(
                    "logit_attribution",
                    expected="a token that is neither the target nor excluded",
                    received=f"{len(set(banned))} excluded of {logits.shape[-1]}",
                    remedy="Exclude fewer.",
                )
            found.append(logits.argmax(-1).cpu())
        return torch.cat(found) if found else wanted
    chosen = against if isinstance(against, dict) else {}
    missing = [token for token in wanted.tolist() if isinstance(against, dict) and token not in chosen]
    others = wanted.new_tensor([chosen.get(token, against) for token in wanted.tolist()] if not missing else [])
    same = [] if missing else wanted[wanted == others].tolist()
    if missing or same:
        raise InputError(
            "logit_attribution",
            expected="a contrast token for each target, another than it",
            received=f"none for token {missing[0]}" if missing else f"token {same[0]} for itself",
            remedy='Choose steps that emit other tokens, or contrast="best other".',
        )
    return others


def _parts(asked: list[list[int]], most: int) -> Iterator[list[tuple[int, slice]]]:
    """Steps of responses, as many at a time as may be held; a response's own together as far as they fit."""
    part: list[tuple[int, slice]] = []
    room = most
    for n, steps in enumerate(asked):
        for begin in range(0, len(steps), most):
            size = min(most, len(steps) - begin)
            if size > room:
                yield part
                part, room = [], most
            part.append((n, slice(begin, begin + size)))
            room -= size
    if part:
        yield part


def _table(found: list[dict[str, Any]]) -> ShareTable:
    import pandas

    frames = []
    for told in found:
        components, count = told["shares"].components, len(told["step"])
        size = len(components)
        # Step after step, and in each its components.
        columns: dict[str, Any] = {name: np.repeat(told[name], size * count) for name in ("response", "read_at")}
        for name in _OF_STEP:
            kept = np.repeat(np.asarray(told[name] or [None] * count, dtype=object), size)
            columns[name] = pandas.array(kept, dtype="Int64" if name.endswith("_id") else "str")
        columns["step"] = columns["step"].astype("int64")
        columns["component"] = [component.label for component in components] * count
        columns["kind"] = [component.kind for component in components] * count
        numbers = [None if component.layer < 0 else component.layer for component in components] * count
        columns["layer"] = pandas.array(numbers, dtype="Int64")
        columns["head"] = pandas.array([component.head for component in components] * count, dtype="Int64")
        columns["share"] = told["shares"].shares.T.reshape(-1).double().cpu().numpy()
        columns["total"] = np.repeat(told["shares"].total.double().cpu().numpy(), size)
        frames.append(pandas.DataFrame(columns)[_COLUMNS])
    if not frames:
        return ShareTable(columns=_COLUMNS)
    together = pandas.concat(frames, ignore_index=True)
    return ShareTable(together.sort_values(["response", "step", "read_at"], kind="stable", ignore_index=True))


_OF_STEP = ["step", "input_token", "token", "token_id", "target", "target_id", "contrast", "contrast_id"]
_COLUMNS = ["response", *_OF_STEP, "read_at", "component", "kind", "layer", "head", "share", "total"]
