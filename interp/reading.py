"""Given responses, read once through the model, nothing sampled: their residual streams, or how likely they are.

`read` takes a response as if `decode` had just made it, `score` says how likely the model finds it. What texts are read
in is :mod:`interp.given`: prompts, each with what comes after it. Texts on their own are :mod:`interp.encoding`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.arguments import Judged, Prompts, Whole, as_whole, is_one_prompt
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.foreign import decode_text
from interp.generation_config import generation_rules
from interp.given import Decided, Given, of_tokens, paired
from interp.metrics import AnswerMetric, Metric, prepared_metric
from interp.passes import as_batch_size, check_context, edited_sites, made_with, prompt_end
from interp.pieces import Collecting, Cut, Kept
from interp.prompts import encode_prompts
from interp.protocol import Interventions
from interp.record import ResidualSites, ResidualStream, as_record, held_bytes, plan_record
from interp.rollout import Rollout
from interp.sampling import log_probabilities
from interp.streaming import stream_steps
from interp.token_text import last_piece, text_pieces
from interp.types import Bridge

__all__ = ["Scores", "read", "score"]

_CHECK = "NaN activations: check the weights, dtype and interventions."


class Scores(NamedTuple):
    """What a model makes of each token of a given response: nats, and whether it is the likeliest token."""

    logprobs: Float[Tensor, " step"]
    is_greedy: Bool[Tensor, " step"]

    @property
    def total(self) -> float:
        """Nats of the whole response: the sum over its tokens."""
        return float(self.logprobs.double().sum())


@overload
def read(
    model: Bridge,
    prompts: str | Sequence[int] | Sequence[Mapping[str, Any]],
    responses: Prompts,
    *,
    record: Judged[ResidualSites | None] = ...,
    interventions: Interventions = ...,
    batch_size: Whole | None = ...,
    piece: Whole | None = ...,
    generation_config: bool | Mapping[str, Any] | Any = ...,
) -> Rollout: ...
@overload
def read(
    model: Bridge,
    prompts: Prompts,
    responses: Prompts,
    *,
    record: Judged[ResidualSites | None] = ...,
    interventions: Interventions = ...,
    batch_size: Whole | None = ...,
    piece: Whole | None = ...,
    generation_config: bool | Mapping[str, Any] | Any = ...,
) -> list[Rollout]: ...
@torch.no_grad()
def read(
    model: Bridge,
    prompts: Prompts,
    responses: Prompts,
    *,
    record: Judged[ResidualSites | None] = None,
    interventions: Interventions = (),
    batch_size: Whole | None = None,
    piece: Whole | None = None,
    generation_config: bool | Mapping[str, Any] | Any = True,
) -> Rollout | list[Rollout]:
    """A response that is there already, as a rollout: what `decode` would have recorded, had it made these tokens.

    >>> from interp import ResidualSites, decode, load_model
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> made = decode(model, question, max_new_tokens=60, record=ResidualSites())[0]
    >>> again = read(model, question, made.token_ids, record=ResidualSites())
    >>> torch.allclose(again.residuals["resid_post"], made.residuals["resid_post"], atol=1e-3)
    True
    >>> [len(r) for r in read(model, [question, question], ["Okay 6", "Okay"])], read(model, question, "Okay 6").tokens
    ([2, 1], ['Okay', '6'])

    Args:
        prompts: as in :func:`interp.decode`. One alone (a text, a chat, a list of ids) gives one rollout, a list of
            them a list.
        responses: one a prompt, each token ids or text. A text is tokenised alone, without special tokens: that need
            not be how a model would have cut it, and no end-of-sequence token is added. Where it matters pass ids.
        record: which residual streams, or what within blocks, to keep (:class:`interp.ResidualSites`) or to be handed
            on and not kept; none unless given. A :class:`interp.ResidualPieces` is handed some steps of a text at a
            time, a :class:`interp.ResidualStream` each step of a batch, as `decode` would have told it.
        interventions: those that only edit residuals; their positions are the steps of the response. None beside a
            `ResidualStream`.
        batch_size: texts at a time, at most; 16 unless given, fewer where texts are long.
        piece: positions at a time, at most. Unless given as many as go with memory (all, up to some hundred), each
            piece seeing those before it in the cache: the numbers are those of one pass, to rounding. Where there are
            hooks of yours on the model, which may ask for a whole text, it is read whole; give a number to say that
            they take pieces, or one beyond all texts to read whole without hooks.
        generation_config: as in :func:`score`: `logprobs` and `entropy` are of the distributions that `decode` would
            have chosen from.

    Returns:
        Rollouts whose step t is the position that predicts response token t, with ``finish_reason`` "given". Your own
        hooks on the model act, and see the whole text at once unless you give ``piece`` (of a batch with a
        `ResidualStream`: up to where the next row ends). A text that was read in pieces has ``settings["piece"]``, the
        positions at a time. Interventions see pieces, as they see steps in `decode`.

    Raises:
        InputError: an empty prompt or response, ids outside the vocabulary, other than one response a prompt, a layer
            or site out of range, an intervention that acts on choices or runs positions again, more than the context or
            the memory holds; all before the first pass. NaN logits when they occur.
    """
    record = as_record(record, "read")
    facts, alone = model_facts(model), is_one_prompt(prompts)
    ids = encode_prompts(facts.tokenizer, prompts, facts, "read")
    answers = paired(responses, ids, facts, "read")
    texts = [prompt + answer for prompt, answer in zip(ids, answers, strict=True)]
    check_context(texts, 0, facts, "read")
    given = Given("read", model, ids, [text[:-1] for text in texts], interventions, record)
    engine = given.engine
    rules = generation_rules(facts, generation_config, operation="read")
    plan = plan_record(record, engine, edited_sites(given.interventions))
    counts, size = list(map(len, answers)), as_batch_size(batch_size, "read")
    cut = Cut(engine, model, piece, "read", held_bytes(record, plan, engine))
    settings = {**made_with(engine, given.interventions), **rules.told()}

    def rollout(n: int, scores: Sequence[Tensor], residuals: dict[str, Tensor], **told: Any) -> Rollout:
        if any(some.isnan().any() for some in scores):
            raise InputError("read", expected="finite logits", received=f"NaN in response {n}", remedy=_CHECK)
        return Rollout(
            prompt_ids=torch.tensor(ids[n]),
            token_ids=torch.tensor(answers[n]),
            tokens=text_pieces(facts.tokenizer, answers[n]),
            text="" if facts.tokenizer is None else decode_text(facts.tokenizer, answers[n], True),
            finish_reason="given",
            logprobs=scores[0],
            entropy=scores[1],
            residuals=residuals,
            layers=plan.layers if residuals else (),
            settings={**settings, "engine": engine.told, **prompt_end(facts.tokenizer, ids[n]), **told},
            prompt_token=last_piece(facts.tokenizer, ids[n]),
        )

    if isinstance(record, ResidualStream):
        if given.interventions:
            remedy = "Record ResidualSites, or leave the interventions out."
            raise InputError("read", expected="a ResidualStream, or interventions", received="both", remedy=remedy)
        told = dict(stream_steps(engine, ids, answers, record, plan, rules, size, cut))
        streamed = [rollout(n, told[n].unbind(), {}) for n in range(len(texts))]
        return streamed[0] if alone else streamed

    given.check_fits(size, counts, cut, "Record fewer layers, or read fewer at a time.", record, plan)
    stored = Kept(record, plan, counts, engine)

    def collect(batch: list[int], width: int) -> Collecting:
        return stored.collect(batch, [range(width - counts[n], width) for n in batch])

    deciding: dict[int, Decided] = {}
    measured: dict[int, list[tuple[Tensor, Tensor]]] = {}  # log-probabilities and entropies, piece by piece
    found: dict[int, Rollout] = {}
    with closing(stored), closing(given.pieces(size, counts, cut, collect)) as pieces:
        for read_in in pieces:
            for n, begin, logits in read_in.asked(counts):
                if n not in deciding:
                    deciding[n] = Decided(ids[n], answers[n], begin, rules, logits.device)
                wanted = torch.tensor(answers[n][begin : begin + len(logits)], device=logits.device)
                measured.setdefault(n, []).append(of_tokens(deciding[n](logits), wanted))
            for n in read_in.batch if read_in.is_last else ():
                del deciding[n]
                scores = [torch.cat(some) for some in zip(*measured.pop(n), strict=True)]
                found[n] = rollout(n, scores, stored.take(n), **read_in.told())
    rollouts = [found[n] for n in range(len(texts))]
    return rollouts[0] if alone else rollouts


@overload
def score(
    model: Bridge,
    prompts: Prompts,
    responses: Prompts,
    *,
    metric: None = ...,
    interventions: Interventions = ...,
    last: Whole | None = ...,
    batch_size: Whole | None = ...,
    piece: Whole | None = ...,
    generation_config: bool | Mapping[str, Any] | Any = ...,
) -> list[Scores]: ...
@overload
def score(
    model: Bridge,
    prompts: Prompts,
    responses: Prompts | None = ...,
    *,
    metric: Judged[Metric | AnswerMetric],
    interventions: Interventions = ...,
    batch_size: Whole | None = ...,
    piece: Whole | None = ...,
) -> Tensor: ...
@torch.no_grad()
def score(
    model: Bridge,
    prompts: Prompts,
    responses: Prompts | None = None,
    *,
    metric: Judged[Metric | AnswerMetric | None] = None,
    interventions: Interventions = (),
    last: Whole | None = None,
    batch_size: Whole | None = None,
    piece: Whole | None = None,
    generation_config: bool | Mapping[str, Any] | Any = True,
) -> list[Scores] | Float[Tensor, " row"]:
    """Log-probability of each token of a given response to each prompt, and whether greedy decoding would emit it.

    >>> from interp import answer_log_probability, decode, load_model
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> rollout = decode(model, [question], max_new_tokens=60)[0]
    >>> logprobs, is_greedy = score(model, [question], [rollout.token_ids])[0]
    >>> torch.allclose(logprobs, rollout.logprobs, atol=1e-4), bool(is_greedy.all())
    (True, True)
    >>> score(model, question, rollout.token_ids[:9], metric=answer_log_probability("Therefore 4")).shape
    torch.Size([1])

    Args:
        prompts: as in :func:`interp.decode`.
        responses: token ids or text, one a prompt (of one prompt it may stand alone); step t is the position that
            predicts ``responses[i][t]``, as in decoding. A text is tokenised alone, without special tokens.
        metric: what to measure of the prediction that follows each response, instead of its tokens:
            :func:`interp.answer_log_probability` of a whole answer, or whatever `patch_sweep` takes. Responses may then
            be left out or empty. The model's own logits are measured, without any generation_config.
        interventions: those that only edit residuals (patching, steering, ablation); their positions are the steps of
            the given response, and with a metric the one after it.
        last: score only so many tokens at the end, an answer say.
        batch_size: texts at a time, at most; 16 unless given, fewer where texts are long.
        piece: as in :func:`read`.
        generation_config: as in :func:`interp.decode`, whose distributions are scored; without
            ``forced_eos_token_id``, which depends on a limit that a given response does not have.

    Returns:
        Scores of each response in nats (``scores.total`` is of it as a whole); with a metric one number a response.

    Raises:
        InputError: an empty prompt or response, ids outside the vocabulary, an intervention that acts on choices or
            runs positions again, texts beyond the context; all before the first pass.
    """
    facts = model_facts(model)
    ids, size = encode_prompts(facts.tokenizer, prompts, facts, "score"), as_batch_size(batch_size, "score")
    if metric is not None:
        if last is not None:
            raise InputError(
                "score",
                expected="either metric or last",
                received="both",
                remedy="A metric is of what follows the response; pass the response up to there.",
            )
        return _measured(model, ids, responses, metric, interventions, size, piece)
    answers = paired(responses, ids, facts, "score")
    if last is not None:
        last = as_whole(last, "score", "last", 1, min(map(len, answers), default=1), "It is the shortest response.")
    texts = [prompt + answer for prompt, answer in zip(ids, answers, strict=True)]
    check_context(texts, 0, facts, "score")
    given = Given("score", model, ids, [text[:-1] for text in texts], interventions)
    cut = Cut(given.engine, model, piece, "score")
    rules = generation_rules(facts, generation_config, operation="score")
    # A watermark's processor may count the steps it has seen, and has to see all.
    first = None if "watermarking_config" in rules.acting else last
    keep = [first or len(answer) for answer in answers]
    given.check_fits(size, keep, cut, "Score fewer at a time.")

    deciding: dict[int, Decided] = {}
    parts: dict[int, list[Scores]] = {}
    with closing(given.pieces(size, keep, cut)) as pieces:
        for read_in in pieces:
            for n, begin, logits in read_in.asked(keep):
                at = len(answers[n]) - keep[n] + begin
                if n not in deciding:
                    deciding[n] = Decided(ids[n], answers[n], at, rules, logits.device)
                wide = deciding[n](logits)
                wanted = torch.tensor(answers[n][at : at + len(wide)], device=wide.device)
                logprobs = log_probabilities(wide).gather(-1, wanted[:, None])[:, 0]
                parts.setdefault(n, []).append(Scores(logprobs.cpu(), (wide.argmax(-1) == wanted).cpu()))
            if read_in.is_last:
                deciding.clear()
    found = {
        n: Scores(*(torch.cat(values)[-(last or 0) :] for values in zip(*some, strict=True)))
        for n, some in parts.items()
    }
    if any(not scores.logprobs.isfinite().all() for scores in found.values()):
        raise InputError("score", expected="finite log-probabilities", received="NaN or -inf", remedy=_CHECK)
    return [found[n] for n in range(len(texts))]


def _measured(
    model: Bridge,
    ids: list[list[int]],
    responses: Any,
    metric: Any,
    interventions: Interventions,
    size: int,
    piece: Whole | None,
) -> Float[Tensor, " row"]:
    """A metric of what follows each response."""
    facts = model_facts(model)
    asked = prepared_metric(metric, facts, "score")
    answers = [[] for _ in ids] if responses is None else paired(responses, ids, facts, "score", may_be_empty=True)
    fed = [prompt + answer + list(asked.following) for prompt, answer in zip(ids, answers, strict=True)]
    check_context(fed, 0, facts, "score")
    given = Given("score", model, ids, fed, interventions)
    keep, cut = [asked.keep] * len(fed), Cut(given.engine, model, piece, "score")
    given.check_fits(size, keep, cut, "Score fewer at a time.")
    values: dict[int, Tensor] = {}
    for batch, logits in given.passes(size, keep, cut):
        values |= dict(zip(batch, asked.measure(logits).cpu(), strict=True))
    return torch.stack([values[n] for n in range(len(fed))]) if values else torch.empty(0)
