"""Where in a model something is read or written: the residual stream, and what is within a block.

A *site* is a place at one layer, named as TransformerLens names it. The residual stream, ``[d_model]`` a position:

- ``resid_pre``   the input of block ``layer``          (``blocks.{layer}.hook_in``)
- ``resid_mid``   the input of the norm before the MLP  (``blocks.{layer}.hook_resid_mid``)
- ``resid_post``  the output of block ``layer``         (``blocks.{layer}.hook_out``)
- ``ln_final``    the output of the final norm, weight included; it has no layer (``ln_final.hook_out``)

What a block adds to it, ``[d_model]`` a position (``blocks.{layer}.hook_attn_out``, ``hook_mlp_out``):

- ``attn_out``    what attention adds, bias included; in families that normalise or scale it before the sum (Gemma, OLMo
                  2, Granite) what comes out of that, so that ``resid_mid = resid_pre + attn_out`` in all of them
- ``mlp_out``     what the MLP adds, likewise

Heads, ``[head, d_head]`` a position (``blocks.{layer}.attn.hook_q``, ``hook_k``, ``hook_v``, ``hook_z``):

- ``q``, ``k``, ``v``  what the projections give, biases included, *before* the norms of q and k that some families have
                  and before rotary embeddings (TransformerLens's ``hook_rot_q`` and ``hook_rot_k`` come after both);
                  k and v have as many heads as the model has key/value heads, each shared by a group of query heads
- ``z``           each head's mix of values as the output projection reads it (behind the gate or norm that a few
                  families have between): attention then gives ``z W_O + b_O``, of the z that was put there

And ``attn_scores``, ``[row, head, query, key]`` of a pass, masked and scaled, before the softmax
(``blocks.{layer}.attn.hook_attn_scores``): it can be edited, not recorded.

None of these needs one of TransformerLens's switches. Those that do (``hook_result``, ``hook_q_input``,
``hook_k_input``, ``hook_v_input``, ``hook_attn_in``, ``hook_mlp_in``) are no sites.

Glossary of axis names used in every annotation: ``batch`` or ``row`` (responses being decoded together), ``pos`` (token
position), ``layer``, ``step`` (response token), ``head``, ``d_model``, ``d_head``, ``d_vocab``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from interp.arguments import Judged, Wholes, as_whole, as_wholes
from interp.errors import InputError

__all__ = [
    "HEAD_SITES", "RECORDED_SITES", "SITE_NAMES", "WRITE_SITES", "Site", "expand_sites", "resolve_layers",
]  # fmt: skip

SITE_NAMES = ("resid_pre", "resid_mid", "resid_post", "ln_final")
"""The residual stream."""
WRITE_SITES = ("attn_out", "mlp_out")
"""What a block adds to it."""
HEAD_SITES = ("q", "k", "v", "z")
"""What each head has of its own."""
RECORDED_SITES = (*SITE_NAMES, *WRITE_SITES, *HEAD_SITES)
_EDITED_SITES = (*RECORDED_SITES, "attn_scores")
_HOOKS = {
    "resid_pre": "hook_in",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_out",
    **{name: f"hook_{name}" for name in WRITE_SITES},
    **{name: f"attn.hook_{name}" for name in (*HEAD_SITES, "attn_scores")},
}


@dataclass(frozen=True, order=True)
class Site:
    """One place.

    >>> Site("resid_post", 3).hook_name
    'blocks.3.hook_out'
    >>> Site("z", 3).hook_name
    'blocks.3.attn.hook_z'
    >>> Site("ln_final").hook_name
    'ln_final.hook_out'
    """

    name: Judged[str]
    layer: Judged[int] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", as_whole(self.layer, "choose a site", "a layer"))
        if self.name not in _EDITED_SITES:
            raise InputError(
                "choose a site",
                expected=f"one of {', '.join(_EDITED_SITES)}",
                received=repr(self.name),
                remedy="Use TransformerLens's names, without hook_.",
            )
        if self.name == "ln_final" and self.layer != 0:
            raise InputError(
                "choose a site",
                expected="layer 0 for ln_final, of which a model has one",
                received=f"layer {self.layer}",
                remedy='Write Site("ln_final").',
            )

    @property
    def hook_name(self) -> str:
        """The TransformerLens hook point at which the site's value can be read."""
        return "ln_final.hook_out" if self.name == "ln_final" else f"blocks.{self.layer}.{_HOOKS[self.name]}"

    def check(self, n_layers: int, operation: str) -> None:
        """Refuse a layer the model does not have."""
        if not 0 <= self.layer < n_layers:
            raise InputError(
                operation,
                expected=f"a layer from 0 to {n_layers - 1}",
                received=f"layer {self.layer} for {self.name}",
                remedy="Count layers from 0; negative numbers are resolved only by resolve_layers.",
            )


def resolve_layers(layers: str | Wholes, n_layers: int, operation: str = "choose layers") -> tuple[int, ...]:
    """Layer numbers from ``"all"``, a number or several; negative ones count from the end.

    >>> resolve_layers([0, -1], n_layers=4)
    (0, 3)
    """
    if isinstance(layers, str):
        if layers != "all":
            raise InputError(
                operation, expected='"all" or layer numbers', received=repr(layers), remedy="Pass layers=[0, 1, ...]."
            )
        return tuple(range(n_layers))
    wanted = as_wholes(layers, operation, "layers")
    resolved = [layer + n_layers if layer < 0 else layer for layer in wanted]
    if not resolved or any(not 0 <= layer < n_layers for layer in resolved):
        raise InputError(
            operation,
            expected=f"layers from 0 to {n_layers - 1} (or -{n_layers} to -1)",
            received=str(wanted),
            remedy=f"The model has {n_layers} layers.",
        )
    return tuple(sorted(set(resolved)))


def expand_sites(names: Iterable[str], layers: tuple[int, ...]) -> dict[str, list[Site]]:
    """The sites of each name, in layer order.

    >>> expand_sites(["resid_pre", "ln_final"], (0, 1))["resid_pre"]
    [Site(name='resid_pre', layer=0), Site(name='resid_pre', layer=1)]
    """
    return {name: [Site(name)] if name == "ln_final" else [Site(name, layer) for layer in layers] for name in names}
