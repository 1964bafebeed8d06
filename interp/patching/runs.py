"""A text through the model, once to read what is at some hook points, or many times with other values put there.

Runs with other values are rows of one batch. What comes before the first position that any of them changes is computed
once and its keys and values copied, and each batch has a row that nothing is changed in: effects are differences
within a batch, so that what a batch's shape does to the last digits cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from interp.engines.registry import engine_for
from interp.errors import InputError
from interp.patching.asked import Asked
from interp.record import check_memory
from interp.types import Bridge

__all__ = ["Put", "Run", "Seen", "Swap"]


@dataclass(frozen=True)
class Seen:
    """A value to read: of a hook point at a position, of one head where it has heads."""

    hook: str
    position: int
    head: int | None = None


@dataclass(frozen=True)
class Put:
    """A value to put at a hook point and position, of one head where it has heads."""

    hook: str
    position: int
    value: Tensor
    head: int | None = None


@dataclass(frozen=True)
class Swap:
    """Values to put at a hook point at many places at once.

    Attributes:
        positions: places in the text.
        where: which of them are set, head by head where the hook point has heads.
        values: what is put there.
    """

    hook: str
    positions: Int64[Tensor, " place"]
    where: Bool[Tensor, "place *head"]
    values: Float[Tensor, "place *head width"]


class Run:
    """A text to be run through a model, and what is measured of it.

    Args:
        ids: all that is read, what follows the step included.
        position: at which a residual stream is measured.
    """

    def __init__(
        self, model: Bridge, ids: Sequence[int], position: int, asked: Asked, operation: str, batch_size: int = 16
    ) -> None:
        self.model, self.engine = model, engine_for(model, modules=True)
        self.ids, self.position, self.asked, self.operation = list(ids), position, asked, operation
        self.batch_size = batch_size
        self.tokens = torch.tensor([self.ids], device=self.engine.device)
        self._begun: Any = None
        check_memory(operation, self.engine, batch_size + 2, len(self.ids), "Lower batch_size.")

    @torch.no_grad()
    def values(self, hooks: Iterable[str], positions: Sequence[int]) -> tuple[float, dict[str, Tensor]]:
        """The metric, and what is at some hook points ``[position, ...]``, of one pass as the text is."""
        found: dict[str, Tensor] = {}
        index = torch.tensor(list(positions), device=self.engine.device)

        def reader(name: str) -> Callable[..., None]:
            def read(value: Tensor, hook: Any) -> None:
                if name.endswith("attn.hook_z"):
                    self._check_heads(value)
                found[name] = value[0].index_select(0, index.to(value.device)).clone()

            return read

        names = dict.fromkeys(hooks)
        with self.engine.evaluating(), self.model.hooks(fwd_hooks=[(name, reader(name)) for name in names]):
            value = self._measured(self.engine.new_cache([0], len(self.ids)), 0, 1)
        missing = [name for name in names if name not in found]
        if missing:
            raise InputError(
                self.operation,
                expected=f"a model whose blocks show {', '.join(name.split('.', 2)[-1] for name in missing)}",
                received=f"{self.engine.facts.name}, whose do not",
                remedy="Choose other kinds of nodes.",
            )
        return float(self.finite(value)), found

    @torch.no_grad()
    def effects(self, patches: Sequence[Sequence[Put]]) -> Float64[Tensor, " patch"]:
        """The metric with the values of each patch put in, less the metric without."""
        changes = torch.zeros(len(patches), dtype=torch.float64)
        for batch, start, fork in self._batches(patches):
            with self.model.hooks(fwd_hooks=_puts([patches[n] for n in batch], start)):
                values = self._measured(fork, start, len(batch) + 1)
            self.finite(values)
            changes[batch] = (values[1:] - values[0]).cpu().double()
        return changes

    @torch.no_grad()
    def swapped(self, swaps: Iterable[Swap], start: int = 0) -> float:
        """The metric of one run with other values at many places, none of them before position ``start``.

        What comes before that is computed once and kept for the next call with the same ``start``.
        """
        with self.engine.evaluating():
            if self._begun is None or self._begun.length != start:
                self._begun = self.engine.new_cache([0], len(self.ids))
                if start:
                    self.engine.forward(self.tokens[:, :start], self._begun)
            fork = self._begun.fork([0], extra=len(self.ids) - start)
            with self.model.hooks(fwd_hooks=[(swap.hook, _swapping(swap, start)) for swap in swaps]):
                return float(self.finite(self._measured(fork, start, 1)))

    @torch.no_grad()
    def seen(self, patches: Sequence[Sequence[Put]], wanted: Sequence[Seen]) -> list[Tensor]:
        """One value of each run: what is at a place with the values of its patch put in."""
        found: dict[int, Tensor] = {}
        for batch, start, fork in self._batches(patches):
            end = max(wanted[n].position for n in batch) + 1
            by_hook: dict[str, list[int]] = {}
            for row, n in enumerate(batch):
                by_hook.setdefault(wanted[n].hook, []).append(row)

            def reader(rows: list[int], batch: list[int] = batch, start: int = start) -> Callable[..., None]:
                def read(value: Tensor, hook: Any) -> None:
                    for row in rows:
                        place = wanted[batch[row]]
                        at = value[row + 1, place.position - start]
                        found[batch[row]] = (at if place.head is None else at[place.head]).clone()

                return read

            reads = [(name, reader(rows)) for name, rows in by_hook.items()]
            with self.model.hooks(fwd_hooks=_puts([patches[n] for n in batch], start) + reads):
                self.engine.forward(self.tokens[:, start:end].expand(len(batch) + 1, -1), fork)
        return [found[n] for n in range(len(patches))]

    def _batches(self, patches: Sequence[Sequence[Put]]) -> Iterator[tuple[list[int], int, Any]]:
        """Patches that begin at like places together, where their runs begin, and a cache of what comes before."""
        begins = [min(put.position for put in puts) for puts in patches]
        order = sorted(range(len(patches)), key=begins.__getitem__)
        base = self.engine.new_cache([0], len(self.ids))
        with self.engine.evaluating():
            for first in range(0, len(order), self.batch_size):
                batch = order[first : first + self.batch_size]
                start = begins[batch[0]]
                if start > base.length:
                    self.engine.forward(self.tokens[:, base.length : start], base)
                yield batch, start, base.fork([0] * (len(batch) + 1), extra=len(self.ids) - start)

    def _measured(self, cache: Any, start: int, rows: int) -> Float[Tensor, " row"]:
        """The metric of each row, all of whose columns from ``start`` on are run."""
        streams: list[Tensor] = []
        with self._watching(streams, self.position - start):
            logits = self.engine.forward(self.tokens[:, start:].expand(rows, -1), cache, self.asked.keep)
        return self.asked.measure(logits, streams[0] if streams else None)

    @contextmanager
    def _watching(self, streams: list[Tensor], column: int) -> Iterator[None]:
        site = self.asked.site
        with ExitStack() as stack:
            if site is not None:
                reads = {site: lambda stream: streams.append(stream[:, column])}
                stack.enter_context(self.engine.tapped(reads, {}))
            yield

    def measured(self) -> Float[Tensor, ""]:
        """The metric of one pass as the text is, with whatever hooks are on; autograd can go back from it."""
        return self._measured(self.engine.new_cache([0], len(self.ids)), 0, 1)[0]

    def _check_heads(self, z: Tensor) -> None:
        """Refuse attention whose z TransformerLens cuts into something else than its heads (latent attention)."""
        count = int(self.model.cfg.n_heads)
        if z.ndim != 4 or z.shape[2] != count:
            raise InputError(
                self.operation,
                expected=f"{count} heads that can be told apart in what attention's output projection reads",
                received=f"{self.engine.facts.name}, whose z is {list(z.shape[2:])}",
                remedy="Patch MLPs and residual streams.",
            )

    def finite(self, values: Tensor) -> Tensor:
        """Values as they are; refused if one is NaN or infinite."""
        if not values.isfinite().all():
            raise InputError(
                self.operation,
                expected="a metric that is finite",
                received=f"{int((~values.isfinite()).sum())} of {values.numel()} values that are not",
                remedy="Check the metric, the model's weights and the values that are put in.",
            )
        return values


def _puts(patches: Sequence[Sequence[Put]], start: int) -> list[tuple[str, Callable[..., Tensor]]]:
    """Hooks that put the values of each patch into a row of its own; row 0 stays as it is."""
    by_hook: dict[str, list[tuple[int, Put]]] = {}
    for row, puts in enumerate(patches, start=1):
        for put in puts:
            by_hook.setdefault(put.hook, []).append((row, put))

    def writer(entries: list[tuple[int, Put]]) -> Callable[..., Tensor]:
        def write(value: Tensor, hook: Any) -> Tensor:
            out = value.clone()
            for row, put in entries:
                at = out[row, put.position - start]
                (at if put.head is None else at[put.head]).copy_(put.value)
            return out

        return write

    return [(name, writer(entries)) for name, entries in by_hook.items()]


def _swapping(swap: Swap, start: int) -> Callable[..., Tensor]:
    def write(value: Tensor, hook: Any) -> Tensor:
        out, at = value.clone(), (swap.positions - start).to(value.device)
        put, where = swap.values.to(value), swap.where[..., None].to(value.device)
        out[0, at] = torch.where(where, put, out[0, at])
        return out

    return write
