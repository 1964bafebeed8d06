"""What patching nodes and patching edges have in common: pairs of texts, what is measured, what is verified."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas

from interp.arguments import as_text, as_whole, as_wholes
from interp.engines.base import Engine
from interp.engines.registry import engine_for
from interp.errors import InputError
from interp.loading.identity import weight_hash
from interp.passes import made_with
from interp.patching.asked import Asked, asked_of
from interp.patching.comparison import Comparison
from interp.patching.references import MeanWrites, Reference, ZeroWrites
from interp.patching.texts import Text, as_texts, matched
from interp.token_text import text_pieces
from interp.types import Bridge

__all__ = ["Pairs", "Verified", "marked", "pairs_of", "strongest"]

# Roundings of the model's numbers within which two metrics count as the same.
_FLAT = 32


@dataclass(frozen=True)
class Pairs:
    """The texts of a comparison, all of one length, up to the step that is measured.

    Attributes:
        against: each clean text's other one, or what nodes are set to.
        asked: each one's metric.
        first: the position of step 0.
        denoise: whether the corrupted run is patched with clean values, or the clean run with others.
    """

    engine: Engine
    model: Bridge
    clean: tuple[Text, ...]
    against: tuple[Text | Reference, ...]
    asked: tuple[Asked, ...]
    step: int
    denoise: bool
    operation: str
    _only: list[Comparison] = field(default_factory=list)

    @property
    def first(self) -> int:
        return self.clean[0].first

    @property
    def last(self) -> int:
        """The position that is measured."""
        return self.first + self.step

    def tokens(self) -> list[str]:
        """What each position of the first clean text has read."""
        ids = list(self.clean[0].ids)
        return text_pieces(self.engine.facts.tokenizer, ids)

    def positions(self, positions: Any, steps: Any) -> list[int]:
        """Places in the text from positions or steps, up to the one that is measured; all of them unless given."""
        if positions is not None and steps is not None:
            raise self.refused("positions or steps", "both", "Steps count from the prompt's last token.")
        if positions is None and steps is None:
            return list(range(self.last + 1))
        name, begin = ("positions", 0) if steps is None else ("steps", self.first)
        wanted = as_wholes(positions if steps is None else steps, self.operation, name)
        ends = self.last + 1 - begin
        found = [begin + (place + ends if place < 0 else place) for place in wanted]
        if not found or not all(begin <= place <= self.last for place in found):
            raise self.refused(
                f"{name} from 0 to {ends - 1}, the one that is measured (negative ones count from it)",
                str(wanted)[:80],
                "A later position cannot change an earlier prediction.",
            )
        return sorted(set(found))

    def comparisons(self, hooks: Sequence[str], positions: Sequence[int], batch_size: int) -> Iterator[Comparison]:
        """Both runs of each pair, one pair at a time: what they hold of every position need not stay for all pairs."""
        if len(self.clean) > 1 or not self._only:
            for own, against, asked in zip(self.clean, self.against, self.asked, strict=True):
                made = Comparison.of(
                    self.model, own, against, asked, hooks, positions, self.denoise, self.operation, batch_size
                )
                if len(self.clean) == 1:
                    self._only.append(made)
                yield made
        else:
            yield from self._only  # of a single pair it does

    def settings(self, both: Sequence[tuple[float, float]]) -> dict[str, Any]:
        """What the result tells of the comparison, its gap included, from the metric of each pair's two runs."""
        plain, other = (float(np.mean(values)) for values in zip(*both, strict=True))
        gap, size = plain - other, max(1.0, abs(plain), abs(other))
        rounding = _FLAT * (2**-8 if self.engine.dtype.itemsize == 2 else 2**-23)
        against, made = self.against[0], made_with(self.engine, [])
        return {
            "model": self.engine.facts.name,
            "metric": self.asked[0].name,
            "against": "a corrupted run" if isinstance(against, Text) else against.name,
            "direction": "denoise" if self.denoise else "noise",
            "step": self.step,
            "position": self.last,
            "pairs": len(self.clean),
            "clean": plain,
            "corrupt": other,
            "gap": gap,
            "weight_hash": weight_hash(self.model),
            "dtype": made["dtype"],
            "versions": made["versions"],
            "texts": [
                {"clean": list(own.ids), "corrupt": list(other.ids) if isinstance(other, Text) else None}
                for own, other in zip(self.clean, self.against, strict=True)
            ],
            "flat": bool(abs(gap) <= rounding * size),
        }

    def refused(self, expected: str, received: str, remedy: str) -> InputError:
        return InputError(self.operation, expected=expected, received=received, remedy=remedy)


def pairs_of(model: Bridge, clean: Any, corrupt: Any, metric: Any, at: Any, direction: Any, operation: str) -> Pairs:
    """Clean texts, each with what it is compared with and the metric; all checked before anything is run."""
    engine = engine_for(model, modules=True)
    facts = engine.facts
    texts, _ = as_texts(clean, facts, operation, "clean")
    step = texts[0].step(-1 if at is None else at, operation)
    shape = texts[0].first
    if any(text.first != shape or text.steps <= step for text in texts):
        raise InputError(
            operation,
            expected=f"clean texts with prompts of {shape + 1} tokens, all of which reach step {step}",
            received=f"prompts of {[text.first + 1 for text in texts]}, steps {[text.steps for text in texts]}",
            remedy="Effects are averaged position by position: patch texts of other lengths on their own.",
        )
    is_reference = isinstance(corrupt, ZeroWrites | MeanWrites)
    way = as_text(direction, operation, "direction", ("denoise", "noise")) if direction is not None else None
    if is_reference:
        if way == "denoise":
            raise InputError(
                operation,
                expected="direction noise, since a mean or zero is no run that could be patched",
                received="direction denoise",
                remedy="Leave direction out.",
            )
        against: list[Any] = [corrupt] * len(texts)
    else:
        others, _ = as_texts(corrupt, facts, operation, "corrupt")
        if len(others) != len(texts):
            raise InputError(
                operation,
                expected=f"{len(texts)} corrupted texts, one for each clean one",
                received=str(len(others)),
                remedy="Pair them.",
            )
        against = [matched(own, other, step, facts, operation) for own, other in zip(texts, others, strict=True)]
    metrics = list(metric) if isinstance(metric, Sequence) and not isinstance(metric, str) else [metric] * len(texts)
    if len(metrics) != len(texts):
        raise InputError(
            operation,
            expected=f"one metric, or {len(texts)}, one for each clean text",
            received=str(len(metrics)),
            remedy="Pair them.",
        )
    asked = tuple(asked_of(one, facts, operation) for one in metrics)
    if len({one.site for one in asked}) > 1:
        raise InputError(
            operation,
            expected="metrics of one kind, all of the logits or all of one site",
            received=", ".join(sorted({str(one.site) for one in asked})),
            remedy="Patch them one after the other.",
        )
    own = tuple(text.upto(step) for text in texts)
    denoise = not is_reference and way != "noise"
    return Pairs(engine, model, own, tuple(against), asked, step, denoise, operation)


@dataclass(frozen=True)
class Verified:
    """How many effects are looked at by intervention: the strongest (None: all), and some drawn at random."""

    verify: int | None
    sample: int
    seed: int

    @classmethod
    def of(cls, verify: Any, sample: Any, seed: Any, operation: str) -> Verified:
        """As users pass them; ``verify`` may be "all"."""
        if isinstance(verify, str):
            as_text(verify, operation, "verify", ("all",))
        count = None if isinstance(verify, str) else as_whole(verify, operation, "verify", 0)
        return cls(count, as_whole(sample, operation, "sample", 0), as_whole(seed, operation, "seed", 0))

    def strongest(self, scores: np.ndarray) -> list[int]:
        """The places of the largest magnitudes, or all of them; what is exactly 0 is not worth a run."""
        return list(range(len(scores))) if self.verify is None else strongest(scores, self.verify)

    def drawn(self, live: np.ndarray) -> list[int]:
        """Some of the places where ``live`` is true, drawn without looking at what was estimated there."""
        places = np.flatnonzero(live)
        count = min(self.sample, len(places))
        if not count:
            return []
        return sorted(int(n) for n in np.random.default_rng(self.seed).choice(places, count, replace=False))

    def told(self) -> dict[str, Any]:
        """For the settings of a result."""
        return {
            "verify": "all" if self.verify is None else self.verify, "sample": self.sample, "seed": self.seed,
        }  # fmt: skip


def strongest(scores: np.ndarray, count: int) -> list[int]:
    """The places of the ``count`` largest magnitudes that are not 0, in order; ties at the edge fall to the first.

    >>> strongest(np.array([0.0, -3.0, 1.0, 2.0]), 2)
    [1, 3]
    """
    sizes = np.abs(scores)
    count = min(count, len(sizes))
    if not count:
        return []
    least = np.partition(sizes, len(sizes) - count)[len(sizes) - count]
    above, level = np.flatnonzero(sizes > least), np.flatnonzero(sizes == least)
    return sorted(int(n) for n in [*above, *level[: count - len(above)]] if sizes[n] > 0)


def marked(
    frame: pandas.DataFrame, settings: dict[str, Any], top: Sequence[int], sampled: Sequence[int]
) -> pandas.DataFrame:
    """With effects as shares of the gap, NaN where there is none, and why rows were verified."""
    gap = math.nan if settings["flat"] else settings["gap"]
    is_top, is_sample = np.zeros(len(frame), dtype=bool), np.zeros(len(frame), dtype=bool)
    is_top[list(top)], is_sample[list(sampled)] = True, True
    shares = {"share": frame["score"] / gap, "exact_share": frame["exact"] / gap}
    return frame.assign(**shares, is_top=is_top, is_sample=is_sample)
