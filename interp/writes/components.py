"""The writers of a residual stream, and what they wrote at some places.

``h[l] = e + sum over components c at layers <= l of w_c``: the embedding, then of each block its heads (``z_h W_O,h``),
the bias of its attention, its MLP. In a parallel block (GPT-J, NeoX) heads and MLP read the same input, and still add.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from interp.engines.anatomy import FinalNorm
from interp.errors import InputError

__all__ = ["KINDS", "READ_KINDS", "Component", "Writes"]

KINDS = ("embed", "pos_embed", "head", "attn_bias", "mlp")
"""Who writes into the stream."""

READ_KINDS = ("norm_bias", "unembed_bias", "logit_cap")
"""What has a share in a logit beside them."""


@dataclass(frozen=True)
class Component:
    """One writer: ``kind`` is one of `KINDS`; embeddings have layer -1, and heads alone have a ``head``.

    >>> [Component(*c).label for c in (("embed",), ("head", 3, 2), ("attn_bias", 3), ("mlp", 3), ("norm_bias",))]
    ['embed', 'L3H2', 'L3 b_O', 'L3 MLP', 'norm bias']

    In the shares of a logit, one of `READ_KINDS`, whose layer is -1 too.
    """

    kind: str
    layer: int = -1
    head: int | None = None

    def __post_init__(self) -> None:
        layered = self.kind in ("head", "attn_bias", "mlp")
        known = self.kind in KINDS + READ_KINDS
        if not known or layered != (self.layer >= 0) or (self.kind == "head") != (self.head is not None):
            raise InputError(
                "name a component",
                expected=f"a kind among {', '.join(KINDS + READ_KINDS)}; a layer for heads, attention biases and MLPs "
                "alone, a head for heads alone",
                received=repr((self.kind, self.layer, self.head)),
                remedy='Write Component("head", 3, 2), Component("mlp", 3) or Component("embed").',
            )

    @property
    def label(self) -> str:
        """As it stands in tables and figures."""
        if self.kind == "head":
            return f"L{self.layer}H{self.head}"
        if self.kind in READ_KINDS:
            return self.kind.replace("_", " ")
        return {"attn_bias": f"L{self.layer} b_O", "mlp": f"L{self.layer} MLP"}.get(self.kind, self.kind)

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True, eq=False)
class Writes:
    """What each component wrote into the stream of one response, at some places.

    A *place* is a group of steps, and all that is told of it is the mean over them; of a single step, that step. Writes
    add, so at each place ``values`` of the components up to a layer sum to ``stream`` of that layer.

    Attributes:
        components: in the order of the stream; with `upto`, those that had written by then.
        places: the steps of each place.
        values: ``[component, place, d_model]``, float32 (float64 for a model in float64).
        embedded: the input of the first block.
        stream: the output of each block.
        token_ids: of the response; step t predicts ``token_ids[t]``.
        norm: the norm before the unembedding.
        last_stream, last_logits: at the last step of the response, to check a `Readout` by.
        error: how far the sums are from the streams at most, relative to the stream's norm.
    """

    components: tuple[Component, ...]
    places: tuple[tuple[int, ...], ...]
    values: Float[Tensor, "component place d_model"]
    embedded: Float[Tensor, "place d_model"]
    stream: Float[Tensor, "layer place d_model"]
    token_ids: Int[Tensor, " step"]
    norm: FinalNorm
    last_stream: Float[Tensor, " d_model"]
    last_logits: Float[Tensor, " d_vocab"]
    error: float

    @property
    def scale(self) -> Float[Tensor, " place"]:
        """What the final norm divides the last stream by at each place (of a group: the mean stream)."""
        return self.norm.scale(self.stream[-1])

    def upto(self, layer: int) -> Writes:
        """Of the components that had written when block ``layer`` was done; their sum is ``stream[layer]``.

        Shares its memory. ``upto(-1)`` is the embedding alone, so layers do not count from the end here.

        Raises:
            InputError: a layer the model does not have.
        """
        if not -1 <= layer < len(self.stream):
            raise InputError(
                "choose writes",
                expected=f"a layer from 0 to {len(self.stream) - 1}, or -1 for the embedding",
                received=str(layer),
                remedy="Count layers from 0.",
            )
        count = sum(component.layer <= layer for component in self.components)
        return Writes(
            self.components[:count], self.places, self.values[:count], self.embedded, self.stream[: layer + 1],
            self.token_ids, self.norm, self.last_stream, self.last_logits, self.error,
        )  # fmt: skip

    def __getitem__(self, component: Component) -> Float[Tensor, "place d_model"]:
        """What one component wrote."""
        if component not in self.components:
            raise InputError(
                "choose writes",
                expected=f"one of {len(self.components)} components, {self.components[0]} to {self.components[-1]}",
                received=str(component),
                remedy="See writes.components.",
            )
        return self.values[self.components.index(component)]

    def __iter__(self) -> Iterator[tuple[Component, Float[Tensor, "place d_model"]]]:
        return zip(self.components, self.values, strict=True)

    def __len__(self) -> int:
        return len(self.components)
