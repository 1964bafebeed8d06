"""Where in a model a residual stream is read or written.

A *site* is one of four places, named as TransformerLens names them, at one layer:

- ``resid_pre``   the input of block ``layer``          (``blocks.{layer}.hook_in``)
- ``resid_mid``   the input of the norm before the MLP  (``blocks.{layer}.hook_resid_mid``)
- ``resid_post``  the output of block ``layer``         (``blocks.{layer}.hook_out``)
- ``ln_final``    the output of the final norm, weight included; it has no layer (``ln_final.hook_out``)

Glossary of axis names used in every annotation: ``batch`` or ``row`` (responses being decoded together), ``pos`` (token
position), ``layer``, ``step`` (response token), ``d_model``, ``d_vocab``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from interp.arguments import Judged, Wholes, as_whole, as_wholes
from interp.errors import InputError

__all__ = ["SITE_NAMES", "Site", "expand_sites", "resolve_layers"]

SITE_NAMES = ("resid_pre", "resid_mid", "resid_post", "ln_final")


@dataclass(frozen=True, order=True)
class Site:
    """One place of the residual stream.

    >>> Site("resid_post", 3).hook_name
    'blocks.3.hook_out'
    >>> Site("ln_final").hook_name
    'ln_final.hook_out'
    """

    name: Judged[str]
    layer: Judged[int] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", as_whole(self.layer, "choose a site", "a layer"))
        if self.name not in SITE_NAMES:
            raise InputError(
                "choose a site",
                expected=f"one of {', '.join(SITE_NAMES)}",
                received=repr(self.name),
                remedy="Use TransformerLens's names of the residual stream.",
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
        if self.name == "ln_final":
            return "ln_final.hook_out"
        suffix = {"resid_pre": "hook_in", "resid_mid": "hook_resid_mid", "resid_post": "hook_out"}[self.name]
        return f"blocks.{self.layer}.{suffix}"

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
