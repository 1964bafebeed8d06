"""What each component wrote, from one teacher-forced pass over prompt and response.

1. The places asked for, and the last step of each response, become slots of a batch.
2. While the pass runs, each layer's ``z``, MLP output and stream are read at those slots alone, averaged over the steps
   of each place, and ``z`` is multiplied by ``W_O`` head by head: never all positions of all heads.
3. The sum of writes is held against the stream at every layer and place; where they differ, the model is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from interp.arguments import Prompts, Whole, as_list, as_wholes, is_one_prompt, is_whole
from interp.engines.anatomy import Anatomy
from interp.engines.base import Engine, Read
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.given import Given, paired
from interp.passes import DEFAULT_BATCH, as_batch_size, check_context
from interp.pieces import Collecting, Cut
from interp.prompts import encode_prompts
from interp.protocol import Interventions
from interp.record import check_memory
from interp.sites import Site
from interp.types import Bridge
from interp.writes.components import Component, Writes
from interp.writes.readout import is_exact
from interp.writes.replacing import attention_bytes

__all__ = ["as_places", "check_additive", "components_of", "read_writes", "writes_bytes"]

Places = Any  # groups of steps: [[3], range(5, 9)], [3, 5] for groups of one; of several responses a list of those
ATTENTION_BYTES = 1 << 30  # of a batch's attention patterns in one layer, before fewer rows are taken at a time


@overload
def read_writes(
    model: Bridge,
    prompts: str | Sequence[int] | Sequence[Mapping[str, Any]],
    responses: Prompts,
    places: Places,
    *,
    interventions: Interventions = ...,
    batch_size: Whole | None = ...,
) -> Writes: ...
@overload
def read_writes(
    model: Bridge,
    prompts: Prompts,
    responses: Prompts,
    places: Places,
    *,
    interventions: Interventions = ...,
    batch_size: Whole | None = ...,
) -> list[Writes]: ...
@torch.no_grad()
def read_writes(
    model: Bridge,
    prompts: Prompts,
    responses: Prompts,
    places: Places,
    *,
    interventions: Interventions = (),
    batch_size: Whole | None = None,
) -> Writes | list[Writes]:
    """What the embedding, every head, every attention bias and every MLP wrote into the stream at some steps.

    >>> from interp import load_model
    >>> model = load_model("toy-reasoner")
    >>> writes = read_writes(model, "6 A * 3 B - 8 ? ->", "Okay 6 * 3", [[0], [1, 2, 3]])
    >>> writes.values.shape, [c.label for c in writes.components[:6]]
    (torch.Size([16, 2, 128]), ['embed', 'L0H0', 'L0H1', 'L0H2', 'L0H3', 'L0 MLP'])
    >>> torch.allclose(writes.upto(1).values.sum(0), writes.stream[1], atol=1e-4)
    True

    Args:
        prompts: as in :func:`interp.read`: one alone gives one `Writes`, a list of them a list.
        responses: one a prompt, token ids or text; step t is the position that predicts response token t.
        places: groups of steps, ``[[3], [5, 6, 7]]``; writes are linear, so a group's value is the mean over its steps.
            A bare step is a group of one: ``[3, 5]``. Of several responses, one such list each.
        interventions: those that only edit; an edit of the residual stream is no component's write and is refused.
        batch_size: texts at a time, at most; 16 unless given, fewer where attention patterns would be large.

    Returns:
        `Writes`, in float32 whatever the model's dtype (float64 for float64). In bfloat16 the model rounds its stream
        after every block: ``writes.error`` says how far the sums are from it.

    Raises:
        InputError: a step outside the response, an empty group, more than the context or memory holds; and a model
            whose stream is not the sum of these writes (a norm after attention or MLP, as in OLMo 2 and Gemma 2 and 3;
            recurrent blocks; hooks that edit the stream), by its name and with the error.
    """
    facts, alone = model_facts(model), is_one_prompt(prompts)
    ids = encode_prompts(facts.tokenizer, prompts, facts, "read writes")
    answers = paired(responses, ids, facts, "read writes")
    asked = as_places(places, [len(answer) for answer in answers], alone)
    texts = [prompt + answer for prompt, answer in zip(ids, answers, strict=True)]
    check_context(texts, 0, facts, "read writes")
    given = Given("read writes", model, ids, [text[:-1] for text in texts], interventions, modules=True)
    engine = given.engine
    anatomy = engine.anatomy()
    components, norm = components_of(anatomy, facts.n_layers), anatomy.final_norm()
    longest = max(map(len, texts), default=1)
    patterns = max(anatomy.n_heads(layer) for layer in range(facts.n_layers)) * longest**2 * engine.dtype.itemsize
    size = min(DEFAULT_BATCH, max(1, ATTENTION_BYTES // patterns))
    size = size if batch_size is None else as_batch_size(batch_size, "read writes")
    slots = sum(map(len, asked)) + len(asked)
    rows = min(size, len(texts))
    check_memory(
        "read writes", engine, rows, longest, "Ask for fewer places at a time, or pass a smaller batch_size.",
        besides=writes_bytes(engine, slots, len(components)) + _pass_bytes(engine, rows, longest),
    )  # fmt: skip

    found: dict[int, Writes] = {}
    tape = _Tape(given, asked, components, anatomy)
    with tape.running():
        # Nothing is cut: a place's steps may be anywhere, and what is said of a batch is said of all its columns.
        whole = Cut(engine, None)
        for batch, logits in given.passes(
            size, [1] * len(texts), whole, lambda batch, _: Collecting(tape.reads(batch))
        ):
            check_additive(tape, anatomy)
            begin = 0
            for n, last in zip(batch, logits[:, -1], strict=True):
                end = begin + len(asked[n])
                found[n] = Writes(
                    components=components,
                    places=asked[n],
                    values=tape.values[:, begin:end],
                    embedded=tape.embedded[begin:end],
                    stream=tape.stream[:, begin:end],
                    token_ids=torch.tensor(answers[n]),
                    norm=norm,
                    last_stream=tape.stream[-1, end],
                    last_logits=last,
                    error=tape.error(begin, end + 1),
                )
                begin = end + 1
    writes = [found[n] for n in range(len(texts))]
    return writes[0] if alone else writes


def writes_bytes(engine: Engine, places: int, components: int, columns: int = 0) -> int:
    """What writes at so many places take; with the text's columns, what reading them takes too.

    >>> from interp import load_model
    >>> from interp.engines.registry import engine_for
    >>> writes_bytes(engine_for(load_model("toy-reasoner")), 2, 16)  # 16 writes, 3 streams and the embedding, float32
    20480
    """
    kept = places * (components + engine.facts.n_layers + 1) * engine.facts.d_model * _dtype(engine).itemsize
    return kept + (_pass_bytes(engine, 1, columns) + engine.cache_bytes(1, columns) if columns else 0)


def _pass_bytes(engine: Engine, rows: int, columns: int) -> int:
    """What a pass over whole texts takes beside keys and values: the attention of one layer at a time."""
    heads = max(engine.anatomy().n_heads(layer) for layer in range(engine.facts.n_layers))
    # The stream, what blocks make of it, and MLPs some four times as wide.
    between = 16 * rows * columns * engine.facts.d_model * engine.dtype.itemsize
    return attention_bytes(engine, heads, rows * columns, columns) + between


def components_of(anatomy: Anatomy, n_layers: int) -> tuple[Component, ...]:
    """All writers of a model, in the order of its stream."""
    found = [Component("embed"), *([Component("pos_embed")] if anatomy.has_positions else [])]
    for layer in range(n_layers):
        found += [Component("head", layer, head) for head in range(anatomy.n_heads(layer))]
        found += [Component("attn_bias", layer)] if anatomy.has_bias(layer) else []
        found.append(Component("mlp", layer))
    return tuple(found)


def _dtype(engine: Engine) -> torch.dtype:
    return torch.float64 if engine.dtype == torch.float64 else torch.float32


def as_places(places: Places, counts: list[int], alone: bool) -> list[tuple[tuple[int, ...], ...]]:
    """The groups of steps of each response."""
    listed = [places] if alone else as_list(places, "read writes", "places", "places, one list a response")
    if len(listed) != len(counts):
        raise InputError(
            "read writes",
            expected=f"{len(counts)} lists of places, one a response",
            received=str(len(listed)),
            remedy="For each response pass its groups of steps, [[3], [5, 6]] say.",
        )
    found = []
    for groups, count in zip(listed, counts, strict=True):
        each = [groups] if is_whole(groups) else as_list(groups, "read writes", "places", "groups of steps")
        remedy = f"The response has {count} tokens; step t predicts token t, the first is 0."
        steps = []
        for group in each:
            members = as_wholes(group, "read writes", "a place's steps")
            if not members or not all(0 <= step < count for step in members):
                raise InputError(
                    "read writes",
                    expected=f"places as groups of steps from 0 to {count - 1}",
                    received=str(members[:8]),
                    remedy=remedy,
                )
            steps.append(tuple(members))
        found.append(tuple(steps))
    return found


@dataclass(eq=False)
class _Slots:
    """Where in a batch's tensors each place's steps are; slot after slot, row after row."""

    rows: Tensor
    columns: Tensor
    slots: Tensor
    counts: Tensor

    def mean(self, values: Float[Tensor, "row pos inner"], dtype: torch.dtype) -> Float[Tensor, "slot inner"]:
        device = values.device
        picked = values[self.rows.to(device), self.columns.to(device)].to(dtype)
        if len(picked) == len(self.counts):
            return picked  # each place one step
        summed = picked.new_zeros(len(self.counts), picked.shape[-1]).index_add_(0, self.slots.to(device), picked)
        return summed / self.counts.to(summed)[:, None]


class _Tape:
    """Reads a pass at the places asked for; what it holds is the batch now running."""

    def __init__(
        self,
        given: Given,
        places: list[tuple[tuple[int, ...], ...]],
        components: tuple[Component, ...],
        anatomy: Anatomy,
    ) -> None:
        self.given, self.places, self.components, self.anatomy = given, places, components, anatomy
        self.n_layers, self.dtype = given.engine.facts.n_layers, _dtype(given.engine)
        self.first = {c.layer: n for n, c in reversed(list(enumerate(components)))}
        self.values = self.stream = self.embedded = torch.empty(0)
        self._rows = 0
        self._slots: _Slots | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.anatomy.showing(self._heads, self._mlp, self._positions):
            yield

    def reads(self, batch: list[int]) -> dict[Site, Read]:
        """Make room for a batch; where its streams go."""
        width, device = max(len(self.given.fed[n]) for n in batch), self.given.engine.device
        self._rows = len(batch)
        rows: list[int] = []
        columns: list[int] = []
        slots: list[int] = []
        counts: list[int] = []
        for row, n in enumerate(batch):
            steps = self.given.steps(n)
            for group in (*self.places[n], (steps - 1,)):
                rows += [row] * len(group)
                columns += [width - steps + step for step in group]
                slots += [len(counts)] * len(group)
                counts.append(len(group))
        self._slots = _Slots(*(torch.tensor(each, device=device) for each in (rows, columns, slots, counts)))
        d_model = self.given.engine.facts.d_model
        self.values = torch.zeros(len(self.components), len(counts), d_model, dtype=self.dtype, device=device)
        self.stream = torch.zeros(self.n_layers, len(counts), d_model, dtype=self.dtype, device=device)
        self.embedded = torch.zeros(len(counts), d_model, dtype=self.dtype, device=device)
        posts = {Site("resid_post", layer): partial(self._stream, layer) for layer in range(self.n_layers)}
        return {Site("resid_pre", 0): self._embedded, **posts}

    def _mean(self, values: Float[Tensor, "row pos inner"]) -> Float[Tensor, "slot inner"]:
        assert self._slots is not None
        return self._slots.mean(values, self.dtype)

    def _stream(self, layer: int, residual: Float[Tensor, "row pos d_model"]) -> None:
        self.stream[layer] = self._mean(residual)

    def _embedded(self, residual: Float[Tensor, "row pos d_model"]) -> None:
        self.embedded.copy_(self._mean(residual))
        self.values[0] = self.embedded
        if self.anatomy.has_positions:
            self.values[0] -= self.values[1]

    def _positions(self, added: Float[Tensor, "row pos d_model"]) -> None:
        self.values[1] = self._mean(added.expand(self._rows, -1, -1))

    def _heads(self, layer: int, z: Float[Tensor, "row pos inner"]) -> None:
        weights, first = self.anatomy.output_weights(layer), self.first[layer]
        count = len(weights.weight)
        heads = self._mean(z).unflatten(-1, (count, -1))
        self.values[first : first + count] = torch.einsum("shi,him->hsm", heads, weights.weight.to(heads))
        if weights.bias is not None:
            self.values[first + count] = weights.bias.to(self.values)

    def _mlp(self, layer: int, out: Float[Tensor, "*row_pos d_model"]) -> None:
        # Flat [row * pos, d_model] in families whose MLP works on tokens (OPT).
        shaped = out if out.ndim == 3 else out.unflatten(0, (self._rows, -1))
        self.values[self._mlps()[layer]] = self._mean(shaped)

    def _mlps(self) -> list[int]:
        return [n for n, component in enumerate(self.components) if component.kind == "mlp"]

    def error(self, begin: int, end: int) -> float:
        """How far the sums are from the streams of some slots at most, relative to the stream's norm."""
        summed = self.values[: self.first[0], begin:end].sum(0)
        worst = torch.zeros((), dtype=self.dtype, device=summed.device)
        for layer in range(self.n_layers):
            summed = summed + self._written(layer)[:, begin:end].sum(0)
            stream = self.stream[layer, begin:end]
            worst = torch.maximum(worst, ((summed - stream).norm(dim=-1) / stream.norm(dim=-1)).max())
        return float(worst)

    def _written(self, layer: int) -> Float[Tensor, "component slot d_model"]:
        return self.values[self.first[layer] : self.first.get(layer + 1, len(self.components))]


def check_additive(tape: _Tape, anatomy: Anatomy) -> None:
    """Refuse a model whose blocks add something else than these writes, by its name, the layer and the error.

    In float32 what is left over is rounding: 1e-5 of what a block writes, and some last digits of a stream that may be
    a thousand times larger. In lower precision the model itself rounds what is added, and the sum.
    """
    engine = tape.given.engine
    exact = is_exact(engine.dtype, engine.device)
    relative, digits = (1e-5, 1e-6) if exact else (2.5e-2, max(1e-3, 4 * torch.finfo(engine.dtype).eps))
    before = tape.embedded
    for layer in range(tape.n_layers):
        written, after = tape._written(layer), tape.stream[layer]
        missing = (after - before - written.sum(0)).norm(dim=-1)
        sizes = torch.maximum(before.norm(dim=-1), after.norm(dim=-1))
        allowed = relative * written.norm(dim=-1).sum(0) + digits * sizes
        if not bool((missing <= allowed).all()):
            worst = float((missing / (after - before).norm(dim=-1)).nan_to_num(torch.inf).max())
            raise anatomy.refusal(
                f"whose block {layer} adds what differs by {worst:.2g} of its norm from what its heads and MLP write",
                "Norms after attention or MLP (Gemma 2 and 3, OLMo 2) do that, and hooks or interventions that edit "
                "the residual stream. Patch or ablate instead.",
            )
        before = after
