"""The one seam between decoding and a model: run some columns, run a position again, read and edit sites meanwhile.

Everything above (the loop, reading, recording, interventions) speaks to an :class:`Engine` and asks its
:class:`ModelFacts`, never the model; which engine runs a model is for :mod:`interp.engines.registry` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engines.anatomy import Anatomy
from interp.engines.cache import RowCache
from interp.engines.hooked import modules_of
from interp.errors import InputError
from interp.sites import HEAD_SITES, RECORDED_SITES, Site

__all__ = ["Edit", "Engine", "ModelFacts", "Read", "end_ids", "evaluating"]

Read = Callable[[Tensor], None]
Edit = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class ModelFacts:
    """What the loop and interventions may ask of a model, before the first token and later.

    >>> ModelFacts("tiny", n_layers=2, d_model=8, d_vocab=10, n_ctx=64).check_token_ids([3], "force tokens")

    Attributes:
        n_ctx: positions at most; ``None`` for no limit.
        n_heads: of each layer's attention; ``None`` where a model has none.
        n_key_value_heads: how many of them have keys and values of their own.
        d_head: numbers that a head has at a position.
        eos: ids that end a response, by the model's own account.
        caps_logits: whether the logits are more than the unembedding's output.
        libraries: the packages whose versions say what computed the numbers.
        generator: the Hugging Face model whose ``generation_config`` says how it decodes of itself, if it has one.
    """

    name: str
    n_layers: int
    d_model: int
    d_vocab: int
    n_ctx: int | None
    eos: frozenset[int] = frozenset()
    caps_logits: bool = False
    libraries: tuple[str, ...] = ()
    n_heads: int | None = None
    n_key_value_heads: int | None = None
    d_head: int | None = None
    tokenizer: Any = field(default=None, repr=False, compare=False)
    generator: Any = field(default=None, repr=False, compare=False)

    def check_token_ids(self, ids: Sequence[int], operation: str) -> None:
        """Refuse ids the embedding has no row for."""
        outside = [i for i in ids if not 0 <= i < self.d_vocab]
        if outside:
            raise InputError(
                operation,
                expected=f"token ids from 0 to {self.d_vocab - 1} (the vocabulary of {self.name})",
                received=f"{outside[:5]}{' and more' if len(outside) > 5 else ''}",
                remedy="Encode the text with this model's own tokenizer.",
            )

    def shape(self, site: Site, operation: str = "record") -> tuple[int, ...]:
        """What a site holds at one position.

        >>> facts = ModelFacts("tiny", 2, 8, 10, 64, n_heads=4, n_key_value_heads=2, d_head=2)
        >>> facts.shape(Site("resid_post", 1)), facts.shape(Site("z", 1)), facts.shape(Site("k", 1))
        ((8,), (4, 2), (2, 2))
        """
        if site.name not in RECORDED_SITES:
            raise InputError(
                operation,
                expected=f"a site that has a value at each position: {', '.join(RECORDED_SITES)}",
                received=site.name,
                remedy="Attention scores can be edited, not recorded.",
            )
        if site.name not in HEAD_SITES:
            return (self.d_model,)
        heads = self.n_key_value_heads if site.name in ("k", "v") else self.n_heads
        if heads is None or self.d_head is None:
            raise InputError(
                operation,
                expected="a model of attention heads",
                received=f"{self.name}, whose configuration tells none",
                remedy="Use attn_out, or the residual stream.",
            )
        return (heads, self.d_head)

    def check_head(self, site: Site, head: int, operation: str) -> int:
        """A head of a site as counted from 0, negative ones from the end; refused if the layer has no such head."""
        site.check(self.n_layers, operation)
        count = self.shape(site, operation)[0]
        if not -count <= head < count:
            raise InputError(
                operation,
                expected=f"a head from 0 to {count - 1} (or -{count} to -1), of {site.name} of layer {site.layer}",
                received=f"head {head}",
                remedy=f"{self.name} has {self.n_heads} heads a layer, of which {self.n_key_value_heads} have keys and "
                "values of their own.",
            )
        return head + count if head < 0 else head


@runtime_checkable
class Engine(Protocol):
    """Runs columns of left-padded rows through a model."""

    name: ClassVar[str]
    facts: ModelFacts
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def serves(cls, model: Any) -> bool:
        """Whether this kind of engine runs such a model."""
        ...

    @classmethod
    def facts_of(cls, model: Any) -> ModelFacts:
        """The facts of a model that it serves, without setting anything up."""
        ...

    @classmethod
    def doubt(cls, model: Any, sites: Iterable[Site], modules: bool) -> str | None:
        """Why it may not run a model that it serves as the model is now, with all that a user did to it.

        ``sites`` will be read or edited; with ``modules`` the caller works on TransformerLens's own modules too.
        """
        ...

    def __init__(self, model: Any) -> None: ...

    @property
    def told(self) -> str:
        """What the settings of a rollout say that ran it."""
        ...

    @property
    def holds_scores(self) -> bool:
        """Whether a pass holds a layer's attention scores, of all its columns with all before them."""
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """Context in which the model computes as for use, without dropout."""
        ...

    def new_cache(self, pad: Sequence[int], capacity: int) -> RowCache:
        """An empty cache for ``len(pad)`` rows."""
        ...

    def cache_bytes(self, rows: int, columns: int) -> int:
        """Bytes of keys and values."""
        ...

    def forward(self, ids: Int[Tensor, "row pos"], cache: RowCache, keep: int = 1) -> Float[Tensor, "row keep d_vocab"]:
        """Add columns to the cache; the logits of the last ``keep`` of them."""
        ...

    def recompute(
        self,
        rows: Int[Tensor, " rerun"],
        ids: Int[Tensor, "rerun 1"],
        inject: int,
        residual: Float[Tensor, "rerun d_model"],
        cache: RowCache,
    ) -> Float[Tensor, "rerun d_vocab"]:
        """Run the last column of ``rows`` again from block ``inject``, whose input is ``residual``."""
        ...

    def tapped(self, reads: Mapping[Site, Read], edits: Mapping[Site, Edit]) -> Any:
        """Context in which every pass shows what is at these sites, edits first, then reads.

        ``[row, pos, *shape]`` with ``facts.shape(site)``; attention scores ``[row, head, query, key]``.
        """
        ...

    def anatomy(self) -> Anatomy:
        """Where its parts write into the residual stream, and their weights."""
        ...

    def shared_boundary(self, layer: int) -> bool:
        """Whether nothing a user attached can come between block ``layer - 1``'s output and block ``layer``'s input."""
        ...


def end_ids(ids: Any) -> frozenset[int]:
    """Ids that end a response, as configurations give them: none, one or several.

    >>> end_ids(None), sorted(end_ids([2, 7]))
    (frozenset(), [2, 7])
    """
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else (int(i) for i in ids))


@contextmanager
def evaluating(*roots: torch.nn.Module) -> Iterator[None]:
    """Dropout off meanwhile.

    A model has thousands of modules; only those in training mode are touched.
    """
    training = [module for module in modules_of(*roots) if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
