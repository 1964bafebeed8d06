"""What sharing a score out takes in memory beside the model, told before it is done: that of its most demanding part.

1. The stream is read, 512 columns at a time; then each component's write, in one pass, at the places asked for alone.
   Of attention patterns one layer's are there at a time, never all.
2. Shares are taken a step at a time; probes hold some `DEFAULT_MAX_BYTES` meanwhile.
3. For total effects the model runs anew on copies of the keys and values, some 500 MB of them at a time.
4. Of the heads whose sources are told, the patterns at the steps asked for are kept, and their values.

On the CPU comes what the C library keeps of memory that was freed: how much hangs on what was freed when, not on the
text. glibc hands back what is free at the end of its heap from twice its largest threshold on, 64 MiB
(``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of mallopt(3)).
"""

from __future__ import annotations

from dataclasses import dataclass

from interp.engines.base import Engine
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.record import free_memory
from interp.types import Bridge
from interp.writes.reading import components_of, writes_bytes
from interp.writes.replacing import replaced_bytes, stream_bytes
from probes.chunks import DEFAULT_MAX_BYTES

__all__ = ["Needs", "check_needs", "needs_of"]

_OPERATION = "mi_attribution"
_FREED = 64 * 2**20


@dataclass(frozen=True)
class Needs:
    """Bytes that parts of the work take at most, beside the model: the largest of them is what is needed.

    ``freed`` is what may be kept beside any of them of memory that was freed.

    >>> needs = Needs(reading=10, writes=40, shares=20, totals=30, sources=0, freed=5)
    >>> needs.most, needs.part
    (45, 'writes')
    """

    reading: int
    writes: int
    shares: int
    totals: int
    sources: int
    freed: int

    @property
    def most(self) -> int:
        return int(vars(self)[self.part]) + self.freed

    @property
    def part(self) -> str:
        """Which of them it is."""
        return max((name for name in vars(self) if name != "freed"), key=lambda name: int(vars(self)[name]))


def needs_of(
    model: Bridge, engine: Engine, tokens: int, places: int, steps: int, layer: int, *, measures: int, total: bool,
    sources: int,
) -> Needs:  # fmt: skip
    """For a text of so many tokens, steps and the groups they are compared with (`places` in all).

    >>> from interp import load_model
    >>> from interp.engines.registry import engine_for
    >>> model = load_model("toy-reasoner")
    >>> def at(tokens):
    ...     return needs_of(model, engine_for(model, modules=True), tokens, 2, 1, 1, measures=5, total=True, sources=3)
    >>> at(200).most < at(400).most < 4 * at(200).most
    True
    """
    facts, anatomy = model_facts(model), engine.anatomy()
    heads = max(anatomy.n_heads(number) for number in range(facts.n_layers))
    components = components_of(anatomy, facts.n_layers)
    kept = writes_bytes(engine, places, len(components))
    stream = tokens * facts.d_model * engine.dtype.itemsize
    count = sum(component.layer <= layer for component in components)
    # A step's changes in float64, the streams without each of them, and what a probe makes of these.
    shares = 8 * 4 * count * facts.d_model + min(DEFAULT_MAX_BYTES, 8 * 512 * count * facts.d_model)
    found = measures * count * steps * 3 * 8
    below = kept + stream + found
    d_head = max(1, facts.d_model // heads)
    chosen = min(sources * measures, heads * (layer + 1))
    read = stream_bytes(engine, tokens, heads) + chosen * tokens * (places + d_head) * 8
    return Needs(
        reading=stream_bytes(engine, tokens, heads) + stream,
        writes=stream + writes_bytes(engine, places + 1, len(components), tokens),
        shares=below + shares,
        totals=below + replaced_bytes(engine, tokens, count) if total else 0,
        sources=below + read if sources else 0,
        freed=_FREED if engine.device.type == "cpu" else 0,
    )


def check_needs(needs: Needs, engine: Engine, allowed: int | None, asked: str) -> None:
    """Refuse what exceeds the memory that is free, or what the user allows.

    Raises:
        InputError: with what is needed, for what, and what there is.
    """
    free = free_memory(engine.device)
    limits = [(free, f"the {free / 1e9:.1f} GB free on {engine.device}")] if free is not None else []
    limits += [(allowed, f"the {allowed / 1e9:.3g} GB of max_bytes")] if allowed is not None else []
    for most, told in limits:
        if needs.most > most:
            raise InputError(
                _OPERATION,
                expected=f"at most {told}",
                received=f"about {needs.most / 1e9:.2g} GB beside the model ({needs.part}), for {asked}",
                remedy="Ask about fewer steps at a time, or a shorter response"
                + ("." if allowed is None else ", or raise max_bytes."),
            )
