"""What is measured of a prediction: a number for each text, from the logits that follow it.

A :data:`Metric` looks at the next token alone. An answer of several tokens has to be read to be measured: what
:func:`answer_log_probability` makes is known to :func:`interp.score` and to :func:`interp.interventions.patch_sweep`,
which read its tokens after the text, each predicted from all before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from interp.arguments import Whole, Wholes, as_token_id, as_wholes
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.prompts import check_ids, encode_text
from interp.sampling import log_probabilities, widened

__all__ = [
    "AnswerMetric",
    "Metric",
    "Prepared",
    "answer_log_probability",
    "log_probability",
    "logit_difference",
    "prepared_metric",
]

Metric: TypeAlias = Callable[[Float[Tensor, "row d_vocab"]], Float[Tensor, " row"]]
"""A number for each row, from its logits."""


def log_probability(token_id: Whole) -> Metric:
    """Nats of one next token.

    >>> log_probability(1)(torch.tensor([[0.0, 0.0]])).exp().tolist()
    [0.5]
    """
    wanted = as_token_id(token_id, "log_probability")
    return lambda logits: log_probabilities(logits)[:, _of(logits, wanted)]


def logit_difference(right: Whole, wrong: Whole) -> Metric:
    """Logit of one next token minus that of another.

    >>> logit_difference(1, 0)(torch.tensor([[0.5, 2.0]])).tolist()
    [1.5]
    """
    plus, minus = as_token_id(right, "logit_difference", "right"), as_token_id(wrong, "logit_difference", "wrong")
    return lambda logits: widened(logits)[:, _of(logits, plus)] - widened(logits)[:, _of(logits, minus)]


def _of(logits: Float[Tensor, "row d_vocab"], token_id: int) -> int:
    if token_id >= logits.shape[-1]:
        raise InputError(
            "measure a token",
            expected=f"a token id from 0 to {logits.shape[-1] - 1}",
            received=str(token_id),
            remedy="Encode the text with this model's own tokenizer.",
        )
    return token_id


@dataclass(frozen=True)
class AnswerMetric:
    """The log-probability of a whole answer, as text or token ids; :func:`answer_log_probability` makes it."""

    answer: str | tuple[int, ...]

    def token_ids(self, facts: ModelFacts, operation: str) -> list[int]:
        """The answer's tokens for a model: of a text those of the text alone, without special tokens."""
        given = self.answer
        ids: list[int] = (
            encode_text(facts.tokenizer, given, operation, special=False) if isinstance(given, str) else list(given)
        )
        if not ids:
            raise InputError(
                operation,
                expected="an answer of at least one token",
                received=repr(self.answer),
                remedy="Pass some text, or token ids.",
            )
        return check_ids([int(token) for token in ids], facts, operation)


def answer_log_probability(answer: str | Wholes) -> AnswerMetric:
    """Nats of a whole answer: the sum over its tokens, each given the text and the answer's tokens before it.

    >>> from interp import load_model, score
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> whole = score(model, question, metric=answer_log_probability("6 A"))
    >>> parts = score(model, question, "6 A")[0].logprobs
    >>> bool((whole[0] - parts.sum()).abs() < 1e-5)
    True

    Args:
        answer: a text, or token ids (one or several). A text is tokenised alone and without special tokens: where the
            vocabulary has spaces in its tokens, " 540" is another answer than "540"; write it as it would go on.

    Raises:
        InputError: an empty answer, or something else than text and ids; when it is used, words or ids that the model
            does not have.

    The model's own distribution is asked at temperature 1, before any generation_config.
    """
    if isinstance(answer, str):
        given: str | tuple[int, ...] = answer
    else:
        given = tuple(as_wholes(answer, "answer_log_probability", "answer as text or token ids", 0))
    if not given:
        raise InputError(
            "answer_log_probability",
            expected="an answer of at least one token",
            received=repr(answer)[:80],
            remedy="Pass some text, or token ids.",
        )
    return AnswerMetric(given)


@dataclass(frozen=True)
class Prepared:
    """A metric made ready for a model.

    Attributes:
        following: tokens to read after the text.
        keep: of how many positions at the end it wants the logits.
        measure: a number a row, of those logits.
    """

    following: tuple[int, ...]
    keep: int
    measure: Callable[[Float[Tensor, "row kept d_vocab"]], Float[Tensor, " row"]]


def prepared_metric(metric: Any, facts: ModelFacts, operation: str) -> Prepared:
    """What to read and measure for a metric, a whole answer's or one of the next token.

    Raises:
        InputError: no function, an answer that the model cannot say; when it measures, something else than one number
            a row.
    """
    if isinstance(metric, AnswerMetric):
        ids = metric.token_ids(facts, operation)
        return Prepared(tuple(ids[:-1]), len(ids), lambda logits: _whole(logits, ids))
    if not callable(metric):
        raise InputError(
            operation,
            expected="metric as a function of logits",
            received=repr(metric)[:80],
            remedy='log_probability(token_id) makes one, answer_log_probability("540") one of a whole answer.',
        )
    return Prepared((), 1, lambda logits: _one_each(metric, logits[:, -1], operation))


def _whole(logits: Float[Tensor, "row kept d_vocab"], ids: list[int]) -> Float[Tensor, " row"]:
    wanted = torch.tensor(ids, device=logits.device).expand(len(logits), -1)
    return log_probabilities(widened(logits)).gather(-1, wanted[..., None])[..., 0].sum(-1)


def _one_each(metric: Metric, logits: Float[Tensor, "row d_vocab"], operation: str) -> Float[Tensor, " row"]:
    values = metric(widened(logits))
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        raise InputError(
            operation,
            expected=f"a metric that gives one number a row, shape ({len(logits)},)",
            received=f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__,
            remedy="It is given logits [row, d_vocab].",
        )
    return values
