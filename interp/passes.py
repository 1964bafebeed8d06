"""A pass of several texts through a model: how many at a time, whether they fit, side by side, and who edits what.

Texts are padded on the left to one width, so that all of them write the same column at a time (see
:mod:`interp.engines.cache`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import Whole, as_whole
from interp.engines.base import Edit, Engine, ModelFacts
from interp.engines.cache import RowCache
from interp.errors import InputError
from interp.foreign import decode_text
from interp.protocol import Intervention, code_of
from interp.record import ResidualSites, Tape
from interp.rows import Positions, Row
from interp.sites import Site, expand_sites, resolve_layers

__all__ = [
    "DEFAULT_BATCH", "Passes", "as_batch_size", "asked_sites", "check_context", "edited_sites", "made_with", "padded",
    "prompt_end",
]  # fmt: skip

DEFAULT_BATCH = 16


def as_batch_size(batch_size: Whole | None, operation: str) -> int:
    """Rows at a time, the usual number unless given."""
    return DEFAULT_BATCH if batch_size is None else as_whole(batch_size, operation, "batch_size", 1)


def check_context(ids: list[list[int]], new_tokens: int, facts: ModelFacts, operation: str = "decode") -> None:
    """Refuse texts that, with ``new_tokens`` more, do not fit the positions the model was made for."""
    longest = max((len(text) for text in ids), default=0)
    if facts.n_ctx is not None and longest + new_tokens > facts.n_ctx:
        raise InputError(
            operation,
            expected=f"at most {facts.n_ctx} positions (the context of {facts.name})",
            received=f"a text of {longest} tokens and up to {new_tokens} new ones",
            remedy="Lower max_new_tokens, shorten the text, or load the model with n_ctx=... .",
        )


def padded(texts: Sequence[list[int]], device: torch.device) -> tuple[list[int], Int[Tensor, "row pos"]]:
    """How many columns stand empty at the left of each text, and all of them at one width.

    >>> padded([[5, 6, 7], [8]], torch.device("cpu"))
    ([0, 2], tensor([[5, 6, 7],
            [0, 0, 8]]))
    """
    width = max(map(len, texts))
    pad = [width - len(text) for text in texts]
    return pad, torch.tensor([[0] * p + text for p, text in zip(pad, texts, strict=True)], device=device)


def edited_sites(interventions: Sequence[Intervention]) -> list[Site]:
    """Sites at which the stream may be replaced between a block's output and the next one's input."""
    injected = [Site("resid_pre", layer) for i in interventions for layer in i.injects]
    return [*injected, *(site for i in interventions for site in i.edits)]


def asked_sites(record: ResidualSites | None, interventions: Sequence[Intervention], facts: ModelFacts) -> list[Site]:
    """All sites that will be read or edited: what an engine must have."""
    found = [site for one in interventions for site in (*one.reads, *one.edits)]
    if record is not None:
        layers = resolve_layers(record.layers, facts.n_layers, "record residuals")
        found += [site for sites in expand_sites(record.sites, layers).values() for site in sites]
    return found


class Passes:
    """Tells tape and interventions which rows the pass now running is over."""

    def __init__(self, tape: Tape, rows: Sequence[Row] = (), cache: RowCache | None = None) -> None:
        self.tape, self.rows, self._cache = tape, list(rows), cache
        self._scratch = self._rerun = False

    @property
    def cache(self) -> RowCache:
        """The one that the pass stores into."""
        assert self._cache is not None  # nothing runs without
        return self._cache

    @cache.setter
    def cache(self, cache: RowCache) -> None:
        self._cache = cache

    def forget(self) -> None:
        """All rows have left: let go of what was kept of them."""
        self._cache = None

    @contextmanager
    def over(
        self,
        rows: list[Row],
        index: Int[Tensor, " rerun"] | None,
        scratch: bool = False,
        rerun: bool = False,
        cache: RowCache | None = None,
    ) -> Iterator[None]:
        """Passes inside are over these rows, which are ``index`` of the batch, or scratch."""
        before = self.rows, self._cache, self._scratch, self._rerun
        self.rows, self._cache = rows, self._cache if cache is None else cache
        self._scratch, self._rerun = scratch, rerun
        try:
            with self.tape.only(index):
                yield
        finally:
            self.rows, self._cache, self._scratch, self._rerun = before

    def _begin(self) -> list[int]:
        """Where in its own text each row's first column stands."""
        if self._rerun:
            return [len(row.prompt_ids) + len(row.token_ids) - 1 for row in self.rows]
        return [self.cache.length - pad for pad in self.cache.pad_columns]

    def edits(self, interventions: Sequence[Intervention]) -> dict[Site, Edit]:
        """What an engine calls at each site that some of these edit, in their order."""
        sites = dict.fromkeys(site for i in interventions for site in i.edits)
        return {site: self._edit(site, [i for i in interventions if site in i.edits]) for site in sites}

    def _edit(self, site: Site, interventions: list[Intervention]) -> Edit:
        # Attention scores are [row, head, query, key], all else [row, pos, ...].
        axis = 2 if site.name == "attn_scores" else 1

        def edit(residual: Float[Tensor, "row ..."]) -> Tensor | None:
            count = residual.shape[axis]
            pos = self.cache.positions(count).masked_fill(~self.cache.real(count), -1)
            at = Positions(self.rows, pos.to(residual.device), self._scratch, self._rerun, self._begin())
            current, changed = residual, False
            for intervention in interventions:
                new = intervention.edit_residual(site, current, at)
                if new is not None:
                    current, changed = new.to(residual), True
            return current if changed else None

        return edit


def made_with(engine: Engine, interventions: Sequence[Intervention]) -> dict[str, Any]:
    """What made a rollout: the model, and the interventions as they were then."""
    return {
        "model": engine.facts.name,
        "d_model": engine.facts.d_model,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "engine": engine.told,
        "interventions": [intervention.describe() for intervention in interventions],
        "intervention_code": [code_of(intervention) for intervention in interventions],
        "versions": dict(_versions(engine.facts.libraries)),
    }


@cache
def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("peaklens", *libraries)}


def prompt_end(tokenizer: Any, prompt: Sequence[int]) -> dict[str, str]:
    """The end of a prompt as text, for the settings of a rollout; nothing without a tokenizer."""
    return {} if tokenizer is None else {"prompt_end": decode_text(tokenizer, list(prompt[-16:]))}
