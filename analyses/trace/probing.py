"""What a run may be asked beside nHSIC, and how each such measure is computed from residual streams.

:mod:`analyses.trace.reread` asks it of finished responses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from analyses.store.columns import is_void
from analyses.trace.settings import TraceSettings, Whole
from interp.arguments import Texts, as_whole
from interp.errors import InputError
from probes.scale import sigma_of
from probes.similarity import SCORES

__all__ = ["Probing", "check_measures", "measured", "probing_of"]

_MATCHES = ("kind", "none")
_STATISTICS = ("score", "standardised")
_DEPTH = "dtr"
_WITH_KERNEL = ("nhsic", "cka")


@dataclass(frozen=True)
class Probing:
    """What to ask of finished responses beside nHSIC.

    >>> Probing(probes=("nhsic", "r2", "dtr"), null=99).measures
    ('r2',)

    Attributes:
        probes: nhsic (always there), r2, cosine, cka (see :data:`probes.SCORES`), and dtr. nhsic and cka may be given
            another bandwidth, all may leave out the answer's K largest coordinates: "nhsic@median", "r2/drop4",
            "nhsic@2*median/drop4".
        null: wrong answers each response is scored against, K; 0 for none. The smallest p is 1 / (K + 1).
        null_match: "kind": wrong answers whose reference ends as the own one does, as closely as there are K of them:
            on the same token, else on the same kind of token after the same token, else on the same kind of token
            (otherwise the null is too easy: it would be beaten by whatever tells that end); "none": any. Always
            other answers (see :mod:`analyses.trace.wrong_answers`).
        null_statistic: "score", or "standardised" by each step's own level (see :func:`probes.null_test`).
        null_seed: of the draw of wrong answers and of random vectors.
        excess: references of other answers that each response is scored beside (:mod:`analyses.trace.others`); 0 for
            none, None for 20 in a new run and what it began with in one that goes on.
    """

    probes: tuple[str, ...] = ("nhsic",)
    null: int = 0
    null_match: str = "kind"
    null_statistic: str = "score"
    null_seed: int = 0
    excess: int | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (
            *(("probes", _parsed(probe)[0], (*SCORES, _DEPTH)) for probe in self.probes),
            ("null_match", self.null_match, _MATCHES),
            ("null_statistic", self.null_statistic, _STATISTICS),
        ):
            if value not in allowed:
                raise InputError(
                    "trace", expected=f"{name} among {', '.join(allowed)}", received=repr(value), remedy="Choose these."
                )
        if self.null < 0 or 0 < self.null < 19:
            raise InputError(
                "trace",
                expected="null 0, or at least 19 wrong answers",
                received=str(self.null),
                remedy="With fewer no p-value can reach 0.05; 99 is usual.",
            )

        if self.excess is not None and (self.excess < 0 or self.excess == 1):
            raise InputError(
                "trace",
                expected="excess 0, or at least 2 references of other answers",
                received=str(self.excess),
                remedy="Of fewer there is no spread; 20 is usual.",
            )

    @property
    def measures(self) -> tuple[str, ...]:
        """The probes that score every (layer, step), without nHSIC."""
        return tuple(dict.fromkeys(probe for probe in self.probes if probe not in ("nhsic", _DEPTH)))

    @property
    def depth(self) -> bool:
        return _DEPTH in self.probes

    def pins(self, pool: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a run is pinned to once it was asked; ``pool`` is what it pins of the pool of wrong answers."""
        null = {f.name: getattr(self, f.name) for f in fields(self) if f.name.startswith("null")} if self.null else {}
        if null:
            null["null_pool"] = dict(pool or {})
        return {"probes": sorted({*self.measures, *([_DEPTH] if self.depth else [])}), "null": null}

    @classmethod
    def pinned(cls, settings: dict[str, Any]) -> Probing:
        """All that a run was ever asked: more may be asked later, and holds for all of its responses."""
        null = {} if is_void(settings) else settings.get("null", {})
        asked = {f.name: null[f.name] for f in fields(cls) if f.name in null}
        return cls(probes=tuple(sorted(settings.get("probes", ()))), **asked)


def probing_of(
    probes: Texts, null: Whole, null_match: str, null_statistic: str, null_seed: Whole, excess: Whole | None
) -> Probing:
    """What is asked beside nHSIC, as users give it: one probe alone is a list of one, numbers may be of any kind."""
    return Probing(
        tuple(map(str, [probes] if isinstance(probes, str) else probes)),
        as_whole(null, "trace", "null"),
        null_match,
        null_statistic,
        as_whole(null_seed, "trace", "null_seed"),
        None if excess is None else as_whole(excess, "trace", "excess"),
    )


def check_measures(probing: Probing, options: TraceSettings, d_model: int) -> None:
    """Find out before anything is pinned or decoded whether the measures fit the model."""
    steps = torch.linspace(-1, 1, d_model)[None]
    for name in probing.measures:
        measured(name, options, steps, steps[0])


def measured(
    name: str,
    options: TraceSettings,
    steps: Float[Tensor, "*layer step d_model"],
    answer: Float[Tensor, "*layer d_model"],
) -> Float64[Tensor, "*layer step"]:
    kind, kernel, drop = _parsed(name)
    if kind in _WITH_KERNEL:
        kernel = {"sigma": options.sigma} | kernel
    return SCORES[kind](steps, answer, drop_top=options.drop_top + drop, **kernel)


def _parsed(name: str) -> tuple[str, dict[str, Any], int]:
    """Which measure, with what bandwidth if another than the run's, and how many coordinates to leave out.

    >>> _parsed("nhsic@median/drop4")
    ('nhsic', {'sigma': 'median'}, 4)
    """
    found = re.fullmatch(r"(\w+)(?:@([^/]+))?(?:/drop(\d+))?", name)
    if found is None or (found[2] and found[1] not in _WITH_KERNEL) or (name.startswith(_DEPTH) and name != _DEPTH):
        raise InputError(
            "trace",
            expected="probes like r2, nhsic@median or nhsic@100/drop4",
            received=repr(name),
            remedy="NAME, then @SIGMA for nhsic and cka, then /dropK.",
        )
    return found[1], {"sigma": sigma_of("trace", found[2])} if found[2] else {}, int(found[3] or 0)
