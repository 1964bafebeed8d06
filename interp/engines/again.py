"""A position run again from a block on: the blocks below are stepped over, and that block's input is replaced.

The rest is Hugging Face's own forward. So masks, rotary embeddings, soft-capping and whatever else a family does around
its blocks are its own code, at the cost of one embedding look-up beside the recomputed blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Blocks"]


class Blocks:
    """The blocks of a model, of which some are stepped over."""

    def __init__(self, blocks: Sequence[torch.nn.Module]) -> None:
        self.blocks = blocks
        # Whether this family's blocks return a tensor or a tuple, which a stepped-over block must imitate.
        self._give_tuples: bool | None = None

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Context of a whole pass; the first one shows what blocks return."""
        if self._give_tuples is not None:
            yield
            return

        def watch(_module: torch.nn.Module, _args: Any, output: Any) -> None:
            self._give_tuples = isinstance(output, tuple)

        handle = self.blocks[0].register_forward_hook(watch)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def from_block(self, inject: int, residual: Float[Tensor, "rerun 1 d_model"]) -> Iterator[None]:
        """Inside, a pass begins at block ``inject``, with ``residual``."""

        def step_over(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            return (hidden_states,) if self._give_tuples else hidden_states

        def replace_input(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args and isinstance(args[0], Tensor):
                return (residual.to(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": residual.to(kwargs["hidden_states"])}

        below = [self.blocks[layer] for layer in range(inject)]
        # First of all: a user's own hook acts on the new input as it does on any other.
        handle = self.blocks[inject].register_forward_pre_hook(replace_input, prepend=True, with_kwargs=True)
        try:
            for block in below:
                # What a module's call comes to: the block does not run, so that nobody's hooks on it fire either.
                block.__dict__["_call_impl"] = step_over
            yield
        finally:
            for block in below:
                block.__dict__.pop("_call_impl", None)
            handle.remove()
