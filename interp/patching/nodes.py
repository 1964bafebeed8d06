"""What is patched: a head's z, what an MLP adds, the residual stream before a block, the embedding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from interp.arguments import as_list
from interp.errors import InputError
from interp.sites import Site

__all__ = ["NODE_KINDS", "Node", "depth_of", "nodes_of"]

NODE_KINDS = ("embed", "head", "mlp", "resid_pre")
# Where in a block something stands: heads write between resid_pre and resid_mid, the MLP between that and resid_post.
_STAGES = {"embed": 0, "resid_pre": 0, "head": 1, "resid_mid": 2, "mlp": 3, "resid_post": 4}


@dataclass(frozen=True)
class Node:
    """One node, at whatever position: ``kind`` is one of `NODE_KINDS`, and heads alone have a ``head``.

    >>> [node.label for node in (Node("embed"), Node("head", 3, 2), Node("mlp", 3), Node("resid_pre", 3))]
    ['embed', 'L3H2', 'L3 MLP', 'L3 resid_pre']
    """

    kind: str
    layer: int = 0
    head: int | None = None

    @property
    def label(self) -> str:
        """Its name in tables, as circuits have it."""
        if self.kind == "head":
            return f"L{self.layer}H{self.head}"
        return {"embed": "embed", "mlp": f"L{self.layer} MLP"}.get(self.kind, f"L{self.layer} {self.kind}")

    @property
    def hook_name(self) -> str:
        """The hook point that holds its value: ``[row, pos, head, d_head]`` for heads, else ``[row, pos, d_model]``.

        An MLP's is what it adds to the stream, after the norm that some families put behind it.
        """
        return f"blocks.{self.layer}." + {"head": "attn.hook_z", "mlp": "hook_mlp_out"}.get(self.kind, "hook_in")

    @property
    def depth(self) -> tuple[int, int]:
        """Where it stands in the forward pass."""
        return self.layer, _STAGES[self.kind]


def depth_of(site: Site | None, n_layers: int) -> tuple[int, int]:
    """Where what is measured stands in the forward pass; without a site the logits, after everything.

    >>> depth_of(Site("resid_post", 1), 4) < Node("head", 2, 0).depth < depth_of(None, 4)
    True
    """
    if site is None or site.name == "ln_final":
        return n_layers, 0
    return site.layer, _STAGES[site.name]


def nodes_of(kinds: str | Iterable[str], layers: Iterable[int], n_heads: int, operation: str) -> list[Node]:
    """The nodes of these kinds and layers, in the order of the forward pass; the embedding is there once.

    >>> [node.label for node in nodes_of(["head", "mlp"], [1], 2, "patch")]
    ['L1H0', 'L1H1', 'L1 MLP']
    """
    wanted = as_list(kinds, operation, "kinds", "kinds of nodes")
    if not wanted or not set(wanted) <= set(NODE_KINDS):
        raise InputError(
            operation,
            expected=f"kinds among {', '.join(NODE_KINDS)}",
            received=repr(wanted)[:80],
            remedy='Write kinds=("head", "mlp").',
        )
    found = [Node("embed")] if "embed" in wanted else []
    for layer in layers:
        found += [Node("resid_pre", layer)] if "resid_pre" in wanted else []
        found += [Node("head", layer, head) for head in range(n_heads)] if "head" in wanted else []
        found += [Node("mlp", layer)] if "mlp" in wanted else []
    return found
